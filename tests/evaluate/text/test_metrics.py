"""Scores equal what sacrebleu and rouge-score print themselves; F1 and distinct-n equal counts by hand."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falconer.errors import FalconerError
from falconer.evaluate.text.baselines import replies_in_place
from falconer.evaluate.text.metrics import score_predictions, signatures, text_score
from falconer.evaluate.text.pairs import distinct, rouge_l_of_each, word_f1
from falconer.evaluate.text.words import bleu_tokens
from falconer.records import Prediction, Score

words = st.lists(st.sampled_from(["i", "am", "a", "The", "dog", "Dogs", "running", ".", "i'm", "ok"]), max_size=8)
replies = words.map(" ".join)
# A gold reply without a word is left out of F1's and ROUGE-L's means: tested in test_measurable.py.
golds = replies.filter(lambda text: word_f1(text, text) == 100 and rouge_l_of_each([text], [text]) == [100])
pairs = st.lists(st.tuples(replies, golds), min_size=1, max_size=6)


def test_equals_the_libraries_own_command_lines(rows: list[Prediction]) -> None:
    """hyp.txt and ref.txt held the 200 predictions and references of the fixture, one a line.

    BLEU: `sacrebleu ref.txt -i hyp.txt -lc --force -f json -w 4` (2.6.0) printed score 5.391, BP 0.884, ratio 0.890,
    precisions 28.5 and 8.4 for n = 1 and 2; BLEU-2 is BP x sqrt(28.5 x 8.4), known to that rounding.
    chrF: `sacrebleu ref.txt -i hyp.txt -m chrf --chrf-lowercase -f json -w 4` printed 19.9783.
    ROUGE-L: `python -m rouge_score.rouge --target_filepattern=ref.txt --prediction_filepattern=hyp.txt
    --output_filename=out.csv --rouge_types=rougeL --use_stemmer --noaggregate` (0.1.2); the column rougeL-F, rounded by
    it to six digits, has mean 0.227272.
    F1, distinct: `tr A-Z a-z | sed -E 's/[[:punct:]]/ /g; s/\\b(a|an|the)\\b/ /g'` (GNU sed), then awk: F1 by multiset
    overlap 24.196063; 393 different of 1,823 words (`sort -u | wc -l`), 813 different of 1,623 pairs.
    Words: `awk '{s+=NF} END {print s/NR}' hyp.txt` printed 10.885.
    """
    score = text_score([row.prediction for row in rows], [row.reference for row in rows])
    assert score.num_replies == 200
    assert score.bleu == pytest.approx(5.391, abs=5e-4)
    assert score.brevity_penalty == pytest.approx(0.884, abs=5e-4)
    assert score.length_ratio == pytest.approx(0.890, abs=5e-4)
    assert score.bleu_2 == pytest.approx(0.884 * (28.5 * 8.4) ** 0.5, abs=0.06)
    assert score.chrf == pytest.approx(19.9783, abs=5e-5)
    assert score.rouge_l == pytest.approx(22.7272, abs=1e-4)
    assert score.f1 == pytest.approx(24.196063, abs=1e-6)
    assert score.distinct_1 == pytest.approx(100 * 393 / 1823)
    assert score.distinct_2 == pytest.approx(100 * 813 / 1623)
    assert score.mean_words == pytest.approx(10.885)
    assert score.num_empty == 0
    assert {"ended_share", "token_ppl", "word_ppl", "bits_per_char", "hits_1", "persona_use"} <= set(score.unmeasured)


OTHERS = {
    "zh": [
        ("我喜欢猫和狗。", "我喜欢狗和猫。"),
        ("今天天气很好，我们去公园吧。", "今天天气很好，我们去公园散步吧。"),
        ("我是一名护士。", "我是一名老师。"),
        ("你住在哪里？我住在 New York。", "你住在哪儿？我住在 New York！"),
    ],
    "ja": [
        ("私は猫と犬が好きです。", "私は犬と猫が好きです。"),
        ("今日は天気がいいので、公園に行きましょう。", "今日は天気がいいですね、公園を散歩しましょう。"),
        ("私は看護師です。", "私は先生です。"),
    ],
    "th": [
        ("ฉันชอบแมวและหมา", "ฉันชอบหมาและแมว"),
        ("วันนี้อากาศดีมาก เราไปสวนกันเถอะ", "วันนี้อากาศดี เราไปเดินเล่นที่สวนกันเถอะ"),
        ("ฉันเป็นพยาบาล", "ฉันเป็นครู"),
    ],
    "ko": [
        ("저는 고양이와 개를 좋아해요.", "저는 개와 고양이를 좋아해요."),
        ("오늘 날씨가 좋으니 공원에 가요.", "오늘 날씨가 좋네요, 공원에서 산책해요."),
        ("저는 간호사예요.", "저는 선생님이에요."),
    ],
}


@pytest.mark.parametrize(
    ("language", "tokenizer", "bleu", "chrf"),
    [
        ("zh", "zh", 62.4308, 62.2323),
        ("th", "char", 62.3436, 55.2793),
        ("ja", "char", 50.133, 42.2406),
        ("ja", "ja-mecab", 35.535, 42.2406),
        ("ko", "char", 37.71, 32.5437),
        ("ko", "ko-mecab", 31.3647, 32.5437),
    ],
)
def test_other_scripts_equal_sacrebleus_own_command_line(
    language: str, tokenizer: str, bleu: float, chrf: float
) -> None:
    """`sacrebleu ref -i hyp -lc --force -tok TOKENIZER -f json -w 4`, and `-m chrf --chrf-lowercase` (2.6.0)."""
    if bleu_tokens(language).name != tokenizer:
        pytest.skip(f"with the packages that are installed, {language} has {bleu_tokens(language).name}")
    score = text_score(*map(list, zip(*OTHERS[language], strict=True)), language)
    assert score.bleu == pytest.approx(bleu, abs=5e-5)
    assert score.chrf == pytest.approx(chrf, abs=5e-5)


def test_figures_of_characters_by_hand() -> None:
    """我喜欢猫 against 我喜欢狗: three of four characters shared, in order; of five and three: 2 * 2 / 8."""
    score = text_score(["我喜欢猫。", "猫和狗跑步"], ["我喜欢狗！", "狗和猫"], "zh")
    assert score.f1 == pytest.approx((75 + 75) / 2)
    assert score.rouge_l == pytest.approx((75 + 200 * 1 / 8) / 2)
    assert score.distinct_1 == pytest.approx(100 * 8 / 9)
    assert score.mean_words is None


def test_gold_against_itself_is_100(rows: list[Prediction]) -> None:
    """`sacrebleu ref.txt -i ref.txt -lc --force -f text -w 4` printed 100.0000 with BP 1.000."""
    gold = [row.reference for row in rows]
    score = text_score(gold, gold)
    assert (score.bleu, score.bleu_2, score.brevity_penalty, score.length_ratio) == (100, 100, 1, 1)
    assert (score.rouge_l, score.f1, score.chrf) == (pytest.approx(100),) * 3


def test_rows_that_tell_more_are_scored_in_more(rows: list[Prediction]) -> None:
    """Persona use and repetition of LMEDR's first 200 replies and of gold, counted with a script of GNU sed and awk."""
    score, gold = score_predictions(rows), score_predictions(replies_in_place(rows, [row.reference for row in rows]))
    assert (score.persona_use, gold.persona_use) == (pytest.approx(64.5), pytest.approx(57.0))
    assert (score.repetition, gold.repetition) == (pytest.approx(11.1111, abs=1e-4), pytest.approx(4.7850, abs=1e-4))
    assert gold.bleu == 100


