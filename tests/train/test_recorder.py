"""What does a run write down?"""

import io
import json
import math

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from falconer.data.prompt import template_sha256
from falconer.files.replace import sha256
from falconer.run.folder import STEPS, read_config, read_steps
from falconer.train import job, recorder
from falconer.train.recorder import Recorder
from falconer.train.schedule import learning_rate
from small_runs import silent, steps, validations

FIELDS = {
    "step", "epoch", "loss", "lr", "grad_norm", "target_tokens", "tokens", "tok_per_s", "memory_gib", "time_s",
}  # fmt: skip


def row(step):
    return dict.fromkeys(FIELDS, 1.0) | {"step": step, "loss": 9.0 - step, "time_s": 0.5 * step}


def test_each_step_has_all_fields(finished):
    rows = steps(finished)
    assert [row["step"] for row in rows] == list(range(1, 7))
    for before, now in zip([None, *rows], rows, strict=False):
        assert set(now) == FIELDS
        assert all(math.isfinite(value) for value in now.values())
        assert 0 < now["target_tokens"] < now["tokens"] <= 400
        assert now["tok_per_s"] > 0 and 0.05 < now["memory_gib"] < 64
        assert before is None or before["time_s"] < now["time_s"]


def test_each_validation_follows_its_step(finished):
    kinds = [(row["step"], "valid_loss" in row) for row in read_steps(finished)]
    assert kinds == [(1, False), (2, False), (3, False), (3, True), (4, False), (5, False), (6, False), (6, True)]


def test_an_epoch_is_a_pass_over_the_data_even_where_the_run_ends_amid_one(small, tmp_path):
    result = small.run(tmp_path, "train.max_steps=null", "train.epochs=1.5", "train.patience=9")
    epochs = [row["epoch"] for row in steps(tmp_path)]
    assert epochs == sorted(epochs) and 1.0 in epochs
    assert 1.2 < epochs[-1] < 1.8 and len(epochs) == result.num_steps


def test_the_learning_rate_is_the_schedules(small, tmp_path):
    small.run(tmp_path, "train.max_steps=8", "train.warmup_share=0.5", "train.learning_rate=1e-3")
    assert [row["lr"] for row in steps(tmp_path)] == [learning_rate(step, 8, 4, 1e-3) for step in range(8)]


def test_tensorboard_holds_the_same_numbers(finished):
    events = EventAccumulator(str(finished / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {f"train/{name}" for name in FIELDS - {"step"}} | {"valid/valid_loss"}
    for tag, rows, key in (
        ("train/loss", steps(finished), "loss"),
        ("train/lr", steps(finished), "lr"),
        ("train/grad_norm", steps(finished), "grad_norm"),
        ("valid/valid_loss", validations(finished), "valid_loss"),
    ):
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in found] == [row["step"] for row in rows]
        assert [value for _, value in found] == pytest.approx([row[key] for row in rows], rel=1e-6)


@pytest.mark.parametrize(("seconds", "drawings"), [(60.0, [6]), (0.0, [2, 4, 6, 6])])
def test_the_loss_curve_is_drawn_once_a_minute_and_at_the_end(small, tmp_path, monkeypatch, seconds, drawings):
    drawn = []
    monkeypatch.setattr(job, "_CURVE_EVERY_S", seconds)
    monkeypatch.setattr(job, "write_loss_curve", lambda rows, path: drawn.append(rows[-1]["step"]))
    small.run(tmp_path, "train.save_every=2")
    assert drawn == drawings


def test_the_loss_curve_is_a_picture(finished):
    content = (finished / "loss_curve.png").read_bytes()
    assert content.startswith(b"\x89PNG\r\n") and len(content) > 5000


def test_the_folder_says_how_to_repeat_the_run(small, finished):
    assert read_config(finished) == small.config()
    record = json.loads((finished / "run.json").read_text())
    assert record["data"]["train"]["sha256"] == sha256(small.train)
    assert record["data"]["valid"]["num_dialogues"] == 6
    assert record["template_sha256"] == template_sha256()
    assert record["environment"]["torch"] and record["environment"]["transformers"]
    assert (record["num_steps"], record["num_ranks"], record["num_train_dialogues"]) == (6, 1, 24)
    assert record["quantized_layers"] == 0 and record["trainable_parameters"] == 2 * 4 * (128 + 256)
    assert len(record["initial_adapter_sha256"]) == 64


def test_nothing_is_left_aside(finished):
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "adapter", "checkpoints", "config.yaml", "loss_curve.png", "manifest.json", "run.json", "splits.json",
        "steps.jsonl", "tensorboard", "training.json",
    }  # fmt: skip
    assert not [path for path in finished.rglob(".*")]


def test_a_resumed_record_drops_the_rows_behind_the_checkpoint(tmp_path):
    with Recorder(tmp_path, 9, 0, True, silent()) as log:
        for step in range(1, 6):
            log.step(row(step))
        log.validation({"step": 5, "valid_loss": 3.0}, is_best=True)
    with (tmp_path / STEPS).open("a") as file:
        file.write('{"step": 6, "loss"')  # cut off by a power failure
    with Recorder(tmp_path, 9, 3, True, silent()) as log:
        log.step(row(4))
    assert read_steps(tmp_path) == [row(step) for step in range(1, 5)]


def test_before_the_first_step_there_are_no_rows(tmp_path):
    assert read_steps(tmp_path) == []


def test_other_ranks_write_and_say_nothing(tmp_path):
    shown = io.StringIO()
    with Recorder(tmp_path, 9, 0, False, Console(file=shown)) as log:
        log.step(row(25))
        log.validation({"step": 25, "valid_loss": 3.0}, is_best=True)
    assert not list(tmp_path.iterdir()) and not shown.getvalue()


def test_without_a_terminal_a_line_now_and_then_says_how_long_it_takes(tmp_path):
    shown = io.StringIO()
    with Recorder(tmp_path, 100, 0, True, Console(file=shown, width=100)) as log:
        for step in range(1, 51):
            log.step(row(step))
    lines = shown.getvalue().splitlines()
    assert len(lines) == 2 and lines[0].startswith("step 25/100  loss -16.000") and lines[0].endswith("38 s left")


def test_in_a_terminal_a_bar_shows_loss_and_time_left(tmp_path):
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=100, _environ={})
    with Recorder(tmp_path, 4, 0, True, console) as log:
        for step in range(1, 4):
            log.step(row(step))
    assert "loss 6.000" in shown.getvalue() and "3/4" in shown.getvalue() and "0:00:" in shown.getvalue()


def test_without_a_terminal_slow_steps_and_validations_have_a_line_a_minute(tmp_path, monkeypatch):
    now, shown = [0.0], io.StringIO()
    monkeypatch.setattr(recorder.time, "monotonic", lambda: now[0])
    with Recorder(tmp_path, 10, 0, True, Console(file=shown, width=100)) as log:
        for step in (1, 2, 3):
            now[0] += 35.0
            log.step(row(step) | {"time_s": 35.0 * step})
        for batch in range(1, 31):
            now[0] += 5.0
            log.validating(batch, 30)
    lines = shown.getvalue().splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "step 2/10", "validation: 5 of 30 batches", "validation: 17 of 30 batches", "validation: 29 of 30 batches"
    ]  # fmt: skip
    assert lines[0].endswith("280 s left")
