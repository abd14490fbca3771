"""Do two processes train what one does, and does what goes wrong in one of them reach its user, once?"""

import re

import pytest
import torch
from safetensors.torch import load_file

from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.model.load import load_model
from falconer.run.folder import read_record
from falconer.train import setup
from falconer.train.ranks import Ranks
from falconer.train.steps import plan_steps
from small_runs import TWO_RANKS, command, steps, two_nodes, validations


def test_two_gloo_ranks_equal_one(small, tmp_path):
    # So small a budget that some steps hold a single dialogue: then one rank has nothing to do.
    overrides = ("train.step_tokens=120", "train.micro_tokens=60", "train.max_steps=12", "train.validate_every=6")
    two = command(small.arguments(tmp_path / "two", *overrides), launcher=TWO_RANKS)
    small.run(tmp_path / "one", *overrides)
    config = small.config(*overrides)
    base = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu")
    examples = setup.encode_splits(setup.load_dialogues(config), base, config, PromptFormat())
    sizes = [len(step.dialogues) for step in plan_steps(examples.lengths, config.train)]
    assert min(sizes) == 1 < max(sizes)

    out, err = two.communicate(timeout=240)
    assert two.returncode == 0, err
    check_same_training(tmp_path / "one", tmp_path / "two", 12)
    # Only the first rank writes and speaks.
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
    assert len(re.findall("^Done after 12 steps", err, re.MULTILINE)) == 1
    assert err.count("step 6  validation loss") == 1 and not out


def check_same_training(one, other, num_steps):
    """Check that two runs had the same losses and left the same adapter, up to the order of sums."""
    rows, other_rows = steps(one), steps(other)
    assert len(rows) == len(other_rows) == num_steps
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in other_rows] == pytest.approx([row[key] for row in rows], rel=1e-5)
    for key in ("lr", "target_tokens", "tokens", "epoch"):
        assert [row[key] for row in other_rows] == [row[key] for row in rows]
    losses = [[row["valid_loss"] for row in validations(run)] for run in (one, other)]
    assert losses[0] and losses[0] == pytest.approx(losses[1], rel=1e-5)
    for folder in ("adapter", "checkpoints/last"):
        expected = load_file(one / folder / "adapter_model.safetensors")
        found = load_file(other / folder / "adapter_model.safetensors")
        assert expected.keys() == found.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)


def test_two_nodes_of_two_ranks_equal_one_process(small, tmp_path):
    overrides = ("train.step_tokens=240", "train.micro_tokens=60", "train.max_steps=4", "train.validate_every=2")
    (first, out, err), (second, other_out, other_err) = two_nodes(small.arguments(tmp_path / "four", *overrides))
    assert first == second == 0, err + other_err
    small.run(tmp_path / "one", *overrides)
    check_same_training(tmp_path / "one", tmp_path / "four", 4)
    assert read_record(tmp_path / "four")["num_ranks"] == 4
    # The first node alone writes and speaks.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["four", "one"]
    assert len(list((tmp_path / "four" / "tensorboard").iterdir())) == 1
    assert len(re.findall("^Done after 4 steps", err, re.MULTILINE)) == 1
    assert not out and not other_out and "step" not in other_err, other_err


def falconer_lines(err):
    return [line for line in err.splitlines() if "falconer: " in line]


def test_what_all_ranks_get_wrong_is_said_once(small, tmp_path):
    """Before torch is loaded, and after the model is: the first rank speaks, the launcher ends the others."""
    for override, message in (
        ("train.learning_rat=1", "falconer: Unknown key 'train.learning_rat'"),
        ("lora.targets=q_proj", "falconer: lora.targets names 'q_proj'"),
    ):
        _, err = finished_command(small.arguments(tmp_path / "run", override))
        assert [line.startswith(message) for line in falconer_lines(err)] == [True], err
        assert not tracebacks(err)
    assert not (tmp_path / "run").exists()


def test_what_all_nodes_get_wrong_is_said_once_by_each(small, tmp_path):
    nodes = two_nodes(small.arguments(tmp_path / "run", "train.learning_rat=1"))
    for (code, _, err), start in zip(nodes, ("", "rank 2: "), strict=True):
        (line,) = falconer_lines(err)
        assert code != 0 and line.startswith(f"falconer: {start}Unknown key 'train.learning_rat'"), err


def test_what_the_first_rank_alone_refuses_is_said_once(small, finished):
    _, err = finished_command(small.arguments(finished))
    assert len(falconer_lines(err)) == 1 and "already contains a run" in err, err
    assert not tracebacks(err)


