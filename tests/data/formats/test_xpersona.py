"""Xpersona: pairs [partner, self]."""

import json
from pathlib import Path

from corpus_files import FIXTURES, check_bad, counts, load, said
from falconer.data.sources import load_dialogues

GOOD = {"persona": ["i ski."], "dialogue": [["hi", "hello"]]}


def test_counts_against_another_parse() -> None:
    for name, key in (("xpersona.json", "persona"), ("xpersona_meta.jsonl", "meta")):
        text = (FIXTURES / name).read_text(encoding="utf-8")
        rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
        replies = sum(len(pair) > 1 and pair[1] != "" for row in rows for pair in row["dialogue"])
        own = sum(len(row[key]) for row in rows)
        loaded = load_dialogues(str(FIXTURES / name))
        assert counts(loaded) == (len(rows), replies, own, 0)
        assert (loaded.format, len(loaded.bad_rows)) == ("xpersona", 0)


def test_pairs_that_lack_a_side() -> None:
    loaded = load_dialogues(str(FIXTURES / "xpersona.json"))
    assert said(loaded.dialogues[2])[0] == ("self", "i will begin , then .")
    assert loaded.dialogues[1].turns[-1].text == "真好！ 你住在哪里？"
    assert loaded.quirks["empty turn dropped"] == 2
    assert loaded.quirks["further items of a pair left out"] == 1


def test_bad_rows(tmp_path: Path) -> None:
    found = check_bad(
        tmp_path,
        GOOD,
        ({"persona": ["i ski."], "dialogue": [["hi"]]}, "dialogue"),
        ({"persona": ["i ski."], "dialogue": [["hi", "hello"], []]}, "dialogue[1]"),
        ({"persona": ["i ski."], "dialogue": [["hi", "hello"], ["hi", 5]]}, "dialogue[1][1]"),
        ({"persona": ["i ski."], "dialogue": [["hi", "hello"], "bye"]}, "dialogue[1]"),
        ({"persona": [5], "dialogue": [["hi", "hello"]]}, "persona[0]"),
        ({"persona": None, "dialogue": [["hi", "hello"]]}, "persona"),
        ({"dialogue": [["hi", "hello"]]}, "persona"),
    )
    assert "expected a pair [partner, self]" in found[1] and "expected a pair" in found[3]


def test_flat_lists_say_what_is_expected(tmp_path: Path) -> None:
    loaded = load(tmp_path, [GOOD, {"persona": [], "dialogue": ["hi", "hello"]}], on_bad_row="skip")
    assert loaded.bad_rows[0].message.startswith("is text; expected a pair")
