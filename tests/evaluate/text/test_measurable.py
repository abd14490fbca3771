"""Gold against itself scores 100 in every figure that is printed, in every language; others have a reason."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from falconer.evaluate.text.compare import comparison
from falconer.evaluate.text.counts import statistics_of
from falconer.evaluate.text.history import alternating
from falconer.evaluate.text.measurable import OVERLAP, not_measured, overflows, remarks
from falconer.evaluate.text.metrics import score_predictions, text_score
from falconer.evaluate.text.predictions import write_predictions
from falconer.evaluate.text.score import score_file
from falconer.evaluate.text.systems import caveats_of, gold_system, system_of
from falconer.records import Likelihood, Prediction
from many_languages import REPLIES


def golds(texts: Sequence[str]) -> list[Prediction]:
    return [Prediction(str(number), 0, text, text) for number, text in enumerate(texts)]


def scored(folder: Path, rows: Sequence[Prediction], language: str = "auto") -> dict[str, Any]:
    write_predictions(rows, folder / "rows.jsonl")
    found = score_file(folder / "rows.jsonl", resamples=100, language=language).to_json()
    json.dumps(found, allow_nan=False)
    return found


@pytest.mark.parametrize("language", REPLIES)
def test_gold_against_itself_is_100_in_every_language(tmp_path: Path, language: str) -> None:
    found = scored(tmp_path, golds(REPLIES[language]))
    assert f"({language}), detected" in found["language"]
    assert {key: found[key] for key in OVERLAP} == dict.fromkeys(OVERLAP, pytest.approx(100))
    assert found["gold"]["bleu"] == found["bleu"]
    assert (found["floors"] != {}) == (language == "en")  # the constant sentence is English


@pytest.mark.parametrize("language", REPLIES)
def test_another_reply_is_no_gold_reply(tmp_path: Path, language: str) -> None:
    """A figure that is 100 for everything would pass the test above."""
    texts = REPLIES[language]
    rows = [Prediction(str(i), 0, text, gold) for i, (text, gold) in enumerate(zip(texts[1:], texts[:-1], strict=True))]
    found = scored(tmp_path, rows)
    assert all(found[key] < 40 for key in OVERLAP)
    half = [Prediction("d", 0, text[: len(text) // 2], text) for text in texts]
    assert all(20 < scored(tmp_path, half)[key] < 100 for key in ("chrf", "rouge_l", "f1"))


lines = st.one_of(st.sampled_from([text for some in REPLIES.values() for text in some]), st.text(max_size=12))
references = st.lists(lines, min_size=1, max_size=3).map("".join).filter(str.strip)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(references, min_size=1, max_size=6), st.sampled_from(["auto", "en", "zh", "tr", "ko", "und", "mul"]))
def test_whatever_is_gold_gets_100_or_a_reason(tmp_path: Path, texts: list[str], language: str) -> None:
    found = scored(tmp_path, golds(texts), language)
    for key in OVERLAP:
        if found[key] is None:
            assert found["not_measured"][key]
            assert key not in found["intervals"] and found["gold"][key] is None
            assert all(floor[key] is None for floor in found["floors"].values())
        else:
            assert found[key] == pytest.approx(100)


def test_what_is_too_short_for_an_n_gram_is_not_measured(tmp_path: Path) -> None:
    found = scored(tmp_path, golds(["me too", "no way"]))
    assert found["bleu"] is None and found["not_measured"]["bleu"] == "no gold reply has four tokens"
    assert found["bleu_2"] == 100 and found["brevity_penalty"] == 1 and found["length_ratio"] == 1
    found = scored(tmp_path, golds(["hi", "no"]))
    assert found["not_measured"]["bleu_2"] == "no gold reply has two tokens"


def test_a_gold_reply_of_punctuation_is_left_out_of_the_mean_and_counted() -> None:
    """Forty replies half right: 50 each; the reply "?!" has no word, and would have been 0 whatever was said."""
    rows = [Prediction(str(i), 0, "dogs run", "dogs sleep") for i in range(40)]
    marked = [*rows, Prediction("41", 0, "?!", "?!")]
    before, after = statistics_of(rows), statistics_of(marked)
    assert "counted" not in before.columns and after.columns["counted"].sum() == 80
    score = text_score([row.prediction for row in marked], [row.reference for row in marked])
    assert (score.f1, score.rouge_l) == (pytest.approx(50), pytest.approx(50))
    gold = gold_system(marked, "en")
    assert not {"f1", "rouge_l"} & set(not_measured(gold.blocks[0], "en"))
    assert remarks(gold.blocks[0], {}) == [
        f"{name} is the mean over 40 of 41 replies. The gold replies to the others contain no word that it counts "
        "(punctuation or emoji alone)."
        for name in ("ROUGE-L", "F1")
    ]


@pytest.mark.parametrize("golds_of_last", [("...", "me too"), ("me too", "...")])
@pytest.mark.parametrize("said", ["...", "me too", "no"])
def test_a_turn_that_is_left_out_adds_nothing_whatever_is_said(golds_of_last: tuple[str, str], said: str) -> None:
    """Its reply may well share words with a further gold reply, or be one that has none."""
    rows = [Prediction(str(i), 0, "dogs run", "dogs run", other_references=("cats sleep",)) for i in range(40)]
    rows.append(Prediction("41", 0, said, golds_of_last[0], other_references=golds_of_last[1:]))
    score = score_predictions(rows)
    assert (score.f1, score.rouge_l) == (pytest.approx(100), pytest.approx(100))


def test_many_gold_replies_without_a_word_are_no_measure() -> None:
    gold = gold_system(golds(["?!", "i like dogs", "..."]), "en").blocks[0]
    reasons = not_measured(gold, "en")
    assert reasons["f1"] == reasons["rouge_l"] == "2 of 3 gold replies contain no word that it counts"
    assert remarks(gold, reasons) == []


@pytest.mark.parametrize(("num_short", "is_measured"), [(10, True), (11, False)])
def test_older_definitions_are_not_measured_on_short_replies(tmp_path: Path, num_short: int, is_measured: bool) -> None:
    """They give "yes ." 0, also against itself; half of the replies are allowed to be so short."""
    found = scored(tmp_path, golds(["i like my two dogs ."] * (21 - num_short) + ["yes ."] * num_short))
    assert bool(found["legacy"]) is ("legacy" in found["signatures"]) is is_measured
    reason = "11 of 21 gold replies have fewer than four words, and score 0 against themselves"
    assert found["not_measured"] == ({} if is_measured else {"legacy": reason})


def test_english_rules_for_chinese_text_measure_nothing(tmp_path: Path) -> None:
    """`--language en` is the user's word; the self-test still holds."""
    found = scored(tmp_path, golds(REPLIES["zh"]), "en")
    assert found["rouge_l"] is None and "gold replies contain no word" in found["not_measured"]["rouge_l"]
    assert found["language"] == "English (en), as given; detection says Chinese"


