"""Falcon's own pass against the untouched model of transformers and PEFT, in float64 where the result must be exact."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from falcon_tiny import GPU_SHAPE, GPU_SHAPES, LAYOUTS, awkward_batch, flat, loss_and_gradients, tiny_falcon
from falconer.kernels import fused, reference
from falconer.kernels.formats import Layout
from falconer.model import likelihood as score
from falconer.model.falcon.attach import disable, enable
from falconer.model.falcon.layout import backbone_of
from falconer.model.falcon.train_pass import FastPath
from falconer.model.lora import trainable_tensors, without_adapter
from falconer.model.output_head import head_of
from kernel_rule import error, rounding_interpreter
from same_dropout import draw_as_falconer

# The generic path rounds logits to fp32 before the loss, so float64 agrees to fp32's precision in the loss.
EXACT = 2e-7
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("memory", ["fast", "lean"])
@pytest.mark.parametrize("targets", ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h", "all-linear"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_and_every_gradient_in_float64(memory, targets, dropout, layout, monkeypatch):
    draw_as_falconer(monkeypatch)
    model, batch = tiny_falcon(torch.float64, targets=targets, dropout=dropout, layout=layout), awkward_batch()
    expected_nll, expected = loss_and_gradients(model, batch)
    enable(model, memory=memory)
    nll, found = loss_and_gradients(model, batch)
    assert error(nll, expected_nll) < EXACT
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient.abs().sum() > 0 and error(found[name], gradient) < EXACT, name


@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_in_fp32_it_errs_no_more_than_the_model_itself(nf4, cached, layout):
    batch = awkward_batch((64, 5, 33, 8))
    model = tiny_falcon(torch.float32, targets="all-linear", nf4=nf4, layout=layout)
    plain_nll, plain = loss_and_gradients(model, batch)
    enable(model, cache_weights=cached)
    nll, found = loss_and_gradients(model, batch)
    if nf4:
        # There is no 4-bit layer in float64; two fp32 results differ by both their errors.
        assert error(nll, plain_nll) < 1e-6 and error(flat(found), flat(plain)) < 5e-6
        return
    exact_nll, exact = loss_and_gradients(tiny_falcon(torch.float64, targets="all-linear", layout=layout), batch)
    assert error(nll, exact_nll) <= 2 * error(plain_nll, exact_nll) + 1e-7
    assert error(flat(found), flat(exact)) <= 2 * error(flat(plain), flat(exact)) + 1e-7


@pytest.mark.parametrize(
    "shape",
    [
        {"num_attention_heads": 4}, {"num_hidden_layers": 1}, {"ffn_hidden_size": 192},
        # One query head for each key/value head, and one key/value head for all.
        {"layout": "40b", "num_kv_heads": 4}, {"layout": "40b", "num_kv_heads": 1},
        {"layout": "40b", "num_hidden_layers": 1}, {"layout": "40b", "tie_word_embeddings": False},
        {"layout": "11b", "num_attention_heads": 2, "num_kv_heads": 1},
    ],
)  # fmt: skip
def test_other_shapes_of_the_layout(shape):
    model, batch = tiny_falcon(torch.float64, **shape), awkward_batch((9, 2, 3))
    expected_nll, expected = loss_and_gradients(model, batch)
    enable(model)
    nll, found = loss_and_gradients(model, batch)
    assert error(nll, expected_nll) < EXACT and error(flat(found), flat(expected)) < EXACT


def test_an_adapter_in_the_upper_blocks_alone():
    model, batch = tiny_falcon(torch.float64, num_hidden_layers=3), awkward_batch()
    for name, parameter in model.named_parameters():
        if ".h.0." in name or ".h.1." in name:
            parameter.requires_grad_(False)
    for layer in backbone_of(model).h[:2]:
        layer.self_attention.query_key_value = layer.self_attention.query_key_value.base_layer
    expected_nll, expected = loss_and_gradients(model, batch)
    enable(model)
    nll, found = loss_and_gradients(model, batch)
    assert len(found) == 2
    assert error(nll, expected_nll) < EXACT and error(flat(found), flat(expected)) < EXACT


@pytest.mark.parametrize("layout", LAYOUTS)
def test_packed_dialogues_equal_padded_ones(layout):
    """One after the other, each with attention and positions of its own."""
    model, batch = tiny_falcon(torch.float64, layout=layout), awkward_batch()
    path = enable(model)
    ids = torch.from_numpy(batch.ids)
    lengths = batch.lengths.tolist()
    padded = path.hidden_states(ids.flatten(), Layout(*ids.shape)).view(*ids.shape, -1)
    starts = torch.tensor([0, *batch.lengths.cumsum().tolist()], dtype=torch.int32)
    packed_ids = torch.cat([row[:length] for row, length in zip(ids, lengths, strict=True)])
    packed = path.hidden_states(packed_ids, Layout(len(lengths), max(lengths), starts))
    expected = torch.cat([row[:length] for row, length in zip(padded, lengths, strict=True)])
    assert error(packed, expected) < 1e-12


def test_more_targets_than_a_chunk_of_logits(monkeypatch):
    model, batch = tiny_falcon(torch.float64), awkward_batch()
    enable(model)
    expected_nll, expected = loss_and_gradients(model, batch)
    monkeypatch.setattr(score, "CHUNK_TARGETS", 7)
    nll, found = loss_and_gradients(model, batch)
    assert error(nll, expected_nll) < 1e-12 and error(flat(found), flat(expected)) < 1e-12


def test_without_gradients_nothing_is_kept():
    model, batch = tiny_falcon(torch.float64), awkward_batch()
    model.eval()
    enable(model)
    with torch.no_grad():
        nll = score.target_nll(model, batch, head_on_targets=head_of(model))
    assert nll.grad_fn is None
    disable(model)
    with torch.no_grad():
        assert error(nll, score.target_nll(model, batch, head_on_targets=head_of(model))) < EXACT


def test_an_adapter_that_is_switched_off_is_off():
    model, batch = tiny_falcon(torch.float64), awkward_batch()
    model.eval()
    with torch.no_grad():
        tuned = score.target_nll(model, batch, head_on_targets=head_of(model))
        with without_adapter(model):
            base = score.target_nll(model, batch, head_on_targets=head_of(model))
        enable(model)
        with without_adapter(model):
            assert error(score.target_nll(model, batch, head_on_targets=head_of(model)), base) < EXACT
        assert error(score.target_nll(model, batch, head_on_targets=head_of(model)), tuned) < EXACT
    assert error(tuned, base) > 1e-3


def test_two_passes_before_their_ways_back():
    for memory in ("fast", "lean"):
        model, one, other = tiny_falcon(torch.float64), awkward_batch(), awkward_batch((30, 12, 9))
        enable(model, memory=memory)
        _, first = loss_and_gradients(model, one)
        _, second = loss_and_gradients(model, other)
        model.zero_grad(set_to_none=True)
        losses = [score.target_nll(model, batch, head_on_targets=head_of(model)) for batch in (one, other)]
        sum((nll * torch.linspace(0.1, 1, len(nll))).sum() for nll in losses).backward()
        both = torch.cat([p.grad.flatten() for _, p in sorted(model.named_parameters()) if p.requires_grad])
        assert error(both, flat(first) + flat(second)) < 1e-12


def small_batch(layout, *lengths):
    """The interpreter takes seconds for each layout, so those besides the 7B's have fewer tokens."""
    return awkward_batch(*lengths) if layout == "7b" else awkward_batch((9, 5, 3, 2))


