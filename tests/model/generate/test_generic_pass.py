"""How a model is asked on the generic path is found out by asking it."""

from typing import Any

import pytest
import torch
from transformers import Phi3Config

from falconer.model.generate.generic_pass import GenericPass, constant_tokens
from falconer.model.generate.key_values import new_cache
from falconer.model.row_adapters import RowAdapters
from generic_models import CONFIGS, IDS, SIZES, VOCAB, model_of, numbers, pass_of

pytestmark = pytest.mark.usefixtures("one_thread")

WAYS = {"mamba": "stepwise", "mamba2": "alone", "jamba": "stepwise", "rwkv": "alone", "openai": "uncached"}


@pytest.mark.parametrize("kind", CONFIGS)
def test_how_a_model_is_asked_is_found_out(kind: str) -> None:
    model = model_of(kind)
    assert pass_of(model).way(RowAdapters(model), VOCAB) == (WAYS.get(kind, "batch"), "")


def test_a_model_that_counts_padding_in_its_positions_is_asked_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("gpt2")
    forward = model.forward

    def of_absolute_positions(position_ids: Any = None, **named: Any) -> Any:
        cache = named.get("past_key_values")
        start = cache.get_seq_length() if cache is not None else 0
        places = torch.arange(start, start + named["input_ids"].shape[1])[None]
        return forward(position_ids=places, **named)

    monkeypatch.setattr(model, "forward", of_absolute_positions)
    assert pass_of(model).way(RowAdapters(model), VOCAB) == ("alone", "")


def test_memory_that_is_short_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("gpt2")
    whole = GenericPass.batch

    def short(*given: Any) -> Any:
        whole(*given)
        raise torch.OutOfMemoryError

    monkeypatch.setattr(GenericPass, "batch", short)
    with pytest.raises(torch.OutOfMemoryError):
        pass_of(model).way(RowAdapters(model), VOCAB)


@pytest.mark.parametrize(
    ("kind", "why"), [("llama", ""), ("opt", "a layer's input has no dimension for the rows"), ("mamba", "")]
)
def test_whether_rows_of_several_adapters_share_a_pass_is_found_out(kind: str, why: str) -> None:
    model = model_of(kind, 2)
    assert pass_of(model).way(RowAdapters(model), VOCAB) == (WAYS.get(kind, "batch"), why)


def test_adapters_that_give_another_output_together_are_kept_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of("llama", 2)
    adapters = RowAdapters(model)
    each = adapters.of
    monkeypatch.setattr(adapters, "of", lambda names: each(names[::-1]))
    assert pass_of(model).way(adapters, VOCAB) == ("batch", "together, they give another output than one by one")


def test_rows_go_on_from_caches_of_unlike_length() -> None:
    model = model_of("llama")
    asked = pass_of(model)
    texts = [numbers(12), numbers(5, 3), numbers(4, 9)]
    with torch.inference_mode():
        cache = new_cache([None] * 3, 0, 0)
        asked.batch([text[:-2] for text in texts], [len(text) - 2 for text in texts], cache)
        logits_BV = asked.batch([text[-2:] for text in texts], [len(text) for text in texts], cache)
        expected_BV = torch.cat([asked.uncached(text) for text in texts])
    torch.testing.assert_close(logits_BV, expected_BV)


def test_a_position_encoding_may_depend_on_the_length_of_the_text() -> None:
    rope = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [3.0] * 4, "rope_theta": 10000.0}
    config = Phi3Config(**IDS, **SIZES, original_max_position_embeddings=16, rope_parameters=rope)
    assert constant_tokens(config) == 16
    assert {constant_tokens(config) for config in CONFIGS.values()} == {None}
