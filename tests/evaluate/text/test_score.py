"""`falconer score`: everything that is known about a file, in one JSON object."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from command_line import falconer
from falconer.data.language import NAMES
from falconer.errors import FalconerError
from falconer.evaluate.text.baselines import replies_in_place
from falconer.evaluate.text.predictions import write_predictions
from falconer.evaluate.text.score import score_file
from falconer.evaluate.text.words import bleu_tokens
from falconer.records import Prediction
from many_languages import REPLIES


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, rows: list[Prediction]) -> Path:
    """LMEDR's replies and a constant sentence, each as JSON Lines and as text, and the gold replies."""
    path = tmp_path_factory.mktemp("score")
    write_predictions(rows, path / "lmedr.jsonl")
    constant = replies_in_place(rows, ["i am doing well . how are you ?"] * len(rows))
    write_predictions(constant, path / "constant.jsonl")
    for name, texts in (
        ("lmedr.txt", [row.prediction for row in rows]), ("gold.txt", [row.reference for row in rows]),
        ("constant.txt", [row.prediction for row in constant]),
        ("lmedr.tsv", [f"{row.prediction}\t{row.reference}" for row in rows]),
    ):  # fmt: skip
        (path / name).write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path


def test_score_file_is_one_json_object(folder: Path) -> None:
    path = folder / "lmedr.jsonl"
    known = json.loads(json.dumps(score_file(path).to_json(), allow_nan=False))
    assert known["file"] == str(path)
    assert len(known["sha256"]) == 64
    assert known["num_replies"] == 200
    assert known["bleu"] == pytest.approx(5.391, abs=5e-4)
    assert known["word_ppl"] is None
    assert list(known["floors"]) == ["constant", "echo", "persona"]
    assert known["floors"]["constant"]["bleu"] == pytest.approx(1.5539, abs=1e-4)
    assert known["signatures"]["bleu"].startswith("nrefs:1|")
    assert known["gold"]["bleu"] == 100 and known["gold"]["persona_use"] == pytest.approx(57)
    assert known["legacy"]["parlai_bleu_4"] == pytest.approx(0.8113, abs=1e-4)
    for key, (low, high) in known["intervals"].items():
        assert low < known[key] < high, key
    assert known["bootstrap"]["num_dialogues"] == 27
    assert "tests" not in known


def test_every_form_scores_the_same(folder: Path) -> None:
    known = score_file(folder / "lmedr.jsonl", resamples=100).to_json()
    for other in (
        score_file(folder / "lmedr.tsv", resamples=100).to_json(),
        score_file(folder / "lmedr.txt", folder / "gold.txt", resamples=100).to_json(),
    ):
        for key in ("bleu", "bleu_2", "chrf", "rouge_l", "f1", "distinct_2", "mean_words", "num_empty"):
            assert other[key] == known[key], key
        assert other["bootstrap"]["num_dialogues"] == 200


@pytest.mark.parametrize("form", ["jsonl", "txt"])
def test_against_another_file(folder: Path, form: str) -> None:
    reference = folder / "gold.txt" if form == "txt" else None
    known = score_file(folder / f"lmedr.{form}", reference, folder / f"constant.{form}", resamples=200).to_json()
    tests = {test["metric"]: test for test in known["tests"]}
    assert known["baseline"]["bleu"] == pytest.approx(1.5539, abs=1e-4)
    assert tests["bleu"]["difference"] == pytest.approx(known["bleu"] - known["baseline"]["bleu"])
    assert tests["bleu"]["p_holm"] < 0.05
    assert known["sacrebleu"]["p"] == {str(folder / f"lmedr.{form}"): pytest.approx(1 / 201)}


def test_against_itself_or_other_turns_is_refused(folder: Path, rows: list[Prediction]) -> None:
    with pytest.raises(FalconerError, match="--against names the scored file itself"):
        score_file(folder / "lmedr.jsonl", against=folder / "lmedr.jsonl").to_json()
    write_predictions(rows[::-1], folder / "turned.jsonl")
    with pytest.raises(FalconerError, match="not reply to the same turns: in row 1, reference"):
        score_file(folder / "lmedr.jsonl", against=folder / "turned.jsonl").to_json()


