"""Chat logs: who speaks, what is text, what is learned; and what is refused by its name."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from command_line import falconer
from falconer.data.sources import Loaded, load_dialogues, write_dialogues
from falconer.errors import FalconerError
from falconer.records import Turn

USER: dict[str, Any] = {"role": "user", "content": "hi"}
REPLY: dict[str, Any] = {"role": "assistant", "content": "hello"}
AGAIN = [{"role": "user", "content": "bye"}, {"role": "assistant", "content": "see you"}]
MARKED = "reply marked not to be learned kept as context"


def load(tmp_path: Path, *rows: object, **options: str) -> Loaded:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return load_dialogues(str(path), **options)


def bad_row(tmp_path: Path, row: object) -> str:
    """Return the one reason why a row between two good ones is left out."""
    good = {"messages": [USER, REPLY]}
    loaded = load(tmp_path, good, row, good, on_bad_row="skip", format="messages")
    assert len(loaded.dialogues) == 2
    (bad,) = loaded.bad_rows
    assert bad.line == 2
    return f"{bad.field} {bad.message}"


def test_a_reply_that_is_not_to_be_learned_is_context(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"messages": [USER, REPLY | {"weight": 0}, *AGAIN]})
    (dialogue,) = loaded.dialogues
    assert [turn.is_learned for turn in dialogue.turns] == [True, False, True, True]
    assert (dialogue.replies, loaded.num_replies, loaded.quirks) == ((3,), 1, {MARKED: 1})


@pytest.mark.parametrize(
    ("mark", "is_learned"),
    [
        ({"weight": 0}, False), ({"weight": 0.0}, False), ({"weight": 1}, True), ({"weight": None}, True),
        ({"train": False}, False), ({"train": True}, True), ({"training": False}, False), ({"trainable": 0}, False),
        ({"loss": False}, False), ({"loss": True}, True), ({"masked": True}, False), ({"masked": False}, True),
        ({"loss_weight": 0.0}, False), ({"loss_mask": 0}, False), ({"compute_loss": False}, False),
        ({"learn": False}, False), ({"ignore": True}, False), ({"ignore": False}, True), ({"is_masked": True}, False),
        ({"is_learned": False}, False), ({"weight": 1, "train": False}, False),
    ],
)  # fmt: skip
def test_every_mark(tmp_path: Path, mark: dict[str, Any], is_learned: bool) -> None:
    for key, chat in (
        ("messages", [USER, REPLY | mark, *AGAIN]),
        ("conversations", [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"} | mark,
                           {"from": "human", "value": "bye"}, {"from": "gpt", "value": "see you"}]),
    ):  # fmt: skip
        (dialogue,) = load(tmp_path, {key: chat}).dialogues
        assert dialogue.turns[1] == Turn("self", "hello", is_learned=is_learned)


@pytest.mark.parametrize(
    "mark",
    [
        {"weight": 0.5},
        {"weight": 2},
        {"weight": -1},
        {"weight": "no"},
        {"train": "false"},
        {"loss": [0]},
        {"masked": {"a": 1}},
    ],
)
def test_marks_that_say_neither_yes_nor_no(tmp_path: Path, mark: dict[str, Any]) -> None:
    message = bad_row(tmp_path, {"messages": [USER, REPLY | mark]})
    assert message.startswith(f"messages[1].{next(iter(mark))} is ") and "expected true or false" in message


def test_parts_of_replies_and_dialogues_without_any(tmp_path: Path) -> None:
    spans = [{"begin_offset": 0, "end_offset": 3, "train": False}]
    assert "marks parts of a reply" in bad_row(tmp_path, {"messages": [USER, REPLY | {"train_detail": spans}]})
    assert "all of them are marked as not to be learned" in bad_row(
        tmp_path, {"messages": [USER, REPLY | {"weight": 0}]}
    )
    # The two become one turn, which is not learned: nothing is left.
    both = {"messages": [USER, REPLY | {"weight": 0}, REPLY]}
    assert "all of them are marked as not to be learned" in bad_row(tmp_path, both)


def test_a_mark_on_the_partner_s_turn_changes_nothing(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"messages": [USER | {"weight": 0}, REPLY]})
    assert all(turn.is_learned for turn in loaded.dialogues[0].turns) and loaded.quirks == {}


def test_our_format_keeps_the_mark(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"messages": [USER, REPLY | {"weight": 0}, *AGAIN]})
    write_dialogues(loaded.dialogues, tmp_path / "y.jsonl")
    row = json.loads((tmp_path / "y.jsonl").read_text(encoding="utf-8"))
    assert [turn.get("is_learned", "-") for turn in row["turns"]] == ["-", False, "-", "-"]
    again = load_dialogues(str(tmp_path / "y.jsonl"))
    assert (again.dialogues, again.quirks) == (loaded.dialogues, {MARKED: 1})
    row["turns"][1]["is_learned"] = "maybe"
    (tmp_path / "y.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(FalconerError, match=r"turns\[1\]\.is_learned is 'maybe'; expected true or false"):
        load_dialogues(str(tmp_path / "y.jsonl"))


def test_data_show_marks_no_target_on_it(tmp_path: Path) -> None:
    load(tmp_path, {"messages": [USER, REPLY | {"weight": 0}, *AGAIN]})
    shown = falconer("data", "show", str(tmp_path / "x.jsonl"))
    assert shown.code == 0 and "targets in 1 repl" in shown.out
    stats = falconer("data", "stats", str(tmp_path / "x.jsonl"), "--plot", str(tmp_path / "l.png"))
    assert stats.code == 0 and f"Handled: {MARKED} (1)" in stats.out
    converted = falconer("data", "convert", str(tmp_path / "x.jsonl"), str(tmp_path / "y.jsonl"))
    assert converted.out.splitlines()[1:] == [f"Handled: {MARKED} (1)"]


def test_system_messages_stand_at_the_start(tmp_path: Path) -> None:
    system = [{"role": "system", "content": "i ski .\ni sing ."}, {"role": "developer", "content": "i cook ."}]
    row = {"system": "i read .", "messages": [*system, USER, REPLY]}
    assert load(tmp_path, row).dialogues[0].persona == ("i read .", "i ski .", "i sing .", "i cook .")
    blank = {"messages": [{"role": "system", "content": ""}, USER, REPLY]}
    assert load(tmp_path, blank).dialogues[0].persona == ()
    for place in (1, 2, 4):
        chat = [USER, REPLY, *AGAIN]
        chat.insert(place, {"role": "system", "content": "it is late ."})
        message = bad_row(tmp_path, {"messages": chat})
        assert message.startswith(f"messages[{place}].role is 'system' after the first turn.")
        assert "move it there" in message


@pytest.mark.parametrize("role", ["tool", "function", "ipython", "observation", "function_call", "Tool"])
def test_results_of_tools_are_refused_by_name(tmp_path: Path, role: str) -> None:
    message = bad_row(tmp_path, {"messages": [USER, REPLY, {"role": role, "content": "7 degrees"}]})
    assert message.startswith(f"messages[2].role is '{role.lower()}': tool calls and their results")


@pytest.mark.parametrize("key", ["tool_calls", "function_call"])
def test_calls_of_tools_are_refused_by_name(tmp_path: Path, key: str) -> None:
    message = bad_row(
        tmp_path, {"messages": [USER, {"role": "assistant", "content": None, key: [{"name": "weather"}]}]}
    )
    assert message.startswith(f"messages[1].{key} calls a tool")


def test_definitions_of_tools_alone_are_counted(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"messages": [USER, REPLY | {"tool_calls": None}], "tools": [{"type": "function"}]})
    assert loaded.quirks == {"definitions of tools ignored": 1}


def test_text_parts_are_joined(tmp_path: Path) -> None:
    parts = [
        {"type": "text", "text": "one "},
        {"type": "text", "text": ""},
        {"type": "output_text", "text": "two"},
        "three",
    ]
    loaded = load(
        tmp_path, {"messages": [USER | {"content": [{"text": "hi", "type": "input_text"}]}, REPLY | {"content": parts}]}
    )
    assert [turn.text for turn in loaded.dialogues[0].turns] == ["hi", "one\ntwo\nthree"]
    for kind in ("image_url", "input_audio", "refusal", "file"):
        message = bad_row(tmp_path, {"messages": [USER | {"content": [{"type": kind, kind: {"url": "x"}}]}, REPLY]})
        assert message.startswith(f"messages[0].content[0] is a part of type '{kind}'; only text is supported")
    assert "is empty" in bad_row(tmp_path, {"messages": [USER, REPLY | {"content": [{"type": "text", "text": " "}]}]})


@pytest.mark.parametrize(
    ("partner", "me"),
    [
        ("human", "gpt"),
        ("user", "assistant"),
        ("Human", "Bot"),
        ("prompter", "model"),
        ("USER", "chatgpt"),
        ("human", "claude"),
    ],
)
def test_names_of_the_two_sides(tmp_path: Path, partner: str, me: str) -> None:
    row = {"conversations": [{"from": partner, "value": "hi"}, {"from": me, "value": "hello"}]}
    assert [turn.speaker for turn in load(tmp_path, row).dialogues[0].turns] == ["partner", "self"]


def test_fields_filled_with_null_are_not_there(tmp_path: Path) -> None:
    rows = [
        {"messages": [USER, REPLY], "conversations": None, "turns": 2},
        {"messages": None, "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
        {"messages": [{"role": "user", "content": "hi", "from": None}, REPLY | {"weight": None, "tool_calls": None}]},
    ]  # fmt: skip
    expected = [("hi", "hello")] * 3
    found = load(tmp_path, *rows)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    again = load_dialogues(str(tmp_path / "x.parquet"))
    for loaded in (found, again):
        assert [tuple(turn.text for turn in dialogue.turns) for dialogue in loaded.dialogues] == expected
        assert (loaded.format, loaded.quirks) == ("messages", {})


def test_preferences_are_refused_by_name(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "hi", "chosen": "hello", "rejected": "go away"},
        {"messages": [USER, REPLY], "chosen": [REPLY], "rejected": [REPLY]},
        {"instruction": "hi", "chosen": "hello", "rejected": "go away"},
    ]
    for row in rows:
        with pytest.raises(FalconerError, match="contains preferences \\('chosen' and 'rejected'\\)"):
            load(tmp_path, row)
    assert len(load(tmp_path, rows[1] | {"chosen": None, "rejected": None}).dialogues) == 1


def test_the_logs_of_lmsys_and_wildchat_name_their_list_conversation(tmp_path: Path) -> None:
    row = {"conversation_id": "c", "model": "m", "conversation": [USER, REPLY], "turn": 1, "language": "English"}
    loaded = load(tmp_path, row, row)
    assert loaded.format == "sharegpt"
    assert [turn.text for turn in loaded.dialogues[1].turns] == ["hi", "hello"]
