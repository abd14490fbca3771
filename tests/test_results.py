"""docs/results.md: every table of figures is what the files in benchmarks/results say."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from falconer.evaluate.report.published import AS_PUBLISHED, RESCORED
from falconer.evaluate.text.submission import gold_digests

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")


def script(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


def results(name):
    return json.loads((ROOT / "benchmarks" / "results" / name).read_text(encoding="utf-8"))


def test_the_table_of_systems(monkeypatch):
    rescore = script("rescore", monkeypatch)
    found = results("rescored.json")
    assert rescore.table(found, results(rescore.OURS)) in PAGE
    assert [one["name"] for one in found["systems"]] == [source.name for source in rescore.SOURCES]
    num_turns = sum(map(len, gold_digests()))
    assert {one["name"] for one in found["systems"] if one["num_replies"] != num_turns} == {
        "PAA", "PAA repository, encoder-GPT"
    }  # fmt: skip


@pytest.mark.parametrize(
    "known", [one for one in RESCORED if one.name not in ("a constant sentence", "echo", "persona")]
)
def test_the_report_shows_the_same_figures(known):
    found = {one["name"]: one["figures"] for one in results("rescored.json")["systems"]}[known.name]
    assert (known.bleu, known.rouge_l, known.f1) == tuple(round(found[key], 2) for key in ("bleu", "rouge_l", "f1"))


def test_replies_are_put_beside_their_gold_replies(monkeypatch):
    rescore = script("rescore", monkeypatch)
    turns = [rescore.Prediction("d", 1, "", gold) for gold in ("a b .", "c d ?", "a b .", "e")]
    text = "noise\nGT: c d?\nPD: one\n===\nGT: A b.\nPD: two \nGT: a b\nPD: three\nGT: x\nPD: four\n"
    source = next(one for one in rescore.SOURCES if one.form == "pairs")
    rows = rescore.replies_of(source, text, turns)
    assert [(row.reference, row.prediction) for row in rows] == [
        ("a b .", "two"), ("c d ?", "one"), ("a b .", "three")
    ]  # fmt: skip


def test_the_table_of_people(monkeypatch):
    assert script("human_ratings", monkeypatch).table(results("human-ratings.json")) in PAGE


def test_published_figures_stand_apart():
    for one in AS_PUBLISHED:
        assert f"| {one.name} | {one.source} |" in PAGE.partition("## Published, not rescored")[2]