@pytest.mark.parametrize(
    ("prediction", "reference", "f1"),
    [
        ("i like dogs .", "i like cats .", 200 * 2 / 6),  # the full stops are spaces
        ("I LIKE dogs", "i like dogs", 100),  # case
        ("a dog", "the dog !", 100),  # articles and punctuation
        ("i'm here", "i m here", 100),  # the apostrophe becomes a space: i, m, here
        ("im here", "i'm here", 200 * 1 / 5),  # and is not deleted: im is not i, m
        ("dog dog dog", "dog", 200 * 1 / 4),  # a word counts as often as both have it
        ("dog dog", "dog dog cat", 200 * 2 / 5),
        ("another theme", "other me", 0),  # articles only as whole words
        ("a.the-an", "dog", 0),
        ("", "dog", 0),
        ("the a", "the a", 0),  # nothing is left to share
    ],
)
def test_f1_by_hand(prediction: str, reference: str, f1: float) -> None:
    assert word_f1(prediction, reference) == pytest.approx(f1)


def test_rouge_l_takes_the_target_first_and_stems() -> None:
    """lcs("the cat", "the cats sat down") = 2 with stems: P = 2/2, R = 2/4, F = 2/3."""
    assert rouge_l_of_each(["the cat"], ["the cats sat down"]) == [pytest.approx(200 / 3)]