def test_english_figures_are_left_out_elsewhere(tmp_path: Path) -> None:
    likelihood = Likelihood(30, 28, 10, 1, 12)
    rows = [
        Prediction(str(i), 1, text, text, persona=("我有一只猫",), history=alternating(["你好"]), likelihood=likelihood)
        for i, text in enumerate(REPLIES["zh"])
    ]
    found = scored(tmp_path, rows)
    assert set(found["not_measured"]) == {"word_ppl", "mean_words", "persona_use", "legacy"}
    assert all(found[key] is None for key in ("word_ppl", "mean_words", "persona_use"))
    assert found["bits_per_char"] == pytest.approx(28 / math.log(2) / 12) and found["token_ppl"] is not None
    assert set(found["floors"]) == {"echo", "persona"} and found["legacy"] == {}
    assert any("these replies are not English" in note for note in found["notes"])
    unknown = scored(tmp_path, golds(["a b", "b a"]))
    assert any("not known to be English" in note for note in unknown["notes"])


def test_a_file_is_not_told_about_figures_that_it_could_not_have(tmp_path: Path) -> None:
    assert set(scored(tmp_path, golds(REPLIES["ja"]))["not_measured"]) == {"mean_words", "legacy"}
    assert scored(tmp_path, golds(REPLIES["en"]))["not_measured"] == {}


@pytest.mark.parametrize("nll", [1e5, 1e300, 1.7e308])
def test_a_perplexity_too_large_for_a_number_is_none_with_a_reason(tmp_path: Path, nll: float) -> None:
    rows = [
        Prediction(str(i), 0, "i am fine .", "i am ok .", likelihood=Likelihood(nll, nll, 5, 4, 9)) for i in range(25)
    ]
    found = scored(tmp_path, rows)
    assert found["word_ppl"] is None and found["token_ppl"] is None
    assert "exceeds 1.8e308" in found["not_measured"]["word_ppl"]
    assert not {"word_ppl", "token_ppl"} & set(found["intervals"])
    systems = [system_of(name, rows) for name in ("a", "b")]
    tested = comparison(systems, resamples=100).to_json()
    json.dumps(tested, allow_nan=False)
    assert not {"word_ppl", "token_ppl"} & {test["metric"] for test in tested["tests"]["b"]}


def test_a_system_that_overflows_takes_nothing_from_the_others() -> None:
    def of(nll: float) -> list[Prediction]:
        return [Prediction(str(i), 0, "a b", "a b", likelihood=Likelihood(nll, nll, 2, 2, 3)) for i in range(25)]

    found = comparison([system_of("base", of(1e5)), system_of("tuned", of(2.0))], resamples=100).to_json()
    scores = {name: one["score"] for name, one in found["systems"].items()}
    assert scores["base"]["word_ppl"] is None and scores["tuned"]["word_ppl"] == pytest.approx(math.e)
    assert found["not_measured"]["word_ppl"].startswith("for base it exceeds")
    assert "word_ppl" not in {test["metric"] for test in found["tests"]["tuned"]}


def test_overflows_name_the_system() -> None:
    rows = [Prediction("1", 0, "a", "b", likelihood=Likelihood(1e6, 1e6, 1, 1, 1))]
    assert "for tuned it exceeds" in overflows({"tuned": system_of("tuned", rows).blocks})["word_ppl"]
    assert overflows({"base": system_of("base", golds(["a b"])).blocks}) == {}


def test_the_choice_of_tokens_is_said() -> None:
    caveats = caveats_of(gold_system(golds(REPLIES["th"] * 3), "th"), [])
    assert "|tok:char|" in caveats.signatures["bleu"]
    assert caveats.signatures["f1"].startswith("words:characters")
    assert "stem:no" in caveats.signatures["rouge_l"] and "language:th" in caveats.signatures["text"]
    assert "legacy" not in caveats.signatures
