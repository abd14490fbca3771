"""`falconer merge` as users run it: what it prints, writes and refuses, and that nothing is lost if it stops."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import falconer, ok
from exported import save_adapter_on
from falconer.errors import FalconerError
from falconer.files.replace import replace_folder
from falconer.run.folder import read_config
from falconer.share.certificate import check_hashes, read_certificate
from small_runs import Small
from tiny import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = ("--conversations", "2", "--replies", "2")
LEAST = ("--conversations", "1", "--replies", "0")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a tiny Falcon in NF4."""
    folder = tmp_path_factory.mktemp("merge")
    small = Small(folder)
    small.run(folder / "run", "model.quantization=nf4", "train.max_steps=2", "train.learning_rate=0.05")
    return folder / "run"


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_that_was_copied_elsewhere_is_merged_into_its_4_bit_base(run, tmp_path):
    shutil.copytree(run, tmp_path / "copied")
    result = ok("merge", "--run", tmp_path / "copied", "--out", tmp_path / "out", *QUICK)
    for part in ("adapter as trained (reference)", "this export: merged weights", "adapter on the base as stored",
                 "base without the adapter", "Token ids: 2 of 2", f"Merged: {tmp_path / 'out'}"):  # fmt: skip
        assert part in result.out
    found = read_certificate(tmp_path / "out" / "certificate.json")
    check_hashes(tmp_path / "out", found)
    assert found.origin.base_form == found.origin.trained_on == "nf4" and found.origin.format == "float32"
    assert found.measured.replies.identical.value == 100
    assert found.measured.export.kl.value < found.measured.others["bf16"].kl.value < found.measured.base.kl.value
    assert str(tmp_path) not in (tmp_path / "out" / "certificate.json").read_text()


def test_a_base_that_has_changed_since_training_is_refused(run, tmp_path):
    base = Path(read_config(run).model.name) / "model.safetensors"
    before = base.read_bytes()
    try:
        base.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
        for command in (("merge", "--out", tmp_path / "out", "--no-measure"), ("certify", "--out", tmp_path / "c.json"),
                        ("gguf", "--out", tmp_path / "out.gguf", "--type", "f16", "--no-measure")):  # fmt: skip
            result = falconer(command[0], "--run", run, *command[1:])
            assert result.code == 2 and "model.safetensors" in result.err and "train again" in result.err, result.err
        assert list(tmp_path.iterdir()) == []
    finally:
        base.write_bytes(before)


def test_the_other_form_on_request_as_json(run, tmp_path):
    result = ok("merge", "--run", run, "--out", tmp_path / "out", "--base", "bf16", "--json", *QUICK)
    found = json.loads(result.out)
    assert found["version"] == 1 and found["origin"]["base_form"] == "bf16" and found["measured"]["others"] == {}


def test_an_adapter_that_no_run_is_known_of(tmp_path):
    base = save_tiny_model(tmp_path / "base", "llama")
    save_adapter_on(base, tmp_path / "adapter", target_modules=["q_proj"])
    arguments = ("merge", "--adapter", tmp_path / "adapter", "--out", tmp_path / "out", "--no-measure")
    assert "Drift and replies: not measured" in ok(*arguments).out
    found = read_certificate(tmp_path / "out" / "certificate.json")
    assert found.origin.trained_on is None and found.origin.base_form == "bf16" and found.measured is None
    # A later export takes its place.
    ok(*arguments, "--model", base, "--dtype", "bf16")
    assert read_certificate(tmp_path / "out" / "certificate.json").origin.format == "bfloat16"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--base", "int8"), "--base int8 is not allowed. Allowed: auto, bf16, nf4."),
        (("--dtype", "fp16"), "--dtype fp16 is not allowed."),
        (("--device", "tpu"), "--device tpu is not allowed."),
        (("--model", "falcon-mini"), "--model is for the adapter of another program"),
        (("--adapter", "checkpoints/none"), "has no folder 'checkpoints/none'"),
    ],
)
def test_wrong_options_are_refused(run, tmp_path, options, reason):
    result = falconer("merge", "--run", run, "--out", tmp_path / "out", *options)
    assert result.code == 2 and reason in result.err and result.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_folders_with_other_files_are_left_alone(run, tmp_path):
    for out in (run, run / "adapter"):
        before = sorted(os.listdir(out))
        result = falconer("merge", "--run", run, "--out", out)
        assert result.code == 2 and "contains other files" in result.err and sorted(os.listdir(out)) == before
    (tmp_path / "file").write_text("mine")
    result = falconer("merge", "--run", run, "--out", tmp_path / "file")
    assert result.code == 2 and "is not a folder" in result.err and (tmp_path / "file").read_text() == "mine"


