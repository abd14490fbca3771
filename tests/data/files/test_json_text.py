"""JSON and JSON lines: what people have is read, and what is wrong is called by its name."""

import json
from pathlib import Path

import pytest

from falconer.data.sources import load_dialogues
from falconer.errors import FalconerError

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
SHARED = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]
ROW = json.dumps({"messages": CHAT})


def load(tmp_path: Path, text: str, name: str = "x.jsonl", **options: str) -> list[list[str]]:
    (tmp_path / name).write_text(text, encoding="utf-8")
    loaded = load_dialogues(str(tmp_path / name), **options)
    return [[turn.text for turn in dialogue.turns] for dialogue in loaded.dialogues]


def error_of(tmp_path: Path, text: str, name: str = "x.json") -> str:
    with pytest.raises(FalconerError) as caught:
        load(tmp_path, text, name)
    assert caught.value.hint and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("chat", [CHAT, SHARED])
def test_bare_lists_of_messages(tmp_path: Path, chat: object) -> None:
    line = json.dumps(chat)
    expected = [["hi", "hello"]]
    assert load(tmp_path, f"{line}\n{line}\n") == expected * 2
    assert load(tmp_path, line) == expected
    assert load(tmp_path, json.dumps(chat, indent=1)) == expected
    assert load(tmp_path, json.dumps([chat, chat, chat], indent=1)) == expected * 3
    assert load(tmp_path, json.dumps({"train": [chat, chat]})) == expected * 2


def test_values_one_behind_the_other(tmp_path: Path) -> None:
    pretty = json.dumps({"messages": CHAT}, indent=2)
    assert load(tmp_path, f"{pretty}\n{pretty}\n\n{pretty}") == [["hi", "hello"]] * 3
    assert load(tmp_path, f"{ROW} {ROW}") == [["hi", "hello"]] * 2
    assert load(tmp_path, f"{ROW}\r{ROW}\r") == [["hi", "hello"]] * 2
    message = error_of(tmp_path, f"{pretty}\n{pretty}\nthe end\n")
    assert "line 25, column 1: not JSON: there is more text after its closing bracket" in message


# What is wrong, and the reason that is given.
FAULTS = [
    (f"[{ROW},]", "there is a comma before the closing bracket"),
    ('[{"messages": [],}]', "there is a comma before the closing bracket"),
    (f"[{ROW},\n]\n", "there is a comma before the closing bracket"),
    (str([{"messages": CHAT}]), "single quotes, as Python prints it"),
    ('[{"messages": None}]', "None is Python"),
    ('[{"messages": [], "ok": True}]', "True is Python"),
    (f"[{ROW},\n// more\n{ROW}]", "a comment"),
    (f"[{ROW},\n\ufeff{ROW}]", "there is a byte order mark in the middle"),
    ('[{"messages": [{"role": "user", "content": "a\nb"}]}]', "contains a line break"),
    ('[{"messages": "C:\\data"}]', "a backslash begins no escape"),
    ('[{"messages": "he said "hi" then"}]', "a quote inside a text is not escaped"),
    (f"[{ROW}\n{ROW}]", "a comma is missing"),
    ("[" * 100_000, "nested hundreds of levels deep"),
    ('[{"id": ' + "1" * 5000 + "}]", "a number with hundreds of digits"),
]


@pytest.mark.parametrize(("text", "reason"), FAULTS)
def test_the_reason_is_the_fault(tmp_path: Path, text: str, reason: str) -> None:
    message = error_of(tmp_path, text)
    assert reason in message and "cut off" not in message
    assert f"'{tmp_path / 'x.json'}', line " in message


