"""Writing an evaluation's results into the run's folder, so that an interrupted one never yields a wrong report."""

from contextlib import ExitStack
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from falconer.evaluate.ablations import ABLATIONS
from falconer.evaluate.measure import Evaluated
from falconer.evaluate.summary import Measured
from falconer.evaluate.text.predictions import predictions_text
from falconer.files.replace import replace_file
from falconer.run.folder import EVALUATION, METRICS, Evaluation, evaluation_text, metrics_text, predictions_name
from falconer.run.metrics import Metrics


def write_results(run: Path, measured: Measured, metrics: Metrics, evaluation: Evaluation) -> None:
    """Write predictions, metrics.json and evaluation.json, which holds the hashes of the others.

    Everything is written aside before the first file takes its place, so a full disk costs nothing of an earlier
    evaluation. evaluation.json takes its place first: whatever stops the rest, `check_files` sees that some file is not
    the one it names, also where the earlier evaluation was of a version that wrote no evaluation.json.

    Raises:
        FalconerError: no space, or the folder can't be written to.
    """
    replies: dict[str, Evaluated] = {"base": measured.base, "tuned": measured.tuned}
    replies |= {name: one for name, one in measured.ablations.items()}
    contents = {predictions_name(name): predictions_text(one.predictions) for name, one in replies.items()}
    contents[METRICS] = metrics_text(metrics)
    files = {name: sha256(text.encode("utf-8")).hexdigest() for name, text in contents.items()}
    contents[EVALUATION] = evaluation_text(replace(evaluation, files=files))
    with ExitStack() as stack:
        # The last one that is entered takes its place first.
        for name, text in contents.items():
            stack.enter_context(replace_file(run / name)).write_text(text, encoding="utf-8")
    for name in ABLATIONS:
        if name not in replies:
            # That of an earlier evaluation may be about other turns.
            (run / predictions_name(name)).unlink(missing_ok=True)