def test_a_variant_that_can_not_be_merged_is_named(tmp_path):
    base = save_tiny_model(tmp_path / "base", "falcon")
    save_adapter_on(base, tmp_path / "adapter", target_modules=["dense"])
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": "pissa"}))
    result = falconer("merge", "--adapter", tmp_path / "adapter", "--out", tmp_path / "out")
    assert result.code == 2 and 'init_lora_weights="pissa"' in result.err and not (tmp_path / "out").exists()


def test_an_export_that_lost_the_tune_is_not_written_unless_it_is_forced(run, tmp_path, monkeypatch):
    """Merged into random weights, as if the wrong base had been taken."""
    from falconer.model.export import merge

    other = save_tiny_model(tmp_path / "other", "falcon")
    save_adapter_on(other, tmp_path / "wrong", target_modules=["query_key_value", "dense"], lora_alpha=4000)
    real = merge.prepare_merge

    def spoiled(model, adapter, **settings):
        settings["format"] = None
        return real(str(other), tmp_path / "wrong", **settings)

    ok("merge", "--run", run, "--out", tmp_path / "out", "--no-measure")
    before = content(tmp_path / "out")
    monkeypatch.setattr(merge, "prepare_merge", spoiled)
    result = falconer("merge", "--run", run, "--out", tmp_path / "out", *LEAST)
    assert result.code == 2 and "Nothing was written: its drift is larger than the tune's own effect" in result.err
    assert content(tmp_path / "out") == before
    forced = ok("merge", "--run", run, "--out", tmp_path / "out", "--force", *LEAST)
    assert "--force, although its drift" in forced.out
    assert read_certificate(tmp_path / "out" / "certificate.json").is_forced


# The process ends itself at the N-th call of a function, as if it had been killed there.
KILLED = """
import os, signal, sys
from importlib import import_module
from falconer import cli
module, name = sys.argv[1].rsplit(".", 1)
real = getattr(import_module(module), name)
def killed(*arguments, **settings):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(import_module(module), name, killed)
sys.argv = ["falconer", *sys.argv[2:]]
cli.main()
"""
PHASES = ("falconer.share.certificate_making.load_model", "falconer.files.replace._exchange")


@pytest.mark.parametrize("phase", PHASES)
def test_killed_at_any_phase_the_earlier_export_stays(run, tmp_path, phase):
    arguments = ["merge", "--run", str(run), "--out", str(tmp_path / "out"), "--no-measure"]
    if phase.endswith("load_model"):
        arguments = [*arguments[:-1], *LEAST]
    ok("merge", "--run", run, "--out", tmp_path / "out", "--base", "bf16", "--no-measure")
    before = content(tmp_path / "out")
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", KILLED, phase, *arguments], env=environment, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert content(tmp_path / "out") == before
    # The next writer removes what the killed one left.
    with replace_folder(tmp_path / "next") as aside:
        (aside / "file").write_text("new")
    assert sorted(os.listdir(tmp_path)) == ["next", "out"]


def test_a_full_disk_while_the_certificate_is_written(run, tmp_path, monkeypatch):
    ok("merge", "--run", run, "--out", tmp_path / "out", "--base", "bf16", "--no-measure")
    before = content(tmp_path / "out")

    def full(path, certificate):
        raise FalconerError("No space left on the disk for 'out'.")

    monkeypatch.setattr("falconer.share.certificate.write_certificate", full)
    result = falconer("merge", "--run", run, "--out", tmp_path / "out", "--no-measure")
    assert result.code == 2 and "No space left" in result.err and content(tmp_path / "out") == before
    assert os.listdir(tmp_path) == ["out"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_can_not_be_written_to(run, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    result = falconer("merge", "--run", run, "--out", tmp_path / "locked" / "out")
    assert result.code == 2 and "permission to write" in result.err
