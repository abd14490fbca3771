"""Compares decodings over a run's whole test split: how often replies repeat a phrase, and what it costs elsewhere.

    python benchmarks/decodings.py --run runs/quickstart --results benchmarks/results/decodings.json

Each decoding of `falconer evaluate --decodings`, and each one that --decoding adds, replies to every turn, with the
persona and the gold history as in an evaluation. Figures have 95 % intervals, and each decoding is tested against
greedy decoding, all tests corrected together (Holm). Replies are kept in the folder --replies, so that a benchmark that
was interrupted goes on, and several processes can share the work:

    for i in 0 1 2 3; do python benchmarks/decodings.py --part $i/4 --decoding num_beams=2 & done; wait
    python benchmarks/decodings.py --only-kept --decoding num_beams=2 --results benchmarks/results/decodings.json
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from falconer import jobs
from falconer.config import load
from falconer.errors import FalconerError
from falconer.evaluate.configured import decoding_of
from falconer.evaluate.decodings import other_decodings
from falconer.evaluate.measure import Limits, reply_with
from falconer.evaluate.report.tables import decoding_table
from falconer.evaluate.text.decodings import compare_decodings
from falconer.evaluate.text.predictions import predictions_text, read_predictions
from falconer.evaluate.text.systems import gold_system
from falconer.files.replace import replace_file
from falconer.model.engine import Decoding
from falconer.records import Prediction
from falconer.run.folder import read_config
from falconer.train import setup


def decoding_from(text: str) -> Decoding:
    """Return the decoding that keys of `evaluate.*` describe, such as "num_beams=2,no_repeat_ngram_size=3".

    Raises:
        argparse.ArgumentTypeError: there is no such key, or its value is not allowed.
    """
    try:
        return decoding_of(load(None, [f"evaluate.{one.strip()}" for one in text.split(",")]).evaluate)
    except FalconerError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def part_from(text: str) -> tuple[int, int]:
    """Return the two numbers of a text such as "0/4".

    Raises:
        argparse.ArgumentTypeError: it is none, or there is no such part.
    """
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and int(number) < int(parts)):
        raise argparse.ArgumentTypeError(f"'{text}' is not I/N, with I from 0 to N - 1")
    return int(number), int(parts)


def kept_in(folder: Path, decoding: Decoding) -> Path:
    """Return the file of a decoding's replies."""
    return folder / f"{str(decoding).replace(',', '').replace(' ', '_')}.jsonl"


def generate(run: Path, folder: Path, decodings: Sequence[Decoding], max_dialogues: int | None) -> None:
    """Generate and keep the replies under some decodings, where they are not kept already."""
    missing = [one for one in decodings if not kept_in(folder, one).exists()]
    if not missing:
        return
    opened = jobs.open_run(run)
    dialogues = setup.evaluation_data(run, opened.config).dialogues[:max_dialogues]
    folder.mkdir(parents=True, exist_ok=True)
    for decoding in missing:
        limits = Limits(None, 0, opened.config.evaluate.batch_size)
        rows = reply_with(opened.engine, dialogues, decoding, limits, lambda *_: None)
        with replace_file(kept_in(folder, decoding)) as aside:
            aside.write_text(predictions_text(rows), encoding="utf-8")
        print(decoding, flush=True)


def write_figures(replies: dict[str, list[Prediction]], model: str, results: Path | None) -> None:
    """Compare the decodings with the first one, print the table, and write the figures as JSON."""
    rows = next(iter(replies.values()))
    found = compare_decodings(replies, resamples=1000, seed=17)
    gold = gold_system(rows, "en").score
    table = decoding_table(found)
    print("decoding", *table.columns, sep="\t")
    for name, figures in table.rows:
        print(name, *(f"{figure.text} ({figure.range})" for figure in figures), sep="\t")
    if results:
        content = {
            "what": "replies under several decodings to the whole test split, tested against greedy decoding",
            "model": model, "num_replies": len(rows), "num_dialogues": len({row.dialogue_id for row in rows}),
            "gold": {"distinct_2": gold.distinct_2, "mean_words": gold.mean_words},
            "decodings": {name: one.to_json() for name, one in found.items()},
        }  # fmt: skip
        with replace_file(results) as aside:
            aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="a trained run")
    parser.add_argument("--results", type=Path, help="where the figures are written as JSON")
    parser.add_argument("--replies", type=Path, help="where replies are kept; default: RUN/decodings")
    parser.add_argument("--decoding", type=decoding_from, action="append", default=[], metavar="KEY=VALUE,...",
                        help="a further decoding, by the keys of evaluate.*; repeat it for several")  # fmt: skip
    parser.add_argument("--part", type=part_from, metavar="I/N",
                        help="generate every Nth decoding from the Ith on; compare nothing")  # fmt: skip
    parser.add_argument("--only-kept", action="store_true", help="compare only the decodings whose replies are kept")
    parser.add_argument("--max-dialogues", type=int, metavar="N", help="only the first N dialogues, to try it")
    asked = parser.parse_args()
    config = read_config(asked.run)
    greedy = Decoding(max_new_tokens=config.evaluate.max_new_tokens, seed=config.evaluate.seed)
    more = [replace(one, max_new_tokens=greedy.max_new_tokens, seed=greedy.seed) for one in asked.decoding]
    decodings = list(dict.fromkeys((greedy, *other_decodings(greedy), *more)))
    folder = asked.replies or asked.run / "decodings"
    if not asked.only_kept:
        number, parts = asked.part or (0, 1)
        generate(asked.run, folder, decodings[number::parts], asked.max_dialogues)
    if not asked.part:
        replies = {str(one): read_predictions(file) for one in decodings if (file := kept_in(folder, one)).exists()}
        if str(greedy) not in replies:
            parser.error(f"{folder} has no greedy replies, which the others are compared with")
        # Results are published, so that a folder of this machine is named without its path.
        name = Path(config.model.name)
        write_figures(replies, name.name if name.is_dir() else config.model.name, asked.results)


if __name__ == "__main__":
    main()
