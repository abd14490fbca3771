"""The model card: its metadata as the hub reads it, its figures as the run has them, its texts as text."""

import dataclasses
import re

import pytest
import yaml
from huggingface_hub import ModelCard

from browser import open_browser
from card_page import write_page
from fake_hub import BASE, REPOSITORY
from falconer.evaluate.report.score_table import format_value
from falconer.run.folder import read_config, read_metrics, read_record, write_config
from falconer.share.card import Power, render_card
from falconer.share.certificate import Certificate, Drift, Figure, Measured, Origin, Replies, Tokens
from falconer.share.facts import Talk, read_facts
from falconer.share.loading import Shared
from falconer.share.origin import find_origin

HOSTILE = (
    "<script>alert(1)</script> | *b* `c` [l](javascript:x) ](http://x) ![](y) # h {{ 7 * 7 }} /home/ann/x \x1b[31m"
)


@pytest.fixture
def facts(run):
    return read_facts(run, find_origin(read_config(run), base_model=BASE, license="mit", dataset="alice/talk"))


def shared(facts, what="adapter"):
    return Shared(REPOSITORY, what, facts.origin, facts.format, ("x-q8_0.gguf",), is_falcon=True)


def certificate(**changed):
    figure, drift = Figure(1.5, 1.0, 2.0), Drift(Figure(3e-5), Figure(40.5), Figure(0.25))
    measured = Measured(
        "the adapter on the 4-bit base", "transformers, fp32", "persona-chat-sample", 50, 200, 3000, figure, drift,
        Drift(Figure(0.4), Figure(120.0), Figure(200.0)), {}, Replies(200, 50, Figure(99.5), Figure(99.9), "greedy"),
    )  # fmt: skip
    origin = Origin(BASE, None, None, "bf16", "nf4", "0" * 64, "bfloat16")
    return dataclasses.replace(Certificate("merged", origin, Tokens(50, 50), measured, (), {}), **changed)


def test_the_hub_reads_its_metadata(facts, run):
    card = ModelCard(render_card(facts, shared(facts)))
    data = card.data
    assert (data.base_model, data.license, data.library_name) == (BASE, "mit", "peft")
    assert (data.datasets, data.language, data.pipeline_tag) == (["alice/talk"], ["en"], "text-generation")
    assert data.to_dict()["base_model_relation"] == "adapter"
    metrics = read_metrics(run)
    results = {one.metric_name: one for one in data.eval_results}
    assert results["F1"].metric_value == pytest.approx(metrics.tuned.f1, abs=0.001)
    assert results["F1"].metric_args["interval_95"] == pytest.approx(metrics.intervals["tuned"]["f1"], abs=0.001)
    assert results["BLEU"].metric_args["signature"] == metrics.signatures["bleu"]
    assert {one.dataset_type for one in data.eval_results} == {"alice/talk"}
    assert "[More Information Needed]" not in card.text


