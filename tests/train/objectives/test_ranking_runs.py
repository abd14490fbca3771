"""Runs with the ranking objective: the same on both paths, in any micro-batches, on two ranks, and resumed."""

import io
import json

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from falconer.config import load
from falconer.curves import write_loss_curve
from falconer.errors import FalconerError
from falconer.run.folder import read_steps
from falconer.train import job, loop
from falconer.train.forecast import plan_run
from falconer.train.objectives import ranking
from small_runs import TWO_RANKS, WORDS, command, exact, silent, steps, validations

RANKING = ("train.objective=lm+ranking", "ranking.distractors=3", "ranking.share=0.7")
KEYS = ("loss", "ranking_loss", "ranking_accuracy", "ranked_replies", "grad_norm")


@pytest.fixture(scope="module")
def ranked(small, one_quiet_thread, tmp_path_factory):
    """The folder of a run with the objective; look, but write nothing into it."""
    run = tmp_path_factory.mktemp("ranked") / "run"
    small.run(run, *RANKING, "lora.dropout=0.05")
    return run


@pytest.fixture(scope="module")
def plain(small, one_quiet_thread, tmp_path_factory):
    """The same without dropout, which differs from micro-batch to micro-batch."""
    run = tmp_path_factory.mktemp("plain") / "run"
    small.run(run, *RANKING)
    return run


