"""Recorded passes: what goes into one, that it computes the same, and what happens where it does not."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

from falconer.model.layers.replace import replace_layers
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.model.output_head import head_of
from falconer.records import Batch
from falconer.train import recorded as recording
from falconer.train.ranks import Ranks
from falconer.train.recorded import CausalAttention, Recorded, longest_causal, pack
from falconer.train.step import accumulate_gradient, nll_sum

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = LlamaConfig(**IDS, **SIZES, num_key_value_heads=2)
PAD = 5


def batch(rows: int = 3, tokens: int = 20) -> Batch:
    ids = np.random.default_rng(rows).integers(2, 97, (rows, tokens))
    is_target = np.zeros(ids.shape, dtype=bool)
    is_target[:, 7:12] = True
    return Batch(ids, is_target, np.full(rows, tokens), tuple("abc"[:rows]))


class OnTheHost(Recorded):
    """Computes again where a GPU would replay."""

    def _record(self, shape: Any, packed: torch.Tensor) -> Any:
        given = packed.clone()
        graph = recording._Graph(self, given, torch.zeros(()), torch.zeros_like(self._total))
        self.shape, self.graph = shape, graph
        return graph

    def replay(self) -> None:
        loss, gradient = self._compute(self.graph.input, self.shape, is_plain=False)
        self.graph.loss.copy_(loss)
        self.graph.gradient.copy_(gradient)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    torch.manual_seed(1)
    base: Any = AutoModelForCausalLM.from_config(LLAMA).requires_grad_(False)
    adapted = add_adapter(base, r=4, alpha=8, dropout=0.0, targets="all-linear", seed=0).train()
    with torch.no_grad():
        for parameter in trainable_tensors(adapted).values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    assert replace_layers(adapted, None) == ""
    return adapted


def recorded_of(model: Any, kind: type[Recorded] = OnTheHost) -> Recorded:
    head = head_of(model)
    assert head is not None
    return kind(model, head, list(trainable_tensors(model).values()), PAD)


def test_a_step_of_recorded_micro_batches_is_the_usual_one(model: Any) -> None:
    parameters, head = list(trainable_tensors(model).values()), head_of(model)

    def step(recorded: Recorded | None) -> tuple[float, torch.Tensor]:
        loss = accumulate_gradient(
            [batch(), batch(2, 33)], 25, lambda one: nll_sum(model, one, head_on_targets=head, autocast=None),
            parameters, Ranks(torch.device("cpu")), recorded,
        )  # fmt: skip
        found = torch.cat([p.grad.flatten() for p in parameters])
        model.zero_grad(set_to_none=True)
        return loss, found

    recorded = recorded_of(model)
    (loss, gradient), (expected, usual) = step(recorded), step(None)
    assert loss == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(gradient, usual, rtol=1e-4, atol=1e-7)
    assert not recorded.take().any() and not recorded.why_not
    assert len(recorded._graphs) == 2


def test_shapes_are_rounded_up_and_padding_is_no_target() -> None:
    shape, packed = pack(batch(), 40, PAD)
    assert shape == (3, 32, 256)
    ids, predicting, labels, numbers = (one.numpy() for one in packed.split([96, 256, 256, 2]))
    assert (ids.reshape(3, 32)[:, :20] == batch().ids).all() and (ids.reshape(3, 32)[:, 20:] == PAD).all()
    assert numbers.tolist() == [15, 40]
    assert (ids[predicting[:15] + 1] == labels[:15]).all() and not labels[15:].any()
    assert pack(batch(3, 31), 40, PAD)[0] == shape


def test_a_proof_finds_what_computes_something_else(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recorded_of(model).prove(batch()) == ""
    wrong = recorded_of(model)
    monkeypatch.setattr(OnTheHost, "replay", lambda self: None)
    assert wrong.prove(batch()) == "a recorded pass gives another result"
    assert wrong.add_gradient(batch(), 15) is None, "it is not asked again"
    assert model.training


def test_where_recording_fails_micro_batches_are_computed_as_usual(model: Any) -> None:
    class Failing(OnTheHost):
        def _record(self, shape: Any, packed: torch.Tensor) -> Any:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    recorded = recorded_of(model, Failing)
    assert recorded.add_gradient(batch(), 15) is None
    expected = "recording fails (RuntimeError: operation not permitted when stream is capturing)"
    assert recorded.why_not == expected and not recorded.take().any()


def test_longer_rows_than_a_window_and_too_many_shapes_are_computed_as_usual(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = recorded_of(model)
    recorded._longest = 32
    assert recorded.add_gradient(batch(3, 33), 15) is None and recorded.add_gradient(batch(), 15) is not None
    monkeypatch.setattr(recording, "MOST_GRAPHS", 1)
    assert recorded.add_gradient(batch(2), 15) is None and recorded.add_gradient(batch(), 15) is not None
    assert not recorded.why_not
    gemma = Gemma3TextConfig(**IDS, **SIZES, sliding_window=24)
    assert (longest_causal(gemma), longest_causal(LLAMA)) == (24, 1 << 30)


def test_attention_is_causal_whatever_the_mask_and_heads_are_not_repeated() -> None:
    query, key, value = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True, scale=0.3)
    with CausalAttention(LLAMA):
        repeated = [one.repeat_interleave(2, dim=1) for one in (key, value)]
        mask = torch.ones(2, 1, 6, 6, dtype=torch.bool).tril()
        found = F.scaled_dot_product_attention(query, *repeated, attn_mask=mask, scale=0.3)
        plain = F.scaled_dot_product_attention(query, key, value, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(plain, expected)
    with CausalAttention(LLAMA), pytest.raises(RuntimeError, match="attention has a bias"):
        F.scaled_dot_product_attention(query, *repeated, attn_mask=torch.zeros(6, 6))
