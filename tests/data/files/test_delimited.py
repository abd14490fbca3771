"""Tables, however their cells are separated."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.data.files.delimited import first_cells, quoted_lines
from falconer.data.sources import Loaded, load_dialogues
from falconer.errors import FalconerError

ROWS = [
    {"Persona": "i ski. i sing.", "chat": 'hi; you\nhello, "friend"\nbye\tnow\nsee | you'},
    {"Persona": "i cook.", "chat": "a\nb"},
]
EXPECTED = [
    (("i ski.", "i sing."), ("hi; you", 'hello, "friend"', "bye\tnow", "see | you")),
    (("i cook.",), ("a", "b")),
]


def load(tmp_path: Path, text: str, **options: str) -> Loaded:
    path = tmp_path / "x.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return load_dialogues(str(path), **options)


def told(loaded: Loaded) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(dialogue.persona, tuple(turn.text for turn in dialogue.turns)) for dialogue in loaded.dialogues]


def error_of(tmp_path: Path, text: str) -> str:
    with pytest.raises(FalconerError) as caught:
        load(tmp_path, text)
    assert caught.value.hint and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("is_shouted", [False, True])
def test_every_separator_as_csv_and_pandas_write_it(
    tmp_path: Path, separator: str, line_end: str, is_shouted: bool
) -> None:
    rows = [{name.upper(): cell for name, cell in row.items()} if is_shouted else row for row in ROWS]
    # Where a bare "\\r" ends a line, the "\\n" in a cell is only safe in quotes.
    quoting: Any = csv.QUOTE_ALL if line_end == "\r" else csv.QUOTE_MINIMAL
    file = io.StringIO()
    writer = csv.DictWriter(file, list(rows[0]), delimiter=separator, lineterminator=line_end, quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    by_pandas = pandas.DataFrame(rows).to_csv(sep=separator, lineterminator=line_end, quoting=quoting)
    for text in (file.getvalue(), by_pandas, f"\ufeff{file.getvalue()}"):
        assert told(load(tmp_path, text)) == EXPECTED


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("line", ["sep={}\r\n", '"sep={}"\n', "SEP={}\n", "sep={},\n"])
def test_excel_s_separator_line(tmp_path: Path, separator: str, line: str) -> None:
    table = f'Persona{separator}chat\n"i cook."{separator}"a\nb"\nalone\n'
    loaded = load(tmp_path, line.format(separator) + table, on_bad_row="skip")
    assert told(loaded) == EXPECTED[1:]
    assert [(dialogue.id) for dialogue in loaded.dialogues] == ["x-00003"]
    assert [row.line for row in loaded.bad_rows] == [5]


def test_the_header_says_which_separator_even_if_another_one_is_more_frequent(tmp_path: Path) -> None:
    table = 'Persona;chat;a,b,c,d\n"i cook.";"a\nb";1,2,3,4\n'
    assert told(load(tmp_path, table)) == EXPECTED[1:]


def test_unknown_headers_are_named(tmp_path: Path) -> None:
    assert "the columns 'persona', 'query', 'response'" in error_of(tmp_path, "persona\tquery\tresponse\na\tb\tc\n")
    assert "Its rows hold 'frage', 'antwort'." in error_of(tmp_path, "frage;antwort\nhallo;ja, gut\n")


def test_rows_that_do_not_fit_are_named(tmp_path: Path) -> None:
    text = 'Persona;chat\n"i cook.";"a\nb"\none;two;three\n'
    assert "line 4: row has 3 cells; expected 2, as in the header. Quote cells with semicolons" in error_of(
        tmp_path, text
    )
    assert "has a header, but no rows" in error_of(tmp_path, "Persona,chat\n")
    unclosed = 'Persona,chat\n"i ski,a\n'
    for text in (unclosed, unclosed + "b\n" * 100_000):
        assert "line 2: row begins a quoted cell that never ends: a closing quote is missing" in error_of(
            tmp_path, text
        )
    goes_on = 'Persona,chat\n"i ski" a,b\n'
    assert "line 2: row is not valid CSV: there is text after the closing" in error_of(tmp_path, goes_on)


CELL = st.text(st.sampled_from("a\"',;\t|\r\n "), max_size=6)


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(CELL, min_size=n, max_size=n), min_size=1, max_size=4)))
def test_cells_are_those_of_pythons_reader(rows: list[list[str]]) -> None:
    for separator in ",;\t|":
        file = io.StringIO()
        csv.writer(file, delimiter=separator, quoting=csv.QUOTE_ALL).writerows(rows)
        found = list(quoted_lines(file.getvalue(), separator))
        assert [[cell.text for cell in cells] for _, cells in found] == rows
        # A line's number is that of the line feeds before it.
        assert [number for number, _ in found] == [
            1 + sum("".join(row).count("\n") + 1 for row in rows[:i]) for i in range(len(rows))
        ]


def test_what_is_wrong_with_a_cell_is_told_apart() -> None:
    flaws = [cell.flaw for _, cells in quoted_lines('"a" b,"c,"d""e"\n"f', ",") for cell in cells]
    assert flaws == ["goes on behind its closing quote", "goes on behind its closing quote", "", "never ends"]
    assert first_cells('\n , \n"a,b",c\n', ",") == ["a,b", "c"]
    assert first_cells(" \n", ",") == [] and list(quoted_lines("", ",")) == []


def test_lists_and_messages_in_cells(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello, you"}]
    # As pandas writes a column of JSON texts; a count, an empty cell and another log beside it hide nothing.
    frame = pandas.DataFrame({"turns": [2], "conversations": [None], "messages": [json.dumps(chat)]})
    assert told(load(tmp_path, frame.to_csv(index=False))) == [((), ("hi", "hello, you"))]
    lists = 'persona_b,dialogue,reference\n"[""i ski""]","[""Persona A: hi""]",ok\n'
    assert told(load(tmp_path, lists)) == [(("i ski",), ("hi", "ok"))]


@pytest.mark.parametrize("cell", ["['a\nb']", "['C:\\x']", "['\\N{no}']", "['\\d']"])
def test_a_cell_that_only_looks_like_a_list_is_a_bad_row(tmp_path: Path, cell: str) -> None:
    text = f'persona_b,dialogue,reference\n"[\'i ski\']","{cell}",ok\n'
    assert "line 2: dialogue holds" in error_of(tmp_path, text) and "not a valid Python string" in error_of(
        tmp_path, text
    )


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    message = error_of(tmp_path, 'Persona,chat,Chat \ni ski.,"hi\nhello",""\n')
    assert "names 'chat' twice" in message and "rename or remove one" in message
    assert len(load(tmp_path, ',,Persona,chat\n0,1,i ski.,"hi\nhello"\n').dialogues) == 1


@pytest.mark.parametrize("write", [repr, json.dumps, lambda texts: "[" + "\n ".join(map(repr, texts)) + "]"])
def test_cells_that_hold_lists(tmp_path: Path, write: Any) -> None:
    persona, chat = ["i ski. i sing.", "i cook."], ["[laughs] hi", "hello", "it's me", "bye"]
    row = {"persona": write(persona), "chat": write(chat)}
    pandas.DataFrame([row]).to_csv(tmp_path / "y.csv")
    (dialogue,) = load_dialogues(str(tmp_path / "y.csv")).dialogues
    assert dialogue.persona == ("i ski.", "i sing.", "i cook.")
    assert [turn.text for turn in dialogue.turns] == chat
    (plain,) = load(tmp_path, 'Persona,chat\ni ski.,"[laughs] hi\nhello [laughs]"\n').dialogues
    assert [turn.text for turn in plain.turns] == ["[laughs] hi", "hello [laughs]"]


@pytest.mark.parametrize("names", [("user 1 personas", "user 2 personas", "Best Generated Conversation"),
                                   ("User 1 Persona", "User 2 Persona", "Conversation")])  # fmt: skip
def test_synthetic_persona_chat_with_lists(tmp_path: Path, names: tuple[str, str, str]) -> None:
    values = (["i ski."], ["i cook.", "i sing."], ["User 1: hi", "User 2: hello"])
    (tmp_path / "y.jsonl").write_text(json.dumps(dict(zip(names, values, strict=True))) * 2, encoding="utf-8")
    loaded = load_dialogues(str(tmp_path / "y.jsonl"))
    assert (loaded.format, len(loaded.dialogues)) == ("synthetic", 4)
    first, second = loaded.dialogues[:2]
    assert (first.persona, first.partner_persona) == (("i ski.",), ("i cook.", "i sing."))
    assert (second.persona, second.partner_persona) == (first.partner_persona, first.persona)
    assert [(turn.speaker, turn.text) for turn in second.turns] == [("partner", "hi"), ("self", "hello")]


@pytest.mark.parametrize("chat", ["hi<br>hello", "hi\\\\nhello"])
def test_a_chat_without_line_breaks(tmp_path: Path, chat: str) -> None:
    assert "chat has only one line; expected one turn per line" in error_of(
        tmp_path, f'Persona,chat\ni ski.,"{chat}"\n'
    )
