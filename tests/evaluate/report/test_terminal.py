"""What the terminal prints: the figures' words, which replies they are of, and tests with what is significant."""

import io
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from falconer.evaluate.report import terminal
from falconer.evaluate.report.terminal import show_comparison, show_evaluation, show_score
from falconer.evaluate.text.compare import comparison
from falconer.evaluate.text.predictions import write_predictions
from falconer.evaluate.text.score import score_file
from falconer.evaluate.text.systems import system_of
from falconer.records import Likelihood, Prediction
from falconer.run.metrics import Ablation, Decoded, Difference, Metrics, SacreBleuTest

STORED = Path(__file__).parents[2] / "run" / "fixtures" / "metrics.json"


def stored() -> Metrics:
    return Metrics.from_json(STORED.read_text(encoding="utf-8"), STORED, "")


def said(show, what) -> str:  # type: ignore[no-untyped-def]
    console = Console(file=io.StringIO(), width=200, highlight=False, markup=False)
    show(what, console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_an_evaluation_says_which_replies_its_figures_are_of() -> None:
    text = said(show_evaluation, stored())
    assert "all other figures over the generated replies: 475 for perplexity" in text
    assert "EOS rate (%)" in text and "self-ended" not in text and "floor" not in text
    assert "hits@1 without a model: 5.0 by chance, 35.0 by IDF-weighted word overlap" in text
    assert "against base" in text and "Shared with the training data: 0 of 162 personas" in text
    assert text.splitlines()[0].split() == ["base", "95", "%", "tuned", "95", "%", "constant", "echo", "persona"]


def test_ablations_are_tested_against_tuned_or_only_shown() -> None:
    metrics = stored()
    test = Difference("f1", 15.0, 13.0, -3.0, -1.0, 0.01, 0.02)
    ablation = Ablation("the model sees the history alone", replace(metrics.tuned, f1=13.0), {}, (test,))
    assert "against tuned" in said(show_evaluation, replace(metrics, ablations={"no_persona": ablation}))
    untested = said(show_evaluation, replace(metrics, ablations={"no_persona": replace(ablation, tests=())}))
    assert "no_persona" in untested and "against tuned" not in untested


def test_decodings_are_shown_if_there_are_any() -> None:
    metrics = stored()
    assert "Other decodings" not in said(show_evaluation, metrics)
    one = Decoded(metrics.tuned, {"phrase": 38.25, "own_turn": 0.0, "stock": 1.0}, {})
    text = said(show_evaluation, replace(metrics, decodings={"greedy, at most 32 tokens": one}))
    assert "Other decodings" in text and "repeats a phrase (%)" in text
    assert next(line for line in text.splitlines() if line.startswith("greedy")).split()[5] == "38.2"


def test_a_file_with_likelihoods_says_that_its_perplexity_is_of_its_own_replies(
    rows: list[Prediction], tmp_path: Path
) -> None:
    told = "These perplexities cover only the 200 gold replies in this file"
    write_predictions(rows, tmp_path / "without.jsonl")
    write_predictions(
        [replace(row, likelihood=Likelihood(9.0, 8.0, 5, 4, 20)) for row in rows], tmp_path / "with.jsonl"
    )
    assert told in said(show_score, score_file(tmp_path / "with.jsonl", resamples=100))
    assert told not in said(show_score, score_file(tmp_path / "without.jsonl", resamples=100))


def test_a_comparison_and_why_a_test_was_left_out(rows: list[Prediction]) -> None:
    found = comparison([system_of("a", rows), system_of("b", rows)], resamples=100)
    assert "sacreBLEU's own paired bootstrap test (resamples replies), b: no difference" in said(show_comparison, found)
    skipped = replace(found, sacrebleu=SacreBleuTest(skipped="too much"))
    assert "test was skipped: too much." in said(show_comparison, skipped)


def test_what_is_significant_is_bold() -> None:
    rows = [Difference("f1", 1.0, 3.0, 1.0, 3.0, 0.001, 0.002), Difference("bleu", 1.0, 1.5, -1.0, 2.0, 0.3, 0.6)]
    table = terminal.tests_table("base", {"tuned": rows})
    assert [row.style for row in table.rows] == ["bold", ""]
