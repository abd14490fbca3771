"""What `falconer evaluate` takes and refuses, and that what it writes down is what was in force."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from command_line import SOURCE, falconer
from falconer.evaluate.text.predictions import read_predictions
from falconer.kernels import reference
from falconer.model.falcon import infer_pass, train_pass
from small_runs import Small, write_dialogues

LIMITS = ("evaluate.max_replies=3", "evaluate.max_new_tokens=4", "evaluate.num_samples=2", "evaluate.resamples=100")
TAKEN = "You can set evaluate.*, model.device, model.dtype, model.path, data.max_gib, data.test=FILE"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Small(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    """A run that held its test split out of its only file; write nothing into it."""
    folder = tmp_path_factory.mktemp("trained")
    data = shutil.copy(small.train, folder / "own.jsonl")
    settings = ("data.valid=null", "data.valid_share=0.2", "train.max_steps=2", "train.validate_every=2")
    small.run(folder / "run", f"data.train={data}", *settings, *LIMITS)
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run, whose data lies beside it under the name that the run knows."""
    copy = shutil.copytree(trained, tmp_path / "run")
    data = shutil.copy(trained.parent / "own.jsonl", tmp_path / "own.jsonl")
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["data"]["train"] = str(data)
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    (copy / "manifest.json").unlink()
    return Path(copy)


def evaluated(run, *arguments):
    result = falconer("evaluate", "--run", run, *arguments)
    assert result.code == 0, result.err
    return result, json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def asked(run):
    return {row.dialogue_id for row in read_predictions(run / "predictions-tuned.jsonl")}


# Keys


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["model.quantization=nf4", "model.name=EleutherAI/pythia-70m", "lora.r=64"],
         "model.name, model.quantization, lora.r"),
        (["train.seed=5"], "train.seed"),
        (["train.memory=lean"], "train.memory"),
        (["lora.dropout=0.5"], "lora.dropout"),
        (["data.max_tokens=64"], "data.max_tokens"),
        (["data.text=natural"], "data.text"),
        (["data.valid_share=0.4"], "data.valid_share"),
        (["data.max_dialogues=4"], "data.max_dialogues"),
        (["data.valid=own.jsonl"], "data.valid"),
        (["data.format=messages"], "data.format"),
        (["data.on_bad_row=skip", "evaluate.seed=4"], "data.on_bad_row"),
    ],
)  # fmt: skip
def test_what_only_training_can_apply_is_refused_by_name(trained, overrides, named):
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    result = falconer("evaluate", "--run", trained, *overrides)
    assert result.code == 2 and len(result.err.splitlines()) == 1
    assert f"An evaluation can't change {named}: " in result.err and TAKEN in result.err
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


