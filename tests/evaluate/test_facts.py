"""What figures depend on, in words: every setting, and a command that gives the evaluation again."""

import json
import shlex
from pathlib import Path

import pytest

from command_line import falconer
from falconer.config import for_evaluation, load
from falconer.evaluate.facts import _command, _every_setting
from falconer.run.folder import read_evaluation, read_metrics, write_config
from small_runs import Small


def test_the_command_names_what_differs_from_the_run_alone(tmp_path: Path) -> None:
    trained = load("quickstart")
    write_config(tmp_path, trained)
    assert _command(tmp_path, "adapter", trained, []) == f"falconer evaluate --run {tmp_path}"
    asked = ["evaluate.max_replies=3", "evaluate.max_ranked=null", "data.test=my file.jsonl"]
    typed = shlex.split(_command(tmp_path, "checkpoints/last", for_evaluation(trained, asked), ["--controls"]))
    assert typed[:6] == ["falconer", "evaluate", "--run", str(tmp_path), "--adapter", "checkpoints/last"]
    assert typed[6] == "--controls" and set(typed[7:]) == set(asked)
    assert for_evaluation(trained, typed[7:]) == for_evaluation(trained, asked)


def test_every_key_is_listed_and_the_adapter_speaks_for_itself() -> None:
    config = load("quickstart")
    found = _every_setting(config, {"r": "99", "targets": "dense"})
    assert (found["lora.r"], found["lora.targets"]) == ("99", "dense")
    assert found["train.seed"] == "17" and found["model.revision"] == "None"
    assert len(found) == sum(len(section) for section in config.model_dump().values())


@pytest.mark.usefixtures("one_thread")
def test_the_files_of_an_evaluation_say_what_it_depends_on(tmp_path: Path) -> None:
    small = Small(tmp_path)
    limits = ("evaluate.max_replies=2", "evaluate.max_new_tokens=3", "evaluate.num_samples=1", "evaluate.resamples=100")
    small.run(tmp_path / "run", "train.max_steps=1", *limits)
    for name in ("no_persona", "shuffled_persona"):
        (tmp_path / "run" / f"predictions-{name}.jsonl").write_text("of an earlier evaluation\n")
    result = falconer("evaluate", "--run", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    metrics, evaluation = read_metrics(tmp_path / "run"), read_evaluation(tmp_path / "run")
    assert json.loads(result.out) == metrics.to_json() and evaluation is not None
    assert metrics.settings["decoding"] == "greedy, at most 3 tokens"
    assert metrics.settings["arithmetic"].startswith("fp32: ") and metrics.environment["torch"]
    assert evaluation.title == "falcon on valid.jsonl" or evaluation.title.endswith(" on train.jsonl")
    assert set(evaluation.files) == {"metrics.json", "predictions-base.jsonl", "predictions-tuned.jsonl"}
    assert evaluation.adapter == "adapter" and list(evaluation.adapter_sha256) == ["adapter/adapter_model.safetensors"]
    left = {path.name for path in (tmp_path / "run").glob("predictions-*")}
    assert left == {"predictions-base.jsonl", "predictions-tuned.jsonl"}, "those of an earlier evaluation are gone"
