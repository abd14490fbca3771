"""What is known of a run before any weight is loaded: without a network, with other data, with a mistyped name."""

from io import StringIO

import pytest
from rich.console import Console

from falconer import runtime
from falconer.config import load
from falconer.errors import FalconerError
from falconer.train import work
from falconer.train.forecast import plan_run
from falconer.train.plan_table import plan_table


def rendered(plan):
    console = Console(width=160, file=StringIO())
    console.print(plan_table(plan))
    return console.file.getvalue()


@pytest.mark.parametrize("name", ["falcon-7b", "falcon-40b", "falcon-40b-instruct", "falcon-11B"])
def test_falcons_are_planned_without_the_hub(name):
    plan = plan_run(load("falcon-7b", [f"model.name=tiiuae/{name}"]))
    assert plan.mode.path == "fast"
    # Falcon-40B with its dequantised weights cached would not fit.
    assert plan.on_h200 is not None and plan.on_h200[0] < 139
    assert plan.work is None
    assert plan.on_h200 is not None
    text = rendered(plan)
    assert "known shape" in text
    assert "data set 'AlekseyKorshuk/persona-chat' can't be reached" in text
    assert "for a million tokens" in text


def test_own_data_for_a_model_out_of_reach_are_counted_with_the_embedded_tokenizer():
    plan = plan_run(load("falcon-7b", ["data.train=persona-chat-sample", "data.max_dialogues=50"]))
    assert plan.work is not None
    assert "tokenizer of falcon-mini" in plan.work.note


def test_another_model_out_of_reach_is_the_usual_error():
    with pytest.raises(FalconerError, match="'nobody/nothing' was not found"):
        plan_run(load(None, ["model.name=nobody/nothing"]))


def test_a_mistyped_data_file_is_no_unknown_data_set():
    with pytest.raises(FalconerError, match="There is no file"):
        plan_run(load("quickstart", ["data.train=nothing.jsonl"]))


def test_a_dead_network_is_asked_once(monkeypatch):
    monkeypatch.setattr(runtime, "is_offline", lambda: False)
    monkeypatch.setattr(runtime, "hub_is_reachable", lambda: False)
    asked = []
    monkeypatch.setattr(work.setup, "load_dialogues", lambda config: asked.append(config))
    plan = plan_run(load("falcon-7b"))
    assert plan.work is None and not asked
