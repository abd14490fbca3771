"""Certificates of real exports of a tiny model: what agrees, what drifts, and whose drift is too large."""

import dataclasses
import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM

from exported import save_adapter_on
from falconer.errors import FalconerError
from falconer.model.base_files import hashed_base
from falconer.model.distributions import target_log_probs
from falconer.model.export.gguf import About, write_gguf, write_gguf_adapter
from falconer.model.export.merge import merge_adapter
from falconer.model.load import load_model
from falconer.share.certificate import NAME, check_hashes, write_certificate
from falconer.share.certificate_drift import drift
from falconer.share.certificate_making import Certifier, Effort
from falconer.share.certificate_tuned import tuned_of_adapter
from tiny import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
EFFORT = Effort(num_conversations=3, num_replies=4, max_new_tokens=8)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A tiny Falcon whose weights are large enough that 4 bits change what it says."""
    folder = save_tiny_model(tmp_path_factory.mktemp("base") / "falcon", "falcon")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "query_key_value" in name or "dense" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    save_adapter_on(folder, folder.parent / "adapter", target_modules=["query_key_value", "dense"])
    return folder


def tuned(base, trained_on):
    made = tuned_of_adapter(base.parent / "adapter", str(base), device="cpu")
    return dataclasses.replace(made, trained_on=trained_on)


def certifier(base, trained_on="nf4", effort=EFFORT, told=None):
    tell = (lambda *_: None) if told is None else lambda what, done, total: told.append((what, done, total))
    return Certifier(tuned(base, trained_on), effort, tell, compares_forms=True)


def merge(base, out, form):
    merge_adapter(str(base), base.parent / "adapter", out, base=form, dtype=torch.float32, device="cpu")
    return out


def test_merged_into_the_form_of_training_nothing_is_lost_and_into_the_other_something_is(base, tmp_path):
    told = []
    makes = certifier(base, told=told)
    own = makes.merged(merge(base, tmp_path / "nf4", "nf4"), "nf4")
    other = makes.merged(merge(base, tmp_path / "bf16", "bf16"), "bf16")
    assert own.tokens.num_equal == own.tokens.num_conversations == 3
    assert own.measured.replies.identical.value == 100 and own.measured.export.kl.value < 1e-8
    assert other.measured.export.kl.value > 1e-4
    # What the other form would give is measured without merging: the same.
    assert own.measured.others["bf16"].kl.value == pytest.approx(other.measured.export.kl.value, rel=1e-3)
    assert own.refusal() == "" and own.origin.format == "float32" and own.origin.base_form == "nf4"
    assert own.origin.base_model is None and str(tmp_path) not in json.dumps(dataclasses.asdict(own))
    # The reference is measured once.
    assert [what for what, done, total in told if done == total].count("reference: predictions") == 1
    write_certificate(tmp_path / "nf4" / NAME, own)
    check_hashes(tmp_path / "nf4", own)
    assert {file.name for file in own.files} == {path.name for path in (tmp_path / "nf4").iterdir()} - {NAME}


def test_the_drift_is_that_between_the_two_models(base, tmp_path):
    makes = certifier(base, effort=dataclasses.replace(EFFORT, num_replies=0))
    found = makes.merged(merge(base, tmp_path / "bf16", "bf16"), "bf16").measured
    assert found.replies is None
    plain = load_model(str(tmp_path / "bf16"), quantization="none", dtype="fp32", device="cpu")
    known = makes.known
    again = drift(
        lambda example: target_log_probs(plain.model, example, plain.precision), known.reference, known.asked, "", print
    )
    assert again.kl.value == pytest.approx(found.export.kl.value)


def test_a_gguf_files_own_tensors_are_measured(base, tmp_path):
    makes, folder = certifier(base), merge(base, tmp_path / "nf4", "nf4")
    drifts = []
    for type in ("f32", "q8_0"):
        file = tmp_path / f"{type}.gguf"
        write_gguf(folder, file, type, About("Tiny"))
        found = makes.gguf(file, folder, "nf4", type)
        assert found.kind == "gguf" and found.tokens.num_equal == 3 and "dequantised" in found.measured.how
        assert [one.name for one in found.files] == [file.name]
        drifts.append(found.measured.export.kl.value)
    assert drifts[0] < 1e-8 < drifts[1]


def test_a_gguf_adapter_stands_on_the_base_as_stored(base, tmp_path):
    write_gguf_adapter(str(base), base.parent / "adapter", tmp_path / "lora.gguf", "f32", About("Tiny"))
    found = certifier(base).gguf_adapter(tmp_path / "lora.gguf", "f32")
    assert found.tokens is None and found.measured.replies.num_replies == 4
    assert found.measured.export.kl.value == pytest.approx(found.measured.others["bf16"].kl.value, rel=1e-3)


def test_the_adapter_itself(base):
    found = certifier(base, "bf16").adapter()
    assert found.kind == "adapter" and found.measured.how.startswith("PEFT and transformers")
    assert found.measured.export.kl.value < 1e-8 and found.measured.replies.identical.value == 100
    assert [file.name for file in found.files] == ["adapter_model.safetensors"]


def test_an_export_that_lost_the_tune_is_refused(base, tmp_path):
    """An export of the base itself, as if rounding had erased the adapter, and one that is worse."""
    makes, folder = certifier(base), merge(base, tmp_path / "out", "nf4")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    model.save_pretrained(folder)
    found = makes.merged(folder, "nf4")
    assert "larger than the tune's own effect" in found.refusal()
    assert found.measured.export.kl.value > found.measured.base.kl.value > 1e-4


def test_an_adapter_that_changes_the_bases_biases_is_measured_too(tmp_path):
    folder = save_tiny_model(tmp_path / "gpt2", "gpt2")
    save_adapter_on(folder, tmp_path / "adapter", target_modules=["c_attn"], bias="all")
    one = tuned_of_adapter(tmp_path / "adapter", str(folder), device="cpu")
    merge_adapter(str(folder), tmp_path / "adapter", tmp_path / "out", device="cpu")
    found = Certifier(one, EFFORT, lambda *_: None).merged(tmp_path / "out", "bf16").measured
    assert found.export.kl.value < 1e-8 < found.base.kl.value


def test_without_measuring_token_ids_and_hashes_are_there(base, tmp_path):
    told = []
    makes = certifier(base, effort=Effort(3, is_measured=False), told=told)
    found = makes.merged(merge(base, tmp_path / "out", "nf4"), "nf4")
    assert found.measured is None and found.tokens.num_equal == 3 and found.files and not told


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_flipped_bit_of_the_base_is_noticed_also_without_measuring(base, tmp_path, name):
    """The base is not loaded then, and only its tokenizer is compared."""
    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    with hashed_base(str(copy), None) as files:
        record = {"base_files": files.hashes()}
    one = dataclasses.replace(tuned_of_adapter(base.parent / "adapter", str(copy), device="cpu"), record=record)
    effort = Effort(2, is_measured=False)
    assert Certifier(one, effort, lambda *_: None).adapter().measured is None
    # Of a number in a weight, and of white space in JSON, which every reader still reads.
    content = bytearray((copy / name).read_bytes())
    if name.endswith(".json"):
        content += b" "
    else:
        content[-2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(FalconerError, match=f"has changed since this run was trained: {name} has another hash"):
        Certifier(one, effort, lambda *_: None).adapter()
