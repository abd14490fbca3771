"""Each row of a batch has its own adapter, and the model is afterwards as it was."""

from typing import Any

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

from falconer.model.row_adapters import RowAdapters, why_apart
from generic_models import model_of, numbers

pytestmark = pytest.mark.usefixtures("one_thread")
IDS = torch.tensor([numbers(6)])


def logits(model: Any, rows: int = 1) -> torch.Tensor:
    return model(input_ids=IDS.repeat(rows, 1)).logits[:, -1].detach()


def test_rows_have_their_own_adapters_and_the_model_stays_as_it_was() -> None:
    model = model_of("llama", 2)
    adapters = RowAdapters(model)
    assert adapters.names == ("a0", "a1") and not adapters.why_apart and not adapters.has_learned_prompt
    names = ["a1", None, "a0", "a1"]
    expected = []
    for name in names:
        with adapters.only(name):
            expected.append(logits(model))
        assert model.active_adapter == "a0"
        assert not any(parameter.requires_grad for parameter in model.parameters())
    with adapters.of(names):
        found = logits(model, 4)
    torch.testing.assert_close(found, torch.cat(expected))
    assert len({round(float(row.sum()), 6) for row in found}) == 3
    torch.testing.assert_close(logits(model), expected[2])


@pytest.mark.parametrize("how", ["of", "only"])
def test_nothing_stays_behind_when_a_pass_breaks_off(how: str) -> None:
    model = model_of("llama", 2)
    before, adapters = logits(model), RowAdapters(model)
    with pytest.raises(torch.OutOfMemoryError), adapters.of(["a1"]) if how == "of" else adapters.only("a1"):
        raise torch.OutOfMemoryError
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert torch.equal(logits(model), before) and model.active_adapter == "a0"


def test_a_trained_adapter_stays_trainable() -> None:
    model = model_of("llama", 2)
    model.set_adapter("a0")
    before = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name in ("a1", None, "a0"):
        with RowAdapters(model).only(name):
            pass
    assert [name for name, parameter in model.named_parameters() if parameter.requires_grad] == before != []


def test_a_model_without_adapter_has_the_base_alone() -> None:
    model = model_of("gpt2")
    adapters = RowAdapters(model)
    assert adapters.names == () and not adapters.why_apart
    before = logits(model)
    with adapters.of([None]), adapters.only(None):
        assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (LoraConfig(target_modules=["q_proj"], use_dora=True), "has more than a plain LoRA"),
        (LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]), "'default' changes more than its LoRA"),
        (LoraConfig(target_modules=["q_proj"], trainable_token_indices=[1]), "'default' changes more than its LoRA"),
        (LoraConfig(target_modules=["q_proj"], bias="lora_only"), "'default' changes more than its LoRA"),
        (IA3Config(target_modules=["q_proj"], feedforward_modules=[]), "'default' is of type IA3"),
    ],
)
def test_adapters_that_peft_can_not_mix_are_kept_apart(config: Any, why: str) -> None:
    assert why in why_apart(get_peft_model(model_of("llama"), config))


def test_a_merged_adapter_is_kept_apart() -> None:
    model = model_of("llama", 1)
    assert why_apart(model) == ""
    model.merge_adapter()
    assert why_apart(model).startswith("the adapter is merged into ")