def with_kernels(model, **settings):
    """Put a model on the Triton kernels, which the CPU's interpreter runs."""
    backbone = backbone_of(model)
    path = FastPath(backbone, fused, **{"fp8": False, "memory": "fast", "cache_weights": False} | settings)
    backbone.forward = path.forward


@pytest.mark.parametrize("memory", ["fast", "lean"])
@pytest.mark.parametrize(("layout", "nf4"), [("7b", False), ("7b", True), ("40b", True), ("11b", True)])
def test_the_kernels_put_together(memory, nf4, layout):
    model, batch = tiny_falcon(torch.float32, targets="all-linear", nf4=nf4, layout=layout), small_batch(layout)
    expected_nll, expected = loss_and_gradients(model, batch)
    head = head_of(model)
    with_kernels(model, memory=memory)
    nll, found = loss_and_gradients(model, batch, head=head)
    assert error(nll, expected_nll) < 1e-6 and error(flat(found), flat(expected)) < 5e-6


@pytest.mark.parametrize("layout", ["7b", "40b"])
def test_the_kernels_dropout_is_the_same_in_lean_memory(layout):
    results = []
    for memory in ("fast", "lean"):
        model = tiny_falcon(torch.float32, targets="all-linear", dropout=0.3, layout=layout)
        head = head_of(model)
        with_kernels(model, memory=memory)
        results.append(loss_and_gradients(model, small_batch(layout), head=head))
    (fast_nll, fast), (lean_nll, lean) = results
    assert torch.equal(fast_nll, lean_nll) and error(flat(lean), flat(fast)) < 1e-6


