"""Which settings must not change a run's numbers, and which one fixes them all?"""

import json

import pytest
import torch
from safetensors.torch import load_file

from falconer.data.sources import load_dialogues, write_dialogues
from falconer.model.lora import add_adapter
from falconer.train import job
from same_dropout import draw_as_falconer
from small_runs import exact, steps, validations


def losses(run):
    return [row["loss"] for row in steps(run)] + [row["valid_loss"] for row in validations(run)]


def adapter(run):
    return load_file(run / "checkpoints" / "last" / "adapter_model.safetensors")


def record(run):
    return json.loads((run / "run.json").read_text())


def assert_same(run, other, tolerance=1e-5):
    assert len(losses(run)) == len(losses(other)) > 6
    assert losses(run) == pytest.approx(losses(other), abs=tolerance)
    for name, tensor in adapter(run).items():
        torch.testing.assert_close(tensor, adapter(other)[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize("micro_tokens", [1, 150])
def test_micro_batches_change_nothing_through_the_command_line(small, falconer, tmp_path, micro_tokens):
    arguments = small.arguments(tmp_path / "cut", f"train.micro_tokens={micro_tokens}")
    assert falconer(*arguments)[0] == 0
    assert falconer(*small.arguments(tmp_path / "whole"))[0] == 0
    assert_same(tmp_path / "cut", tmp_path / "whole")


@pytest.mark.parametrize("objective", ["lm", "lm+ranking"])
def test_the_partners_turns_are_learned_too_if_that_is_set(small, falconer, tmp_path, objective):
    both = ("data.learned_turns=both", f"train.objective={objective}")
    assert falconer(*small.arguments(tmp_path / "whole", *both))[0] == 0
    assert falconer(*small.arguments(tmp_path / "cut", *both, "train.micro_tokens=150"))[0] == 0
    assert_same(tmp_path / "cut", tmp_path / "whole")
    small.run(tmp_path / "self", f"train.objective={objective}")
    whole, alone = steps(tmp_path / "whole"), steps(tmp_path / "self")
    assert [row["tokens"] for row in whole] == [row["tokens"] for row in alone]
    assert all(1.5 * row["target_tokens"] < other["target_tokens"] for row, other in zip(alone, whole, strict=True))
    assert any("data.learned_turns=both" in note for note in record(tmp_path / "whole")["notes"])


@pytest.mark.parametrize("path", ["auto", "generic"])
def test_lean_memory_changes_nothing(small, finished, tmp_path, path):
    small.run(tmp_path / "run", "train.memory=lean", f"model.path={path}")
    assert_same(tmp_path / "run", finished, tolerance=1e-6)


@pytest.mark.parametrize(("memory", "passes"), [("lean", 2), ("fast", 1)])
def test_lean_memory_runs_each_layer_of_the_generic_path_again(small, tmp_path, monkeypatch, memory, passes):
    calls = []

    def watched(*args, **options):
        model = add_adapter(*args, **options)
        norm = model.get_base_model().transformer.h[0].input_layernorm
        norm.register_forward_hook(lambda module, *_: calls.append(1) if torch.is_grad_enabled() else None)
        return model

    monkeypatch.setattr(job, "add_adapter", watched)
    small.run(tmp_path, f"train.memory={memory}", "model.path=generic", "train.max_steps=3")
    # Before its three steps a run looks once whether every trainable tensor gets a gradient.
    assert len(calls) == (1 + 3) * passes


@pytest.mark.parametrize("path", ["auto", "generic"])
def test_lean_memory_recomputes_with_the_same_dropout(small, tmp_path, path):
    small.run(tmp_path / "run", "train.memory=lean", f"model.path={path}", "lora.dropout=0.3")
    small.run(tmp_path / "kept", f"model.path={path}", "lora.dropout=0.3")
    assert_same(tmp_path / "run", tmp_path / "kept", tolerance=1e-6)


@pytest.mark.parametrize("targets", ["query_key_value", "all-linear"])
def test_falcons_own_pass_trains_as_the_models_own_does(small, tmp_path, targets, monkeypatch):
    """With the same dropout, drawn in the same order, in 4 bits."""
    draw_as_falconer(monkeypatch)
    settings = ("model.quantization=nf4", f"lora.targets={targets}", "lora.dropout=0.1")
    for path in ("auto", "generic"):
        small.run(tmp_path / path, f"model.path={path}", *settings)
    assert losses(tmp_path / "auto") == pytest.approx(losses(tmp_path / "generic"), abs=1e-5)
    assert_same(tmp_path / "auto", tmp_path / "generic", tolerance=1e-4)


def test_the_quickstarts_losses_are_the_generic_paths(falconer, tmp_path, monkeypatch):
    """falcon-mini on real dialogues, with dropout, through the command line: six steps of the quickstart."""
    draw_as_falconer(monkeypatch)
    some = load_dialogues("persona-chat-sample", split="validation").dialogues[:12]
    write_dialogues(some, tmp_path / "valid.jsonl")
    for path in ("auto", "generic"):
        arguments = [
            "train", "--preset", "quickstart", "--run", str(tmp_path / path), "train.max_steps=6",
            f"data.valid={tmp_path / 'valid.jsonl'}", "train.step_tokens=350",
            "data.max_tokens=256", "data.max_dialogues=100", "model.dtype=fp32",
            "train.validate_every=6", f"model.path={path}",
        ]  # fmt: skip
        code, err = falconer(*arguments)
        assert code == 0 and f"path    {'fast' if path == 'auto' else 'generic'}: " in err
    assert losses(tmp_path / "auto") == pytest.approx(losses(tmp_path / "generic"), abs=1e-4)


def test_the_seed_alone_fixes_a_run(small, tmp_path):
    runs = [tmp_path / name for name in ("first", "second", "third")]
    for run, seed in zip(runs, (17, 17, 18), strict=True):
        torch.manual_seed(len(run.name))  # whatever the process drew before
        small.run(run, f"train.seed={seed}", "lora.dropout=0.05")
    first, second, third = runs
    assert exact(first) == exact(second)
    assert all(torch.equal(adapter(first)[name], tensor) for name, tensor in adapter(second).items())
    assert losses(first) != losses(third)
    assert record(first)["initial_adapter_sha256"] == record(second)["initial_adapter_sha256"]
    assert record(first)["initial_adapter_sha256"] != record(third)["initial_adapter_sha256"]


def test_the_initial_adapter_depends_on_nothing_else(small, finished, tmp_path):
    small.run(tmp_path / "run", "train.learning_rate=1e-4", "train.step_tokens=120", "train.max_steps=1",
              "data.max_dialogues=5", "lora.dropout=0.1")  # fmt: skip
    assert record(tmp_path / "run")["initial_adapter_sha256"] == record(finished)["initial_adapter_sha256"]


def test_dropout_differs_from_step_to_step_and_from_rank_to_rank():
    seeds = {job.mixed_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(4)}
    assert len(seeds) == 3 * 50 * 4
