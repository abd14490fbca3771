"""What an evaluation leaves behind: all of it is of one evaluation, whenever it was interrupted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from falconer.data.language import Language
from falconer.evaluate import write
from falconer.evaluate.measure import Evaluated
from falconer.evaluate.summary import Measured, summarise
from falconer.evaluate.text.predictions import read_predictions
from falconer.files.replace import sha256
from falconer.records import Prediction
from falconer.run.folder import Evaluation, read_evaluation, read_metrics

ALL = ("no_persona", "shuffled_persona", "no_history")
EVALUATION = Evaluation("A title", "falconer evaluate", "en", 2, 17, {"model.name": "x"}, ("a note",), "adapter", {})


@pytest.fixture(scope="module")
def few(rows: list[Prediction]) -> list[Prediction]:
    return rows[:12]


def measured(few: list[Prediction], *ablations: str, said: str = "") -> Measured:
    """Return an evaluation; what a system replies names the system, and the evaluation by `said`."""

    def replies(name: str) -> Evaluated:
        named = [replace(row, prediction=f"{name} {said} {row.prediction}".replace("_", " ")) for row in few]
        return Evaluated(named, [None] * len(few), [row.dialogue_id for row in few])

    altered = {name: replies(name) for name in ALL if name in ablations}
    return Measured(replies("base"), replies("tuned"), altered, [], None, Language("en", "a test"))


def results(run: Path, of: Measured) -> None:
    write.write_results(run, of, summarise(of, resamples=100, seed=1, judge=None), EVALUATION)


def files(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()}


def test_each_system_has_its_predictions_and_the_record_their_hashes(tmp_path: Path, few: list[Prediction]) -> None:
    results(tmp_path, of := measured(few, *ALL))
    names = {f"predictions-{name}.jsonl" for name in ("base", "tuned", *ALL)}
    assert files(tmp_path) == names | {"metrics.json", "evaluation.json"}
    found = read_predictions(tmp_path / "predictions-no_history.jsonl")
    assert [row.prediction for row in found] == [row.prediction for row in of.ablations["no_history"].predictions]
    metrics = read_metrics(tmp_path)
    assert metrics.tuned.num_replies == 12 and metrics.tuned.chrf != metrics.base.chrf
    record = read_evaluation(tmp_path)
    assert record is not None
    assert record.files == {name: sha256(tmp_path / name) for name in names | {"metrics.json"}}
    assert replace(record, files={}) == EVALUATION


def test_an_ablation_of_an_earlier_evaluation_is_removed(tmp_path: Path, few: list[Prediction]) -> None:
    results(tmp_path, measured(few, *ALL))
    (tmp_path / "predictions-mine.jsonl").write_text("{}\n", encoding="utf-8")
    results(tmp_path, measured(few, "no_history", said="again"))
    kept = {"predictions-base.jsonl", "predictions-tuned.jsonl", "predictions-no_history.jsonl"}
    assert files(tmp_path) == kept | {"metrics.json", "evaluation.json", "predictions-mine.jsonl"}, "a user's own stays"
    record = read_evaluation(tmp_path)
    assert record is not None and set(record.files) == kept | {"metrics.json"}


@pytest.mark.parametrize("place", range(4))
def test_an_interruption_never_leaves_a_record_of_other_files(
    tmp_path: Path, few: list[Prediction], monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """Before each write of a second evaluation: the record either fits all its files, or tells that it does not."""
    results(tmp_path, measured(few))
    before = json.loads((tmp_path / "evaluation.json").read_text(encoding="utf-8"))["files"]
    left = place

    def interrupted(function):
        def instead(*arguments):
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            return function(*arguments)

        return instead

    for name in ("write_predictions", "write_metrics", "write_evaluation"):
        monkeypatch.setattr(write, name, interrupted(getattr(write, name)))
    with pytest.raises(KeyboardInterrupt):
        results(tmp_path, measured(few, said="again"))
    record = read_evaluation(tmp_path)
    assert record is not None and record.files == before
    fitting = [name for name, digest in record.files.items() if sha256(tmp_path / name) == digest]
    # base, tuned, metrics.json and then the record: as many differ as were written.
    assert len(fitting) == 3 - place
