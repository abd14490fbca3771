"""The configuration and the engine allow the same decodings."""

import pytest
from pydantic import ValidationError

from falconer.decoding_limits import MOST_BEAMS, MOST_NGRAM, SCOPES
from falconer.evaluate_config import EvaluateConfig
from falconer.model.request import Decoding, Request


@pytest.mark.parametrize(("name", "most"), [("no_repeat_ngram_size", MOST_NGRAM), ("num_beams", MOST_BEAMS)])
def test_both_stop_at_the_same_number(name: str, most: int) -> None:
    assert getattr(EvaluateConfig(**{name: most}), name) == getattr(Decoding(**{name: most}), name) == most
    with pytest.raises(ValidationError, match=f"less than or equal to {most}"):
        EvaluateConfig(**{name: most + 1})
    with pytest.raises(ValueError, match=f"to {most}"):
        Decoding(**{name: most + 1})


def test_every_scope_is_a_setting_and_covers_a_part_of_the_prompt() -> None:
    parts = {scope: Request([1, 2, 3], own_turns=[(0, 1)]).within(scope) for scope in SCOPES}
    assert parts == {"reply": [], "own": [[1]], "prompt": [[1, 2, 3]]}
    for scope in SCOPES:
        settings = EvaluateConfig(repetition_penalty_scope=scope, no_repeat_ngram_scope=scope)
        assert settings.repetition_penalty_scope == settings.no_repeat_ngram_scope == scope
