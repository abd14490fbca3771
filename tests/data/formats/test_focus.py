"""FoCus: the longest of the growing dialogues is the whole."""

import json
from pathlib import Path
from typing import Any

from corpus_files import FIXTURES, check_bad, counts, load, said
from falconer.data.sources import load_dialogues, open_source


def test_counts_against_another_parse() -> None:
    path = FIXTURES / "focus.json"
    entries = json.loads(path.read_text(encoding="utf-8"))["data"]
    replies = sum(len(entry["utterance"]) for entry in entries)
    loaded = load_dialogues(str(path))
    assert counts(loaded) == (len(entries), replies, sum(len(entry["persona"]) for entry in entries), 0)
    assert loaded.quirks == {"knowledge left out": 1}
    assert [dialogue.id for dialogue in loaded.dialogues] == ["LAND01", "LAND02"]
    assert open_source(str(path)).splits == ("train",)


def test_bad_rows(tmp_path: Path) -> None:
    good: dict[str, Any] = {"dialogID": "1", "persona": ["i ski."], "utterance": [{"dialogue1": ["a", "b"]}]}
    found = check_bad(
        tmp_path,
        good,
        (good | {"utterance": [{"dialogue1": ["a", "b"]}, {"dialogue2": [*"acde"]}]}, "utterance[1].dialogue2"),
        (good | {"utterance": [{"knowledge": []}]}, "utterance[0]"),
        (good | {"utterance": [{"dialogue1": ["a"]}]}, "utterance[0].dialogue1"),
        (good | {"utterance": [{"dialogue1": ["a", 5]}]}, "utterance[0].dialogue1[1]"),
        (good | {"utterance": [5]}, "utterance[0]"),
        (good | {"persona": None}, "persona"),
    )
    assert "it holds 'knowledge'" in found[1]


def test_data_is_a_split_of_its_own_beside_others(tmp_path: Path) -> None:
    rows = json.loads((FIXTURES / "focus.json").read_text(encoding="utf-8"))["data"]
    (tmp_path / "x.json").write_text(json.dumps({"data": rows, "train": rows[:1]}), encoding="utf-8")
    assert open_source(str(tmp_path / "x.json")).splits == ("data", "train")
    assert len(load_dialogues(str(tmp_path / "x.json")).dialogues) == 1


def test_items_that_hold_one_exchange_each(tmp_path: Path) -> None:
    pairs = [{"dialogue1": ["a", "b"]}, {"dialogue2": ["c", "d"]}]
    for utterance in (pairs, [pairs[0] | pairs[1]]):
        row = {"dialogID": "1", "persona": ["i ski."], "utterance": utterance}
        assert [text for _, text in said(load(tmp_path, [row, row]).dialogues[0])] == ["a", "b", "c", "d"]


def test_an_entry_without_id(tmp_path: Path) -> None:
    row = {"dialogID": "", "persona": ["i ski."], "utterance": [{"dialogue1": ["a", "b"]}]}
    assert load(tmp_path, [row, row]).dialogues[0].id == "x-00001"
