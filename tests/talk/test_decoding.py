"""The default decoding: the same in the terminal, in Python and on the server, and the one that docs/chat.md chose."""

import inspect
import json
from pathlib import Path

from falconer.api import Run
from falconer.talk import decoding
from falconer.talk.server.asked import DEFAULT

OWN = f"temperature {decoding.TEMPERATURE}, top-p {decoding.TOP_P}, repetition penalty {decoding.REPETITION_PENALTY}"
ROOT = Path(__file__).parents[2]


def test_python_and_server_have_it():
    given = {name: one.default for name, one in inspect.signature(Run.talk).parameters.items()}
    assert (DEFAULT.temperature, DEFAULT.top_p) == (given["temperature"], given["top_p"])
    assert (DEFAULT.temperature, DEFAULT.top_p) == (decoding.TEMPERATURE, decoding.TOP_P)
    assert DEFAULT.repetition_penalty == given["repetition_penalty"] == decoding.REPETITION_PENALTY
    assert DEFAULT.max_new_tokens == given["max_new_tokens"] == decoding.MAX_NEW_TOKENS
    assert given["seed"] == decoding.SEED


def test_of_the_sampled_ones_that_hardly_repeat_a_phrase_it_says_most_of_what_people_said():
    rows = json.loads((ROOT / "benchmarks/results/chat-decoding.json").read_text())["rows"]
    good = [row for row in rows if "temperature" in row["decoding"] and row["repeats_a_phrase"] <= 1]
    best = max(good, key=lambda row: row["f1"])
    assert best["decoding"] == OWN