@pytest.mark.parametrize(("text", "reason"), FAULTS)
def test_the_same_reason_for_a_line(tmp_path: Path, text: str, reason: str) -> None:
    line = text.replace("\n", " ")
    if reason in ("contains a line break",) or "//" in line:
        line = text.replace("\n", "\t")
    path = tmp_path / "x.jsonl"
    path.write_text(f"{ROW}\n{line}\n{ROW}\n", encoding="utf-8")
    loaded = load_dialogues(str(path), on_bad_row="skip")
    assert len(loaded.dialogues) == 2
    assert [(row.line, row.field) for row in loaded.bad_rows] == [(2, "row")]
    assert reason in loaded.bad_rows[0].message


def test_commas_between_lines(tmp_path: Path) -> None:
    assert "JSON Lines has no commas between its lines" in error_of(tmp_path, f"{ROW},\n{ROW},\n")


def test_a_file_of_printed_python_has_one_reason(tmp_path: Path) -> None:
    message = error_of(tmp_path, f"{dict(messages=CHAT)}\n{dict(messages=CHAT)}\n")
    assert "line 1: row is not JSON: a string is in single quotes" in message and "known format" not in message


def test_a_table_by_columns(tmp_path: Path) -> None:
    columns = {"messages": {"0": CHAT, "1": CHAT}, "id": {"0": "a", "1": "b"}}
    assert "orient='records'" in error_of(tmp_path, json.dumps(columns))
    assert "orient='records'" in error_of(tmp_path, json.dumps({"messages": [CHAT, CHAT], "id": ["a", "b"]}))


def test_one_list_of_rows_under_any_name_is_train(tmp_path: Path) -> None:
    assert load(tmp_path, json.dumps({"data": [{"messages": CHAT}]})) == [["hi", "hello"]]
    assert load(tmp_path, json.dumps({"validation": [{"messages": CHAT}]}), split="valid") == [["hi", "hello"]]


def test_nan_is_an_empty_cell(tmp_path: Path) -> None:
    row = {"messages": float("nan"), "conversations": SHARED, "id": float("nan")}
    assert load(tmp_path, json.dumps(row)) == [["hi", "hello"]]
    assert "messages is NaN, an empty cell" in error_of(tmp_path, json.dumps([{"messages": float("nan")}]))


def test_deep_rows_and_huge_numbers_below_the_parser_s_limits(tmp_path: Path) -> None:
    deep = '{"messages": ' + "[" * 200 + "]" * 200 + "}"
    assert "row is nested more than 50 levels deep" in error_of(tmp_path, f"[{deep}]")
    row = json.dumps({"messages": CHAT, "id": 1}).replace("1}", "1" * 300 + "}")
    assert load(tmp_path, row) == [["hi", "hello"]]
    turn = '{"personality": ["i ski ."], "candidates": ["a"], "history": ["b"], "conv_id": 1, "utterance_idx": 1e999}'
    assert "utterance_idx is inf" in error_of(tmp_path, turn)


def test_lists_of_other_things_are_named(tmp_path: Path) -> None:
    assert "Its rows are lists, not objects with named fields" in error_of(tmp_path, '["hi", "hello"]\n["a", "b"]\n')


def test_rows_beside_a_version_or_under_their_ids(tmp_path: Path) -> None:
    row = {"messages": CHAT}
    expected = [["hi", "hello"]] * 2
    assert load(tmp_path, json.dumps({"version": "1.0", "data": [row, row]})) == expected
    assert load(tmp_path, json.dumps({"language": "ko", "n": 2, "dialogs": [row, row]}, indent=1)) == expected
    assert load(tmp_path, json.dumps({"info": {"a": []}, "tags": ["x"], "dialogs": [CHAT, CHAT]})) == expected
    by_id = {"d-1": row, "d-2": row | {"id": "own"}}
    (tmp_path / "y.json").write_text(json.dumps(by_id, indent=1), encoding="utf-8")
    loaded = load_dialogues(str(tmp_path / "y.json"))
    assert [dialogue.id for dialogue in loaded.dialogues] == ["d-1", "own"]
    two = {"version": 1, "some": [row], "others": [row]}
    assert "is a JSON object with the keys 'version', 'some', 'others'" in error_of(tmp_path, json.dumps(two))
