"""Compares decodings over a run's whole test split: how often replies repeat a phrase, and what it costs elsewhere.

    python benchmarks/decodings.py --run runs/quickstart --results benchmarks/results/decodings.json

Each decoding of `falconer evaluate --decodings` replies to every turn, with the persona and the gold history as in an
evaluation. Figures have 95 % intervals, and each decoding is tested against greedy decoding, all tests corrected
together (Holm). Replies are kept in the folder --replies, so that a benchmark that was interrupted goes on.
"""

import argparse
import json
from pathlib import Path

from falconer import jobs
from falconer.evaluate.decodings import other_decodings
from falconer.evaluate.measure import Limits, reply_with
from falconer.evaluate.report.tables import decoding_table
from falconer.evaluate.text.decodings import compare_decodings
from falconer.evaluate.text.predictions import predictions_text, read_predictions
from falconer.evaluate.text.systems import gold_system
from falconer.files.replace import replace_file
from falconer.model.engine import Decoding
from falconer.records import Prediction
from falconer.train import setup


def replies_of(run: Path, kept: Path, only_kept: bool) -> tuple[dict[str, list[Prediction]], str]:
    """Return the replies by decoding, the greedy ones first, and the name of the base model."""
    opened = jobs.open_run(run)
    data, settings = setup.evaluation_data(run, opened.config), opened.config.evaluate
    kept.mkdir(parents=True, exist_ok=True)
    greedy = Decoding(max_new_tokens=settings.max_new_tokens, seed=settings.seed)
    found = {}
    for decoding in (greedy, *other_decodings(greedy)):
        file = kept / f"{str(decoding).replace(',', '').replace(' ', '_')}.jsonl"
        if not file.exists():
            if only_kept:
                continue
            limits = Limits(None, 0, settings.batch_size)
            rows = reply_with(opened.engine, data.dialogues, decoding, limits, lambda *_: None)
            with replace_file(file) as aside:
                aside.write_text(predictions_text(rows), encoding="utf-8")
        found[str(decoding)] = read_predictions(file)
        print(decoding, flush=True)
    return found, opened.config.model.name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"), help="a trained run")
    parser.add_argument("--results", type=Path, help="where the figures are written as JSON")
    parser.add_argument("--replies", type=Path, help="where replies are kept; default: RUN/decodings")
    parser.add_argument("--only-kept", action="store_true", help="only the decodings whose replies are kept")
    asked = parser.parse_args()
    replies, model = replies_of(asked.run, asked.replies or asked.run / "decodings", asked.only_kept)
    rows = next(iter(replies.values()))
    found = compare_decodings(replies, resamples=1000, seed=17)
    gold = gold_system(rows, "en").score
    table = decoding_table(found)
    print("decoding", *table.columns, sep="\t")
    for name, figures in table.rows:
        print(name, *(f"{figure.text} ({figure.range})" for figure in figures), sep="\t")
    if asked.results:
        content = {
            "what": "replies under several decodings to the whole test split, tested against greedy decoding",
            "model": model, "num_replies": len(rows), "num_dialogues": len({row.dialogue_id for row in rows}),
            "gold": {"distinct_2": gold.distinct_2, "mean_words": gold.mean_words},
            "decodings": {name: one.to_json() for name, one in found.items()},
        }  # fmt: skip
        with replace_file(asked.results) as aside:
            aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
