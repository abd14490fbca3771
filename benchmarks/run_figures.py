"""What is published of runs: the figures of each, and their mean and standard deviation over seeds."""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from falconer.evaluate.text.failures import find_failures
from falconer.evaluate.text.predictions import read_predictions
from falconer.files.replace import replace_file
from falconer.run.folder import METRICS, is_run, predictions_name, read_metrics, read_steps
from falconer.run.state import state_of

FIGURES = (
    "word_ppl", "bits_per_char", "token_ppl", "bleu", "rouge_l", "f1", "chrf", "hits_1", "hits_1_sum", "ended_share",
    "repetition", "distinct_2", "persona_use", "mean_words",
)  # fmt: skip
# How a training ends that is not to be continued.
ENDED = ("finished", "stopped early")


def call(*arguments: str) -> None:
    """Run a command of falconer; its messages are shown."""
    print("falconer", *arguments, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "falconer", *arguments], check=True, stdout=subprocess.DEVNULL)


def bring_to_end(run: Path, begin: Sequence[str], again: Sequence[str], evaluate: Sequence[str] = ()) -> None:
    """Train and evaluate a run, as far as that has not been done.

    Args:
        begin, again: the command that starts its training, and the one that continues it.
        evaluate: settings of the evaluation.
    """
    if not is_run(run):
        call(*begin)
    elif state_of(run).stage not in ENDED:
        call(*again)
    if not (run / METRICS).is_file():
        call("evaluate", "--run", str(run), *evaluate)


def figures_of(run: Path) -> dict[str, Any]:
    """Return what is published of a run: the figures of base, tuned, and baselines, and the time of training."""
    metrics = read_metrics(run)
    steps = [row for row in read_steps(run) if "loss" in row]
    found: dict[str, Any] = {"steps": len(steps), "train_s": round(steps[-1]["time_s"], 1)}
    systems = {"base": metrics.base, "tuned": metrics.tuned}
    for name, score in systems.items():
        values = {key: value for key in FIGURES if (value := getattr(score, key)) is not None}
        values["repeats_a_phrase"] = repeats_a_phrase(run, name)
        found[name] = {key: round(value, 4) for key, value in values.items()}
        known = metrics.intervals.get(name, {})
        found[f"{name}_intervals"] = {key: [round(b, 4) for b in known[key]] for key in FIGURES if key in known}
    found["tests"] = [asdict(test) for test in metrics.tests]
    found["baselines"] = {
        name: {key: round(value, 4) for key in ("bleu", "rouge_l", "f1") if (value := getattr(score, key)) is not None}
        for name, score in metrics.baselines.items()
    }
    ranking = metrics.ranking
    found["ranking_without_a_model"] = asdict(ranking) if ranking else None
    found["num_replies"] = metrics.tuned.num_replies
    return found


def repeats_a_phrase(run: Path, system: str) -> float:
    """Return the share of replies (0-100) that have three consecutive words twice."""
    failures = find_failures(read_predictions(run / predictions_name(system)))
    return 100 * sum("phrase" in some for some in failures) / len(failures)


def over_seeds(runs: Sequence[dict[str, Any]], system: str) -> dict[str, list[float]]:
    """Return the mean of each figure over runs, and the standard deviation where there are several."""
    found = {}
    for key in runs[0][system]:
        values = [run[system][key] for run in runs if key in run[system]]
        spread = [round(statistics.stdev(values), 4)] if len(values) > 1 else []
        found[key] = [round(statistics.fmean(values), 4), *spread]
    return found


def write_results(results: dict[str, Any], path: Path) -> None:
    """Write a results file."""
    with replace_file(path) as aside:
        aside.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
