"""From a trained run to its report: what is written exists, agrees with itself, and repeats."""

import io
import json
import math
import re
import shutil

import pytest
import torch
from rich.console import Console

from falconer import jobs
from falconer.data.prompt import template_sha256
from falconer.errors import FalconerError
from falconer.evaluate.report.terminal import show_evaluation
from falconer.evaluate.text.predictions import read_predictions
from falconer.evaluate.text.score import score_file
from falconer.files.replace import sha256
from falconer.model import engine
from falconer.model.engine import Decoding
from falconer.run.folder import ADAPTER, METRICS, Chat, adapter_hashes, read_config, write_chat
from small_runs import Small, silent, write_dialogues

KEYS = {
    "token_ppl", "word_ppl", "bits_per_char", "bleu", "bleu_2", "chrf", "rouge_l", "f1", "distinct_1", "distinct_2",
    "mean_words", "ended_share", "persona_use", "repetition", "hits_1", "hits_1_sum",
}  # fmt: skip
MODEL_KEYS = {"token_ppl", "word_ppl", "bits_per_char", "ended_share", "hits_1", "hits_1_sum"}
TEXT_KEYS = KEYS - MODEL_KEYS
LIMITS = ["evaluate.max_new_tokens=6", "evaluate.max_replies=45", "evaluate.num_samples=4", "evaluate.batch_size=4"]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Whose validation dialogues have four candidates for each reply, and are enough for tests."""
    small = Small(tmp_path_factory.mktemp("small"))
    write_dialogues(small.valid, 24, seed=6)
    rows = [json.loads(line) for line in small.valid.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        for turn in row["turns"]:
            if turn["speaker"] == "self":
                turn["candidates"] = ["i like cats", "and horses but", "my sister has two dogs", turn["text"]]
    small.valid.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return small


@pytest.fixture(scope="module")
def run(small, tmp_path_factory):
    """A trained and evaluated run."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    # Learns fast enough in three steps that base and tuned differ.
    small.run(folder, *LIMITS, "train.max_steps=3", "train.learning_rate=5e-2", "model.quantization=nf4")
    write_chat(folder, Chat(("i sing .",), (("hi ?", "hello <b>you</b>"),), adapter_hashes(folder)))
    jobs.evaluate_run(jobs.open_run(folder), read_config(folder), silent(), ablations=True)
    return folder


@pytest.fixture(scope="module")
def metrics(run):
    return json.loads((run / METRICS).read_text(encoding="utf-8"))


def test_base_and_tuned_have_every_figure(metrics):
    for system in ("base", "tuned"):
        figures = {key: metrics[system][key] for key in KEYS}
        assert all(isinstance(value, float) and math.isfinite(value) for value in figures.values()), figures
        assert all(0 <= figures[key] <= 100 for key in TEXT_KEYS - {"mean_words"})
        assert 0 <= figures["ended_share"] <= 100


def test_every_baseline_has_every_figure_that_needs_no_model(metrics):
    assert set(metrics["floors"]) == {"constant", "echo", "persona"}
    for baseline in metrics["floors"].values():
        assert set(baseline) >= KEYS
        assert all(isinstance(baseline[key], float) for key in TEXT_KEYS)
        assert baseline["word_ppl"] is None


def test_training_made_a_difference(metrics):
    assert metrics["tuned"]["word_ppl"] < metrics["base"]["word_ppl"]


def test_it_says_what_the_figures_depend_on(metrics):
    assert set(metrics["signatures"]) >= {"bleu", "rouge_l", "f1", "distinct"}
    assert "version:" in metrics["signatures"]["bleu"]
    settings = metrics["settings"]
    assert settings["prompt template"] == template_sha256()[:16]
    assert settings["decoding"] == "greedy, at most 6 tokens"
    assert settings["quantisation"] == "nf4, 8 layers"
    assert "45 generated" in settings["replies"]
    assert {"torch", "transformers", "device"} <= set(metrics["environment"])
    assert metrics["data"]


@pytest.mark.parametrize("system", ["base", "tuned"])
def test_predictions_give_the_same_scores_again(run, metrics, system):
    path = run / f"predictions-{system}.jsonl"
    assert len(read_predictions(path)) == 45
    again = score_file(path).to_json()
    for key in (TEXT_KEYS | {"ended_share"}) & set(again):
        assert again[key] == pytest.approx(metrics[system][key]), key
    assert again["floors"]["constant"]["f1"] == pytest.approx(metrics["floors"]["constant"]["f1"])


def test_every_figure_but_counts_and_distinct_has_an_interval_around_it(metrics):
    for name, score in {"base": metrics["base"], "tuned": metrics["tuned"], **metrics["floors"]}.items():
        measured = {key for key in KEYS - {"distinct_1", "distinct_2"} if score[key] is not None}
        assert measured <= set(metrics["intervals"][name])
        for key, (low, high) in metrics["intervals"][name].items():
            assert low <= score[key] <= high, (name, key)


