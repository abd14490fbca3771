"""Scores public predictions on ConvAI2's validation set with `falconer score`, and writes the table of docs/results.md.

    python benchmarks/rescore.py --gold valid_self_original.txt --repositories FOLDER benchmarks/results/rescored.json
    python benchmarks/rescore.py --table benchmarks/results/rescored.json      the table alone, as Markdown

FOLDER has a git clone of each repository in `SOURCES`, as FOLDER/OWNER+NAME; the commit that is read is named there.
The files are read, converted and scored, and not kept. Replies that are not in the order of the set are put beside
their gold replies by its text.
"""

import argparse
import csv
import hashlib
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from falconer import __version__
from falconer.data.sources import load_dialogues
from falconer.evaluate.report.published import letters
from falconer.evaluate.report.score_table import METRICS, format_value
from falconer.evaluate.text.predictions import write_predictions
from falconer.evaluate.text.score import FileScore, score_file
from falconer.evaluate.text.submission import as_submission, figure, signature
from falconer.files.replace import replace_file
from falconer.records import Prediction

# An evaluation of ours on the same set, with baselines.
OURS = "convai2-valid-falcon-mini.json"
FIGURES = (
    "bleu", "rouge_l", "f1", "chrf", "bleu_2", "distinct_1", "distinct_2", "persona_use", "repetition", "mean_words",
    "num_empty",
)  # fmt: skip
TITLES = ("BLEU", "ROUGE-L", "F1", "chrF", "distinct-2", "uses persona", "repeats itself", "words")
SHOWN = ("bleu", "rouge_l", "f1", "chrf", "distinct_2", "persona_use", "repetition", "mean_words")


@dataclass(frozen=True, slots=True)
class Source:
    """A public file of replies.

    Args:
        form: how it is written, see `replies_of`.
        licence: of the repository, as it states it.
        protocol: what its model saw, as far as its repository or paper says.
    """

    name: str
    repository: str
    commit: str
    path: str
    form: str
    licence: str
    protocol: str


FSB = ("andreamad8/FSB", "a81593590189fa5ad1cc37c5857f974effd9750a")
LMEDR = ("Chenrj233/LMEDR", "b0db3d3d788c1a0207c56e7b869f69ea2dfef084")
PAA = ("hqsiswiliam/persona-adaptive-attention", "0799f7b27e4567e0d34de50383842155edd6b8cf")
# The name of a model in FSB's file names, what it is called here, the end of the names, and the numbers of shots. Of
# the up to five repetitions with one shot or more, which differ in the example dialogues, the first is scored.
FSB_MODELS = (
    ("gpt2", "GPT-2 124M", "1_0", (0, 1, 2)),
    ("gpt2-medium", "GPT-2 355M", "1_0", (0, 1, 2)),
    ("gpt2-large", "GPT-2 774M", "1_0", (0, 1, 2)),
    ("gpt2-xl", "GPT-2 1.5B", "1_0", (0, 1, 2)),
    ("gpt-neo-1.3B", "GPT-Neo 1.3B", "1_0", (0, 1, 6)),
    ("gpt-neo-2.7B", "GPT-Neo 2.7B", "1_0", (0, 1, 6)),
    ("gpt-j-6B", "GPT-J 6B", "5-False_0", (0, 1, 6)),
)
SOURCES = (
    *(
        Source(
            f"{name}, {shots}-shot" if shots else f"{name}, zero-shot", *FSB,
            f"generations/persona/persona_{shots}_{model}_{end}.json", "dialogues", "MIT",
            "prompted, not fine-tuned (Madotto et al., 2021); persona and history in the prompt",
        )
        for model, name, end, all_shots in FSB_MODELS
        for shots in all_shots
    ),
    Source("AdapterBot", *FSB, "data/adapter_bot_results/persona/gen_adpt.json", "dialogues", "MIT",
           "DialoGPT with adapters (Lin et al., 2021)"),
    Source("LMEDR", *LMEDR, "results/persona_original.tsv", "lmedr", "none stated",
           "BART-large fine-tuned (Chen et al., 2023); original personas, seven exchanges of history"),
    Source("LMEDR, revised personas", *LMEDR, "results/persona_revised.tsv", "lmedr", "none stated",
           "the same on the revised personas: another, harder task with the same gold replies"),
    Source("PAA", *PAA, "generated_text/PAA.txt", "pairs", "none stated",
           "persona-adaptive attention on GPT-2 (Huang et al., 2023)"),
    Source("PAA repository, encoder-GPT", *PAA, "generated_text/encoder_gpt.txt", "pairs", "none stated",
           "a baseline of the same repository"),
)  # fmt: skip


def gold_turns(path: Path) -> list[Prediction]:
    """Return the turns of the validation set, with empty replies."""
    found = []
    for dialogue in load_dialogues(str(path)).dialogues:
        for index in dialogue.replies:
            history = dialogue.turns[:index]
            gold = dialogue.turns[index].text
            found.append(Prediction(dialogue.id, index, "", gold, dialogue.persona, history))
    return as_submission(found, path)


