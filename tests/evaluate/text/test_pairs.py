"""What is counted in one pair equals the libraries' own scores, or a case worked out by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falconer.evaluate.text.counts import statistics_of
from falconer.evaluate.text.figures import bleu, chrf, figures
from falconer.evaluate.text.pairs import (
    bleu_counts,
    bleu_scorer,
    chrf_counts,
    chrf_scorer,
    content_words,
    legacy,
    repeated_bigrams,
    rouge_l_of_each,
    row_f1,
    uses_persona,
    words,
)
from falconer.records import Prediction

vocabulary = st.sampled_from(["i", "am", "a", "The", "dog", "Dogs", ".", "i'm", "", "é"])
replies = st.lists(vocabulary, max_size=9).map(" ".join)
pairs = st.lists(st.tuples(replies, replies), min_size=1, max_size=6)


@settings(max_examples=200)
@given(pairs)
def test_figures_from_counts_equal_sacrebleus_own_corpus_scores(some: list[tuple[str, str]]) -> None:
    predictions, references = [p for p, _ in some], [r for _, r in some]
    sums = statistics_of([Prediction("d", 0, p, r) for p, r in some]).sums()
    for order in (2, 4):
        expected = bleu_scorer(max_order=order).corpus_score(predictions, [references]).score
        assert float(bleu(sums["bleu"], order)) == pytest.approx(expected), order
    assert float(chrf(sums["chrf"])) == pytest.approx(chrf_scorer().corpus_score(predictions, [references]).score)


long_replies = st.lists(st.sampled_from(["ski", "dog", "Run", "i'm", "blue", "42"]), min_size=4)


@settings(max_examples=50)
@given(st.lists(long_replies, min_size=1, max_size=5))
def test_gold_against_itself_is_100_in_every_figure(some: list[list[str]]) -> None:
    rows = [Prediction("d", 0, " ".join(text), " ".join(text)) for text in some]
    found = figures(statistics_of(rows).sums())
    for key in ("bleu", "bleu_2", "chrf", "rouge_l", "f1"):
        assert float(found[key]) == pytest.approx(100), key
    assert (float(found["brevity_penalty"]), float(found["length_ratio"])) == (1, 1)


def test_legacy_variants_equal_nltk(rows: list[Prediction]) -> None:
    """Computed with NLTK 3.10.4 alone on the fixture's texts.

    parlai: mean of `sentence_bleu([n(ref).split(" ")], n(hyp).split(" "), smoothing_function=
    SmoothingFunction(epsilon=1e-12).method1)` with ParlAI's normalize_answer n; plain: `sentence_bleu([ref.split()],
    hyp.split())`.
    """
    found = legacy([row.prediction for row in rows], [row.reference for row in rows])
    assert found["parlai_bleu_4"] == pytest.approx(0.8113406085526293)
    assert found["nltk_sentence_bleu"] == pytest.approx(1.9097492674783814)


def test_legacy_of_empty_and_equal_replies() -> None:
    assert legacy(["", "i like my big dogs"], ["hi", "i like my big dogs"]) == {
        "parlai_bleu_4": pytest.approx(50), "nltk_sentence_bleu": pytest.approx(50),
    }  # fmt: skip


def test_words_are_parlais() -> None:
    assert words("I'm the dog's best-friend .") == ("i", "m", "dog", "s", "best", "friend")


@pytest.mark.parametrize(
    ("reply", "used"),
    [
        ("we ski every winter", True),
        ("Ski!", True),
        ("i love to work with you", False),  # stop words alone
        ("skiing is fun", False),  # another word
        ("", False),
    ],
)
def test_persona_use_needs_a_content_word(reply: str, used: bool) -> None:
    assert uses_persona(reply, ["i love to ski .", "my work is with you"]) is used


def test_content_words_leave_stop_words_out() -> None:
    assert content_words(["i love to ski .", "My dog's name"]) == {"ski", "dog", "name"}


def test_repetition_looks_at_own_turns_only() -> None:
    own = ["i like dogs"]
    assert repeated_bigrams("I like dogs, i like cats", own) == (3, 5)  # i like, like dogs, i like
    assert repeated_bigrams("green tea", own) == (0, 1)
    assert repeated_bigrams("like dogs", []) == (0, 0)
    assert repeated_bigrams("dogs", own) == (0, 0)


several = st.lists(
    st.tuples(replies, st.lists(replies.filter(str.strip), min_size=1, max_size=3)), min_size=1, max_size=5
)


@settings(max_examples=150)
@given(several)
def test_several_references_are_counted_as_sacrebleu_counts_them(some: list[tuple[str, list[str]]]) -> None:
    """Turns may have different numbers of them: sacrebleu takes None for one that is missing."""
    predictions = [reply for reply, _ in some]
    most = max(len(golds) for _, golds in some)
    streams = [[golds[i] if i < len(golds) else None for _, golds in some] for i in range(most)]
    rows = [Prediction("d", 0, reply, golds[0], other_references=tuple(golds[1:])) for reply, golds in some]
    sums = statistics_of(rows).sums()
    for order in (2, 4):
        expected = bleu_scorer(max_order=order).corpus_score(predictions, streams).score  # type: ignore[arg-type]
        assert float(bleu(sums["bleu"], order)) == pytest.approx(expected), order
    expected = chrf_scorer().corpus_score(predictions, streams).score  # type: ignore[arg-type]
    assert float(chrf(sums["chrf"])) == pytest.approx(expected)
    for row, (reply, golds) in zip(rows, some, strict=True):
        assert row_f1(row) == max(row_f1(Prediction("d", 0, reply, gold)) for gold in golds)
        assert rouge_l_of_each([reply], [golds]) == [max(rouge_l_of_each([reply] * len(golds), golds))]


def test_several_references_equal_sacrebleus_own_command_line() -> None:
    """`sacrebleu r1 r2 -i hyp -lc --force -f json -w 4`, and `-m chrf --chrf-lowercase` (2.6.0)."""
    predictions = ["i like dogs .", "how are you ?", "yes , a big one ."]
    golds = [
        ["i love dogs .", "dogs are what i like ."],
        ["how are you doing today ?", "hello , how are you ?"],
        ["yes i do .", "yes , a very big one !"],
    ]
    assert float(bleu(bleu_counts(predictions, golds).sum(axis=0))) == pytest.approx(39.0056, abs=5e-5)
    assert float(chrf(chrf_counts(predictions, golds).sum(axis=0))) == pytest.approx(51.5097, abs=5e-5)