def test_tuned_is_tested_against_base(metrics):
    tests = {test["metric"]: test for test in metrics["tests"]}
    assert {"word_ppl", "token_ppl", "bleu", "rouge_l", "f1", "hits_1", "ended_share"} <= set(tests)
    for key, test in tests.items():
        assert test["difference"] == pytest.approx(metrics["tuned"][key] - metrics["base"][key])
        assert 0 < test["p"] <= test["p_holm"] <= 1
    assert tests["word_ppl"]["high"] < 0
    assert set(metrics["sacrebleu"]["p"]) == {"tuned"}
    assert metrics["bootstrap"]["num_replies"] == 45


def test_gold_is_ranked_beside_what_needs_no_model(metrics, run):
    assert metrics["ranking"]["num_turns"] == 45
    assert metrics["ranking"]["chance"] == 25
    ranks = [row.ranks for row in read_predictions(run / "predictions-tuned.jsonl")]
    assert {rank.num_candidates for rank in ranks} == {4}
    assert metrics["tuned"]["hits_1"] == pytest.approx(100 * sum(rank.by_mean == 1 for rank in ranks) / 45)


def test_ablations_are_compared_with_the_unaltered_tuned_model(metrics, run):
    assert list(metrics["controls"]) == ["no_persona", "shuffled_persona", "no_history"]
    for name, ablation in metrics["controls"].items():
        tests = {test["metric"]: test for test in ablation["tests"]}
        assert tests["word_ppl"]["baseline"] == pytest.approx(metrics["tuned"]["word_ppl"])
        assert tests["word_ppl"]["system"] == pytest.approx(ablation["score"]["word_ppl"])
        assert tests["word_ppl"]["system"] != tests["word_ppl"]["baseline"]
        assert ablation["meaning"].startswith("the prompt has ")
        rows = read_predictions(run / f"predictions-{name}.jsonl")
        true = read_predictions(run / "predictions-tuned.jsonl")
        assert [(row.reference, row.history, row.persona) for row in rows] == [
            (row.reference, row.history, row.persona) for row in true
        ]


def test_slices_cover_all_replies(metrics):
    sizes = {}
    for row in metrics["slices"]:
        sizes[row["kind"]] = sizes.get(row["kind"], 0) + row["num_replies"]
        assert set(row["systems"]) == {"base", "tuned"}
        value, low, high = row["systems"]["tuned"]["word_ppl"]
        # A group of fewer than 20 dialogues has no interval.
        assert (low, high) == (None, None) or low <= value <= high
    assert any(row["systems"]["tuned"]["word_ppl"][1] for row in metrics["slices"])
    assert sizes == {"reply": 45, "gold": 45, "gold persona": 45, "persona in training": 45}


def test_legacy_and_consistency_say_what_they_are(metrics):
    assert set(metrics["legacy"]) == {"base", "tuned"}
    assert set(metrics["legacy"]["base"]) == {"parlai_bleu_4", "nltk_sentence_bleu"}
    assert metrics["consistency"] == "not measured"


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
    assert data["replies"]["systems"] == ["base", "tuned"] and len(data["replies"]["rows"]) == 45
    assert all(source["sha256"] in html for source in metrics["data"].values())
    assert sha256(run / ADAPTER / "adapter_model.safetensors") in html
    assert "train.learning_rate" in html and "evaluate.max_new_tokens" in html


def test_again_gives_the_same_and_other_settings_need_no_training(run, metrics):
    opened = jobs.open_run(run)
    again = jobs.evaluate_run(opened, read_config(run), silent(), ablations=True)
    assert again.to_json() == metrics
    penalty = {"repetition_penalty": 1.5, "max_replies": 3}
    config = opened.config.model_copy(update={"evaluate": opened.config.evaluate.model_copy(update=penalty)})
    other = jobs.evaluate_run(opened, config, silent())
    assert other.ablations == {} and not list(run.glob("predictions-no_*"))
    assert other.tuned.word_ppl == metrics["tuned"]["word_ppl"]
    assert other.tuned.num_replies == 3
    jobs.evaluate_run(opened, read_config(run), silent(), ablations=True)


def test_memory_that_runs_out_costs_no_result_and_is_told_and_noted(run, metrics, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "run")
    tried, whole = [], engine.target_nll

    def limited(model, batch, **options):
        tried.append(len(batch.ids))
        if tried[-1] > 5:
            raise torch.OutOfMemoryError("out of memory, says a test")
        return whole(model, batch, **options)

    monkeypatch.setattr(engine, "target_nll", limited)
    console = Console(file=io.StringIO(), width=200)
    found = jobs.evaluate_run(jobs.open_run(copy), read_config(copy), console)
    assert max(tried) > 5
    for system in ("base", "tuned"):
        score = getattr(found, system)
        assert score.word_ppl == pytest.approx(metrics[system]["word_ppl"], rel=1e-4)
        assert score.f1 == metrics[system]["f1"]
    note = f"out of memory (likelihoods): a batch of {tried[0]} did not fit, so batches were halved until they did"
    assert console.file.getvalue().count(f"note    {note}") == 1
    assert note in found.settings["notes"]
    assert note in (copy / "report.md").read_text(encoding="utf-8").replace("\\", "")


