"""Writing an evaluation's results into the run's folder, so that an interrupted one never yields a wrong report."""

from dataclasses import replace
from pathlib import Path

from falconer.evaluate.ablations import ABLATIONS
from falconer.evaluate.measure import Evaluated
from falconer.evaluate.summary import Measured
from falconer.evaluate.text.predictions import write_predictions
from falconer.files.replace import sha256
from falconer.run.folder import METRICS, Evaluation, predictions_name, write_evaluation, write_metrics
from falconer.run.metrics import Metrics


def write_results(run: Path, measured: Measured, metrics: Metrics, evaluation: Evaluation) -> None:
    """Write predictions, metrics.json and evaluation.json; the last one holds the hashes of the others.

    Raises:
        FalconerError: no space, or the folder can't be written to.
    """
    replies: dict[str, Evaluated] = {"base": measured.base, "tuned": measured.tuned}
    replies |= {name: one for name, one in measured.ablations.items()}
    for name, one in replies.items():
        write_predictions(one.predictions, run / predictions_name(name))
    for name in ABLATIONS:
        if name not in replies:
            # That of an earlier evaluation may be about other turns.
            (run / predictions_name(name)).unlink(missing_ok=True)
    write_metrics(run, metrics)
    files = {name: sha256(run / name) for name in (*map(predictions_name, replies), METRICS)}
    write_evaluation(run, replace(evaluation, files=files))
