"""Preference training with several seeds: figures before and after, and paired tests.

    python benchmarks/preference_runs.py --runs runs/preference benchmarks/results/preference-falcon-mini.json
    python benchmarks/preference_runs.py --runs runs/samples --model models/gemma-3-270m --origin "GGUF a5fd3b62" \\
        benchmarks/results/preference-gemma-3-270m.json

For each seed, a model is trained with it, trained further in one or two ways with the same seed, and all are evaluated.
Without --model that is the quickstart, on the first 60 test dialogues: 240 replies, and hits@1 at each of them. A model
of one's own is trained with the preset any-causal-lm on raw text, and then on its own samples to 4,000 turns; it is
evaluated on all replies of the test split. What has been done is not done again: runs that were trained elsewhere are
only read, and need no adapter for that. The folders are RUNS/first-seed-17, RUNS/samples-seed-17, and so on.

Each way is tested against its first training by the paired bootstrap of `falconer compare`: seed by seed, and all seeds
together, where the replies of all seeds to a dialogue are resampled together. All tests that are made together are
corrected together (Holm).
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from run_figures import bring_to_end, figures_of, over_seeds, write_results

from falconer.evaluate.text.compare import aligned, compare_systems
from falconer.evaluate.text.decodings import with_phrases
from falconer.evaluate.text.failures import find_failures
from falconer.evaluate.text.predictions import read_predictions
from falconer.evaluate.text.systems import System, system_of
from falconer.preference_pairs import SAMPLES
from falconer.records import Prediction
from falconer.run.folder import predictions_name, read_record, read_steps
from falconer.run.pairs import read_pairs


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is trained, and how it is evaluated.

    Args:
        what: said in the results.
        preset, first: of the first training.
        ways: for each way to train further, the sources of its pairs and its settings.
        evaluated: settings of each evaluation.
    """

    what: str
    preset: str
    first: tuple[str, ...]
    ways: Mapping[str, tuple[str, tuple[str, ...]]]
    evaluated: tuple[str, ...]


QUICKSTART = Experiment(
    what="falconer train --preset quickstart, then falconer prefer with the same seed, evaluated on the first 60 test "
    "dialogues; tests against the first training, all seeds together and each on its own",
    preset="quickstart",
    first=(),
    ways=MappingProxyType({
        "distractors-repetitions-1": ("distractors,repetitions", ("prefer.max_pairs=120", "prefer.max_turns=170")),
        "repetitions-4": ("repetitions", ("prefer.max_turns=300", "train.epochs=4")),
    }),
    evaluated=("evaluate.max_dialogues=60", "evaluate.max_replies=240", "evaluate.max_ranked=240"),
)  # fmt: skip


def of_model(model: Path, origin: str) -> Experiment:
    """Return the experiment with a pretrained model in a local folder."""
    return Experiment(
        what=f"{model.name} ({origin}): falconer train --preset any-causal-lm data.text=raw, then falconer prefer with "
        "the same seed, evaluated on the whole test split; tests against the first training, all seeds together and "
        "each on its own",
        preset="any-causal-lm",
        first=(f"model.name={model}", "data.text=raw"),
        ways=MappingProxyType({"samples": ("samples", ("prefer.max_turns=4000", "prefer.max_pairs=4000"))}),
        evaluated=("evaluate.max_dialogues=null", "evaluate.max_replies=null", "evaluate.max_ranked=0"),
    )


# What is tested and shown, in the order of the table.
SHOWN: Mapping[str, str] = MappingProxyType({
    "phrase": "replies that repeat a phrase, %", "word_ppl": "word perplexity", "hits_1": "hits@1 by mean, %",
    "f1": "F1", "rouge_l": "ROUGE-L", "bleu": "BLEU",
})  # fmt: skip


def run_all(experiment: Experiment, runs: Path, seeds: Sequence[int]) -> None:
    """Train and evaluate everything, as far as that has not been done."""
    for seed in seeds:
        first = first_of(runs, seed)
        own = (f"train.seed={seed}", *experiment.first)
        begin = ["train", "--preset", experiment.preset, "--run", str(first), *own]
        bring_to_end(first, begin, ["train", "--run", str(first), "--resume"], experiment.evaluated)
        for way, (pairs, settings) in experiment.ways.items():
            run = after(runs, way, seed)
            begin = ["prefer", "--run", str(first), "--out", str(run), "--pairs", pairs]
            begin += [f"train.seed={seed}", *settings]
            bring_to_end(run, begin, ["prefer", "--out", str(run), "--resume"], experiment.evaluated)


def first_of(runs: Path, seed: int) -> Path:
    """Return the folder of a seed's first training."""
    return runs / f"first-seed-{seed}"


def after(runs: Path, way: str, seed: int) -> Path:
    """Return the folder of a seed's preference training."""
    return runs / f"{way}-seed-{seed}"


def system(name: str, replies: Sequence[Prediction]) -> System:
    """Return replies as a system that is also tested by how many of them repeat a phrase."""
    return with_phrases(system_of(name, replies), ["phrase" in one for one in find_failures(replies)])


