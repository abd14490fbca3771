"""Persona labels: each known spelling is one, what only looks like one is a bad row, and speech stays speech."""

from pathlib import Path
from typing import Any

import pytest

from corpus_files import FIXTURES, counts, load, said
from falconer.data.files.row import RowError
from falconer.data.formats.spoken import both_personas, check_no_label, persona_line, persona_of
from falconer.data.sources import load_dialogues


@pytest.mark.parametrize(
    ("line", "whose"),
    [
        ("your persona: i ski.", "self"),
        ("Your persona: i ski.", "self"),
        ("YOUR PERSONA:i ski.", "self"),
        ("  your persona : i ski. ", "self"),
        ("your persona\uff1ai ski.", "self"),
        ("your  persona: i ski.", "self"),
        ("your own persona: i ski.", "self"),
        ("partner's persona: i ski.", "partner"),
        ("partner\u2019s persona: i ski.", "partner"),
        ("partner\u02bcs persona: i ski.", "partner"),
        ("partner`s persona: i ski.", "partner"),
        ("partners' persona: i ski.", "partner"),
        ("Partner persona: i ski.", "partner"),
        ("partners persona : i ski.", "partner"),
        ("Your partner's persona: i ski.", "partner"),
        ("the partner's personas: i ski.", "partner"),
        ("\u200byour\u00a0persona\u200b: i ski.", "self"),
        ("\ufeffpartner's persona:\u3000i ski.", "partner"),
    ],
)
def test_known_labels(tmp_path: Path, line: str, whose: str) -> None:
    assert persona_line(line) == (whose, "i ski.")
    (dialogue,) = load(tmp_path, f"1 {line}\n2 hi\thello\n").dialogues
    assert (dialogue.persona, dialogue.partner_persona) == ((("i ski.",), ()) if whose == "self" else ((), ("i ski.",)))
    assert said(dialogue) == [("partner", "hi"), ("self", "hello")]


@pytest.mark.parametrize(
    "line",
    [
        "persona: i ski.",
        "Persona 1: i ski.",
        "you persona: i ski.",
        "bot's persona: i ski.",
        "user persona\uff1a i ski.",
        "your personality: i ski.",
        "partner profile: i ski.",
        "your persona; i ski.",
        "your persona i ski.",
        "your persona - i ski.",
        "partner persona i ski.",
        "- your persona: i ski.",
        "your_persona: i ski.",
        "yourpersona: i ski.",
        "votre persona : i ski.",
        '"Your persona: i ski."',
    ],
)
@pytest.mark.parametrize("triple", ["", "\ti\tlike\tskiing"])
def test_other_labels_are_bad_rows_never_turns(tmp_path: Path, line: str, triple: str) -> None:
    assert persona_line(line) is None
    loaded = load(tmp_path, f"1 hi\thello\n1 {line}{triple}\n2 hi\thello\n1 hi\thello\n", on_bad_row="skip")
    assert [(row.line, row.field) for row in loaded.bad_rows] == [(2, "persona")]
    assert "your persona: ..." in loaded.bad_rows[0].message
    assert [said(dialogue) for dialogue in loaded.dialogues] == [[("partner", "hi"), ("self", "hello")]] * 2


@pytest.mark.parametrize(
    "line",
    [
        "my persona: it is long",
        "personally: no",
        "persona",
        "a persona is a mask: you wear it",
        "what is your persona ?",
        "i forgot your persona : sorry",
    ],
)
def test_speech_stays_speech(tmp_path: Path, line: str) -> None:
    (dialogue,) = load(tmp_path, f"1 your persona: i ski.\n2 {line}\tis it ?\n3 {line}\n").dialogues
    assert said(dialogue) == [("partner", line), ("self", "is it ?"), ("partner", line)]


def test_a_label_with_a_reply_is_no_persona(tmp_path: Path) -> None:
    loaded = load(tmp_path, "1 a\tb\n1 your persona: i ski.\thello\n", on_bad_row="skip")
    assert [(row.line, row.field) for row in loaded.bad_rows] == [(2, "persona")]
    assert "'hello', a reply" in loaded.bad_rows[0].message


def test_counts_of_the_fixture() -> None:
    # Counted by hand: four own lines, four of the partner; "my persona:" and "personally:" are messages.
    loaded = load_dialogues(str(FIXTURES / "convai2_labels.txt"))
    assert counts(loaded) == (2, 3, 4, 4)
    assert [turn.text for turn in loaded.dialogues[0].turns] == [
        "my persona: it is a long story", "i have time .", "personally: i would not", "why not ?",
    ]  # fmt: skip


def test_only_the_head_of_a_dialogue_may_lack_the_colon() -> None:
    check_no_label("your persona is nice", "persona", is_opening=False)
    with pytest.raises(RowError):
        check_no_label("your persona is nice", "persona", is_opening=True)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ()),
        ([], ()),
        ("i ski.\n\n i cook. ", ("i ski.", "i cook.")),
        (["i ski.", " "], ("i ski.",)),
        ([["i ski."], ["i cook.", "i sing."]], ("i ski.", "i cook.", "i sing.")),
        ("['i ski.', 'i cook.']", ("i ski.", "i cook.")),
    ],
)
def test_personas_of_any_shape(value: Any, expected: tuple[str, ...]) -> None:
    assert persona_of(value, "persona") == expected


@pytest.mark.parametrize("value", [[["i ski."]], "i ski.", {"a": ["i ski."]}, [1, 2, 3], 5])
def test_a_pair_of_personas_is_a_pair(value: Any) -> None:
    with pytest.raises(RowError, match="expected two personas"):
        both_personas(value, "personas")


@pytest.mark.parametrize(
    "line",
    [
        "你的人设：我有两只狗", "对方的人物设定: 我有狗", "당신의 페르소나: 개가 있다", "あなたのペルソナ：犬がいます",
        "твоя персона: у меня собака", "tu personalidad: tengo un perro", "my persona: i ski.", "Bob's traits: i ski.",
    ],
)  # fmt: skip
def test_labels_in_other_words_are_bad_rows_at_the_head(tmp_path: Path, line: str) -> None:
    loaded = load(tmp_path, f"1 hi\thello\n1 {line}\n2 hi\thello\n", on_bad_row="skip")
    assert [(row.line, row.field) for row in loaded.bad_rows] == [(2, "persona")]
    # With a reply behind it, it is what somebody says.
    assert load(tmp_path, f"1 {line}\thello\n").num_replies == 1


def test_an_opening_message_without_a_reply_is_no_label(tmp_path: Path) -> None:
    for line in ("hi :)", "it is 5:30", "well , that is it : yes", "你好"):
        assert load(tmp_path, f"1 {line}\n2 hi\thello\n").num_replies == 1


def test_tabs_that_became_spaces(tmp_path: Path) -> None:
    loaded = load(tmp_path, "1 hi\thello\n1 your persona: i ski.\n2 hi    hello\n", on_bad_row="skip")
    assert [(row.line, row.field) for row in loaded.bad_rows] == [(2, "turns")]
    assert "no line has a tab between message and reply" in loaded.bad_rows[0].message