def test_distinct_counts_the_whole_set_and_stays_within_replies() -> None:
    assert distinct(["dog cat", "Dog cat .", "bird"], 1) == pytest.approx(100 * 3 / 5)
    assert distinct(["dog cat", "dog cat", "bird"], 2) == pytest.approx(100 * 1 / 2)
    assert distinct(["a", ""], 1) == 0


def test_empty_predictions_score_zero_and_are_counted() -> None:
    score = text_score(["", " \n\u200b", "i like to run fast ."], ["i am fine .", "ok then", "i like to run fast ."])
    assert score.num_replies == 3
    assert score.num_empty == 2  # what nobody sees is nothing
    assert score.f1 == pytest.approx(100 / 3)
    assert score.rouge_l == pytest.approx(100 / 3)
    nothing = text_score(["", ""], ["i am fine .", "ok then"])
    assert (nothing.bleu, nothing.rouge_l, nothing.f1, nothing.distinct_1, nothing.num_empty) == (0, 0, 0, 0, 2)


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [(["a"], ["a", "b"], "1 predictions, but 2 references"), ([], [], "nothing to score")],
)
def test_unequal_or_no_pairs(predictions: list[str], references: list[str], message: str) -> None:
    with pytest.raises(FalconerError, match=message):
        text_score(predictions, references)


def test_signatures_name_the_variant_and_the_version() -> None:
    assert signatures()["bleu"].startswith("nrefs:1|case:lc|eff:no|tok:13a|smooth:exp|version:")
    assert "stem:porter" in signatures()["rouge_l"] and "version:0.1" in signatures()["rouge_l"]
    assert signatures()["bleu_2"].endswith("|max_ngram_order:2")
    assert signatures()["chrf"].startswith("nrefs:1|case:lc|eff:yes|nc:6|nw:0|space:no|version:")
    assert set(signatures()) == {
        "text", "bleu", "bleu_2", "chrf", "rouge_l", "f1", "distinct", "persona_use", "repetition", "word_ppl",
        "hits_1", "legacy",
    }  # fmt: skip


def test_signatures_name_the_number_of_references() -> None:
    assert signatures(num_references={3})["bleu"].startswith("nrefs:3|")
    assert signatures(num_references={3})["f1"].endswith("|refs:best of 3")
    assert signatures(num_references={1, 4})["bleu"].startswith("nrefs:var|")
    assert signatures(num_references={1, 4})["chrf"].startswith("nrefs:var|")
    assert signatures(num_references={1, 4})["rouge_l"].endswith("|refs:best of up to 4")


def test_needs_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; import falconer.evaluate.text.score, falconer.evaluate.text.compare\n"
        "from falconer.evaluate.text.metrics import text_score; text_score(['a b'], ['a b'])\n"
        "import falconer.evaluate.report.page\n"
        "assert not {'torch', 'transformers', 'matplotlib', 'jinja2', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(sys.path)})


@given(replies, replies)
def test_f1_is_symmetric_and_a_percentage(first: str, second: str) -> None:
    assert 0 <= word_f1(first, second) <= 100
    assert word_f1(first, second) == word_f1(second, first)
    assert word_f1(first, first) in (0, 100)


@settings(max_examples=50)
@given(pairs, st.randoms())
def test_scores_do_not_depend_on_the_order_of_pairs(some: list[tuple[str, str]], rng: object) -> None:
    mixed = list(some)
    rng.shuffle(mixed)  # type: ignore[attr-defined]
    first, second = (text_score([p for p, _ in part], [r for _, r in part]) for part in (some, mixed))
    for name in Score.__slots__:
        assert getattr(first, name) == pytest.approx(getattr(second, name)), name
    for name in ("bleu", "bleu_2", "chrf", "rouge_l", "f1", "distinct_1", "distinct_2"):
        assert 0 <= getattr(first, name) <= 100


@settings(max_examples=50)
@given(pairs)
def test_one_more_empty_reply_never_helps(some: list[tuple[str, str]]) -> None:
    predictions, references = [p for p, _ in some], [r for _, r in some]
    before = text_score(predictions, references)
    after = text_score([*predictions, ""], [*references, "i am a dog"])
    assert after.num_empty == before.num_empty + 1
    assert after.rouge_l <= before.rouge_l and after.f1 <= before.f1 and after.bleu <= before.bleu + 1e-9
