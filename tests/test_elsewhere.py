"""Adapters that were not trained here: chat, evaluation and server load them from a folder and from the hub."""

import json
import shutil
from pathlib import Path

import pytest

from command_line import falconer, ok
from exported import LINEAR, save_adapter_on
from fake_hub import BASE, REPOSITORY, connect, fake_hub
from falconer import jobs
from falconer.data.prompt import PromptFormat
from falconer.elsewhere import find, make_run
from falconer.errors import FalconerError
from falconer.model.export.merge import merge_adapter
from falconer.run.folder import read_config, read_metrics, read_record
from falconer.served import find_adapters, open_served
from falconer.share.origin import find_origin
from falconer.share.plan import make_folder, plan_share
from small_runs import Small, write_dialogues

FEW = ("evaluate.max_new_tokens=4", "evaluate.max_replies=6", "evaluate.resamples=100", "evaluate.num_samples=1")
HERE = ("model.dtype=fp32", "model.device=cpu")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    small.run(folder, "train.max_steps=4", "train.learning_rate=5e-2")
    return folder


@pytest.fixture(scope="module")
def foreign(small, tmp_path_factory):
    """A LoRA that plain PEFT has saved."""
    folder = tmp_path_factory.mktemp("foreign") / "pirate"
    save_adapter_on(small.model, folder, target_modules=LINEAR["falcon"])
    return folder


@pytest.fixture
def data(tmp_path):
    return str(write_dialogues(tmp_path / "talk.jsonl", 4, seed=9))


@pytest.fixture
def hub(monkeypatch, tmp_path, small, run):
    """With the base model, and the run's adapter as `falconer share` writes it."""
    with fake_hub() as hub:
        connect(hub, monkeypatch, tmp_path / "cache")
        copied = shutil.copytree(run, tmp_path / "copied")
        plan = plan_share(copied, REPOSITORY, find_origin(read_config(copied), base_model=BASE))
        make_folder(plan)
        hub.put(BASE, small.model)
        hub.put(REPOSITORY, plan.folder)
        monkeypatch.chdir(tmp_path)
        yield hub


def reply(*arguments):
    result = falconer("chat", "--temperature", "0", "--max-new-tokens", "6", *HERE, *arguments, stdin="hi\n")
    assert result.code == 0, result.err
    return result


def test_what_was_shared_talks_as_the_run_does(hub, run):
    shared, own = reply("--adapter", REPOSITORY), reply("--run", run)
    said = [[line for line in one.out.splitlines() if "assistant:" in line] for one in (shared, own)]
    assert said[0] == said[1] != []
    assert "prompts are written as in its training" in shared.err
    assert f"tuned in {REPOSITORY}" in shared.out


def test_what_was_shared_has_the_runs_figures(hub, run, small, tmp_path):
    own = shutil.copytree(run, tmp_path / "own")
    for arguments in (("--run", own), ("--adapter", REPOSITORY, "--data", small.valid)):
        ok("evaluate", *arguments, *HERE, *FEW)
    theirs = tmp_path / "runs" / "tiny-persona"
    assert read_metrics(theirs).tuned == read_metrics(own).tuned
    assert read_metrics(theirs).base == read_metrics(own).base
    record = read_record(theirs)
    assert record["imported"]["given"] == REPOSITORY and str(tmp_path / "cache") not in json.dumps(record)
    assert "trained elsewhere" in read_metrics(theirs).leakage
    # From now on it is a run like others.
    ok("evaluate", "--run", theirs, *FEW, "evaluate.max_replies=2")
    ok("report", "--run", theirs)
    listed = ok("runs", tmp_path / "runs").out
    assert f"imported: an adapter that was trained elsewhere ({REPOSITORY})" in listed and "not started" not in listed
    # A second time it takes the same folder.
    assert make_run(find(REPOSITORY), str(small.valid)) == Path("runs/tiny-persona")


def test_a_server_takes_it_beside_a_run(hub, run):
    found = find_adapters(run, "adapter", [f"theirs={REPOSITORY}"])
    assert found[1].format == PromptFormat(**json.loads((run / "adapter/falconer.json").read_text())["prompt_format"])
    served = open_served(read_config(run), run, found)
    assert set(served.adapters) == {"run", "theirs"}
    served.engine.close()