def test_it_is_refused_before_torch_is_loaded(trained):
    code = (
        "import sys; from falconer.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert end.code == 2\n"
        "assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-c", code, "evaluate", "--run", str(trained), "lora.r=64"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert "An evaluation can't change lora.r" in done.stderr


def test_the_runs_own_values_are_no_change(run, small):
    same = (
        "lora.r=4",
        "train.seed=17",
        f"model.name={small.model}",
        "data.max_tokens=1024",
        "train.learning_rate=0.005",
    )
    _, metrics = evaluated(run, *same)
    assert metrics["settings"]["adapter"] == "LoRA r=4, alpha=8, dropout=0.0 on query_key_value"


def test_the_arithmetic_may_differ_and_then_is_in_force(run):
    _, before = evaluated(run)
    _, metrics = evaluated(run, "model.dtype=bf16")
    assert before["settings"]["arithmetic"].startswith("fp32") and metrics["settings"]["arithmetic"].startswith("bf16")
    assert metrics["tuned"]["word_ppl"] != before["tuned"]["word_ppl"]


@pytest.mark.parametrize("trained_generic", [False, True])
def test_the_generic_path_is_taken_by_whatever_uses_the_run(run, trained_generic, monkeypatch):
    """Where kernels are broken, as doctor's advice has it: nothing of the fast path runs, in evaluation and chat."""
    if trained_generic:
        path = run / "config.yaml"
        tree = yaml.safe_load(path.read_text())
        # As a run of a version wrote it in which only training had this key.
        tree["train"]["path"] = "generic"
        del tree["model"]["path"]
        path.write_text(yaml.safe_dump(tree))
    override = () if trained_generic else ("model.path=generic",)
    _, fast = (None, None) if trained_generic else evaluated(run)

    def broken(*_, **__):
        raise AssertionError("the fast path ran")

    monkeypatch.setattr(train_pass.FastPath, "__init__", broken)
    monkeypatch.setattr(infer_pass.Forward, "__init__", broken)
    for name, what in vars(reference).items():
        if inspect.isfunction(what) and what.__module__ == reference.__name__:
            monkeypatch.setattr(reference, name, broken)
    _, generic = evaluated(run, *override)
    assert generic["settings"]["generation"] == "generic: as configured"
    if fast:
        assert fast["settings"]["generation"].startswith("falcon: ")
        assert generic["tuned"]["word_ppl"] == pytest.approx(fast["tuned"]["word_ppl"], rel=1e-4)
        assert "model.path=generic" in (run / "report.md").read_text(encoding="utf-8")
    result = falconer("chat", "--run", run, *override, "--temperature", "0", stdin="hello\n/quit\n")
    assert result.code == 0 and "assistant" in result.out, result.err
    if override:
        with pytest.raises(AssertionError, match="the fast path ran"):
            falconer("evaluate", "--run", run)


def test_a_chat_takes_how_the_model_computes_and_nothing_else(run):
    result = falconer("chat", "--run", run, "evaluate.seed=4")
    message = "A chat can't change evaluate.seed. You can set model.device, model.dtype, model.path."
    assert (result.code, result.err) == (2, f"falconer: {message}\n")
    result = falconer("train", "--run", run, "--resume", "train.path=generic")
    assert (result.code, result.err) == (
        2,
        "falconer: The key train.path has been renamed to model.path. Write model.path=VALUE.\n",
    )


def test_the_report_names_the_adapter_that_was_evaluated_and_the_command(run, small, tmp_path):
    _, metrics = evaluated(run, "--adapter", "checkpoints/last", "evaluate.max_replies=2", "--controls")
    assert metrics["settings"]["adapter"].endswith("on query_key_value (checkpoints/last)")
    text = (run / "report.md").read_text(encoding="utf-8")
    command = f"falconer evaluate --run {run} --adapter checkpoints/last --controls evaluate.max_replies=2"
    assert command in text
    assert "checkpoints/last/adapter\\_model.safetensors" in text
    assert "sha256 of adapter/" not in text


def test_other_decodings_are_compared_shown_and_gone_with_the_next_evaluation(run):
    result, metrics = evaluated(run, "--decodings", "evaluate.max_replies=3", "evaluate.max_new_tokens=4")
    assert list(metrics["decodings"])[0] == metrics["settings"]["decoding"] == "greedy, at most 4 tokens"
    assert "beam search with 4 beams, length penalty 1.0, at most 4 tokens" in metrics["decodings"]
    assert metrics["decodings"]["greedy, at most 4 tokens"]["score"]["f1"] == metrics["tuned"]["f1"]
    assert "Other decodings" in result.out
    for name in ("report.md", "report.html"):
        assert "Other decodings" in (run / name).read_text(encoding="utf-8")
    assert "evaluate --run" in (run / "report.md").read_text() and "--decodings" in (run / "report.md").read_text()
    _, again = evaluated(run, "evaluate.max_replies=3", "evaluate.num_beams=2", "evaluate.no_repeat_ngram_size=2")
    assert "decodings" not in again
    assert again["settings"]["decoding"] == (
        "beam search with 2 beams, length penalty 1.0, no repeated 2-gram within the reply, at most 4 tokens"
    )
    assert "Other decodings" not in (run / "report.md").read_text(encoding="utf-8")


def test_an_adapter_says_itself_where_it_sits(run, small, tmp_path):
    """A run that goes on from another adapter trains that one's modules, whatever lora.targets says."""
    first, second = tmp_path / "first", tmp_path / "second"
    small.run(first, "lora.targets=dense", "train.max_steps=1")
    small.run(second, f"lora.init_adapter={first / 'adapter'}", "train.max_steps=1", *LIMITS)
    _, metrics = evaluated(second)
    assert metrics["settings"]["adapter"].endswith("on dense")
    assert "| lora.targets | dense |" in (second / "report.md").read_text(encoding="utf-8")


# Data


def test_the_test_split_is_the_recorded_one_or_none(run):
    record = json.loads((run / "splits.json").read_text())
    evaluated(run)
    first = asked(run)
    data = run.parent / "own.jsonl"
    lines = data.read_text().splitlines(keepends=True)
    data.write_text("".join([*lines, lines[0].replace("train-0", "train-99")]))
    before = (run / "metrics.json").read_bytes()
    result = falconer("evaluate", "--run", run)
    assert result.code == 2 and f"has changed since training began: data.train ('{data}')" in result.err
    assert (run / "metrics.json").read_bytes() == before
    data.write_text("".join(lines))
    evaluated(run)
    assert asked(run) == first
    assert len(record["dialogues"]["test"]) + len(record["dialogues"]["train"]) <= 24
    assert not set(record["dialogues"]["test"]) & set(record["dialogues"]["train"])


def test_predictions_and_report_name_the_speaker_of_each_turn(run, tmp_path):
    """The model opens, and somebody speaks twice: the two turns are one, and nobody is guessed by counting back."""
    said = [("self", "hello"), ("partner", "i like dogs"), ("partner", "and cats"), ("self", "my sister has two")]
    turns = [{"speaker": speaker, "text": text} for speaker, text in said]
    row = {"id": "opens", "persona": ["i play in the snow"], "turns": turns}
    (tmp_path / "test.jsonl").write_text(json.dumps(row), encoding="utf-8")
    evaluated(run, f"data.test={tmp_path / 'test.jsonl'}", *LIMITS)
    lines = (run / "predictions-tuned.jsonl").read_text(encoding="utf-8").splitlines()
    joined = [{"speaker": "self", "text": "hello"}, {"speaker": "partner", "text": "i like dogs and cats"}]
    assert [json.loads(line)["history"] for line in lines] == [[], joined]
    report = (run / "report.md").read_text(encoding="utf-8")
    assert "- self: hello\n- partner: i like dogs and cats\n- **gold**: my sister has two" in report


def test_data_that_moved_is_asked_for_and_known_by_its_content(run, tmp_path):
    _, before = evaluated(run)
    data, moved = run.parent / "own.jsonl", tmp_path / "elsewhere" / "data.jsonl"
    moved.parent.mkdir()
    data.rename(moved)
    result = falconer("evaluate", "--run", run)
    assert result.code == 2 and str(data) in result.err and "data.train=PATH" in result.err
    result, metrics = evaluated(run, f"data.train={moved}")
    assert f"data.train: '{moved}' has the same content as '{data}'" in result.err
    assert metrics["tuned"] == before["tuned"] and metrics["leakage"] == before["leakage"]
    assert str(moved) in metrics["settings"]["test data"]
    # Resumed with it, the run knows the new place from then on.
    result = falconer("train", "--run", run, "--resume", f"data.train={moved}")
    assert result.code == 0 and f"data    data.train: '{moved}' has the same content" in result.err
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["train"] == str(moved)
    evaluated(run)


def test_resume_takes_no_other_data(run, tmp_path):
    other = write_dialogues(tmp_path / "other.jsonl", 24, seed=99)
    before = (run / "config.yaml").read_text()
    result = falconer("train", "--run", run, "--resume", f"data.train={other}")
    assert result.code == 2 and f"'{other}' instead of" in result.err
    result = falconer("train", "--run", run, "--resume", f"data.valid={other}")
    assert result.code == 2 and "data.valid differ" in result.err
    assert (run / "config.yaml").read_text() == before


def test_another_test_file_is_compared_with_training_though_that_is_gone(run, tmp_path):
    """Terminal, metrics.json and report show what this file shares, not what the run's own test split does."""
    _, before = evaluated(run)
    data = run.parent / "own.jsonl"
    held = asked(run)
    lines = data.read_text().splitlines(keepends=True)
    data.unlink()
    known = [line for line in lines if json.loads(line)["id"] not in held][:2]
    new = write_dialogues(tmp_path / "new.jsonl", 3, seed=77)
    new.write_text("".join(known) + new.read_text())
    result, metrics = evaluated(run, f"data.test={new}")
    assert before["leakage"]["shared_dialogues"] == 0
    assert metrics["leakage"]["num_dialogues"] == 5
    num_known = metrics["leakage"]["shared_dialogues"]
    assert 1 <= num_known <= 2
    assert metrics["settings"]["test data"] == f"{new}: 5 dialogues, given to this evaluation"
    assert metrics["data"]["test"]["paths"] == [str(new)]
    line = f"{num_known} of 5 dialogues"
    assert "Shared with the training data: " in result.out and line in result.out
    note = f"{num_known} of 5 test dialogues begin like dialogues in the training data"
    assert note in result.err
    for page in ("report.md", "report.html"):
        text = (run / page).read_text(encoding="utf-8")
        assert line in text and note in text and "new.jsonl" in text
    seen = {row["name"]: row["num_replies"] for row in metrics["slices"] if row["kind"] == "persona in training"}
    assert seen["seen"] >= 1
    assert f"data.test={new}" in (run / "report.md").read_text(encoding="utf-8").replace("\\", "")


def test_the_record_holds_hashes_and_no_text(run):
    text = (run / "splits.json").read_text()
    assert len(text) < 8000 and "sister" not in text
    assert set(json.loads(text)) == {"version", "dialogues", "trained"}


def test_a_damaged_record_is_named(run):
    (run / "splits.json").write_text('{"version": 1}')
    result = falconer("evaluate", "--run", run)
    assert result.code == 2 and "splits.json does not describe" in result.err
