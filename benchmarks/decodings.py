"""Measures how often replies repeat a phrase under several decodings, to choose the default of chat and server.

    python benchmarks/bench_chat_decoding.py RUN [RESULTS.json]        a trained run, e.g. runs/quickstart

The replies answer the first 200 turns of the run's test dialogues, with the persona and the gold history as in an
evaluation; sampled decodings answer them once with each of two seeds.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from falconer import jobs
from falconer.evaluate.text.failures import find_failures
from falconer.evaluate.text.metrics import score_predictions
from falconer.files.replace import replace_file
from falconer.model.engine import Decoding, Request
from falconer.records import Dialogue, Prediction
from falconer.train import setup

NUM_TURNS, SEEDS, MOST = 200, (17, 18), 64
DECODINGS = (
    *(Decoding(MOST, repetition_penalty=penalty) for penalty in (1.0, 1.05, 1.1, 1.2)),
    *(
        Decoding(MOST, temperature, top_p, penalty)
        for temperature in (0.5, 0.7, 0.9)
        for top_p in (0.9, 0.95)
        for penalty in (1.0, 1.1)
    ),
)


def replies_to(opened: jobs.Opened, turns: Sequence[tuple[Dialogue, int]], decoding: Decoding) -> list[Prediction]:
    requests = [
        Request(opened.encoder.encode_prompt(dialogue.persona, dialogue.turns[:index], MOST), decoding, number)
        for number, (dialogue, index) in enumerate(turns)
    ]
    replies = dict(opened.engine.replies(requests, batch_size=100))
    return [
        Prediction(
            dialogue.id, index, replies[number].text, dialogue.turns[index].text, dialogue.persona,
            dialogue.turns[:index], replies[number].ended,
        )
        for number, (dialogue, index) in enumerate(turns)
    ]  # fmt: skip


def row_of(name: str, sets: Sequence[Sequence[Prediction]]) -> dict[str, str | float | None]:
    """Return a row of the table: each figure is the mean over the sets, one for each seed."""

    def mean(values: Sequence[float | None]) -> float:
        return round(sum(value or 0 for value in values) / len(values), 2)

    scores = [score_predictions(predictions) for predictions in sets]
    failures = [find_failures(predictions) for predictions in sets]
    shares = {
        key: mean([100 * sum(key in found for found in rows) / len(rows) for rows in failures])
        for key in ("phrase", "own_turn", "stock")
    }
    return {
        "decoding": name,
        "repeats_a_phrase": shares["phrase"],
        "repeats_own_turn": shares["own_turn"],
        "stock": shares["stock"],
        "distinct_2": mean([score.distinct_2 for score in scores]),
        "f1": mean([score.f1 for score in scores]),
        "mean_words": mean([score.mean_words for score in scores]),
        "ended": mean([score.ended_share for score in scores]),
    }


def main(run: Path, results: Path | None) -> None:
    with_model = jobs.open_run(run)
    data = setup.evaluation_data(run, with_model.config)
    turns = [(dialogue, index) for dialogue in data.dialogues for index in dialogue.replies][:NUM_TURNS]
    gold = [
        Prediction(d.id, index, d.turns[index].text, d.turns[index].text, d.persona, d.turns[:index])
        for d, index in turns
    ]
    rows = [row_of("gold replies", [gold])]
    print(*rows[0], sep="\t")
    print(*rows[0].values(), sep="\t", flush=True)
    for decoding in DECODINGS:
        seeds = SEEDS if decoding.temperature else SEEDS[:1]
        sets = [replies_to(with_model, turns, replace(decoding, seed=seed)) for seed in seeds]
        name = str(decoding).replace(f", seed {decoding.seed}", "").replace(f", at most {MOST} tokens", "")
        rows.append(row_of(name, sets))
        print(*rows[-1].values(), sep="\t", flush=True)
    if results:
        content = {
            "what": "replies under several decodings, of the quickstart's tuned model", "num_turns": len(turns),
            "seeds": SEEDS, "max_new_tokens": MOST, "model": with_model.config.model.name, "rows": rows,
        }  # fmt: skip
        with replace_file(results) as aside:
            aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
