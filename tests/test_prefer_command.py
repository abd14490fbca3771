"""Is what `falconer prefer` writes an ordinary run: exact however it is cut, resumed bit for bit, and evaluated?"""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from command_line import falconer, ok
from falconer.run.folder import read_config, read_record
from falconer.run.manifest import check_folder
from falconer.run.pairs import read_pairs
from falconer.train.job import Job
from small_runs import TWO_RANKS, Small, command, exact, steps, validations

pytestmark = pytest.mark.usefixtures("one_thread")
SETTINGS = (
    # Each step has all pairs, so that their margin grows.
    "train.learning_rate=2e-2", "train.epochs=20", "train.step_tokens=9000", "train.micro_tokens=1000",
    "train.max_steps=6", "train.validate_every=3", "train.save_every=2", "prefer.max_pairs=20", "prefer.max_turns=20",
    "prefer.sft_weight=0.1",
)  # fmt: skip
NORMALISED = ("prefer.length_normalised=true", "prefer.beta=3")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tuned run; look, but write nothing into it."""
    folder = tmp_path_factory.mktemp("world")
    small = Small(folder)
    limits = ("evaluate.max_replies=3", "evaluate.max_new_tokens=6", "evaluate.resamples=100", "evaluate.num_samples=2")
    for name, dropout in (("tuned", 0.1), ("without dropout", 0)):
        small.run(folder / name, f"lora.dropout={dropout}", "train.max_steps=3", *limits)
    return folder


def arguments(world, out, *overrides, pairs="distractors", name="without dropout"):
    return ["prefer", "--run", str(world / name), "--out", str(out), "--pairs", pairs, *SETTINGS, *overrides]


@pytest.fixture(scope="module")
def preferred(world):
    result = falconer(*arguments(world, world / "whole", pairs="distractors,repetitions", name="tuned"))
    assert result.code == 0, result.err
    return world / "whole", result.err


@pytest.fixture(scope="module")
def uncut(world):
    """A run without dropout, with which others are compared that are computed otherwise."""
    ok(*arguments(world, world / "one", *NORMALISED))
    return world / "one"


def weights(run, folder="checkpoints/last"):
    return load_file(run / folder / "adapter_model.safetensors")


def assert_same(run, other, tolerance):
    for key in ("loss", "margin", "grad_norm"):
        assert [row[key] for row in steps(run)] == pytest.approx([row[key] for row in steps(other)], abs=tolerance)
    for key in ("valid_loss", "valid_margin", "drift"):
        ours, theirs = ([row[key] for row in validations(one)] for one in (run, other))
        assert ours == pytest.approx(theirs, abs=tolerance)
    for name, tensor in weights(run).items():
        torch.testing.assert_close(tensor, weights(other)[name], rtol=0, atol=tolerance)


def test_it_is_a_run_with_its_pairs_and_says_where_they_are_from(world, preferred):
    run, err = preferred
    pairs = read_pairs(run)
    counts = read_record(run)["pairs"]
    assert sum(counts["training"].values()) + sum(counts["validation"].values()) == len(pairs)
    assert counts["training"]["distractors"] == 20 and counts["validation"]["distractors"] == 2
    assert f"pairs   {sum(counts['training'].values())} for training (20 distractors" in err
    assert {"pairs.jsonl", "config.yaml", "run.json", "splits.json"} <= set(
        json.loads((run / "manifest.json").read_text())["files"]
    )
    check_folder(run, "")
    config = read_config(run)
    assert config.prefer.pairs == "distractors,repetitions" and config.lora.init_adapter.endswith("tuned/adapter")
    before = json.loads((world / "tuned" / "splits.json").read_text())
    assert json.loads((run / "splits.json").read_text()) == before


def test_it_learns_to_prefer_and_says_how_far_it_has_moved(preferred):
    run, _ = preferred
    rows, held = steps(run), validations(run)
    # Before the first step, model and start are the same but for dropout.
    assert abs(rows[0]["margin"]) < 0.1 and rows[-1]["margin"] > rows[0]["margin"] + 0.1
    assert rows[-1]["preference_loss"] < rows[0]["preference_loss"]
    assert all(row["loss"] == pytest.approx(row["preference_loss"] + 0.1 * row["sft_loss"]) for row in rows)
    assert 0 < held[0]["drift"] < held[-1]["drift"] and set(held[0]) >= {
        "valid_margin", "valid_accuracy", "valid_preference_loss"
    }  # fmt: skip
    assert all(row["pairs"] > 1 for row in rows)


def test_it_is_evaluated_as_any_other(preferred, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(preferred[0], run)
    result = falconer("evaluate", "--run", str(run))
    assert result.code == 0, result.err
    assert "the drift (KL to the start) was" in (run / "report.md").read_text(encoding="utf-8")
    assert "In nats per pair." in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("override", ["train.micro_tokens=1", "model.path=generic", "train.memory=lean"])
def test_neither_cut_nor_path_change_anything(world, uncut, tmp_path, override):
    ok(*arguments(world, tmp_path / "other", *NORMALISED, override))
    assert_same(uncut, tmp_path / "other", 2e-4)


def test_a_run_that_stops_goes_on_bit_for_bit_and_keeps_what_the_start_thinks(world, preferred, tmp_path, monkeypatch):
    real, out = Job.step, tmp_path / "run"

    def stopped(job):
        if job.progress.step == 5:
            raise MemoryError
        return real(job)

    monkeypatch.setattr(Job, "step", stopped)
    assert falconer(*arguments(world, out, pairs="distractors,repetitions", name="tuned")).code != 0
    monkeypatch.setattr(Job, "step", real)
    assert len(steps(out)) == 5
    result = falconer("prefer", "--out", str(out), "--resume")
    assert result.code == 0 and "computing what" not in result.err, result.err
    assert exact(out) == exact(preferred[0])
    for folder in ("adapter", "checkpoints/last"):
        for name, tensor in weights(out, folder).items():
            assert torch.equal(tensor, weights(preferred[0], folder)[name])
    # Where the file is lost, it is computed again.
    (out / "reference.json").unlink()
    assert "computing what" in falconer("train", "--run", str(out), "--resume").err


def test_two_gloo_ranks_equal_one(world, uncut, tmp_path):
    two = command(arguments(world, tmp_path / "two", *NORMALISED), launcher=TWO_RANKS)
    _, err = two.communicate(timeout=240)
    assert two.returncode == 0, err
    assert (tmp_path / "two" / "pairs.jsonl").read_bytes() == (uncut / "pairs.jsonl").read_bytes()
    assert [row["pairs"] for row in steps(tmp_path / "two")] == [row["pairs"] for row in steps(uncut)]
    assert_same(tmp_path / "two", uncut, 1e-4)


def test_a_run_that_learned_to_rank_is_preferred_on_pairs_alone(tmp_path):
    """From the adapter that the ranking has left; neither ranks further nor can be asked to."""
    small, ranked = Small(tmp_path), tmp_path / "ranked"
    small.run(ranked, "lora.dropout=0", "train.max_steps=1", "train.objective=lm+ranking", "ranking.distractors=2")
    assert "ranking_loss" in steps(ranked)[0]
    out = tmp_path / "out"
    ok("prefer", "--run", str(ranked), "--out", str(out), "--pairs", "distractors", *SETTINGS)
    config = read_config(out)
    assert config.train.objective == "lm" and config.prefer.pairs == "distractors"
    rows = steps(out)
    assert not any("ranking_loss" in row for row in rows) and rows[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["margin"] > 0.05
    assert f"{small.model.name}, preference" in ok("runs", str(tmp_path)).out
    refused = falconer("prefer", "--run", str(ranked), "--out", str(tmp_path / "x"), "train.objective=lm+ranking")
    assert refused.code == 2 and "it learns from its pairs. Leave it out; prefer.sft_weight sets" in refused.err


def test_a_changed_start_is_refused(world, preferred, tmp_path):
    for name in ("tuned", "whole"):
        shutil.copytree(world / name, tmp_path / name)
    config = tmp_path / "whole" / "config.yaml"
    config.write_text(config.read_text().replace(str(world / "tuned"), str(tmp_path / "tuned")))
    (tmp_path / "whole" / "manifest.json").unlink()
    shutil.rmtree(tmp_path / "tuned" / "adapter")
    shutil.copytree(tmp_path / "whole" / "adapter", tmp_path / "tuned" / "adapter")
    result = falconer("prefer", "--out", str(tmp_path / "whole"), "--resume")
    assert result.code == 2 and "that" in result.err and "started from has changed since then" in result.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "No run to train further was given"), (["--resume"], "--resume needs the folder of the run"),
        (["--run", "nowhere"], "'nowhere' contains no run"),
        (["--run", "TUNED", "lora.r=8"], "can't change lora.r"), (["--run", "TUNED", "data.text=natural"], "data.text"),
        (["--run", "TUNED", "--pairs", "votes"], "Unknown source of pairs 'votes'"),
        (["--run", "TUNED", "prefer.beta=0"], "prefer.beta"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_anything_is_done(world, tmp_path, given, said):
    shown = [word.replace("TUNED", str(world / "tuned")) for word in given]
    where = [] if "--resume" in given else ["--out", str(tmp_path / "new")]
    result = falconer("prefer", *where, *shown)
    assert result.code == 2 and said in result.err and len(result.err.strip().splitlines()) == 1
    assert not (tmp_path / "new").exists()


def test_train_says_which_command_builds_pairs(world, tmp_path):
    result = falconer("train", "--run", str(tmp_path / "x"), "prefer.pairs=distractors")
    assert result.code == 2 and "falconer prefer --run" in result.err
