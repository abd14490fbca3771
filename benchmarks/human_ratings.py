"""Measures whether the figures of single replies agree with people: correlations with public ratings.

    python benchmarks/human_ratings.py benchmarks/results/human-ratings.json --usr pc_usr_data.json --grade GRADE

`--usr`: Persona-Chat replies that three people rated (Mehri and Eskenazi 2020, arXiv:2005.00456), the file that its
authors call pc_usr_data.json. `--grade`: a clone of li3cmz/GRADE (Huang et al. 2020, arXiv:2010.03994), whose
evaluation/ has ratings of replies on ConvAI2. Neither states a licence for the ratings, so only figures are published.

The gold reply is the reply of the data; it is not rated against itself. Each reply is scored alone, so BLEU is a
sentence's here. distinct-n, perplexity and hits@1 are no figures of a single reply.
"""

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from falconer import __version__
from falconer.evaluate.report.score_table import METRICS
from falconer.evaluate.text.agreement import agreement, pearson, spearman
from falconer.evaluate.text.counts import statistics_of
from falconer.evaluate.text.figures import figures
from falconer.files.replace import replace_file
from falconer.records import Prediction, Turn

FIGURES = ("bleu", "bleu_2", "chrf", "rouge_l", "f1", "persona_use", "repetition", "mean_words")
SETS = ("usr", "usr_with_people", "grade")
GOLD, PERSON = "Original Ground Truth", "New Human Generated"
GRADE_SYSTEMS = ("bert_ranker", "dialogGPT", "transformer_generator", "transformer_ranker")


def turns(texts: Sequence[str]) -> tuple[Turn, ...]:
    """Return a history as turns; the last one is the partner's."""
    last = len(texts) - 1
    return tuple(Turn("self" if (last - i) % 2 else "partner", text) for i, text in enumerate(texts))


def read_usr(path: Path, *, with_people: bool) -> tuple[list[Prediction], np.ndarray]:
    """Return rated replies and each one's ratings ("Overall", 1 to 5) by three people, float64 [N, 3]."""
    rows, ratings = [], []
    for item in json.loads(path.read_text(encoding="utf-8")):
        context = item["context"].strip()
        persona = [line.partition("your persona: ")[2] for line in item["fact"].strip().split("\n")]
        gold = next(one["response"].strip() for one in item["responses"] if one["model"] == GOLD)
        for one in item["responses"]:
            if one["model"] != GOLD and (with_people or one["model"] != PERSON):
                history = turns(context.split("\n"))
                rows.append(Prediction(context, 0, one["response"].strip(), gold, tuple(persona), history))
                ratings.append(one["Overall"])
    return rows, np.array(ratings, dtype=np.float64)


def read_grade(folder: Path) -> tuple[list[Prediction], np.ndarray]:
    """Return rated replies and each one's mean rating of coherence, float64 [N, 1]."""
    rows, ratings = [], []
    for system in GRADE_SYSTEMS:
        data, scores = folder / "eval_data" / "convai2" / system, folder / "human_score" / "convai2" / system
        texts = [
            (data / f"human_{name}.txt").read_text(encoding="utf-8").splitlines() for name in ("ctx", "hyp", "ref")
        ]
        rated = (scores / "human_score.txt").read_text(encoding="utf-8").split()
        for context, reply, gold, rating in zip(*texts, rated, strict=True):
            rows.append(Prediction(context, 0, reply, gold, (), turns(context.split("|||"))))
            ratings.append([float(rating)])
    return rows, np.array(ratings)


def measure(rows: Sequence[Prediction], ratings: np.ndarray) -> dict[str, Any]:
    """Correlate each figure with the mean rating, and, for comparison, each person with the others."""
    values = figures(statistics_of(rows).columns)
    contexts, mean = [row.dialogue_id for row in rows], ratings.mean(axis=1)
    found: dict[str, Any] = {}
    for key in FIGURES:
        if key in values:
            found[key] = rounded(asdict(agreement(np.nan_to_num(values[key]), mean, contexts)))
    people = []
    for number in range(ratings.shape[1]) if ratings.shape[1] > 1 else []:
        others = np.delete(ratings, number, axis=1).mean(axis=1)
        people.append(rounded({"pearson": pearson(ratings[:, number], others),
                               "spearman": spearman(ratings[:, number], others)}))  # fmt: skip
    return {"metrics": found, "each_person_with_the_mean_of_the_others": people}


def table(results: Mapping[str, Any]) -> str:
    """Return Spearman's correlations as the Markdown table of docs/results.md."""
    sets = results["sets"]
    titles = ("USR, replies of models", "USR, with people's", "GRADE")
    lines = [f"| figure | {' | '.join(titles)} |", "|---|---|---|---|"]
    counts = [next(iter(sets[key]["metrics"].values())) for key in SETS]
    sizes = [f"{one['num_replies']}, {one['num_contexts']}" for one in counts]
    lines.append(f"| replies, contexts | {' | '.join(sizes)} |")
    labels = {metric.key: metric.label for metric in METRICS}
    for name in FIGURES:
        found = [sets[key]["metrics"].get(name) for key in SETS]
        cells = [
            f"{one['spearman']:.2f} ({one['spearman_interval'][0]:.2f} to {one['spearman_interval'][1]:.2f})" if one
            else "not measured"
            for one in found
        ]  # fmt: skip
        lines.append(f"| {labels[name]} | {' | '.join(cells)} |".replace("-0", "−0").replace("BLEU−0", "BLEU-0"))
    return "\n".join(lines)


def rounded(tree: Mapping[str, Any]) -> dict[str, Any]:
    def short(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [short(one) for one in value]
        return round(value, 3) if isinstance(value, float) else value

    return {key: short(value) for key, value in tree.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--usr", type=Path, metavar="FILE", help="pc_usr_data.json")
    parser.add_argument("--grade", type=Path, metavar="FOLDER", help="a clone of li3cmz/GRADE")
    given = parser.parse_args()
    if not (given.usr or given.grade):
        parser.error("give --usr, --grade or both")
    sets: dict[str, Any] = {}
    if given.usr:
        about = {"what": "USR Persona-Chat, overall quality, mean of three people",
                 "sha256": hashlib.sha256(given.usr.read_bytes()).hexdigest()}  # fmt: skip
        sets["usr"] = about | measure(*read_usr(given.usr, with_people=False))
        with_people = {"what": f"{about['what']}; the replies that people wrote for it as well"}
        sets["usr_with_people"] = about | with_people | measure(*read_usr(given.usr, with_people=True))
    if given.grade:
        sets["grade"] = {"what": "GRADE ConvAI2, coherence, mean of 8 to 11 people"}
        sets["grade"] |= measure(*read_grade(given.grade / "evaluation"))
    with replace_file(given.results) as aside:
        aside.write_text(json.dumps({"falconer": __version__, "sets": sets}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
