"""What goes through NF4 here is what a model loaded in 4 bits computes with, value by value."""

import pytest
import torch
from peft import PeftModel
from transformers import Conv1D

from exported import IDS, LINEAR, logits_of, save_adapter_on
from falconer.model.bnb import bnb
from falconer.model.export.base import open_base
from falconer.model.export.merge import merge_adapter
from falconer.model.export.nf4 import quantised_weights, through_nf4
from falconer.model.load import load_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
@pytest.mark.parametrize("architecture", LINEAR)
def test_every_value_of_every_layer(tiny_bases, architecture, dtype):
    loaded = load_model(str(tiny_bases[architecture]), quantization="nf4", dtype=dtype, device="cpu")
    layers = {
        f"{path}.weight": module
        for path, module in loaded.model.named_modules()
        if isinstance(module, bnb.nn.Linear4bit)
    }
    base = open_base(str(tiny_bases[architecture]))
    assert quantised_weights(base.skeleton) == set(layers) != set()
    for name, layer in layers.items():
        held = bnb.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        is_conv = isinstance(base.skeleton.get_submodule(name.removesuffix(".weight")), Conv1D)
        ours = through_nf4(base.read(name).to(held.dtype), transposed=is_conv)
        assert torch.equal(ours.T if is_conv else ours, held), name


def test_merged_into_dequantised_weights_the_logits_are_those_of_the_adapter_on_four_bits(tiny_bases, tmp_path):
    base = tiny_bases["falcon"]
    save_adapter_on(base, tmp_path / "adapter", target_modules=LINEAR["falcon"])
    loaded = load_model(str(base), quantization="nf4", dtype="fp32", device="cpu")
    with torch.no_grad():
        expected = PeftModel.from_pretrained(loaded.model, tmp_path / "adapter").eval()(input_ids=IDS).logits
    logits = {}
    for form in ("bf16", "nf4"):
        merge_adapter(str(base), tmp_path / "adapter", tmp_path / form, base=form, device="cpu")
        logits[form] = logits_of(tmp_path / form)
    torch.testing.assert_close(logits["nf4"], expected, rtol=1e-4, atol=1e-5)
    assert (logits["bf16"] - expected).abs().max() > 1e-3
