"""From a trained run to its report: what is written exists, agrees with itself, and repeats."""

import json
import math
import re

import pytest

from falconer import jobs
from falconer.data.prompt import template_sha256
from falconer.errors import FalconerError
from falconer.evaluate.predictions import read_predictions, score_file
from falconer.files import sha256
from falconer.model.generate import Decoding
from falconer.train.loop import ADAPTER
from falconer.train.setup import read_config
from small_runs import Small, silent

KEYS = {
    "token_ppl", "word_ppl", "bits_per_char", "bleu", "rouge_l", "f1", "distinct_1", "distinct_2", "mean_words",
    "ended_share",
}  # fmt: skip
TEXT_KEYS = KEYS - {"token_ppl", "word_ppl", "bits_per_char", "ended_share"}
LIMITS = ["evaluate.max_new_tokens=6", "evaluate.max_replies=7", "evaluate.num_samples=4", "evaluate.batch_size=4"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A trained and evaluated run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    # Learns fast enough in three steps that base and tuned differ.
    small.run(folder, *LIMITS, "train.max_steps=3", "train.learning_rate=5e-2", "model.quantization=nf4")
    jobs.evaluate_run(jobs.open_run(folder), read_config(folder), silent(), **CHAT)
    return folder


CHAT = {"chat_persona": ("i sing .",), "sample_chat": [("hi ?", "hello <b>you</b>")]}


@pytest.fixture(scope="module")
def metrics(run):
    return json.loads((run / jobs.METRICS).read_text(encoding="utf-8"))


def test_base_and_tuned_have_every_figure(metrics):
    for system in ("base", "tuned"):
        figures = {key: metrics[system][key] for key in KEYS}
        assert all(isinstance(value, float) and math.isfinite(value) for value in figures.values()), figures
        assert all(0 <= figures[key] <= 100 for key in TEXT_KEYS - {"mean_words"})
        assert 0 <= figures["ended_share"] <= 100


def test_every_floor_has_every_figure_that_needs_no_model(metrics):
    assert set(metrics["floors"]) == {"constant", "echo", "persona"}
    for floor in metrics["floors"].values():
        assert set(floor) >= KEYS
        assert all(isinstance(floor[key], float) for key in TEXT_KEYS)
        assert floor["word_ppl"] is None


def test_training_made_a_difference(metrics):
    assert metrics["tuned"]["word_ppl"] < metrics["base"]["word_ppl"]


def test_it_says_what_the_figures_depend_on(metrics):
    assert set(metrics["signatures"]) >= {"bleu", "rouge_l", "f1", "distinct"}
    assert "version:" in metrics["signatures"]["bleu"]
    settings = metrics["settings"]
    assert settings["prompt template"] == template_sha256()[:16]
    assert settings["decoding"] == "greedy, at most 6 tokens"
    assert settings["quantisation"] == "nf4, 8 layers"
    assert "7 generated" in settings["replies"]
    assert {"torch", "transformers", "device"} <= set(metrics["environment"])
    assert metrics["data"]


@pytest.mark.parametrize("system", ["base", "tuned"])
def test_predictions_give_the_same_scores_again(run, metrics, system):
    path = run / f"predictions-{system}.jsonl"
    assert len(read_predictions(path)) == 7
    again = score_file(path)
    for key in (TEXT_KEYS | {"ended_share"}) & set(again):
        assert again[key] == pytest.approx(metrics[system][key]), key
    assert again["floors"]["constant"]["f1"] == pytest.approx(metrics["floors"]["constant"]["f1"])


def test_base_and_tuned_answer_the_same_turns(run):
    base, tuned = (read_predictions(run / f"predictions-{system}.jsonl") for system in ("base", "tuned"))
    assert [(p.dialogue_id, p.turn, p.reference) for p in base] == [(p.dialogue_id, p.turn, p.reference) for p in tuned]
    assert [p.prediction for p in base] != [p.prediction for p in tuned]


@pytest.mark.parametrize("page", ["report.html", "report.md"])
def test_the_reports_show_these_figures(run, metrics, page):
    text = (run / page).read_text(encoding="utf-8")
    for system in ("base", "tuned"):
        for key in ("bleu", "rouge_l", "f1"):
            assert f"{metrics[system][key]:.2f}" in text
    assert metrics["signatures"]["rouge_l"].split("|")[0] in text
    assert "hello" in text and "<b>you</b>" not in text


def test_the_html_page_holds_its_curve_every_reply_and_every_hash(run, metrics):
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "data:image/png;base64," in html
    data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
    assert [row[0] for row in data["curve"]["train"]] == [1, 2, 3]
    assert data["replies"]["systems"] == ["base", "tuned"] and len(data["replies"]["rows"]) == 7
    assert all(source["sha256"] in html for source in metrics["data"].values())
    assert sha256(run / ADAPTER / "adapter_model.safetensors") in html
    assert "train.learning_rate" in html and "evaluate.max_new_tokens" in html


def test_again_gives_the_same_and_other_settings_need_no_training(run, metrics):
    opened = jobs.open_run(run)
    again = jobs.evaluate_run(opened, read_config(run), silent(), **CHAT)
    assert again == metrics
    penalty = {"repetition_penalty": 1.5, "max_replies": 3}
    config = opened.config.model_copy(update={"evaluate": opened.config.evaluate.model_copy(update=penalty)})
    other = jobs.evaluate_run(opened, config, silent())
    assert other["tuned"]["word_ppl"] == metrics["tuned"]["word_ppl"]
    assert other["tuned"]["num_replies"] == 3
    jobs.evaluate_run(opened, read_config(run), silent(), **CHAT)


def test_scores_come_back_as_records(metrics):
    base, tuned, floors = jobs.scores_of(metrics)
    assert (base.bleu, tuned.f1) == (metrics["base"]["bleu"], metrics["tuned"]["f1"])
    assert floors["echo"].rouge_l == metrics["floors"]["echo"]["rouge_l"]


def test_the_last_checkpoint_can_be_opened_too(run):
    assert jobs.open_run(run, "checkpoints/last").model.peft_config


def test_a_run_talks(run):
    opened = jobs.open_run(run)
    session = jobs.open_session(opened, ["I sing."], Decoding(max_new_tokens=5))
    text = "".join(session.reply("Hi!"))
    assert session.turns[0].text == "hi !"
    assert len(session.turns) == 2
    assert isinstance(text, str)


def test_no_run_and_no_adapter_are_explained(run, tmp_path):
    with pytest.raises(FalconerError, match="holds no run"):
        jobs.open_run(tmp_path)
    with pytest.raises(FalconerError, match=r"has no 'nothing' yet.*--resume"):
        jobs.open_run(run, "nothing")
