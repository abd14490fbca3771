"""SODA: two named speakers; the second one learns."""

import json
from pathlib import Path
from typing import Any

from corpus_files import FIXTURES, check_bad, counts, said
from falconer.data.sources import load_dialogues


def test_counts_against_another_parse() -> None:
    rows = [json.loads(line) for line in (FIXTURES / "soda.jsonl").read_text(encoding="utf-8").splitlines()]
    pairs = [row for row in rows if len(set(row["speakers"])) == 2]
    replies = sum(who != row["speakers"][0] for row in pairs for who in row["speakers"])
    loaded = load_dialogues(str(FIXTURES / "soda.jsonl"))
    assert counts(loaded) == (len(pairs), replies, 0, 0)
    assert loaded.quirks["conversation of more than two people left out"] == len(rows) - len(pairs) == 1
    assert loaded.quirks["narrative left out"] == 1
    assert said(loaded.dialogues[1])[-1] == ("self", "It is.")


def test_bad_rows(tmp_path: Path) -> None:
    good: dict[str, Any] = {"dialogue": ["a", "b"], "speakers": ["Ana", "Ben"]}
    check_bad(
        tmp_path,
        good,
        (good | {"speakers": ["Ana"]}, "speakers"),
        (good | {"speakers": ["Ana", "Ana"]}, "dialogue"),
        (good | {"dialogue": ["a", 5]}, "dialogue[1]"),
        (good | {"dialogue": None}, "dialogue"),
        (good | {"persona": ["i ski."]}, "persona"),
    )
