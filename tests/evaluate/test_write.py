"""Whatever stops an evaluation while it writes, its folder has all files of that one or of the one before."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from falconer.config import load
from falconer.data.language import Language
from falconer.errors import FalconerError
from falconer.evaluate.measure import Evaluated
from falconer.evaluate.report.from_folder import make_report
from falconer.evaluate.summary import Measured
from falconer.evaluate.text.compare import read_systems
from falconer.evaluate.write import write_results
from falconer.records import Prediction
from falconer.run.folder import Evaluation, check_files, read_evaluation, read_metrics, write_run
from falconer.run.metrics import Metrics
from kill_points import die_before_operation

STORED = Path(__file__).parents[1] / "run" / "fixtures" / "metrics.json"
EVALUATION = Evaluation("a title", "falconer evaluate", "en", 3, 17, {}, (), "adapter", {})
FILES = {"predictions-base.jsonl", "predictions-tuned.jsonl", "metrics.json"}
REPORT = {"evaluation.json", "report.html", "report.md"}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_run(tmp_path / "run", load("quickstart", []), {})
    return tmp_path / "run"


def write(run: Path, said: str, *ablations: str) -> None:
    """Write an evaluation in which everybody always says the same."""
    metrics = Metrics.from_json(STORED.read_text(encoding="utf-8"), STORED, "")
    tuned, base = (replace(score, num_replies=3) for score in (metrics.tuned, metrics.base))
    rows = [Prediction(str(i), 1, said, f"gold {i} \u2028") for i in range(3)]
    one = Evaluated(rows, [], [])
    measured = Measured(one, one, dict.fromkeys(ablations, one), [], None, Language("en", "as given"))
    write_results(run, measured, replace(metrics, notes=(f"note {said}",), tuned=tuned, base=base), EVALUATION)


def quick_report(run: Path, results: Path) -> None:
    """Write a report that says what the figures say; the real one takes a second."""
    for name in ("report.html", "report.md"):
        (results / name).write_text((results / "metrics.json").read_text(encoding="utf-8"), encoding="utf-8")


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


def said(run: Path) -> tuple[str, ...]:
    """Return what each file of the evaluation is about; a reader comes first."""
    read_metrics(run)
    return tuple(
        "zweite" if "zweite" in (run / name).read_text(encoding="utf-8") else "first"
        for name in sorted(FILES | {"report.html", "report.md"})
    )


def test_the_hashes_are_those_of_the_files(run: Path) -> None:
    write(run, "first", "no_history", "no_persona")
    evaluation = read_evaluation(run)
    ablations = {"predictions-no_history.jsonl", "predictions-no_persona.jsonl"}
    assert evaluation and set(evaluation.files) == FILES | ablations
    check_files(run)
    assert read_metrics(run).notes == ("note first",)
    write(run, "zweite", "no_history")
    check_files(run)
    names = FILES | REPORT | {"predictions-no_history.jsonl", "config.yaml", "run.json", "manifest.json"}
    assert {path.name for path in run.iterdir()} == names, "those of ablations go with their evaluation"


def test_one_that_is_killed_before_any_operation_leaves_all_of_one_evaluation(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("falconer.evaluate.write.make_report", quick_report)
    write(run, "first", "no_persona")
    seen, number, ended = set(), 0, False
    while not ended:
        ended = die_before_operation(number, lambda: write(run, "zweite"))
        found = said(run)
        assert found == (found[0],) * len(found), f"a mixture, killed before operation {number}"
        check_files(run)
        assert (run / "predictions-no_persona.jsonl").exists() == (found[0] == "first")
        assert not (run / "evaluation.new").exists()
        if found[0] == "zweite" and not ended:
            write(run, "first", "no_persona")
        seen.add(found[0])
        number += 1
    assert seen == {"first", "zweite"} and found[0] == "zweite" and number > 25


@pytest.mark.parametrize("damage", ["flipped", "cut"])
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_that_is_not_what_was_written_is_refused(run: Path, name: str, damage: str) -> None:
    write(run, "first")
    content = bytearray((run / name).read_bytes())
    content[len(content) // 2] ^= 1
    (run / name).write_bytes(content if damage == "flipped" else content[:-9])
    with pytest.raises(FalconerError, match="was not written by the last evaluation|is damaged"):
        make_report(run)
    if name != "metrics.json":
        with pytest.raises(FalconerError, match="was not written by the last evaluation"):
            read_systems([run / "predictions-base.jsonl", run / "predictions-tuned.jsonl"])


def test_a_full_disk_costs_nothing_of_the_earlier_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run, "first")
    before, sync = contents(run), Path.write_text

    def full(path: Path, text: str, encoding: str) -> int:
        if "note zweite" in text and "num_replies" in text:
            raise OSError(28, "No space left on device")
        return sync(path, text, encoding=encoding)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(FalconerError, match="No space left|disk is full"):
        write(run, "zweite")
    assert contents(run) == before


def test_a_reader_who_may_not_write_is_told_who_can_help(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(run, "first")
    (run / "evaluation.new").mkdir()
    (run / "evaluation.new" / "metrics.json").write_text(json.dumps("of the next one"))

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(FalconerError, match="killed, and they can't be moved") as caught:
        read_metrics(run)
    assert "write permission" in caught.value.hint
