"""Whatever stops an evaluation while it writes, its files are never taken for those of another one."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from falconer.data.language import Language
from falconer.errors import FalconerError
from falconer.evaluate.measure import Evaluated
from falconer.evaluate.summary import Measured
from falconer.evaluate.text.compare import read_systems
from falconer.evaluate.write import write_results
from falconer.records import Prediction
from falconer.run.folder import Evaluation, check_files, read_evaluation, read_metrics
from falconer.run.metrics import Metrics

STORED = Path(__file__).parents[1] / "run" / "fixtures" / "metrics.json"
EVALUATION = Evaluation("a title", "falconer evaluate", "en", 3, 17, {}, (), "adapter", {})
FILES = ("predictions-base.jsonl", "predictions-tuned.jsonl", "predictions-no_history.jsonl", "metrics.json")


def write(run: Path, said: str) -> None:
    """Write an evaluation in which everybody always says the same."""
    metrics = Metrics.from_json(STORED.read_text(encoding="utf-8"), STORED, "")
    rows = [Prediction(str(i), 1, said, f"gold {i} \u2028") for i in range(3)]
    one = Evaluated(rows, [], [])
    measured = Measured(one, one, {"no_history": one}, [], None, Language("en", "as given"))
    write_results(run, measured, replace(metrics, notes=(said,)), EVALUATION)


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}


def test_the_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    write(tmp_path, "first")
    evaluation = read_evaluation(tmp_path)
    assert evaluation and set(evaluation.files) == set(FILES)
    check_files(tmp_path)
    assert read_metrics(tmp_path).notes == ("first",)
    (tmp_path / "predictions-no_persona.jsonl").write_text("of an earlier one")
    write(tmp_path, "second")
    check_files(tmp_path)
    assert not (tmp_path / "predictions-no_persona.jsonl").exists()


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("number", range(len(FILES) + 1))
def test_one_that_was_stopped_between_two_files_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, is_old: bool
) -> None:
    write(tmp_path, "first")
    if is_old:
        (tmp_path / "evaluation.json").unlink()  # as an older version leaves it
    before, rename, done = contents(tmp_path), os.replace, []

    def stop(source: Path, target: Path) -> None:
        if len(done) == number:
            raise KeyboardInterrupt
        done.append(target)
        rename(source, target)

    monkeypatch.setattr("falconer.files.replace.os.replace", stop)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, "second")
    monkeypatch.undo()
    if number == 0:
        assert contents(tmp_path) == before
        return
    assert [path.name for path in done][0] == "evaluation.json"
    with pytest.raises(FalconerError, match="was not written by the last evaluation"):
        check_files(tmp_path)
    systems = [tmp_path / "predictions-base.jsonl", tmp_path / "predictions-tuned.jsonl"]
    if number < len(FILES) - 1:
        with pytest.raises(FalconerError, match="was not written by the last evaluation"):
            read_systems(systems)


def test_a_full_disk_costs_nothing_of_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "first")
    before, sync = contents(tmp_path), Path.write_text

    def full(path: Path, text: str, encoding: str) -> int:
        if json.dumps("second") in text and "num_replies" in text:
            raise OSError(28, "No space left on device")
        return sync(path, text, encoding=encoding)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(FalconerError, match="No space left|disk is full"):
        write(tmp_path, "second")
    assert contents(tmp_path) == before
