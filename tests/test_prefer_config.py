"""The keys of preference training: off by default, and only sensible values."""

import pytest

from falconer.config import load
from falconer.errors import FalconerError
from falconer.prefer_config import PreferConfig


def test_a_run_is_no_preference_training_unless_its_pairs_are_named() -> None:
    assert load().prefer == PreferConfig() and load().prefer.pairs is None
    assert load(None, ["prefer.length_normalised=true"]).prefer.length_normalised is True


@pytest.mark.parametrize("wrong", ["beta=0", "beta=nan", "max_pairs=0", "sft_weight=-1", "length_normalised=maybe"])
def test_what_makes_no_sense_is_refused(wrong: str) -> None:
    with pytest.raises(FalconerError, match="prefer."):
        load(None, [f"prefer.{wrong}"])
