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
from pathlib import Path
from typing import Any

from run_figures import bring_to_end, figures_of, over_seeds, write_results

from falconer.run.folder import read_record


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
            settings = [f"model.name={given.model}", f"data.text={text}", f"train.seed={seed}", *given.settings]
            train = ["train", "--preset", "any-causal-lm", "--run", str(run), *settings]
            bring_to_end(run, train, ["train", "--run", str(run), "--resume"])
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
    write_results(results, given.results)
    print(table(results))


if __name__ == "__main__":
    main()
