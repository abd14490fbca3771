"""Whose replies are ConvAI2's, and figures of others that say what they are."""

import random
from pathlib import Path

import pytest

from falconer.data.text import natural
from falconer.evaluate.report.published import (
    AS_PUBLISHED,
    CONVAI2_VALID_SHA256,
    RESCORED,
    gold_sha256,
    is_convai2_valid,
)
from falconer.evaluate.text.metrics import text_score
from falconer.evaluate.text.predictions import read_predictions

FIXTURE = Path(__file__).parents[1] / "fixtures" / "lmedr_200.jsonl.gz"


def test_the_hash_sees_letters_only() -> None:
    texts = ["i'm fine , and you ?", "i have 2 dogs .", "yes"]
    expected = gold_sha256(texts)
    assert gold_sha256(map(natural, texts)) == expected
    assert gold_sha256(random.Random(3).sample(texts, 3)) == expected
    assert gold_sha256([*texts, "yes"]) != expected  # how often something is said counts
    assert gold_sha256(["i'm fine , and you ?", "i have 3 dogs .", "yes"]) != expected


def test_a_part_of_convai2_is_not_convai2() -> None:
    assert len(CONVAI2_VALID_SHA256) == 64
    assert not is_convai2_valid(row.reference for row in read_predictions(FIXTURE))
    assert not is_convai2_valid([])


def test_every_figure_has_a_source_and_the_kinds_stay_apart() -> None:
    assert all(row.source for row in (*RESCORED, *AS_PUBLISHED))
    assert all(None not in (row.bleu, row.rouge_l, row.f1) for row in RESCORED)
    # Nobody's published BLEU is comparable, so none is shown.
    assert all(row.bleu is None and row.rouge_l is None for row in AS_PUBLISHED)
    assert not {row.name for row in RESCORED} & {row.name for row in AS_PUBLISHED}


def test_the_rescored_figures_are_of_these_metrics() -> None:
    """On the first 200 of LMEDR's replies the score is near that of all 7,801, far from the next system's."""
    rows = read_predictions(FIXTURE)
    score = text_score([row.prediction for row in rows], [row.reference for row in rows])
    [lmedr] = [row for row in RESCORED if row.name == "LMEDR"]
    assert score.f1 == pytest.approx(lmedr.f1, abs=2.5)  # half-width of a 95 % interval at 200
