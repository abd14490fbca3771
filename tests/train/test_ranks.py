"""Do two processes train what one does?"""

import re

import pytest
import torch
from safetensors.torch import load_file

from falconer.data.prompt import PromptFormat
from falconer.model.load import load_model
from falconer.train import setup
from small_runs import command, steps, validations

LAUNCHER = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "--")


def test_two_gloo_ranks_equal_one(small, tmp_path):
    # So small a budget that some steps hold a single dialogue: then one rank has nothing to do.
    overrides = ("train.step_tokens=120", "train.micro_tokens=60", "train.max_steps=12", "train.validate_every=6")
    two = command(small.arguments(tmp_path / "two", *overrides), launcher=LAUNCHER)
    small.run(tmp_path / "one", *overrides)
    config = small.config(*overrides)
    base = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu")
    examples = setup.encode_splits(setup.load_dialogues(config), base, config, PromptFormat())
    sizes = [len(step) for _, _, step in setup.plan_steps(examples.lengths, config)]
    assert min(sizes) == 1 < max(sizes)

    out, err = two.communicate(timeout=240)
    assert two.returncode == 0, err
    one, two_rows = steps(tmp_path / "one"), steps(tmp_path / "two")
    assert len(one) == len(two_rows) == 12
    for key in ("loss", "grad_norm"):
        assert [row[key] for row in two_rows] == pytest.approx([row[key] for row in one], rel=1e-5)
    for key in ("lr", "target_tokens", "tokens", "epoch"):
        assert [row[key] for row in two_rows] == [row[key] for row in one]
    losses = [[row["valid_loss"] for row in validations(tmp_path / name)] for name in ("one", "two")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for folder in ("adapter", "checkpoints/last"):
        expected = load_file(tmp_path / "one" / folder / "adapter_model.safetensors")
        found = load_file(tmp_path / "two" / folder / "adapter_model.safetensors")
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5)

    # Only the first rank writes and speaks.
    assert len(list((tmp_path / "two" / "tensorboard").iterdir())) == 1
    assert len(re.findall("^Done after 12 steps", err, re.MULTILINE)) == 1
    assert err.count("step 6  validation loss") == 1 and not out
