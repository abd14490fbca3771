"""Does a checkpoint bring everything back, and is a damaged one refused with nothing changed?"""

import errno
import json
import shutil

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from falconer.errors import FalconerError
from falconer.files.replace import sha256
from falconer.model.load import load_model
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.run.manifest import write_folder_manifest
from falconer.train import checkpoint as state
from falconer.train.checkpoint import OPTIMIZER, STATE, WEIGHTS, Progress, load_checkpoint, save_checkpoint

PROGRESS = Progress(step=7, epoch=1, position=2, best_loss=3.25, best_step=6, stale_validations=1, trained_s=1.5)


def fresh(small, targets="query_key_value", r=4):
    base = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu")
    model = add_adapter(base.model, r=r, alpha=8, dropout=0.0, targets=targets, seed=17)
    return model, torch.optim.AdamW(list(trainable_tensors(model).values()), lr=1e-2)


def one_step(model, optimizer):
    for number, parameter in enumerate(trainable_tensors(model).values()):
        parameter.grad = torch.full_like(parameter, 0.1 + number)
    optimizer.step()


def values(model):
    return {name: parameter.detach().clone() for name, parameter in trainable_tensors(model).items()}


def same(model, expected):
    return all(torch.equal(values(model)[name], tensor) for name, tensor in expected.items())


@pytest.fixture
def saved(small, tmp_path):
    model, optimizer = fresh(small)
    one_step(model, optimizer)
    save_checkpoint(tmp_path / "last", model, optimizer, PROGRESS)
    return model, optimizer, tmp_path / "last"


def test_what_comes_back_goes_on_like_the_original(small, saved):
    model, optimizer, folder = saved
    again, again_optimizer = fresh(small)
    assert load_checkpoint(folder, again, again_optimizer) == PROGRESS
    assert same(again, values(model))
    for _ in range(2):
        one_step(model, optimizer)
        one_step(again, again_optimizer)
    assert same(again, values(model))


def test_before_the_first_step_there_is_no_optimiser_state_yet(small, tmp_path):
    model, optimizer = fresh(small)
    save_checkpoint(tmp_path / "last", model, optimizer, Progress())
    again, again_optimizer = fresh(small)
    assert load_checkpoint(tmp_path / "last", again, again_optimizer) == Progress()
    one_step(model, optimizer)
    one_step(again, again_optimizer)
    assert same(again, values(model))


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def no_json(path):
    path.write_text("{not json")


def no_object(path):
    path.write_text("[]")


def no_progress(path):
    path.write_text(json.dumps({"has_manifest": True}))


def strange_progress(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"progress": {"steps": 3}}))


def binary(path):
    path.write_bytes(b"\xff\xfe\x00\x80")


def remove(path):
    path.unlink()


def make_folder(path):
    path.unlink()
    path.mkdir()


def not_safetensors(path):
    """A file that is whole as far as its hash says, and no weights."""
    path.write_text("no weights at all")
    write_folder_manifest(path.parent)


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        (WEIGHTS, truncate, f"is damaged: the hash of {WEIGHTS} differs"),
        (WEIGHTS, flip_a_byte, f"is damaged: the hash of {WEIGHTS} differs"),
        (WEIGHTS, remove, f"no checkpoint to resume .*{WEIGHTS} is missing"),
        (WEIGHTS, not_safetensors, "is damaged"),
        (OPTIMIZER, truncate, f"is damaged: the hash of {OPTIMIZER} differs"),
        (OPTIMIZER, flip_a_byte, f"is damaged: the hash of {OPTIMIZER} differs"),
        (OPTIMIZER, remove, f"no checkpoint to resume .*{OPTIMIZER} is missing"),
        (OPTIMIZER, make_folder, "can't be read: Is a directory"),
        (STATE, no_json, "is damaged"),
        (STATE, no_object, "is damaged"),
        (STATE, no_progress, "is damaged"),
        (STATE, strange_progress, "is damaged"),
        (STATE, binary, "is damaged"),
        (STATE, truncate, "is damaged"),
        (STATE, remove, f"no checkpoint to resume .*{STATE} is missing"),
    ],
)
def test_damage_is_named_and_nothing_is_changed(small, saved, name, damage, said):
    folder = saved[2]
    damage(folder / name)
    model, optimizer = fresh(small)
    before = values(model)
    with pytest.raises(FalconerError, match=said) as error:
        load_checkpoint(folder, model, optimizer)
    assert "--run" in error.value.hint
    assert same(model, before) and not optimizer.state


@pytest.mark.parametrize(("targets", "r"), [("query_key_value", 8), ("all-linear", 4), ("dense", 4)])
def test_a_checkpoint_of_another_adapter_is_refused(small, saved, targets, r):
    model, optimizer = fresh(small, targets, r)
    before = values(model)
    with pytest.raises(FalconerError, match="belongs to another adapter"):
        load_checkpoint(saved[2], model, optimizer)
    assert same(model, before)


def test_a_checkpoint_that_holds_more_is_refused_too(small, tmp_path):
    model, optimizer = fresh(small, "all-linear")
    save_checkpoint(tmp_path / "last", model, optimizer, Progress())
    with pytest.raises(FalconerError, match="belongs to another adapter"):
        load_checkpoint(tmp_path / "last", *fresh(small))


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_a_full_disk_leaves_the_checkpoint_before_whole(small, saved, monkeypatch, error):
    model, optimizer, folder = saved
    before = values(model)
    one_step(model, optimizer)

    def full(tensors, path):
        path.write_bytes(b"the beginning of a file")
        raise error

    monkeypatch.setattr(state, "save_file", full)
    with pytest.raises(FalconerError, match="No space left on the disk.*unchanged.*--resume"):
        save_checkpoint(folder, model, optimizer, Progress(step=8))
    assert [path.name for path in folder.parent.iterdir()] == ["last"]
    again, again_optimizer = fresh(small)
    assert load_checkpoint(folder, again, again_optimizer) == PROGRESS
    assert same(again, before)


def test_a_checkpoint_is_safetensors_and_json(saved):
    assert {path.suffix for path in saved[2].iterdir()} == {".safetensors", ".json", ".md"}


def snapshot(run):
    return {path.relative_to(run): sha256(path) for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize(("name", "damage"), [(WEIGHTS, truncate), (OPTIMIZER, flip_a_byte), (STATE, remove)])
def test_resuming_from_damage_ends_in_one_line_and_overwrites_nothing(finished, falconer, tmp_path, name, damage):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    damage(run / "checkpoints" / "last" / name)
    before = snapshot(run)
    code, err = falconer("train", "--run", str(run), "--resume")
    assert code == 2
    assert err.startswith("falconer: ") and err.count("\n") == 1 and name in err
    assert snapshot(run) == before


def test_an_adapter_of_another_shape_in_the_run_ends_in_one_line(finished, falconer, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    last = run / "checkpoints" / "last"
    save_file({name: tensor[:2].contiguous() for name, tensor in load_file(last / WEIGHTS).items()}, last / WEIGHTS)
    write_folder_manifest(last)
    before = snapshot(run)
    code, err = falconer("train", "--run", str(run), "--resume")
    assert code == 2 and err.count("\n") == 1 and "belongs to another adapter" in err
    assert snapshot(run) == before
