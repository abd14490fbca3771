"""Output heads: found out by asking the model, and their loss and gradient against the model's own logits."""

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPTJConfig,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    RecurrentGemmaConfig,
)
from transformers.modeling_outputs import CausalLMOutput

from falconer.kernels import generic_reference as ops
from falconer.model import output_head
from falconer.model.output_head import Head, chunk_targets, head_of

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
LLAMA = LlamaConfig(**IDS, **SIZES)
FOUND = {
    "llama": (LLAMA, 1.0, None),
    "gptj, with a bias": (GPTJConfig(**IDS, n_embd=16, n_layer=1, n_head=2, rotary_dim=4, n_positions=32), 1.0, None),
    "opt": (OPTConfig(**IDS, hidden_size=16, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
                      word_embed_proj_dim=16, max_position_embeddings=32), 1.0, None),
    "cohere": (CohereConfig(**IDS, **SIZES, logit_scale=0.0625), 0.0625, None),
    "granite": (GraniteConfig(**IDS, **SIZES, logits_scaling=8.0), 0.125, None),
    "gemma 2": (Gemma2Config(**IDS, **SIZES, num_key_value_heads=1, head_dim=8), 1.0, 30.0),
    "recurrent gemma": (RecurrentGemmaConfig(**IDS, **SIZES, lru_width=16, logits_soft_cap=25.0), 1.0, 25.0),
}  # fmt: skip


def model_of(config: Any, dtype: torch.dtype = torch.float64) -> Any:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(config).to(dtype).eval().requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", FOUND)
def test_what_a_model_does_to_its_logits_is_found(name: str, dtype: torch.dtype) -> None:
    config, scale, cap = FOUND[name]
    model = model_of(config, dtype)
    state = torch.random.get_rng_state()
    head = head_of(model)
    assert torch.equal(state, torch.random.get_rng_state())
    assert head is not None and (head.scale, head.cap) == (scale, cap) and head.is_frozen


@pytest.mark.parametrize("name", FOUND)
def test_loss_and_gradient_are_those_of_the_models_own_logits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_head, "CHUNK_TARGETS", 3)
    model = model_of(FOUND[name][0])
    head = head_of(model)
    assert head is not None
    hidden, labels = 5 * torch.randn(8, 16, dtype=torch.float64, requires_grad=True), torch.arange(8)
    handle = head.module.register_forward_pre_hook(lambda *_: (hidden,))
    logits = model(input_ids=torch.zeros(1, 8, dtype=torch.int64), use_cache=False).logits.view(8, -1)
    handle.remove()
    weights = torch.linspace(0.5, 2, 8, dtype=torch.float64)
    expected = F.cross_entropy(logits.double(), labels, reduction="none")
    found = head.nll(hidden, labels, ops)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    slopes = [torch.autograd.grad((nll * weights).sum(), hidden)[0] for nll in (found, expected)]
    torch.testing.assert_close(*slopes, rtol=1e-5, atol=1e-7)


def test_a_head_that_is_trained_has_gradients_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_head, "CHUNK_TARGETS", 3)
    base = model_of(LLAMA)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False)).double()
    head = head_of(model)
    assert head is not None and not head.is_frozen
    hidden, labels = torch.randn(8, 16, dtype=torch.float64, requires_grad=True), torch.arange(8)
    inputs = [hidden, *(parameter for parameter in model.parameters() if parameter.requires_grad)]
    assert len(inputs) == 3
    expected = torch.autograd.grad(F.cross_entropy(head.module(hidden), labels, reduction="sum"), inputs)
    for found, twin in zip(torch.autograd.grad(head.nll(hidden, labels, ops).sum(), inputs), expected, strict=True):
        torch.testing.assert_close(found, twin)
    with torch.no_grad():
        assert not head.nll(hidden, labels, ops).requires_grad


class _Unknown(LlamaForCausalLM):
    def forward(self, *args: Any, **named: Any) -> Any:
        out = super().forward(*args, **named)
        out.logits = out.logits + 0.001 * out.logits.square()
        return out


class _Beside(LlamaForCausalLM):
    """Its head gets more than the backbone's output."""

    def forward(self, input_ids: Any, **named: Any) -> Any:
        hidden = self.model(input_ids=input_ids).last_hidden_state
        return CausalLMOutput(logits=self.lm_head(hidden + 0.1 * self.get_input_embeddings()(input_ids)))


class _Odd(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x).abs()


def test_a_head_that_is_not_understood_is_none() -> None:
    assert head_of(_Unknown(LLAMA).double()) is None
    assert head_of(_Beside(LLAMA).double()) is None
    odd = LlamaForCausalLM(LLAMA).requires_grad_(False)
    odd.lm_head.__class__ = _Odd
    assert head_of(odd) is None
    no_head = LlamaForCausalLM(LLAMA)
    no_head.get_output_embeddings = lambda: None
    assert head_of(no_head) is None


def test_chunks_are_smaller_for_large_vocabularies() -> None:
    assert (chunk_targets(97), chunk_targets(65024), chunk_targets(262144)) == (1024, 1024, 256)
    assert chunk_targets(2**30) == 1


def test_the_logits_of_a_head_are_the_models() -> None:
    model = model_of(FOUND["gemma 2"][0])
    head = head_of(model)
    assert isinstance(head, Head)
    ids = torch.arange(6)[None]
    with torch.no_grad():
        torch.testing.assert_close(head.logits(model.model(ids).last_hidden_state), model(ids).logits)
