"""The section `evaluate`: its default is the engine's, and what can't be combined is refused before any work."""

import pytest

from falconer.config import load
from falconer.errors import FalconerError
from falconer.evaluate.configured import decoding_of
from falconer.evaluate_config import EvaluateConfig, check_decoding
from falconer.model import request


def test_the_default_is_the_engines_but_for_the_length() -> None:
    assert decoding_of(EvaluateConfig()) == request.Decoding(max_new_tokens=32)


def test_beam_search_does_not_sample() -> None:
    both = ["evaluate.num_beams=4", "evaluate.temperature=0.7"]
    with pytest.raises(FalconerError, match=r"num_beams=4 and evaluate.temperature=0.7 can't.*Set evaluate"):
        load(overrides=both)
    for one in both:
        check_decoding(load(overrides=[one]).evaluate)
