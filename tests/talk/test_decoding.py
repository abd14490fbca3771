"""The default decoding: the same in the terminal, in Python and on the server, and the one that docs/chat.md chose."""

import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest

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


# Of the quickstart's model and of Gemma-3-270M, in the order of the page's tables.
RESULTS = [ROOT / "benchmarks/results" / name for name in ("decodings.json", "decodings-gemma-3-270m.json")]


@pytest.mark.parametrize("results", RESULTS, ids=lambda path: path.stem)
def test_of_those_that_hardly_repeat_themselves_it_has_the_highest_f1(results):
    found = json.loads(results.read_text())["decodings"]
    good = {
        name: one for name, one in found.items() if one["failures"]["phrase"] < 1 and one["failures"]["stock"] < 5
    }  # fmt: skip
    assert max(good, key=lambda name: good[name]["score"]["f1"]) == str(replace(DEFAULT, max_new_tokens=32, seed=17))


def test_the_page_has_the_tables():
    page = (ROOT / "docs/chat.md").read_text(encoding="utf-8").splitlines()
    lines = [line for line in page if line.startswith(("| greedy", "| temperature", "| **temperature", "| beam"))]
    shown = [[cell.strip(" *") for cell in line.split("|")[2:-1]] for line in lines]
    assert shown == [cells(one) for path in RESULTS for one in json.loads(path.read_text())["decodings"].values()]
    default = [line for line in lines if "**" in line]
    assert len(default) == len(RESULTS)
    assert all("temperature 1.0, min-p 0.3, no repeated 3-gram within the reply and own" in line for line in default)


def cells(one):
    """Return the figures of a decoding as the page shows them."""
    score, failures = one["score"], one["failures"]
    return [
        f"{failures['phrase']:.1f}", f"{failures['stock']:.1f}", f"{score['distinct_2']:.1f}", f"{score['bleu']:.2f}",
        f"{score['rouge_l']:.2f}", f"{score['f1']:.2f}", f"{score['mean_words']:.1f}",
    ]  # fmt: skip