def test_an_adapter_of_another_program_says_what_is_assumed(foreign, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find(str(foreign), HERE)
    assert found.format == PromptFormat(multi_line=True, is_spaced=False) and found.name == "pirate"
    assert any("falconer's prompt format is not recorded" in note for note in found.notes)
    assert any("not quantised" in note for note in found.notes) and found.config.model.quantization == "none"
    assert "replies worse" in reply("--adapter", foreign).err
    ok("evaluate", "--adapter", foreign, "--data", data, *HERE, *FEW)
    assert (tmp_path / "runs" / "pirate" / "report.html").is_file()


def test_the_user_may_know_better(foreign):
    found = find(str(foreign), ("model.quantization=nf4", "data.max_tokens=64"))
    assert (found.config.model.quantization, found.config.data.max_tokens) == ("nf4", 64)
    with pytest.raises(FalconerError, match="lora.r can't be set for an adapter that was trained elsewhere"):
        find(str(foreign), ("lora.r=8",))


def changed(foreign, tmp_path, **values):
    folder = shutil.copytree(foreign, tmp_path / "changed")
    made = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")) | values
    (folder / "adapter_config.json").write_text(json.dumps(made), encoding="utf-8")
    return str(folder)


def test_a_whole_model_talks_and_is_not_evaluated(hub, run, small, data, tmp_path):
    merged = tmp_path / "merged"
    merge_adapter(str(small.model), run / "adapter", merged)
    hub.put("alice/merged", merged)
    said = [
        [line for line in reply(*arguments).out.splitlines() if "assistant:" in line]
        for arguments in (("--adapter", "alice/merged"), ("--adapter", merged), ("--run", run))
    ]
    assert said[0] == said[1] == said[2] != []
    result = falconer("evaluate", "--adapter", "alice/merged", "--data", data)
    assert result.code == 2 and "is a whole model; an evaluation compares an adapter with its base" in result.err


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "an adapter of type PREFIX_TUNING, not a LoRA"),
        ({"base_model_name_or_path": None}, "does not say which base model.*model.name=OWNER/NAME"),
        ({"base_model_name_or_path": "/srv/x"}, "trained on '/srv/x', a folder of another machine.*model.name="),
    ],
)
def test_what_can_not_be_used_is_said(foreign, tmp_path, values, says):
    with pytest.raises(FalconerError, match=says):
        find(changed(foreign, tmp_path, **values))


def test_a_base_that_moved_is_given(foreign, tmp_path, small):
    folder = changed(foreign, tmp_path, base_model_name_or_path="/srv/x")
    assert find(folder, (f"model.name={small.model}",)).config.model.name == str(small.model)


def test_an_evaluation_needs_dialogues_and_a_folder_of_its_own(foreign, run, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = falconer("evaluate", "--adapter", foreign)
    assert result.code == 2 and "No dialogues are known to evaluate" in result.err and "--data FILE" in result.err
    copied = shutil.copytree(run, tmp_path / "copied")
    result = falconer("evaluate", "--adapter", foreign, "--data", data, "--run", copied)
    assert result.code == 2 and "already contains another run" in result.err
    made = make_run(find(str(foreign), HERE), data, tmp_path / "new")
    assert made == tmp_path / "new" and jobs.read_config(made).data.test == data


def test_data_of_a_run_is_its_test_file(run, tmp_path):
    result = falconer("evaluate", "--run", run, "--data", tmp_path / "missing.jsonl")
    assert result.code == 2 and "missing.jsonl" in result.err and "There is no file" in result.err


def test_no_network_is_one_line(hub):
    for kind in ("info", "tree", "resolve"):
        hub.fail(kind, "cut", times=1000)
    result = falconer("chat", "--adapter", "alice/never-seen")
    assert result.code == 2 and result.err.count("\n") == 1
    assert "There is no folder 'alice/never-seen'. The hub could not be reached" in result.err
    assert "Check the network connection" in result.err