def assert_same(run, other, tolerance=2e-5):
    assert len(steps(run)) == len(steps(other)) == 6 and len(validations(run)) == len(validations(other)) == 2
    for key in KEYS:
        found, expected = ([row[key] for row in steps(one)] for one in (run, other))
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-6), key
    for row, expected in zip(validations(run), validations(other), strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    for name, tensor in adapter(other).items():
        torch.testing.assert_close(adapter(run)[name], tensor, rtol=0, atol=tolerance)


def adapter(run):
    return load_file(run / "checkpoints" / "last" / "adapter_model.safetensors")


def record(run):
    return json.loads((run / "run.json").read_text())


@pytest.mark.parametrize(
    "override",
    [
        "train.micro_tokens=1", "train.micro_tokens=180", "model.path=generic", "train.memory=lean",
    ],
)  # fmt: skip
def test_what_changes_nothing(small, plain, tmp_path, override):
    small.run(tmp_path / "run", *RANKING, override)
    assert_same(tmp_path / "run", plain)


def test_rows_of_their_own_train_the_same(small, plain, tmp_path, monkeypatch):
    """As on the fast path of a GPU, or with a model that can't share prompts."""
    monkeypatch.setattr("falconer.train.objectives.ranking.shares_prompts", lambda *_: (False, "a test"))
    small.run(tmp_path / "run", *RANKING)
    assert_same(tmp_path / "run", plain)
    apart, shared = (record(run)["objective"] for run in (tmp_path / "run", plain))
    assert not apart["shares_prompts"] and shared["shares_prompts"]
    assert steps(tmp_path / "run")[0]["tokens"] > 1.5 * steps(plain)[0]["tokens"]


def test_two_gloo_ranks_equal_one(small, plain, tmp_path):
    process = command(small.arguments(tmp_path / "two", *RANKING), launcher=TWO_RANKS)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert_same(tmp_path / "two", plain)


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(small, ranked, tmp_path, monkeypatch):
    run, step = tmp_path / "run", job.Job.step

    def killed(self):
        if self.progress.step == 4:
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(job.Job, "step", killed)
    settings = (*RANKING, "lora.dropout=0.05", "train.save_every=2")
    with pytest.raises(KeyboardInterrupt):
        small.run(run, *settings)
    monkeypatch.setattr(job.Job, "step", step)
    small.run(run, *settings, resume=True)
    assert exact(run) == exact(ranked)
    assert all(torch.equal(adapter(run)[name], tensor) for name, tensor in adapter(ranked).items())


def test_a_step_that_runs_out_of_memory_goes_on_and_is_the_same(small, plain, tmp_path, monkeypatch):
    before, shown = ranking.nlls, io.StringIO()

    def watched(model, batch, **options):
        if torch.is_grad_enabled() and batch.ids.size > 260:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return before(model, batch, **options)

    monkeypatch.setattr(ranking, "nlls", watched)
    console = Console(file=shown, width=200)
    loop.train(small.config(*RANKING), tmp_path / "run", resume=False, console=console)
    assert shown.getvalue().count("continuing with micro-batches of 200 tokens; the result is the same") == 1
    assert_same(tmp_path / "run", plain)


def test_steps_and_record_say_what_was_ranked(small, ranked, tmp_path):
    for row in steps(ranked):
        assert row["ranked_replies"] > 0 and 0 <= row["ranking_accuracy"] <= 1 and row["ranking_loss"] > 0
    (first, last) = validations(ranked)
    assert {"valid_loss", "valid_ranking_loss", "valid_ranking_accuracy"} <= set(first)
    # The validation ranks the same replies above the same distractors each time, and all of them.
    assert last["valid_ranking_loss"] != first["valid_ranking_loss"]
    objective = record(ranked)["objective"]
    assert objective["name"] == "lm+ranking" and objective["distractors"] == 3 and not objective["from_candidates"]
    assert "language model" in objective["best_adapter_by"]
    assert any("other training dialogues, never of the same persona" in note for note in record(ranked)["notes"])
    shown = io.StringIO()
    loop.train(small.config(*RANKING, "train.max_steps=1"), tmp_path / "run", resume=False,
               console=Console(file=shown, width=300))  # fmt: skip
    said = shown.getvalue()
    assert "objective lm+ranking: 70 % of the replies are ranked above 3 distractors each" in said
    assert "never of the same persona" in said and "% right)" in said
    write_loss_curve(read_steps(ranked), tmp_path / "curve.png")


def test_without_the_objective_nothing_changes(finished):
    assert record(finished)["objective"]["name"] == "lm"
    assert all("ranking_loss" not in row and "valid_ranking_loss" not in row for row in read_steps(finished))


def test_the_ranking_is_learned(small, tmp_path):
    """Which reply belongs to which of eight dialogues is learned far better with the objective, and LM still learns."""
    rows = [
        {
            "id": f"d{n}", "persona": [f"i like {WORDS[n]}"],
            "turns": [
                {"speaker": "partner", "text": f"{WORDS[n]} {WORDS[n + 1]}"},
                {"speaker": "self", "text": " ".join(3 * [WORDS[n + 5]])},
            ],
        }
        for n in range(8)
    ]  # fmt: skip
    (tmp_path / "eight.jsonl").write_text("\n".join(map(json.dumps, rows)))
    late = {}
    for weight in (5, 1e-6):
        run = tmp_path / f"weight {weight}"
        small.run(run, *RANKING, f"data.train={tmp_path / 'eight.jsonl'}", "train.epochs=60", "train.max_steps=30",
                  "train.validate_every=30", "train.learning_rate=2e-2", "ranking.scale=5", "ranking.share=1",
                  f"ranking.weight={weight}")  # fmt: skip
        found = steps(run)
        assert found[-1]["loss"] < found[0]["loss"]
        late[weight] = sum(row["ranking_loss"] for row in found[-8:]) / 8
    # Of four replies each is right by chance at log 4 = 1.39.
    assert late[5] < 0.5 * late[1e-6] and late[5] < 0.3


def test_data_of_one_persona_is_refused_before_training(small, tmp_path):
    rows = [json.loads(line) | {"persona": ["i ski ."]} for line in small.train.read_text().splitlines()]
    path = tmp_path / "one.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = small.config(*RANKING, f"data.train={path}")
    with pytest.raises(FalconerError, match="needs 3 distractors for a reply") as error:
        loop.train(config, tmp_path / "run", resume=False, console=silent())
    assert "train.objective=lm" in error.value.hint and not (tmp_path / "run").exists()


def test_the_plan_counts_the_distractors(small):
    alone, ranked = (plan_run(load(None, [*small.settings, *more])).work for more in ((), RANKING))
    assert ranked.num_steps == alone.num_steps
    assert ranked.tokens_per_epoch > 1.1 * alone.tokens_per_epoch and ranked.positions > 1.1 * alone.positions
    assert ranked.longest > alone.longest and ranked.validation_positions > alone.validation_positions
    assert ranked.target_share > alone.target_share
