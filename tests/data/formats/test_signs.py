"""Each format is known by fields that only it has; what is no format is told what is missing, or refused by name."""

import pytest

from falconer.data.formats import FORMATS, detect, is_row
from falconer.data.formats.signs import SIGNS, TEXT_FORMATS, row_format, text_format
from falconer.errors import FalconerError

FILLED = {
    "anything": 1, "no number": "text", "an object": {"a": 1}, "a list": ["a"], "texts": ["a", "b"],
    "lists": [["a", "b"]], "objects": [{"a": 1}],
}  # fmt: skip


@pytest.mark.parametrize(("name", "number"), [(name, i) for name, signs in SIGNS.items() for i in range(len(signs))])
def test_a_row_of_a_format_s_own_fields_is_of_that_format(name: str, number: int) -> None:
    row = {field: FILLED[kind] for field, kind in SIGNS[name][number].items()}
    assert row_format(row) == name and is_row(row)
    # Capital letters, spaces around a name and further fields change nothing.
    assert row_format({f" {field.upper()} ": value for field, value in row.items()} | {"more": 1}) == name


def test_every_format_but_the_texts_has_a_sign() -> None:
    assert set(FORMATS) == {"auto", *SIGNS, *TEXT_FORMATS}


def test_what_a_field_holds_tells_two_formats_apart() -> None:
    assert row_format({"dialog": ["a", "b"]}) == "dailydialog"
    assert row_format({"dialog": [[{"id": "a", "text": "b"}]]}) == "parlai"
    # An empty field is a bad row of a format, and no unknown one.
    assert row_format({"messages": None}) == "messages"
    assert row_format(["a"]) is row_format({}) is None and not is_row("a")


def test_an_unknown_row_is_told_the_nearest_format() -> None:
    with pytest.raises(
        FalconerError,
        match="Its rows hold 'mesages'. The closest format is \"messages\", but the field 'messages' is missing",
    ):
        detect([(1, {"mesages": []})], "x.json")
    with pytest.raises(FalconerError, match="Its rows are lists, not objects with named fields"):
        detect([(1, ["a"])], "x.json")
    with pytest.raises(FalconerError, match="It has no rows of fields"):
        detect([], "x.json")


def test_corpora_without_dialogues_are_refused_by_their_kind() -> None:
    with pytest.raises(FalconerError, match="a table like those of LMEDR or PersonaMinEdit"):
        text_format("Persona\tQuery\tResponse\na\tb\tc\n", "auto", "x.tsv")
    with pytest.raises(FalconerError, match="a table like KvPI's"):
        text_format("{'gender': 'female', 'loc': 'Rome'}<SEP>hi\n", "auto", "x.txt")
    with pytest.raises(FalconerError, match="contains only numbers, like DailyDialog's files"):
        text_format("1 2 3\n4 5\n", "auto", "x.txt")
    with pytest.raises(FalconerError, match="contains preferences"):
        detect([(1, {"prompt": "a", "chosen": "b", "rejected": "c"})], "x.jsonl")


def test_text_is_told_by_its_first_lines_and_json_is_none() -> None:
    assert text_format("text:hi\tlabels:yo\tepisode_done:True\n", "auto", "x") == "parlai"
    assert text_format("hi __eou__ yo __eou__\n", "auto", "x") == "dailydialog"
    assert text_format("1 your persona: i ski.\n2 hi\tyo\n", "auto", "x") == "convai2"
    assert text_format('{"messages": []}', "auto", "x") is text_format("a,b\n", "auto", "x") is None
    assert text_format("a,b\n", "convai2", "x") == "convai2" and text_format("[]", "parlai", "x") is None
