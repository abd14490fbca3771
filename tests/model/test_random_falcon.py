"""Is a random Falcon what it stands for: the shape, the formats, frozen, and never a checkpoint?"""

import pytest
import torch
from torch import nn

from falconer.model.bnb import bnb
from falconer.model.random_falcon import (
    FALCON_7B,
    FALCON_11B,
    FALCON_40B,
    INITIAL_STD,
    as_reference_recipe,
    random_adapter,
    untrained_falcon,
)

SHAPE = FALCON_7B | {"vocab_size": 512, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("shape", "num_parameters"),
    [(FALCON_7B, 6_921_720_704), (FALCON_40B, 41_303_293_952), (FALCON_11B, 11_102_822_400)],
)
def test_a_shape_has_the_models_number_of_parameters(shape, num_parameters) -> None:
    with torch.device("meta"):
        from transformers import FalconConfig, FalconForCausalLM

        model = FalconForCausalLM(FalconConfig(**shape))
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters


def test_a_head_of_its_own_has_weights_of_its_own() -> None:
    torch.manual_seed(0)
    shape = SHAPE | {"new_decoder_architecture": True, "num_kv_heads": 2, "tie_word_embeddings": False}
    model = untrained_falcon(shape, CPU, torch.float32, nf4=True)
    head, embedding = model.lm_head.weight, model.transformer.word_embeddings.weight
    assert head is not embedding and not torch.allclose(head, embedding)
    assert abs(float(head.std()) / INITIAL_STD - 1) < 0.05 and not head.requires_grad
    assert bool(model(input_ids=torch.arange(6).unsqueeze(0)).logits.isfinite().all())


def test_weights_are_normal_frozen_and_tied() -> None:
    torch.manual_seed(0)
    model = untrained_falcon(SHAPE, CPU, torch.float32, nf4=False)
    weight = model.transformer.h[0].mlp.dense_h_to_4h.weight
    assert abs(float(weight.std()) / INITIAL_STD - 1) < 0.05
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert model.lm_head.weight is model.transformer.word_embeddings.weight
    assert not model.training
    logits = model(input_ids=torch.arange(6).unsqueeze(0)).logits
    assert logits.shape == (1, 6, 512) and bool(logits.isfinite().all())


def test_all_layers_but_the_head_are_in_nf4_where_that_is_asked() -> None:
    model = untrained_falcon(SHAPE, CPU, torch.float32, nf4=True)
    kinds = {name: type(module) for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert kinds.pop("lm_head") is not bnb.nn.Linear4bit
    assert len(kinds) == 8 and set(kinds.values()) == {bnb.nn.Linear4bit}
    state = model.transformer.h[1].mlp.dense_4h_to_h.weight.quant_state
    assert state.quant_type == "nf4" and state.nested and tuple(state.shape) == (256, 1024)


def test_the_recipe_turns_norms_to_fp32_and_checkpoints() -> None:
    model = as_reference_recipe(untrained_falcon(SHAPE, CPU, torch.bfloat16, nf4=True))
    assert model.transformer.ln_f.weight.dtype == model.transformer.word_embeddings.weight.dtype == torch.float32
    assert model.is_gradient_checkpointing


def test_a_random_adapter_changes_what_the_model_says_and_depends_on_its_seed_alone() -> None:
    ids = torch.arange(6).unsqueeze(0)
    model = untrained_falcon(SHAPE, CPU, torch.float32, nf4=False)
    before, logits = model(input_ids=ids).logits, []
    for seed in (1, 1, 2):
        adapted = random_adapter(model, r=4, targets="query_key_value", seed=seed).eval()
        logits.append(adapted(input_ids=ids).logits)
        model = adapted.unload()
    assert torch.equal(logits[0], logits[1]) and not torch.allclose(logits[0], logits[2])
    assert not torch.allclose(logits[0], before) and torch.equal(model(input_ids=ids).logits, before)
