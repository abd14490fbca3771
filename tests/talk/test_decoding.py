"""The default decoding: the same in the terminal, in Python and on the server, and the one that docs/chat.md chose."""

import inspect
import json
from dataclasses import replace
from pathlib import Path

from falconer.api import Run
from falconer.talk import decoding
from falconer.talk.server.asked import DEFAULT

ROOT = Path(__file__).parents[2]


def test_python_and_server_have_it():
    given = {name: one.default for name, one in inspect.signature(Run.talk).parameters.items()}
    assert (DEFAULT.temperature, DEFAULT.top_p) == (given["temperature"], given["top_p"])
    assert (DEFAULT.temperature, DEFAULT.top_p) == (decoding.TEMPERATURE, decoding.TOP_P)
    assert DEFAULT.repetition_penalty == given["repetition_penalty"] == decoding.REPETITION_PENALTY
    assert (DEFAULT.min_p, DEFAULT.no_repeat_ngram_size) == (given["min_p"], given["no_repeat_ngram_size"])
    assert (DEFAULT.min_p, DEFAULT.no_repeat_ngram_size) == (decoding.MIN_P, decoding.NO_REPEAT_NGRAM_SIZE)
    assert DEFAULT.no_repeat_ngram_scope == decoding.NO_REPEAT_NGRAM_SCOPE
    assert DEFAULT.max_new_tokens == given["max_new_tokens"] == decoding.MAX_NEW_TOKENS
    assert given["seed"] == decoding.SEED


def test_of_those_that_hardly_repeat_themselves_it_has_the_most_varied_replies():
    found = json.loads((ROOT / "benchmarks/results/decodings.json").read_text())["decodings"]
    good = {
        name: one for name, one in found.items() if one["failures"]["phrase"] < 1 and one["failures"]["stock"] < 5
    }  # fmt: skip
    assert max(good, key=lambda name: good[name]["score"]["distinct_2"]) == str(
        replace(DEFAULT, max_new_tokens=32, seed=17)
    )


def test_the_page_has_the_table():
    found = json.loads((ROOT / "benchmarks/results/decodings.json").read_text())["decodings"]
    page = (ROOT / "docs/chat.md").read_text(encoding="utf-8")
    lines = [
        line
        for line in page.splitlines()
        if line.startswith(("| greedy", "| temperature", "| **temperature", "| beam"))
    ]
    rows = [line.replace("*", "").split("|")[2:-1] for line in lines]
    assert len(rows) == len(found)
    for row in rows:
        phrase, stock = (float(cell) for cell in row[:2])
        assert any(
            round(one["failures"]["phrase"], 1) == phrase and round(one["failures"]["stock"], 1) == stock
            for one in found.values()
        )