def test_every_figure_stands_beside_base_and_baselines_with_its_interval(facts, run):
    card, metrics = render_card(facts, shared(facts)), read_metrics(run)
    row = next(line for line in card.splitlines() if line.startswith("| F1"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    low, high = metrics.intervals["tuned"]["f1"]
    assert cells[1] == f"{format_value(metrics.tuned.f1, 2)} ({format_value(low, 2)} to {format_value(high, 2)})"
    assert cells[2].startswith(format_value(metrics.base.f1, 2))
    assert cells[3:6] == [format_value(metrics.baselines[name].f1, 2) for name in ("constant", "echo", "persona")]
    assert cells[6] == "–", "people against themselves say nothing"


@pytest.mark.parametrize(
    ("turns", "words"), [("self", "loss is that of the replies alone"), ("both", "both speakers' turns")]
)
def test_it_says_what_was_learned_and_at_which_rate(copied, turns, words):
    config, record = read_config(copied), read_record(copied)
    train, data = (getattr(config, name) for name in ("train", "data"))
    changed = config.model_copy(update={
        "train": train.model_copy(update={"learning_rate": None}),
        "data": data.model_copy(update={"learned_turns": turns}),
    })  # fmt: skip
    assert record["learning_rate"] == 0.02
    write_config(copied, changed)
    found = read_facts(copied, find_origin(changed, base_model=BASE, license="mit", dataset="alice/talk"))
    text = render_card(found, shared(found))
    assert "| learning rate | 0.02, AdamW" in text and "None" not in text
    assert words in next(line for line in text.splitlines() if line.startswith("| data |"))
    preferred = changed.model_copy(update={"prefer": config.prefer.model_copy(update={"pairs": "samples"})})
    after = render_card(dataclasses.replace(found, config=preferred), shared(found))
    assert "both speakers" not in after and "from samples" in after


def test_texts_of_dialogues_stay_text(facts):
    talk = Talk((HOSTILE,), ((HOSTILE, HOSTILE),), "A conversation:")
    card = render_card(dataclasses.replace(facts, talk=talk), shared(facts))
    body = ModelCard(card).text
    assert "<script>" not in body.replace("\\<script\\>", "") and "/home/ann" not in body
    assert "\x1b" not in body and "x1b" in body
    assert "49" not in next(line for line in body.splitlines() if "Model:" in line)


@pytest.mark.parametrize("what", ["adapter", "merged", "gguf"])
def test_each_kind_says_how_to_load_it(facts, what):
    card = ModelCard(render_card(facts, shared(facts, what), [certificate()] if what != "adapter" else ()))
    programs = {
        "adapter": ["falconer", "transformers and PEFT", "vLLM"], "merged": ["transformers", "vLLM"],
        "gguf": ["llama.cpp", "Ollama", "llama-cpp-python"],
    }[what]  # fmt: skip
    assert [line[4:] for line in card.text.splitlines() if line.startswith("### ")] == programs or what == "adapter"
    assert all(f"### {program}" in card.text for program in programs)
    assert (
        card.data.to_dict()["base_model_relation"]
        == {"adapter": "adapter", "merged": "finetune", "gguf": "quantized"}[what]
    )
    assert ("## Proof of the export" in card.text) == (what != "adapter")


def test_the_proof_of_an_export_stands_in_its_card(facts):
    card = render_card(facts, shared(facts, "merged"), [certificate()])
    for says in (
        "Token ids: 50 of 50 conversations have the same as in training", "Greedy replies: 99.5 % of 200 are identical",
        "| this export: merged weights, bfloat16 | 3.00e-05 | 40.50 | +0.25 |", "by transformers, fp32",
    ):  # fmt: skip
        assert says in card, says
    assert "--force" not in card
    forced = render_card(facts, shared(facts, "merged"), [certificate(is_forced=True, measured=None)])
    assert "Written with --force" in forced


def test_energy_is_estimated_only_where_the_power_is_known(facts):
    assert "energy" not in render_card(facts, shared(facts))
    hour = dataclasses.replace(facts, training=dataclasses.replace(facts.training, seconds=7200.0))
    assert "| 0.6 kWh (300 W for 2.0 hours) |" in render_card(hour, shared(facts), power=Power(300))
    assert "240.0 g of CO2 at 400 g/kWh" in render_card(hour, shared(facts), power=Power(300, 400))


def test_the_prompt_of_the_card_is_that_of_training(facts, run):
    from transformers import AutoTokenizer

    card = render_card(facts, shared(facts))
    shown = re.search(r"## Prompt\n\n```text\n(.*?)\n```", card, re.DOTALL)[1]
    tokenizer = AutoTokenizer.from_pretrained(run / "adapter")
    lines = shown.splitlines()
    system = "\n".join(line[2:] for line in lines if line.startswith("- "))
    messages = [{"role": "system", "content": system}, {"role": "user", "content": lines[-2].removeprefix("User: ")}]
    assert tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True) == shown


def test_the_yaml_has_no_other_documents(facts):
    text = render_card(facts, shared(facts))
    (data,) = list(yaml.safe_load_all(text.split("---\n")[1]))
    assert set(data) >= {"license", "base_model", "model-index", "tags"}


@pytest.mark.browser
def test_a_reader_sees_tables_and_pictures(facts, run, chromium, tmp_path):
    page = write_page(render_card(facts, shared(facts), has_curve=True), tmp_path / "card.html", run)
    with open_browser(chromium, tmp_path) as browser:
        browser.open(page, width=1000)
        assert browser.run("document.querySelectorAll('table').length") >= 4
        assert browser.run("document.querySelectorAll('h2').length") >= 8
        assert not browser.run("[...document.querySelectorAll('p')].some(one => one.innerText.includes('|---'))")
        assert browser.run("document.documentElement.scrollWidth") <= 1000
        assert browser.run("document.querySelector('img').naturalWidth") > 500
        assert browser.problems == []