def test_the_last_checkpoint_can_be_opened_too(run):
    assert jobs.open_run(run, "checkpoints/last").model.peft_config


def test_a_run_talks(run):
    opened = jobs.open_run(run)
    session = jobs.open_session(opened, ["I sing."], Decoding(max_new_tokens=5))
    text = "".join(session.reply("Hi!"))
    # These dialogues have no punctuation that could be spaced, so what is typed is heard as it is.
    assert session.turns[0].text == "Hi!"
    assert len(session.turns) == 2
    assert isinstance(text, str)


def test_no_run_and_no_adapter_are_explained(run, tmp_path):
    with pytest.raises(FalconerError, match="contains no run"):
        jobs.open_run(tmp_path)
    with pytest.raises(FalconerError, match=r"has no folder 'nothing'. Use adapter \(the best\) or checkpoints/last"):
        jobs.open_run(run, "nothing")
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in ("config.yaml", "run.json"):
        shutil.copy(run / name, begun)
    with pytest.raises(FalconerError, match=r"has no 'adapter' yet.*--resume"):
        jobs.open_run(begun)


@pytest.fixture(scope="module")
def chinese(tmp_path_factory):
    """A run on Chinese dialogues, evaluated with its ablations; what it printed; and its metrics."""
    folder = tmp_path_factory.mktemp("chinese")
    small = Small(folder)
    for path, num in ((small.train, 24), (small.valid, 22)):
        rows = [
            {
                "id": f"{path.stem}{i}", "persona": [f"我有{i}只猫。", "我是护士。"],
                "turns": [
                    {"speaker": "partner", "text": f"你好，今天第{i}位客人怎么样？"},
                    {"speaker": "self", "text": f"我很好，{i}只猫在睡觉，我正准备做面条。"},
                ],
            }
            for i in range(num)
        ]  # fmt: skip
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    small.run(folder / "run", *LIMITS, "train.max_steps=1")
    console = Console(file=io.StringIO(), width=200)
    found = jobs.evaluate_run(jobs.open_run(folder / "run"), read_config(folder / "run"), console, ablations=True)
    show_evaluation(found, console)
    return folder / "run", console.file.getvalue(), found


def test_chinese_is_measured_by_characters_and_what_is_not_measured_says_why(chinese):
    run, said, _ = chinese
    text = (run / METRICS).read_text(encoding="utf-8")
    metrics = json.loads(text, parse_constant=pytest.fail)  # called for NaN and Infinity
    assert metrics["language"] == "Chinese (zh), detected by its script"
    assert "|tok:zh|" in metrics["signatures"]["bleu"]
    for system in ("base", "tuned", "gold"):
        assert metrics[system]["word_ppl"] is None and metrics[system]["mean_words"] is None
        assert metrics[system]["f1"] is not None
    assert metrics["tuned"]["bits_per_char"] > 0 and metrics["gold"]["rouge_l"] == pytest.approx(100)
    assert "bits_per_char" in metrics["intervals"]["tuned"] and "word_ppl" not in metrics["intervals"]["tuned"]
    assert set(metrics["floors"]) == {"echo", "persona"} and metrics["legacy"] == {}
    assert set(metrics["not_measured"]) == {"word_ppl", "mean_words", "persona_use", "legacy"}
    assert {row["kind"] for row in metrics["slices"]} == {"reply", "gold", "persona in training"}
    assert not any("word_ppl" in row["systems"]["tuned"] for row in metrics["slices"])
    assert all("word_ppl" not in {test["metric"] for test in one["tests"]} for one in metrics["controls"].values())
    assert "word perplexity is not measured: Chinese has no spaces between words" in said
    assert "Language: Chinese (zh), detected by its script. Tokens: BLEU: zh" in said


def test_the_report_of_chinese_says_so_too(chinese):
    run, _, _ = chinese
    markdown, page = ((run / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    assert "Not measured: word perplexity (Chinese has no spaces between words" in markdown
    assert "<b>word perplexity</b> (Chinese has no spaces between words" in page
    assert "The baseline “constant” is left out" in markdown
    assert "bits per character" in page.split('class="figures"')[1].split("</ul>")[0]  # at a glance
    data = json.loads(re.search(r'id="data">(.*?)</script>', page)[1])
    assert (data["language"], data["has_spaces"], data["lengths"]["unit"]) == ("zh", False, "characters")
    assert len(data["lengths"]["shares"]["gold"]) > 15


def test_another_language_can_be_named_and_an_unknown_one_is_refused_at_once(chinese):
    run, _, _ = chinese
    config = read_config(run)

    def asked(language):
        return config.model_copy(update={"evaluate": config.evaluate.model_copy(update={"language": language})})

    with pytest.raises(FalconerError, match="Unknown language 'klingon'"):
        jobs.evaluate_run(jobs.open_run(run), asked("klingon"), silent())
    metrics = jobs.evaluate_run(jobs.open_run(run), asked("ja"), silent())
    assert metrics.language == "Japanese (ja), as given; detection says Chinese"
