"""DailyDialog: text with __eou__, and rows."""

import json
from pathlib import Path

import pytest

from corpus_files import FIXTURES, check_bad, counts, load, said
from falconer.data.sources import load_dialogues
from falconer.errors import FalconerError


def test_counts_against_another_parse() -> None:
    lines = [line for line in (FIXTURES / "dailydialog.txt").read_text(encoding="utf-8").splitlines() if line]
    lengths = [line.count("__eou__") for line in lines]
    loaded = load_dialogues(str(FIXTURES / "dailydialog.txt"))
    assert counts(loaded) == (sum(n > 1 for n in lengths), sum(n // 2 for n in lengths), 0, 0)
    assert loaded.quirks == {"conversation of one turn left out": 1}
    rows = [json.loads(line) for line in (FIXTURES / "dailydialog.jsonl").read_text(encoding="utf-8").splitlines()]
    lengths = [len(row.get("dialog") or row.get("utterances") or row["dialogue"]) for row in rows]
    assert counts(load_dialogues(str(FIXTURES / "dailydialog.jsonl"))) == (3, sum(n // 2 for n in lengths), 0, 0)


def test_text_and_rows_tell_the_same() -> None:
    text, rows = (load_dialogues(str(FIXTURES / f"dailydialog.{kind}")).dialogues for kind in ("txt", "jsonl"))
    assert [said(dialogue) for dialogue in text] == [said(dialogue) for dialogue in rows[:2]]
    assert said(text[0]) == [
        ("partner", "Is the shop still open ?"), ("self", "Until six ."), ("partner", "Then I must hurry ."),
    ]  # fmt: skip


def test_marks_that_lack_or_repeat(tmp_path: Path) -> None:
    text = "a __eou__ b\n\na__eou__b__eou__\nno mark\na __eou__  __eou__ b __eou__ c __eou__\n"
    loaded = load(tmp_path, text, on_bad_row="skip")
    assert [[said_text for _, said_text in said(dialogue)] for dialogue in loaded.dialogues] == [
        ["a", "b"],
        ["a", "b"],
        ["a b", "c"],
    ]
    assert [(row.line, row.field) for row in loaded.bad_rows] == [(4, "line")]
    assert loaded.quirks["empty turn dropped"] == 1
    # The order of the speakers is that of the marks: "b" is the partner's again, and joins what it said before.
    assert [speaker for speaker, _ in said(loaded.dialogues[2])] == ["partner", "self"]


def test_marks_within_a_cell(tmp_path: Path) -> None:
    loaded = load(tmp_path, "dialog,emotion\na __eou__ b __eou__,0 0\n")
    assert (loaded.format, said(loaded.dialogues[0])) == ("dailydialog", [("partner", "a"), ("self", "b")])


def test_bad_rows(tmp_path: Path) -> None:
    found = check_bad(
        tmp_path,
        {"dialog": ["a", "b"]},
        ({"dialog": ["a", 5]}, "dialog[1]"),
        ({"dialog": "a"}, "dialog"),
        ({"utterances": ["a", " "]}, "utterances"),
        ({"dialog": ["a", "b"], "persona": ["i ski."]}, "persona"),
        ({"topic": "x", "dialogue": [{"speaker": "A", "text": text} for text in "ab"]}, "dialogue[0].speaker"),
        ({"topic": "x", "dialogue": [{"text": "a"}, {"act": "b"}]}, "dialogue[1].text"),
    )
    assert "a field that DailyDialog does not have" in found[3]


@pytest.mark.parametrize("text", ["2 1 3 \n", "0 0 6\r\n1 0\r\n", "1\n3\n10\n" * 50])
def test_files_of_acts_emotions_and_topics(tmp_path: Path, text: str) -> None:
    with pytest.raises(FalconerError, match=r"only numbers.*dialogues_text\.txt"):
        load(tmp_path, text)
