"""Persona-Chat's test set with both personas, an utterance a line, knowledge triples behind tabs."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus_files import FIXTURES, counts, load, said
from falconer.data.formats import persona_chat
from falconer.data.sources import load_dialogues
from falconer.records import Dialogue


def test_counts_against_another_parse() -> None:
    text = (FIXTURES / "persona_chat_both.txt").read_text(encoding="utf-8")
    lines = [line for line in text.split("\n") if line]
    starts = sum(line.startswith("1\t") for line in lines)
    replies = sum(int(found[1]) % 2 == 0 for line in lines if (found := re.match(r"(\d+)\t", line)))
    own = sum(line.lower().startswith("your persona: ") for line in lines)
    other = sum(line.startswith("partner's persona: ") for line in lines)
    loaded = load_dialogues(str(FIXTURES / "persona_chat_both.txt"))
    assert counts(loaded) == (starts, replies, own, other) == (4, 6, 3, 3)
    assert loaded.quirks == {"knowledge triples ignored": text.count("\t['i', ")}
    assert loaded.format == "convai2"


def test_the_blocks_and_restarts_of_the_fixture() -> None:
    one, two, three, four = load_dialogues(str(FIXTURES / "persona_chat_both.txt")).dialogues
    assert said(one)[-2:] == [
        ("self", "i can nearly smell it from here ."),
        ("partner", "come by , i live next to the harbour ."),
    ]
    assert (two.persona, two.partner_persona) == ((), ("i repair old radios.",))
    # A number that does not rise begins a dialogue, which has no persona of its own.
    assert (three.persona, three.partner_persona, len(three.turns)) == ((), (), 4)
    assert four.persona == ("i am afraid of heights.",)


def test_a_space_behind_the_number(tmp_path: Path) -> None:
    (dialogue,) = load(tmp_path, "your persona: i ski.\n1 hi\n2 hello\t['i', 'x', 'y']\n3 bye\n").dialogues
    assert said(dialogue) == [("partner", "hi"), ("self", "hello"), ("partner", "bye")]


def test_numbers_alone(tmp_path: Path) -> None:
    (dialogue,) = load(tmp_path, "1\thi\n2\thello\n3\tbye\n").dialogues
    assert said(dialogue) == [("partner", "hi"), ("self", "hello"), ("partner", "bye")]


@pytest.mark.parametrize(
    ("wrong", "field", "line", "message"),
    [
        ("your persona: i ski.\nhi there\n1\thi\n2\tyo\n", "line number", 4, "expected 'N<TAB>text'"),
        ("your persona: i ski.\n1\thi\n2\tyo\tand more\n", "line", 5, "two texts"),
        ("your persona: i ski.\n1\thi\n2\t \n", "text", 5, "is empty"),
        ("your persona: i ski.\n1\thi\n", "turns", 3, "no reply to learn"),
        ("your persona: i ski.\npersona of you: i sing.\n1\thi\n2\tyo\n", "line number", 4, "is missing"),
        ("your persona: i ski.\nbot's persona: i sing.\n1\thi\n2\tyo\n", "persona", 4, "its label is unknown"),
    ],
)
def test_bad_lines_leave_out_their_dialogue(tmp_path: Path, wrong: str, field: str, line: int, message: str) -> None:
    good = "your persona: i cook.\n2\tyes\n"
    after = "your persona: i sing.\n1\tone\n2\ttwo\n"
    loaded = load(tmp_path, good + wrong + after, on_bad_row="skip")
    assert [dialogue.persona for dialogue in loaded.dialogues] == [("i cook.",), ("i sing.",)]
    assert [(row.line, row.field) for row in loaded.bad_rows] == [(line, field)]
    assert message in loaded.bad_rows[0].message


# Without colons and semicolons: a line such as "w PERSONA:" is refused, as a label of a spelling that is not known.
SENTENCE = st.text(
    st.characters(codec="utf-8", categories=("L", "P", "Zs"), exclude_characters=":;\uff1a\ufe55"),
    min_size=1,
).map(lambda text: f"w {text}".strip())


@given(
    st.lists(
        st.tuples(st.lists(SENTENCE, min_size=1, max_size=3), st.lists(SENTENCE, min_size=2, max_size=6)), min_size=1
    )
)
def test_what_is_written_is_read(content: list[tuple[list[str], list[str]]]) -> None:
    text = "".join(
        "".join(f"your persona: {line}\t['i', 'x', 'y']\n" for line in persona)
        + "".join(f"{n}\t{turn}\n" for n, turn in enumerate(turns, 1))
        for persona, turns in content
    )
    assert persona_chat.is_persona_chat(text)
    from collections import Counter

    found = list(persona_chat.parse(text, "x", Counter()))
    assert all(isinstance(dialogue, Dialogue) for dialogue in found)
    assert [
        (list(dialogue.persona), [turn.text for turn in dialogue.turns])
        for dialogue in found
        if isinstance(dialogue, Dialogue)
    ] == content
