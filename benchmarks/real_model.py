"""Trains and evaluates a pretrained model from a local folder on the embedded Persona-Chat dialogues.

    python benchmarks/real_model.py --model FOLDER --origin "where the weights came from, and their licence" \\
        --runs runs/real-model benchmarks/results/MODEL.json [KEY=VALUE ...]

Every run is `falconer train --preset any-causal-lm` with one seed and one text style, followed by `falconer evaluate`
on the test split, so base and tuned model are measured on the same turns. Settings behind the results file go to both,
for example train.learning_rate=1e-3. What has been done is not done again: a run that was interrupted is continued.

The results have the SHA-256 of the weights as training recorded them. The weights themselves are never copied.
docs/pretrained.md says how to get a folder from a GGUF file.
"""

import argparse
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
from falconer.run.folder import METRICS, is_run, predictions_name, read_metrics, read_record, read_steps
from falconer.run.state import state_of

FIGURES = (
    "word_ppl", "bits_per_char", "token_ppl", "bleu", "rouge_l", "f1", "chrf", "hits_1", "hits_1_sum", "ended_share",
    "repetition", "distinct_2", "persona_use", "mean_words",
)  # fmt: skip


def call(*arguments: str) -> None:
    """Run a command of falconer; its messages are shown."""
    print("falconer", *arguments, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "falconer", *arguments], check=True, stdout=subprocess.DEVNULL)


def bring_to_end(run: Path, settings: Sequence[str]) -> None:
    """Train and evaluate a run, as far as that has not been done."""
    if not is_run(run):
        call("train", "--preset", "any-causal-lm", "--run", str(run), *settings)
    elif state_of(run).stage not in ("finished", "stopped early"):
        call("train", "--run", str(run), "--resume")
    if not (run / METRICS).is_file():
        call("evaluate", "--run", str(run))


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


def table(results: dict[str, Any]) -> str:
    """Return the results as Markdown: the mean over seeds, ± the standard deviation."""
    shown = ("word_ppl", "bits_per_char", "bleu", "rouge_l", "f1", "hits_1", "hits_1_sum", "ended_share",
             "repetition", "repeats_a_phrase")  # fmt: skip
    lines = [f"| text | model | {' | '.join(shown)} |", "|" + "---|" * (len(shown) + 2)]
    for text, found in results["texts"].items():
        for system in ("base", "tuned"):
            cells = [" ± ".join(f"{one:.2f}" for one in found[system].get(key, [])) or "–" for key in shown]
            lines.append(f"| {text} | {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the JSON file to write")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="settings of train and evaluate")
    parser.add_argument("--model", type=Path, required=True, help="folder of config.json, tokenizer and safetensors")
    parser.add_argument("--origin", required=True, help="where the weights came from, and under which licence")
    parser.add_argument("--runs", type=Path, default=Path("runs/real-model"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="number of runs: train.seed=17, 18, ...")
    parser.add_argument("--text", choices=["raw", "natural", "both"], default="raw")
    given = parser.parse_args()
    if not (given.model / "config.json").is_file():
        parser.error(f"{given.model} has no config.json")
    texts: dict[str, Any] = {}
    record: dict[str, Any] = {}
    for text in ("raw", "natural") if given.text == "both" else (given.text,):
        runs = []
        for seed in range(17, 17 + given.seeds):
            run = given.runs / f"{text}-seed-{seed}"
            bring_to_end(run, [f"model.name={given.model}", f"data.text={text}", f"train.seed={seed}", *given.settings])
            runs.append({"seed": seed, **figures_of(run)})
            record = read_record(run)
        texts[text] = {system: over_seeds(runs, system) for system in ("base", "tuned")} | {"runs": runs}
    results = {
        "what": "falconer train --preset any-causal-lm on the embedded dialogues, evaluated on the embedded test split",
        "settings": given.settings,
        "origin": given.origin,
        "files": record.get("base_files"),
        # That of training; figures of a run that was evaluated elsewhere are the same but for rounding.
        "machine": record["environment"]["device"],
        "versions": record.get("environment"),
        "texts": texts,
    }
    with replace_file(given.results) as aside:
        aside.write_text(json.dumps(results, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    print(table(results))


if __name__ == "__main__":
    main()
