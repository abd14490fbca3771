"""Which adapter is kept as the best, when does a run end before its last step, and what if memory runs out?"""

import io
import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from falconer.errors import FalconerError
from falconer.model.lora import trainable_tensors
from falconer.train import job, loop
from falconer.train.objectives import lm
from small_runs import exact, steps, validations


@pytest.fixture
def scripted(monkeypatch):
    """Let validations return given losses, and remember the adapter at each."""

    def script(*losses):
        seen = []

        def validation_terms(objective, forward, *_):
            tensors = trainable_tensors(forward.model).items()
            seen.append({name: tensor.detach().clone() for name, tensor in tensors})
            return [losses[len(seen) - 1]]

        monkeypatch.setattr(job, "validation_terms", validation_terms)
        return seen

    return script


def holds(folder, adapter):
    saved = load_file(folder / "adapter_model.safetensors")
    return all(torch.equal(saved[name.replace(".default", "")], tensor) for name, tensor in adapter.items())


def test_best_and_last_are_kept_apart(small, tmp_path, scripted):
    seen = scripted(3.0, 2.0, 2.5)
    result = small.run(tmp_path, "train.validate_every=2", "train.patience=9")
    assert result.ended == "finished" and result.progress.step == 6
    assert (result.progress.best_loss, result.progress.best_step) == (2.0, 4)
    assert holds(tmp_path / "adapter", seen[1]) and holds(tmp_path / "checkpoints" / "last", seen[2])
    assert not holds(tmp_path / "adapter", seen[2])


def test_a_run_ends_after_so_many_validations_without_a_better_loss(small, tmp_path, scripted):
    seen = scripted(3.0, 2.0, 2.5, 2.0, 1.0)
    result = small.run(tmp_path, "train.validate_every=1", "train.patience=2", "train.save_every=6")
    # An equal loss is no better one.
    assert result.ended == "early" and result.progress.step == 4
    assert holds(tmp_path / "adapter", seen[1]) and holds(tmp_path / "checkpoints" / "last", seen[3])
    assert len(steps(tmp_path)) == len(validations(tmp_path)) == 4


def test_a_better_loss_starts_the_count_again(small, tmp_path, scripted):
    scripted(3.0, 3.1, 2.9, 3.1, 2.8, 3.1)
    assert small.run(tmp_path, "train.validate_every=1", "train.patience=2").ended == "finished"


def test_a_run_that_ended_early_stays_ended(small, tmp_path, scripted, falconer):
    overrides = ("train.validate_every=1", "train.patience=1")
    scripted(3.0, 3.1)
    small.run(tmp_path, *overrides)
    before = exact(tmp_path)
    code, err = falconer("train", "--run", str(tmp_path), "--resume")
    assert code == 0 and "Stopped early after 2 steps: no better validation loss than 3.0000 at step 1." in err
    assert exact(tmp_path) == before


@pytest.mark.parametrize(("asked", "expected"), [("4", [4, 6]), ("10", [6])])
def test_validations_come_when_asked_for_and_at_the_end(small, tmp_path, asked, expected):
    small.run(tmp_path, "train.patience=9", f"train.validate_every={asked}")
    assert [row["step"] for row in validations(tmp_path)] == expected


def test_by_default_there_are_four_validations_an_epoch(small, tmp_path):
    # Steps so small that 20 are about one of the 20 epochs.
    small.run(tmp_path, "train.validate_every=null", "train.step_tokens=120", "train.max_steps=20", "train.patience=9")
    assert 0.8 < steps(tmp_path)[-1]["epoch"] < 1.2
    assert [row["step"] for row in validations(tmp_path)] == [5, 10, 15, 20]


def test_a_real_run_that_gets_worse_keeps_its_best(small, tmp_path):
    """Nothing scripted: at such a rate the validation loss turns."""
    result = small.run(tmp_path, "train.learning_rate=0.3", "train.validate_every=1", "train.max_steps=20")
    losses = [row["valid_loss"] for row in validations(tmp_path)]
    assert result.ended == "early" and len(losses) < 20
    assert min(losses) == result.progress.best_loss == losses[-4]
    state = json.loads((tmp_path / "checkpoints" / "last" / "state.json").read_text())["progress"]
    assert state["best_step"] == len(losses) - 3 and state["stale_validations"] == 3


@pytest.fixture
def small_memory(monkeypatch):
    """Let a pass run out of memory if its batch has more tokens than `limit`; the test sets that."""
    limits = {"limit": 0, "count": 0}
    before = lm.nll_sum

    def watched(model, batch, **options):
        if torch.is_grad_enabled() and batch.ids.size > limits["limit"]:
            limits["count"] += 1
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return before(model, batch, **options)

    monkeypatch.setattr(lm, "nll_sum", watched)
    return limits


def test_a_step_that_runs_out_of_memory_goes_on_with_half_the_micro_batch(small, finished, tmp_path, small_memory):
    small_memory["limit"] = 300
    shown = io.StringIO()
    config = small.config()
    loop.train(config, tmp_path / "run", resume=False, console=Console(file=shown, width=200))
    assert (
        shown.getvalue().count("out of memory: continuing with micro-batches of 200 tokens; the result is the same")
        == 1
    )
    assert small_memory["count"] == 1
    expected, found = steps(finished), steps(tmp_path / "run")
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], abs=1e-5)
    assert [row["tokens"] for row in found] == [row["tokens"] for row in expected]


def test_running_out_of_memory_a_second_time_ends_the_run_and_saves_it(small, tmp_path, small_memory):
    small_memory["limit"] = 60
    with pytest.raises(FalconerError, match="ran out of memory at step 1 even with 200 tokens.*train.memory=lean"):
        small.run(tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "last").is_dir()