@pytest.mark.parametrize(("layout", "nf4"), [("7b", False), ("7b", True), ("40b", True)])
def test_fp8_products_by_kernels_and_by_plain_torch(nf4, layout):
    """In a tiny random model FP8's error is far above that of bf16, but both ways make the same one."""
    batch = small_batch(layout, (64, 5, 33, 8))
    exact_nll, exact = loss_and_gradients(tiny_falcon(torch.float32, nf4=nf4, layout=layout), batch)
    directions = []
    for ops in (reference, fused):
        model = tiny_falcon(torch.float32, nf4=nf4, layout=layout)
        backbone, head = backbone_of(model), head_of(model)
        backbone.forward = FastPath(backbone, ops, fp8=True, memory="fast", cache_weights=False).forward
        with rounding_interpreter():
            nll, found = loss_and_gradients(model, batch, head=head)
        assert error(nll, exact_nll) < 0.02
        directions.append(flat(found))
    for found in directions:
        assert torch.cosine_similarity(found, flat(exact), dim=0) > 0.98
    assert torch.cosine_similarity(*directions, dim=0) > 0.99


@pytest.mark.gpu
@pytest.mark.parametrize("memory", ["fast", "lean"])
@pytest.mark.parametrize("targets", ["query_key_value", "all-linear"])
@pytest.mark.parametrize("nf4", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bf16_on_a_gpu_errs_no_more_than_the_model_itself(memory, targets, nf4, layout):
    batch = awkward_batch((200, 5, 33, 8))
    settings = {"targets": targets, "device": "cuda", "rank": 16, "layout": layout, **GPU_SHAPES[layout]}
    model = tiny_falcon(torch.bfloat16, nf4=nf4, **settings)
    plain_nll, plain = loss_and_gradients(model, batch)
    enable(model, memory=memory)
    nll, found = loss_and_gradients(model, batch)
    exact_model = tiny_falcon(torch.float64, **settings)
    if nf4:
        for layer, packed in zip(backbone_of(exact_model).h, backbone_of(model).h, strict=True):
            for name, whole in _linears(layer).items():
                source = _linears(packed)[name].weight
                whole.weight.data = score._bnb.functional.dequantize_4bit(source, source.quant_state).double()
    exact_nll, exact = loss_and_gradients(exact_model, batch)
    assert error(nll, exact_nll) <= 2 * error(plain_nll, exact_nll)
    assert error(flat(found), flat(exact)) <= 2 * error(flat(plain), flat(exact))


def _linears(layer):
    return {
        name: getattr(module, "base_layer", module)
        for name, module in layer.named_modules()
        if name.endswith(("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"))
    }


@pytest.mark.gpu
@pytest.mark.parametrize("memory", ["fast", "lean"])
@pytest.mark.parametrize("targets", ["query_key_value", "all-linear"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_fp8_on_a_gpu_keeps_the_gradients_direction(memory, targets, layout):
    batch = awkward_batch((200, 5, 33, 8))
    settings = {"targets": targets, "device": "cuda", "rank": 16, "nf4": True, "layout": layout, **GPU_SHAPES[layout]}
    model = tiny_falcon(torch.bfloat16, **settings)
    # As small as a trained adapter is. Ten times the base's weights make attention a choice of one token, which any
    # rounding may change, in plain torch as well.
    for parameter in trainable_tensors(model).values():
        parameter.data *= 0.3
    plain_nll, plain = loss_and_gradients(model, batch)
    enable(model, fp8=True, memory=memory)
    nll, found = loss_and_gradients(model, batch)
    assert error(nll, plain_nll) < 0.01
    assert torch.cosine_similarity(flat(found), flat(plain), dim=0) > 0.99


@pytest.mark.gpu
def test_no_attention_but_our_own_runs_on_a_gpu():
    model, batch = tiny_falcon(torch.bfloat16, device="cuda", **GPU_SHAPE), awkward_batch()
    enable(model)
    loss_and_gradients(model, batch)
    # acc_events: without it torch warns that a second cycle would clear the events; there is none.
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA], acc_events=True) as profile:
        loss_and_gradients(model, batch)
    names = " ".join(event.key.lower() for event in profile.key_averages())
    assert "_attend" in names and "_grad_key_value" in names
    assert "softmax" not in names and "flash" not in names and "fmha" not in names


def test_adapters_of_two_ranks_on_one_input():
    """They can't share a kernel's launch, and need not."""
    base = tiny_falcon(torch.float64).unload().requires_grad_(False)
    names = ["query_key_value", "dense_h_to_4h"]
    config = LoraConfig(r=4, target_modules=names, rank_pattern={names[1]: 2}, task_type="CAUSAL_LM")
    model, batch = get_peft_model(base, config).train(), awkward_batch()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model = model.double()
    expected_nll, expected = loss_and_gradients(model, batch)
    enable(model)
    nll, found = loss_and_gradients(model, batch)
    assert error(nll, expected_nll) < EXACT and error(flat(found), flat(expected)) < EXACT
