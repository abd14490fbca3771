"""Which path runs a model, and whether a model on the fast path still looks like a stock one."""

import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, FalconForCausalLM

from falcon_tiny import VOCAB, awkward_batch, loss_and_gradients, tiny_falcon
from falconer import runtime
from falconer.model.falcon.attach import attached, disable, enable, fast_path_of
from falconer.model.falcon.four_bit import Products, dequantised_gib, inference_path
from falconer.model.falcon.layout import backbone_of, why_generic
from falconer.model.likelihood import target_nll
from falconer.model.lora import add_adapter, load_adapter, write_adapter
from falconer.model.output_head import head_of
from tiny import config_of

pytestmark = pytest.mark.usefixtures("one_thread")


def adapted(**changes):
    architecture = changes.pop("architecture", "falcon")
    config = config_of(architecture, VOCAB, 11)
    for name, value in changes.items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_config(config)
    model.requires_grad_(False)
    return add_adapter(model, r=2, alpha=4, dropout=0.0, targets="auto", seed=0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architecture": "gpt2"}, "it knows Falcon, not gpt2"),
        ({"num_ln_in_parallel_attn": 2}, "2 norms in a block"),
        ({"new_decoder_architecture": True, "num_kv_heads": 2, "parallel_attn": False}, "attention before the MLP"),
        ({"multi_query": False}, "as many key/value heads as query heads"),
        ({"parallel_attn": False}, "attention before the MLP, not beside it"),
        ({"alibi": True}, "ALiBi (Falcon-RW's layout)"),
        ({"bias": True}, "biases"),
        ({"hidden_dropout": 0.1}, "dropout on the residual stream"),
        ({"activation": "relu"}, "activation relu"),
    ],
)
def test_other_models_stay_on_the_generic_path_and_say_why(changes, reason):
    model = adapted(**changes)
    assert reason in why_generic(model)
    with pytest.raises(ValueError, match="can't run this model"):
        enable(model)
    assert fast_path_of(model) is None


def test_falcon_7bs_layout_is_known_with_and_without_adapter():
    model = adapted()
    assert why_generic(model) == "" and why_generic(model.get_base_model()) == ""


def test_adapters_that_it_does_not_know():
    model = adapted()
    model.merge_adapter()
    assert "merged" in why_generic(model)
    model.unmerge_adapter()
    assert why_generic(model) == ""
    base = AutoModelForCausalLM.from_config(config_of("falcon", VOCAB, 11)).requires_grad_(False)
    config = LoraConfig(r=2, target_modules=["query_key_value"], task_type="CAUSAL_LM", use_dora=True)
    assert "not a plain LoRA" in why_generic(get_peft_model(base, config))
    model.add_adapter("second", model.peft_config["default"])
    model.base_model.set_adapter(["default", "second"])
    assert "2 adapters are active at once" in why_generic(model)


def test_a_base_that_is_trained_is_not_frozen():
    model = adapted()
    backbone_of(model).h[1].mlp.dense_h_to_4h.weight.requires_grad_(True)
    assert why_generic(model) == "the base is not frozen (block 1, dense_h_to_4h)"


def test_disable_restores_the_stock_model_exactly():
    model, batch = tiny_falcon(torch.float32, targets="all-linear", dropout=0.1), awkward_batch()
    attributes = {name: set(vars(module)) for name, module in model.named_modules()}
    state = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in model.state_dict().items()}
    before, before_grads = loss_and_gradients(model, batch)
    for memory in ("fast", "lean"):
        path = enable(model, memory=memory)
        assert fast_path_of(model) is path
        loss_and_gradients(model, batch)
        disable(model)
    assert fast_path_of(model) is None
    assert attributes == {name: set(vars(module)) for name, module in model.named_modules()}
    for name, tensor in model.state_dict().items():
        assert state[name][0] == tensor.data_ptr() and torch.equal(state[name][1], tensor), name
    after, after_grads = loss_and_gradients(model, batch)
    assert torch.equal(before, after)
    assert all(torch.equal(after_grads[name], gradient) for name, gradient in before_grads.items())
    disable(model)


def test_classes_and_other_models_are_not_touched():
    model, other = adapted(), adapted()
    forward = FalconForCausalLM.forward, type(backbone_of(model)).forward
    enable(model)
    assert (FalconForCausalLM.forward, type(backbone_of(model)).forward) == forward
    assert fast_path_of(other) is None and "forward" not in vars(backbone_of(other))


def test_generate_and_masks_run_as_in_a_stock_model():
    model = tiny_falcon(torch.float32).eval()
    ids = torch.randint(12, VOCAB, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    options = {"attention_mask": mask, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 11}
    stock = model.generate(input_ids=ids, **options)
    with torch.no_grad():
        stock_masked = model(input_ids=ids, attention_mask=mask).logits
        stock_plain = model(input_ids=ids, use_cache=False).logits
        enable(model)
        assert torch.equal(model.generate(input_ids=ids, **options), stock)
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, stock_masked)
        output = model(input_ids=ids, use_cache=False)
        torch.testing.assert_close(output.logits, stock_plain, rtol=1e-4, atol=1e-4)
        assert output.past_key_values is None
        assert isinstance(model(input_ids=ids, use_cache=False, return_dict=False), tuple)


def test_the_adapter_is_saved_and_loaded_as_ever(tmp_path):
    model = adapted()
    enable(model)
    write_adapter(model, tmp_path)
    names = set(model.state_dict())
    disable(model)
    assert names == set(model.state_dict())
    fresh = AutoModelForCausalLM.from_config(config_of("falcon", VOCAB, 11)).requires_grad_(False)
    loaded = load_adapter(fresh, tmp_path)
    for name, parameter in loaded.named_parameters():
        if "lora" in name:
            assert torch.equal(parameter, dict(model.named_parameters())[name])


def test_what_unpacked_weights_would_take():
    model = tiny_falcon(torch.float32, nf4=True)
    per_layer = 128 * (128 + 2 * 64) + 128 * 128 + 2 * 128 * 512
    assert dequantised_gib(model) == 2 * per_layer * 4 / 2**30
    assert dequantised_gib(tiny_falcon(torch.float32)) == 0


def test_without_a_compiler_its_kernels_can_not_be_built(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CC", raising=False)
    assert not runtime.has_c_compiler()
    monkeypatch.setenv("CC", sys.executable)
    assert runtime.has_c_compiler()


def test_attached_for_a_while():
    model, batch = tiny_falcon(torch.float32), awkward_batch()
    model.eval()
    path = inference_path(model, Products(False, False, ""))
    with torch.no_grad():
        generic = target_nll(model, batch, head_on_targets=head_of(model))
        with attached(model, path):
            assert fast_path_of(model) is path
            torch.testing.assert_close(
                target_nll(model, batch, head_on_targets=head_of(model)), generic, rtol=1e-4, atol=1e-5
            )
            with attached(model, None):
                assert fast_path_of(model) is None
                assert torch.equal(target_nll(model, batch, head_on_targets=head_of(model)), generic)
            assert fast_path_of(model) is path
    assert fast_path_of(model) is None


def test_a_path_that_trains_comes_back():
    model = tiny_falcon(torch.float32)
    trains = enable(model, fp8=True)
    meanwhile = inference_path(model, Products(False, False, ""))
    with pytest.raises(RuntimeError, match="a fault"), attached(model, meanwhile):
        assert fast_path_of(model) is meanwhile and not meanwhile.fp8
        raise RuntimeError("a fault")
    assert fast_path_of(model) is trains