def replies_of(source: Source, text: str, turns: Sequence[Prediction]) -> list[Prediction]:
    """Return the turns that a file replies to, with its replies, in the order of the set."""
    if source.form == "dialogues":
        tree = json.loads(text)
        dialogues = tree["generation"] if isinstance(tree, dict) else tree
        replies = [reply[0] for dialogue in dialogues for reply in dialogue["dialogue"]]
    elif source.form == "lmedr":
        replies = [row["response"] for row in csv.DictReader(text.splitlines(), delimiter="\t")]
    else:
        return list(_beside_gold(text, turns))
    return [_with(turn, reply) for turn, reply in zip(turns, replies, strict=True)]


def _beside_gold(text: str, turns: Sequence[Prediction]) -> Iterator[Prediction]:
    """Yield the turns whose gold reply stands in a file of lines "GT: gold" and "PD: reply"; others are passed over."""
    lines = [line[4:] for line in text.splitlines() if line.startswith(("GT: ", "PD: "))]
    waiting = defaultdict(list)
    for gold, reply in zip(lines[::2], lines[1::2], strict=True):
        waiting[letters(gold)].append(reply)
    for turn in turns:
        if replies := waiting[letters(turn.reference)]:
            yield _with(turn, replies.pop(0))


def _with(turn: Prediction, reply: str) -> Prediction:
    values = {name: getattr(turn, name) for name in Prediction.__dataclass_fields__}
    return Prediction(**values | {"prediction": " ".join(reply.split())})


def scored(rows: Sequence[Prediction], num_turns: int) -> FileScore:
    """Return what `falconer score` says of replies; --submit's checks apply where all turns are replied to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "predictions.jsonl"
        write_predictions(rows, path)
        ask = partial(score_file, path, language="en")
        return ask(check=as_submission) if len(rows) == num_turns else ask()


def entry(source: Source, content: bytes, result: FileScore) -> dict[str, Any]:
    score = asdict(result.score)
    return {
        **asdict(source),
        "file_sha256": hashlib.sha256(content).hexdigest(),
        "num_replies": score["num_replies"],
        "num_dialogues": result.bootstrap.num_dialogues,
        "figures": {key: round(score[key], 4) for key in FIGURES if score[key] is not None},
        "intervals": {
            key: [round(bound, 4) for bound in result.intervals[key]] for key in FIGURES if key in result.intervals
        },
        "shown": {key: figure(result, key) for key in SHOWN},
        "signature": signature(result),
    }


def table(results: dict[str, Any], ours: dict[str, Any]) -> str:
    """Return the results as the Markdown table of docs/results.md, the best BLEU first.

    Args:
        ours: what `OURS` holds.
    """
    lines = [f"| system | {' | '.join(TITLES)} | replies | file |", "|" + "---|" * (len(TITLES) + 3)]
    rows = []
    for one in results["systems"]:
        url = f"https://github.com/{one['repository']}/blob/{one['commit']}/{one['path']}"
        cells = [one["name"], *(one["shown"][key] for key in SHOWN), f"{one['num_replies']:,}"]
        rows.append((one["figures"]["bleu"], [*cells, f"[`{one['file_sha256'][:8]}`]({url})"]))
    named = {"falcon-mini, quickstart (ours)": ("tuned", ours["tuned"]), "falcon-mini, base": ("base", ours["base"])}
    named |= {f"baseline “{name}”": (name, score) for name, score in ours["floors"].items()}
    for name, (key, score) in named.items():
        figures = [_shown(score[one], ours["intervals"][key].get(one), one) for one in SHOWN]
        link = f"[JSON](../benchmarks/results/{OURS})"
        rows.append((score["bleu"], [name, *figures, f"{score['num_replies']:,}", link]))
    lines += [f"| {' | '.join(cells)} |" for _, cells in sorted(rows, key=lambda row: -row[0])]
    return "\n".join(lines)


def _shown(value: float, bounds: Sequence[float] | None, key: str) -> str:
    digits = next(metric.digits for metric in METRICS if metric.key == key)
    text = format_value(value, digits)
    return f"{text} ± {format_value((bounds[1] - bounds[0]) / 2, digits)}" if bounds else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--gold", type=Path, help="ConvAI2's valid_self_original.txt, also .gz")
    parser.add_argument("--repositories", type=Path, help="folder of clones, OWNER+NAME each")
    parser.add_argument("--table", action="store_true", help="print the table of existing results")
    given = parser.parse_args()
    ours = json.loads((Path(__file__).parent / "results" / OURS).read_text(encoding="utf-8"))
    if given.table:
        print(table(json.loads(given.results.read_text(encoding="utf-8")), ours))
        return
    turns, systems = gold_turns(given.gold), []
    for source in SOURCES:
        clone = given.repositories / source.repository.replace("/", "+")
        content = subprocess.run(
            ["git", "-C", clone, "show", f"{source.commit}:{source.path}"], check=True, capture_output=True
        ).stdout
        rows = replies_of(source, content.decode("utf-8"), turns)
        systems.append(entry(source, content, scored(rows, len(turns))))
        print(source.name, systems[-1]["shown"], file=sys.stderr, flush=True)
    what = "public predictions on ConvAI2's validation set (self, original), scored again by benchmarks/rescore.py"
    with replace_file(given.results) as aside:
        text = json.dumps({"what": what, "falconer": __version__, "systems": systems}, indent=1)
        aside.write_text(text + "\n", encoding="utf-8")
    print(table({"systems": systems}, ours))


if __name__ == "__main__":
    main()
