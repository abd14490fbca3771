"""Cards that are not here: what the roofline predicts, against measurements on an H100 and an H200."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import FalconConfig

from falconer.config import load
from falconer.errors import FalconerError
from falconer.model.random_falcon import FALCON_7B
from falconer.train import cards
from falconer.train.cards import ALL, CARDS, LARGEST_ERROR, Card, cards_of, roofline_tokens_per_s
from falconer.train.cost import measure_shape
from falconer.train.ways import Mode

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
MEASURED = {
    "h100": json.loads((RESULTS / "train-h100.json").read_text())["rows"],
    "h200": json.loads((RESULTS / "engine-h200.json").read_text())["after"]["train"],
}


@pytest.fixture(scope="module")
def falcon_7b():
    return measure_shape(FalconConfig(**FALCON_7B), load("falcon-7b").lora)


def mode_of(compute: str = "bf16", memory: str = "fast", *, caches: bool = False) -> Mode:
    return Mode("fast", "", compute, "", memory, "", caches)


def speed(card, shape, mode=None, *, micro_tokens=8192.0):
    return roofline_tokens_per_s(
        card, shape, mode or mode_of(), target_share=0.5, micro_tokens=micro_tokens, quantized=True
    )


def predicted(falcon_7b) -> list[SimpleNamespace]:
    """Return each measured row with its prediction."""
    return [
        SimpleNamespace(
            **row, card=name,
            predicted=speed(
                CARDS[name], falcon_7b, mode_of(row["compute"], row["memory"], caches=row["holds_weights"]),
                micro_tokens=row["batch"] * row["tokens"],
            ),
        )
        for name, rows in MEASURED.items() for row in rows if row["system"] == "falconer"
    ]  # fmt: skip


def test_the_error_that_is_printed_is_that_of_the_measured_rows(falcon_7b):
    errors = [abs(row.predicted / row.tok_s - 1) for row in predicted(falcon_7b)]
    assert len(errors) == 28
    assert LARGEST_ERROR - 0.01 < max(errors) <= LARGEST_ERROR


def test_the_table_in_the_file_has_these_figures(falcon_7b):
    rows = predicted(falcon_7b)
    lines = re.findall(r"^\| (\d+) x (\d+), (\w+) (\w+)(, cached)? +\|(.*)\|$", cards.__doc__, re.M)
    assert len(lines) == len(rows) / 2
    for batch, tokens, compute, memory, cached, figures in lines:
        shown = [float(figure.replace(",", "")) for figure in figures.split("|")]
        mine = [
            row for row in rows
            if (row.batch, row.tokens, row.compute, row.memory) == (int(batch), int(tokens), compute, memory)
            and row.holds_weights == bool(cached)
        ]  # fmt: skip
        expected = [figure for row in sorted(mine, key=lambda row: row.card) for figure in (row.tok_s, row.predicted)]
        assert shown == pytest.approx(expected, abs=1)


@given(st.floats(1.01, 10), st.sampled_from(["bf16", "fp8", "bandwidth"]))
def test_a_better_card_is_never_slower(falcon_7b, factor, what):
    before = CARDS["rtx-4090"]
    values = {name: getattr(before, name) for name in Card.__dataclass_fields__}
    after = Card(**values | {what: values[what] * factor})
    for mode in (mode_of(), mode_of("fp8"), mode_of("bf16", "lean")):
        assert speed(after, falcon_7b, mode) >= speed(before, falcon_7b, mode)


def test_both_limits_count(falcon_7b):
    """A 3090 is bound by its matmuls; with little memory bandwidth it would be bound by that."""
    card = CARDS["rtx-3090"]
    flop = 4 * falcon_7b.linear
    assert speed(card, falcon_7b) < cards.BF16_SHARE * card.bf16 / flop
    slow = Card(card.title, card.memory_gib, card.bandwidth / 1000, card.fp32, card.bf16, None)
    assert speed(slow, falcon_7b) < speed(card, falcon_7b) / 10


def test_fp8_counts_where_a_card_has_it(falcon_7b):
    assert speed(CARDS["rtx-4090"], falcon_7b, mode_of("fp8")) > 1.4 * speed(CARDS["rtx-4090"], falcon_7b)


def test_cards_are_known_by_their_names():
    assert cards_of("rtx-3090, A100") == [CARDS["rtx-3090"], CARDS["a100"]]
    assert cards_of(ALL) == list(CARDS.values())
    with pytest.raises(FalconerError, match="no data of a card 'rtx-9090'") as found:
        cards_of("h100,rtx-9090")
    assert "rtx-3090" in str(found.value.hint)


def test_the_figures_are_dense_and_grow_by_precision():
    for card in CARDS.values():
        assert card.bf16 is None or card.fp32 < card.bf16
        assert card.fp8 is None or card.fp8 == pytest.approx(2 * card.bf16, rel=0.02)
