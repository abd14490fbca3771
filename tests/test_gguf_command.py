"""`falconer gguf` as users run it: the file, its Modelfile, its certificate, and what is refused before any work."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import OPTConfig, OPTForCausalLM

from command_line import falconer, ok
from exported import save_adapter_on
from falconer.errors import FalconerError
from falconer.files.replace import replace_file
from falconer.model.export.gguf_read import GgufFile
from falconer.model.tokenizer import load_tokenizer
from falconer.share.certificate import check_hashes, read_certificate
from small_runs import Small
from test_merge_command import KILLED, QUICK
from tiny import save_tiny_model
from torture.writers import ORIGIN

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    small = Small(folder)
    small.run(folder / "run", "model.quantization=nf4", "train.max_steps=2", "train.learning_rate=0.05")
    return folder / "run"


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_file_modelfile_and_certificate(run, tmp_path):
    out = tmp_path / "model.gguf"
    result = ok("gguf", "--run", run, "--out", out, "--type", "f16", "--persona", "I have two dogs.", *QUICK)
    assert "this export: GGUF, f16" in result.out and "ollama create NAME -f model.Modelfile" in result.out
    assert names(tmp_path) == ["model.Modelfile", "model.certificate.json", "model.gguf"]
    found = read_certificate(tmp_path / "model.certificate.json")
    check_hashes(tmp_path, found)
    assert found.kind == "gguf" and found.origin.format == "f16" and found.tokens.num_equal == 2
    assert found.measured.export.kl.value < 1e-4 < found.measured.base.kl.value
    text = (tmp_path / "model.Modelfile").read_text()
    assert text.startswith("FROM ./model.gguf\n") and "- I have two dogs." in text
    assert GgufFile(out).value("general.architecture") == "falcon"
    for path in (tmp_path / "model.certificate.json", out, tmp_path / "model.Modelfile"):
        assert str(tmp_path).encode() not in path.read_bytes() and str(run).encode() not in path.read_bytes()


def test_from_a_folder_of_falconer_merge(run, tmp_path, monkeypatch):
    ok("merge", "--run", run, "--out", tmp_path / "merged", "--no-measure")

    def again(*arguments, **settings):
        raise AssertionError("merged again")

    monkeypatch.setattr("falconer.model.export.merge.prepare_merge", again)
    ok("gguf", "--run", run, "--merged", tmp_path / "merged", "--out", tmp_path / "model.gguf", "--no-measure")
    assert read_certificate(tmp_path / "model.certificate.json").origin.base_form == "nf4"
    for options, reason in (
        (("--base", "bf16"), "was merged into nf4, not bf16"),
        (("--lora",), "Leave one of them out"),
    ):
        given = ("gguf", "--run", run, "--merged", tmp_path / "merged", "--out", tmp_path / "other.gguf", *options)
        result = falconer(*given)
        assert result.code == 2 and reason in result.err, result.err
    record = json.loads((tmp_path / "merged" / "falconer.json").read_text())
    record["export"]["adapter_sha256"] = "0" * 64
    (tmp_path / "merged" / "falconer.json").write_text(json.dumps(record))
    result = falconer("gguf", "--run", run, "--merged", tmp_path / "merged", "--out", tmp_path / "other.gguf")
    assert result.code == 2 and "was made of another adapter" in result.err
    result = falconer("gguf", "--run", run, "--merged", run, "--out", tmp_path / "other.gguf")
    assert result.code == 2 and "is no folder that falconer merge wrote" in result.err


def test_the_adapter_alone(run, tmp_path):
    out = tmp_path / "lora.gguf"
    result = ok("gguf", "--run", run, "--out", out, "--lora", "--type", "f16", *QUICK)
    assert "this export: GGUF adapter, f16" in result.out and names(tmp_path) == ["lora.certificate.json", "lora.gguf"]
    assert read_certificate(tmp_path / "lora.certificate.json").tokens is None
    ok("gguf", "--run", run, "--out", out, "--lora", "--from", "falcon:7b", "--no-measure")
    text = (tmp_path / "lora.Modelfile").read_text()
    assert text.startswith("FROM falcon:7b\nADAPTER ./lora.gguf\n")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--type", "q4_k_m"), "llama.cpp's llama-quantize"),
        (("--type", "f64"), "GGUF of type f64 can't be written here. Allowed: f32, f16, bf16, q8_0."),
        (("--from", "falcon:7b"), "this file holds the whole model"),
        (("--lora", "--base", "nf4"), "--lora writes the adapter alone, without a base"),
    ],
)
def test_wrong_options_are_refused_before_any_work(run, tmp_path, monkeypatch, options, reason):
    def work(*arguments, **settings):
        raise AssertionError("work was done")

    monkeypatch.setattr("falconer.model.export.merge.prepare_merge", work)
    result = falconer("gguf", "--run", run, "--out", tmp_path / "model.gguf", *options)
    assert result.code == 2 and reason in result.err and names(tmp_path) == []


def test_a_name_that_is_none_of_a_gguf_file(run, tmp_path):
    result = falconer("gguf", "--run", run, "--out", tmp_path / "model")
    assert result.code == 2 and "Give a name that ends in .gguf" in result.err


def test_models_that_gguf_can_not_hold_are_named(tmp_path):
    tokenizer, end_id = load_tokenizer("falcon-mini")
    config = OPTConfig(
        vocab_size=len(tokenizer), hidden_size=32, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2,
        word_embed_proj_dim=32, max_position_embeddings=64, bos_token_id=end_id, eos_token_id=end_id, pad_token_id=0,
    )  # fmt: skip
    OPTForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    save_adapter_on(tmp_path / "base", tmp_path / "adapter", target_modules=["q_proj"])
    result = falconer("gguf", "--adapter", tmp_path / "adapter", "--out", tmp_path / "out" / "model.gguf")
    assert result.code == 2 and "Models of type opt can't be written as GGUF here" in result.err
    assert not (tmp_path / "out").exists()


def test_a_layer_that_a_gguf_adapter_can_not_hold_is_named(tmp_path):
    base = save_tiny_model(tmp_path / "base", "falcon")
    save_adapter_on(base, tmp_path / "adapter", target_modules=["dense"], use_dora=True)
    result = falconer("gguf", "--adapter", tmp_path / "adapter", "--lora", "--out", tmp_path / "model.gguf")
    assert result.code == 2 and "llama.cpp can't apply this adapter: it is DoRA" in result.err
    assert "model.gguf" not in names(tmp_path)


@pytest.mark.parametrize(
    ("place", "is_new"),
    [("falconer.share.certificate.write_certificate", False), ("falconer.files.together._move", True)],
)
def test_killed_amid_its_files_all_are_of_one_export(run, tmp_path, place, is_new):
    out = tmp_path / "model.gguf"
    ok("gguf", "--run", run, "--out", out, "--type", "f32", "--persona", "I ski.", *QUICK)
    arguments = ["gguf", "--run", str(run), "--out", str(out), "--type", "f16", *QUICK]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, place, *arguments], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    shared = falconer(
        "share", "--run", run, "--repo", "me/mine", "--what", "gguf", "--export", out, "--dry-run", *ORIGIN,
        "--license", "mit",
    )  # fmt: skip
    assert shared.code == 0, shared.err
    assert names(tmp_path)[-3:] == ["model.Modelfile", "model.certificate.json", "model.gguf"]
    assert GgufFile(out).value("general.file_type") == int(is_new)
    assert read_certificate(tmp_path / "model.certificate.json").origin.format == ("f16" if is_new else "f32")
    assert ("I ski." in (tmp_path / "model.Modelfile").read_text()) != is_new
    with replace_file(tmp_path / "next") as aside:
        aside.write_text("new")
    assert not [name for name in names(tmp_path) if name.startswith(".") or name.endswith(".new")]


def test_a_modelfile_of_an_earlier_export_does_not_stay(run, tmp_path):
    out = tmp_path / "lora.gguf"
    ok("gguf", "--run", run, "--out", out, "--lora", "--from", "falcon:7b", *QUICK)
    ok("gguf", "--run", run, "--out", out, "--lora", "--type", "f16", *QUICK)
    assert names(tmp_path) == ["lora.certificate.json", "lora.gguf"]


def test_a_folder_in_the_place_of_a_file_is_refused_before_any_work(run, tmp_path):
    (tmp_path / "model.Modelfile").mkdir()
    result = falconer("gguf", "--run", run, "--out", tmp_path / "model.gguf", *QUICK)
    assert result.code == 2 and "model.Modelfile' can't be written: it exists and is not a file" in result.err


def test_a_full_disk_leaves_the_earlier_file(run, tmp_path, monkeypatch):
    out = tmp_path / "model.gguf"
    ok("gguf", "--run", run, "--out", out, "--type", "f32", "--no-measure")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*arguments, **settings):
        raise FalconerError("No space left on the disk for 'model.gguf'.")

    monkeypatch.setattr("falconer.model.export.gguf.write_gguf", full)
    result = falconer("gguf", "--run", run, "--out", out, "--type", "f16", "--no-measure")
    assert result.code == 2 and "No space left" in result.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