def tests_of(before: Sequence[Prediction], ways: Mapping[str, Sequence[Prediction]]) -> dict[str, list[dict[str, Any]]]:
    """Return the tests of each way's replies against those before it.

    Raises:
        FalconerError: they are not replies to the same turns.
    """
    systems = aligned([system("before", before), *(system(name, rows) for name, rows in ways.items())])
    found = compare_systems(systems, metrics=list(SHOWN))
    return {name: [asdict(test) for test in found[name]] for name in ways}


def results_of(experiment: Experiment, runs: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the content of the results file."""
    folders = {"before": [first_of(runs, seed) for seed in seeds]}
    folders |= {way: [after(runs, way, seed) for seed in seeds] for way in experiment.ways}
    replies = {
        name: [read_predictions(run / predictions_name("tuned")) for run in some] for name, some in folders.items()
    }
    by_seed = [{name: some[k] for name, some in replies.items()} for k in range(len(seeds))]
    each = [tests_of(one.pop("before"), one) for one in by_seed]
    # Rows of one dialogue belong together, whichever seed they are of.
    pooled = {name: [row for rows in some for row in rows] for name, some in replies.items()}
    together = tests_of(pooled.pop("before"), pooled)
    systems: dict[str, Any] = {}
    for name, some in folders.items():
        found = [figures_of(run) for run in some]
        systems[name] = {"tuned": over_seeds(found, "tuned"), "runs": []}
        for seed, run, figures in zip(seeds, some, found, strict=True):
            row = {"seed": seed, "train_s": figures["train_s"], "steps": figures["steps"], "tuned": figures["tuned"]}
            systems[name]["runs"].append(row | ({} if name == "before" else preference_facts(run)))
        if name != "before":
            pairs, settings = experiment.ways[name]
            systems[name] |= {"pairs": pairs, "settings": list(settings), "tests": together[name]}
            systems[name]["tests_by_seed"] = [one[name] for one in each]
    record = read_record(folders["before"][0])
    return {
        "what": experiment.what, "evaluated": list(experiment.evaluated), "seeds": list(seeds),
        "num_replies": len(replies["before"][0]),
        "machine": record["environment"]["device"], "versions": record["environment"], "systems": systems,
    }  # fmt: skip


def preference_facts(run: Path) -> dict[str, Any]:
    """Return how many pairs a run was trained on, by their source, and how far it has moved."""
    pairs = Counter(pair.source for pair in read_pairs(run) if not pair.is_validation)
    drifts = [row["drift"] for row in read_steps(run) if "drift" in row]
    return {"train_pairs": dict(pairs), "drift": round(drifts[-1], 4) if drifts else None}


def table(results: Mapping[str, Any]) -> str:
    """Return the results as Markdown: mean ± standard deviation over seeds, and p of all seeds together after Holm."""
    systems = results["systems"]
    lines = [f"| | {' | '.join(titles(systems))} |", "|---|" + "---|" * len(systems)]
    for key, label in SHOWN.items():
        figure, cells = "repeats_a_phrase" if key == "phrase" else key, []
        if not any(figure in found["tuned"] for found in systems.values()):
            continue
        for found in systems.values():
            cell = " ± ".join(f"{one:.2f}" for one in found["tuned"].get(figure, ())) or "–"
            test = next((test for test in found.get("tests", ()) if test["metric"] == key), None)
            cells.append(cell if test is None else f"{cell} (p = {test['p_holm']:.3f})")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def titles(systems: Mapping[str, Any]) -> list[str]:
    """Return the heads of the columns, with the range over seeds of how many pairs each source gave."""
    found = ["before"]
    for name, one in systems.items():
        if name == "before":
            continue
        counts = [run["train_pairs"] for run in one["runs"]]
        parts = []
        for source in dict.fromkeys(source for row in counts for source in row):
            least, most = min(row.get(source, 0) for row in counts), max(row.get(source, 0) for row in counts)
            what = f"pairs of {source}" if source == SAMPLES else source
            parts.append(f"{least if least == most else f'{least} to {most}'} {what}")
        epochs = next((text.partition("=")[2] for text in one["settings"] if text.startswith("train.epochs=")), "1")
        found.append(f"{' and '.join(parts)}, {epochs} {'epoch' if epochs == '1' else 'epochs'}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="the JSON file to write")
    parser.add_argument("--runs", type=Path, default=Path("runs/preference"), help="folder of the runs")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="number of seeds: 17, 18, ...")
    parser.add_argument("--model", type=Path, help="folder of a pretrained model, in place of the quickstart's")
    parser.add_argument("--origin", help="where its weights came from, and under which licence; in the results")
    given = parser.parse_args()
    if given.model and not given.origin:
        parser.error("--model needs --origin: the results say where the weights came from")
    experiment = of_model(given.model, given.origin) if given.model else QUICKSTART
    seeds = range(17, 17 + given.seeds)
    run_all(experiment, given.runs, seeds)
    results = results_of(experiment, given.runs, seeds)
    write_results(results, given.results)
    print(table(results))


if __name__ == "__main__":
    main()
