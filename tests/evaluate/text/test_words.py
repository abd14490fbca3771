"""Words of every script, whole and in their usual spelling; English ones as ParlAI and rouge-score have them."""

import importlib.util
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.evaluate.text import words as tokens
from falconer.evaluate.text.pairs import rouge_l_of_each, word_f1
from falconer.evaluate.text.words import bleu_tokens, clean, rouge_tokens, words
from many_languages import REPLIES

LANGUAGES = sorted(REPLIES)


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", "The dog's best-friend .", "dog s best friend"),
        ("de", "Die Katze, Straße!", "die katze strasse"),
        ("fr", "L'infirmière est-elle là ?", "l infirmière est elle là"),
        ("it", "gioco con i miei gatti", "gioco con i miei gatti"),  # "i" and "a" are words
        ("es", "¿Cómo estás? «Bien»", "cómo estás bien"),
        ("tr", "IŞIK İyi DİL", "ışık iyi dil"),
        ("az", "QIZ İki", "qız iki"),
        ("ru", "Привет! Ёж", "привет ёж"),
        ("el", "ΟΔΟΣ ; οδός·", "οδοσ οδόσ"),  # one sigma
        ("ar", "مرحبا، كيف حالك؟", "مرحبا كيف حالك"),
        ("fa", "می\u200cخواهم ؟", "می\u200cخواهم"),
        ("hi", "मैं ठीक हूँ।", "मैं ठीक हूँ"),  # vowel signs stay with their letters
        ("zh", "我有2只猫, ok？", "我 有 2 只 猫 ok"),
        ("zh", "ＡＢＣ１２", "abc12"),  # full-width forms
        ("ja", "猫がｶﾞｷﾞ時々いるー", "猫 が ガ ギ 時 々 い る ー"),
        ("ko", "저는 개를 좋아해요.", "저는 개를 좋아해요"),
        ("th", "กินน้ำที่นี่", "กิ น น้ํ า ที่ นี่"),
        ("vi", "chào bạn!", "chào bạn"),
        ("und", "ok 👍🏽 ❤️!", "ok 👍 ❤"),  # an emoji is a word, its colour and presentation are not
    ],
)
def test_words(language: str, text: str, expected: str) -> None:
    assert words(text, language) == tuple(expected.split())


@pytest.mark.parametrize("language", LANGUAGES)
def test_spelling_by_other_code_points_is_the_same_spelling(language: str) -> None:
    for text in REPLIES[language]:
        for form in ("NFC", "NFD"):
            other = unicodedata.normalize(form, text)
            assert word_f1(other, text, language) == 100
            assert rouge_l_of_each([other], [text], language) == [pytest.approx(100)]
            assert clean(other, language) == clean(text, language)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("mark", ["\u200b", "\ufeff", "\u00ad", "\u2060", "\u200e", "\ufe0f"])
def test_what_nobody_sees_counts_as_nothing(language: str, mark: str) -> None:
    for text in REPLIES[language]:
        for seen in (mark + text, text + mark, mark.join(text)):
            assert clean(seen, language) == clean(text, language)


@pytest.mark.parametrize(
    ("given_text", "kept"),
    [
        ("می\u200cخواهم", "می\u200cخواهم"),  # Persian writes the joiner
        ("क्\u200dष क्\u200cष", "क्\u200dष क्\u200cष"),  # after a virama
        ("hel\u200clo wor\u200dld", "hello world"),
        ("한\u200d국", "한국"),
        ("\u200cسلام\u200c \u200d", "سلام "),
    ],
)
def test_joiners_stay_where_they_belong_to_the_spelling(given_text: str, kept: str) -> None:
    assert clean(given_text, "und") == unicodedata.normalize("NFC", kept)


def test_english_text_stays_as_it_is() -> None:
    text = "It’s a café – “really” … 5 €"
    assert clean(text) is text
    assert rouge_tokens("Running dogs, i'm sure") == ["run", "dog", "i", "m", "sure"]
    assert rouge_tokens("Running dogs", "und") == ["running", "dogs"]


def test_each_language_has_sacrebleus_own_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {code: bleu_tokens(code).name for code in LANGUAGES if code not in ("zh", "ja", "ko", "th")} == {
        code: "13a" for code in LANGUAGES if code not in ("zh", "ja", "ko", "th")
    }
    assert bleu_tokens("zh").name == "zh"
    assert {bleu_tokens(code).name for code in ("th", "lo", "km", "my", "bo")} == {"char"}
    for is_there, expected in ((True, "ja-mecab"), (False, "char")):
        bleu_tokens.cache_clear()
        monkeypatch.setattr(tokens, "find_spec", lambda name, found=is_there: object() if found else None)
        assert bleu_tokens("ja").name == expected
        assert ("pip install 'sacrebleu[ja]'" in bleu_tokens("ja").note) is not is_there
    bleu_tokens.cache_clear()


@pytest.mark.skipif(importlib.util.find_spec("ipadic") is None, reason="sacrebleu[ja] is not installed")
def test_japanese_words_by_mecab() -> None:
    assert bleu_tokens("ja").name == "ja-mecab"


@given(st.text(max_size=30), st.sampled_from(LANGUAGES))
def test_cleaning_twice_changes_nothing(text: str, language: str) -> None:
    once = clean(text, language)
    assert clean(once, language) == once
    assert words(once, language) == words(text, language)


@given(st.text(max_size=30), st.sampled_from([code for code in LANGUAGES if code != "en"]))
def test_every_letter_and_digit_is_in_a_word(text: str, language: str) -> None:
    """Only marks, joiners, symbols and punctuation can be missing."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", clean(text, language)).casefold())
    kept = "".join(words(text, language))
    assert [char for char in kept if char.isalnum()] == [char for char in folded if char.isalnum()]
    assert not any(unicodedata.category(char)[0] in "PZC" for char in kept.replace("\u200c", "").replace("\u200d", ""))