FAILS_ALONE = """
import sys
import torch
from falconer import cli, launcher
from falconer.train import job

launcher.PATIENCE_S = 2.0
real, calls = job.accumulate_gradient, []

def run_out(*arguments):
    calls.append(1)
    if launcher.rank() == {rank} and len(calls) == 2:
        raise job.FalconerError("This rank alone has no more memory.", "Try again.")
    return real(*arguments)

job.accumulate_gradient = run_out
cli.main()
"""


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_that_one_rank_has_alone_is_not_lost(small, tmp_path, rank):
    """The other one waits in a sum that will never come; it must not be the only one that says something."""
    script = tmp_path / "fails_alone.py"
    script.write_text(FAILS_ALONE.format(rank=rank))
    code, err = finished_command(small.arguments(tmp_path / "run"), module=str(script))
    who = "" if rank == 0 else "rank 1: "
    assert code != 0
    assert len([line for line in falconer_lines(err) if "alone has no more memory" in line]) == 1, err
    assert f"falconer: {who}This rank alone has no more memory. Try again." in err
    assert not tracebacks(err), err
    assert len(steps(tmp_path / "run")) == 1


def test_a_loss_that_is_no_number_on_one_rank_names_that_ranks_dialogues(small, tmp_path):
    script = tmp_path / "no_number.py"
    script.write_text(
        "import torch\nfrom falconer import cli, launcher\nfrom falconer.train.objectives import lm\n"
        "real, calls = lm.nll_sum, []\n"
        "def broken(model, batch, **options):\n"
        "    calls.append(batch.dialogue_ids)\n"
        "    is_bad = launcher.rank() == 1 and torch.is_grad_enabled() and len(calls) > 4\n"
        "    if is_bad:\n        print('broken', *batch.dialogue_ids)\n"
        "    return real(model, batch, **options) * (float('nan') if is_bad else 1)\n"
        "lm.nll_sum = broken\ncli.main()\n"
    )
    command_line = small.arguments(tmp_path / "run", "train.micro_tokens=100", "train.validate_every=6")
    code, err, out = finished_command(command_line, module=str(script), with_out=True)
    (line,) = falconer_lines(err)
    broken = {name for row in out.splitlines() if row.startswith("broken") for name in row.split()[1:]}
    assert code != 0 and broken and all(name in line for name in broken), (line, broken)
    named = set(re.findall(r"train-\d+", line))
    assert named and named < {f"train-{number}" for number in range(24)}
    assert "not finite" in line and "learning_rate" in line and not tracebacks(err)


def test_the_group_of_ranks_is_closed_at_the_end(small, tmp_path):
    """torch warns of a group that is still open when the process ends; here the group itself is asked."""
    script = tmp_path / "closed.py"
    script.write_text(
        "import atexit, sys\nfrom torch import distributed\nfrom falconer import cli\n"
        "atexit.register(lambda: print('open' if distributed.is_initialized() else 'closed'))\ncli.main()\n"
    )
    code, err, out = finished_command(
        small.arguments(tmp_path / "run", "train.max_steps=1"), module=str(script), with_out=True
    )
    assert code == 0, err
    assert out.count("closed") == 2 and "open" not in out


def tracebacks(err):
    """Return Python's own tracebacks of a rank; the launcher prints one of itself, with the name of what it started."""
    return [block for block in err.split("Traceback (most recent call last):")[1:] if "src/falconer/" in block]


def finished_command(arguments, module="falconer", with_out=False):
    """Run the command with two gloo ranks to its end; return its exit code and what it printed."""
    launcher = TWO_RANKS if module == "falconer" else (*TWO_RANKS[:-2], "--")
    process = command(arguments, launcher=launcher, name=module)
    out, err = process.communicate(timeout=240)
    return (process.returncode, err, out) if with_out else (process.returncode, err)


@pytest.mark.parametrize("text", ["", "a", "zwölf Hörner 🦄"])
def test_one_rank_alone_sends_nothing(text):
    alone = Ranks(torch.device("cpu"))
    assert (alone.number, alone.count, alone.is_first) == (0, 1, True)
    values = torch.tensor([1.5, -2.0], dtype=torch.float64)
    assert alone.sum(values) is values and alone.any(True) and not alone.any(False)
    assert alone.texts(text) == [text]
    alone.wait()


def test_a_rank_that_has_ended_is_an_error_with_a_way_on(monkeypatch):
    alone = Ranks(torch.device("cpu"))

    def reset():
        raise RuntimeError("Connection closed by peer [127.0.0.1]:4711\nmore")

    monkeypatch.setattr(alone._accelerator, "wait_for_everyone", reset)
    with pytest.raises(FalconerError, match=r"Another rank has ended.*4711\).*--resume"):
        alone.wait()

    def no_memory():
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(alone._accelerator, "wait_for_everyone", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        alone.wait()
