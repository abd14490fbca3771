"""Writing an evaluation's results into the run's folder: predictions, figures and report together, or nothing."""

from dataclasses import replace
from pathlib import Path

from falconer.evaluate.ablations import ABLATIONS
from falconer.evaluate.measure import Evaluated
from falconer.evaluate.report.from_folder import make_report
from falconer.evaluate.summary import Measured
from falconer.evaluate.text.predictions import predictions_text
from falconer.files.together import replace_together
from falconer.run.folder import (
    EVALUATION,
    EVALUATION_SET,
    METRICS,
    Evaluation,
    evaluation_text,
    metrics_text,
    predictions_name,
)
from falconer.run.manifest import text_sha256
from falconer.run.metrics import Metrics


def write_results(run: Path, measured: Measured, metrics: Metrics, evaluation: Evaluation) -> None:
    """Write predictions, metrics.json, evaluation.json, which holds the hashes of the others, and the report.

    They replace those of an earlier evaluation together: whatever stops this, the folder has all files of one
    evaluation or of the other.

    Raises:
        FalconerError: no space, or the folder can't be written to.
    """
    replies: dict[str, Evaluated] = {"base": measured.base, "tuned": measured.tuned}
    replies |= {name: one for name, one in measured.ablations.items()}
    contents = {predictions_name(name): predictions_text(one.predictions) for name, one in replies.items()}
    contents[METRICS] = metrics_text(metrics)
    files = {name: text_sha256(text) for name, text in contents.items()}
    contents[EVALUATION] = evaluation_text(replace(evaluation, files=files))
    # Those of an earlier evaluation may be about other turns.
    old = [predictions_name(name) for name in ABLATIONS if name not in replies]
    with replace_together(run, EVALUATION_SET, removed=old) as aside:
        for name, text in contents.items():
            (aside / name).write_text(text, encoding="utf-8")
        make_report(run, results=aside)