def test_several_gold_replies_a_turn(tmp_path: Path, rows: list[Prediction]) -> None:
    """The best counts, gold is still all that one can get, and the number is in every signature."""
    others = [row.reference for row in rows[1:]] + [rows[0].reference]
    several = [replace(row, other_references=(other,)) for row, other in zip(rows, others, strict=True)]
    write_predictions(several, tmp_path / "several.jsonl")
    write_predictions(rows, tmp_path / "one.jsonl")
    one, more = (score_file(tmp_path / f"{name}.jsonl", resamples=100).to_json() for name in ("one", "several"))
    for key in ("bleu", "chrf", "rouge_l", "f1"):
        assert more[key] > one[key] and more["gold"][key] == pytest.approx(100), key
        assert more["floors"]["constant"][key] > one["floors"]["constant"][key], key
    assert more["signatures"]["bleu"].startswith("nrefs:2|") and more["signatures"]["chrf"].startswith("nrefs:2|")
    assert more["signatures"]["f1"].endswith("best of 2") and more["signatures"]["rouge_l"].endswith("best of 2")
    assert one["distinct_2"] == more["distinct_2"]
    write_predictions(replies_in_place(several, others), tmp_path / "others.jsonl")
    tested = score_file(tmp_path / "several.jsonl", against=tmp_path / "others.jsonl", resamples=100).to_json()
    assert {test["metric"] for test in tested["tests"]} >= {"bleu", "chrf", "rouge_l", "f1"}
    assert tested["sacrebleu"]["signature"].startswith("nrefs:2|")


@pytest.mark.parametrize("language", sorted(REPLIES))
def test_the_command_line_says_language_tokens_and_what_is_missing(tmp_path: Path, language: str) -> None:
    texts = REPLIES[language]
    write_predictions([Prediction(str(i), 0, text, text) for i, text in enumerate(texts)], tmp_path / "gold.jsonl")
    result = falconer("score", tmp_path / "gold.jsonl", "--resamples", "100")
    assert result.code == 0 and not result.err
    said = result.out
    assert f"Language: {NAMES[language]} ({language}), detected" in said
    assert f"Tokens: BLEU: {bleu_tokens(language).name}" in said
    assert "Too few dialogues (8): no figure is tested" in said and "(±0.00)" not in said
    assert ("words per reply is not measured" in said) == (language in ("zh", "ja", "th"))
    assert ("constant" in said.splitlines()[0]) == (language == "en")
    for figure in ("BLEU", "chrF", "ROUGE-L", "F1"):
        (row,) = (line for line in said.splitlines() if line.startswith(f"{figure} ↑"))
        assert "100.00" in row
    given = falconer("score", tmp_path / "gold.jsonl", "--resamples", "100", "--json", "--language", language)
    assert json.loads(given.out)["language"] == f"{NAMES[language]} ({language}), as given"


def test_whoever_spoke_last_the_speakers_are_the_files(tmp_path: Path) -> None:
    """Two turns of one speaker in a row: echo says the partner's last one, repetition looks at the speaker's own."""
    history = [("partner", "do you ski ?"), ("self", "i like green tea"), ("self", "and dogs")]
    row = {"prediction": "i like tea", "reference": "do you ski too ?", "turn": 3}
    for name, turns in (
        ("named", [{"speaker": who, "text": text} for who, text in history]),
        ("texts", [text for _, text in history]),
    ):
        line = json.dumps(row | {"history": turns})
        (tmp_path / f"{name}.jsonl").write_text(f"{line}\n", encoding="utf-8")
    named, texts = (score_file(tmp_path / f"{name}.jsonl", language="en") for name in ("named", "texts"))
    # "do you ski" is three of three words, and three of four of gold's; "and dogs" is none.
    assert named.baselines["echo"].f1 == pytest.approx(100 * 6 / 7) and texts.baselines["echo"].f1 == 0
    # Of "i like" and "like tea" the first was said before; taken to alternate, "and dogs" would be the partner's.
    assert named.score.repetition == texts.score.repetition == 50
    result = falconer("compare", tmp_path / "named.jsonl", tmp_path / "texts.jsonl", "--resamples", "100")
    assert result.code == 0, result.err


def test_an_unknown_language_is_refused_with_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("hi\thi\n", encoding="utf-8")
    result = falconer("score", tmp_path / "a.tsv", "--language", "xx")
    assert result.code == 2 and "Unknown language 'xx'" in result.err and "Give auto, a code" in result.err
