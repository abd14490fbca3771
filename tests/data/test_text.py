"""Persona-Chat's spaced lower case to natural text and back."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.data.sources import load_dialogues
from falconer.data.text import natural, restyle, spaced
from falconer.records import Dialogue, Turn
from many_languages import REPLIES

# Text in Persona-Chat's style: words, contractions and lone marks with one space between them.
tokens = st.sampled_from(
    ["i", "you", "it", "hi", "i'm", "do", "n't", "don't", "'s", "m", "re", "t", "v", "s", "a", "b", "7", "20", "921"]
    + ["lol", "what", "can", ".", ",", "?", "!", ";", "fiancé"]
)
raw_texts = st.lists(tokens, min_size=1, max_size=15).map(" ".join)
any_text = st.one_of(raw_texts, st.text(max_size=30), st.text(string.ascii_letters + " .,!?;:'\"-", max_size=30))


def letters(text: str) -> str:
    return "".join(re.findall(r"[^\W_]+", text.casefold()))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("hi ! i'm fine .", "Hi! I'm fine."),
        ("i do n't know , do you ?", "I don't know, do you?"),
        ("wait . . . what ? !", "Wait... what?!"),
        ("lol . . i think so ; you ?", "Lol.. I think so; you?"),
        ("no . yes ! me ? i see", "No. Yes! Me? I see"),
        ("i am on t . v . one day", "I am on T.V. one day"),
        ("at 5 a . m . i run", "At 5 a.m. I run"),
        ("1 , 921 miles for 0 . 99", "1,921 miles for 0.99"),
        ("i have 2 . 3 are gone", "I have 2. 3 are gone"),
        ("i m sure you re nice , it s ok , they don t", "I'm sure you're nice, it's ok, they don't"),
        (". yeah , my fiancé", ". Yeah, my fiancé"),
        ("i love to bake cookies.", "I love to bake cookies."),
        ("Hello there , i said .", "Hello there, i said."),
    ],
)
def test_natural(raw: str, expected: str) -> None:
    assert natural(raw) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Hi! I'm fine.",
        "I love NYC. it's great",
        "Wait ... what?",
        'She said "no" (twice) at 5.30 p.m.',
        "7",
        "",
        "No .NET",
    ],
)
def test_natural_leaves_natural_text_alone(text: str) -> None:
    assert natural(text) == text


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("Hi! I'm fine.", "hi ! i'm fine ."),
        ("Wait... what?!", "wait . . . what ? !"),
        ("It’s “self-made” (really) – ok: 1,921", "it's self made really ok 1 , 921"),
        ("the dogs' 'toys'", "the dogs toys"),
        ("hi ! i'm fine .", "hi ! i'm fine ."),
    ],
)
def test_spaced(typed: str, expected: str) -> None:
    assert spaced(typed) == expected


@given(any_text)
def test_a_second_pass_changes_nothing(text: str) -> None:
    assert natural(natural(text)) == natural(text)
    assert spaced(spaced(text)) == spaced(text)


@given(raw_texts)
def test_there_and_back_keeps_the_words(text: str) -> None:
    assert letters(spaced(natural(text))) == letters(text)
    assert letters(natural(text)) == letters(text)


def test_real_text_comes_back_as_it_was() -> None:
    found = load_dialogues("persona-chat-sample", split="test").dialogues
    texts = [turn.text for dialogue in found for turn in dialogue.turns]
    # What differs are the apostrophes that the data lost and natural() puts back.
    changed = [text for text in texts if spaced(natural(text)) != text]
    assert len(changed) < 0.01 * len(texts)
    assert all(spaced(natural(text)).replace("'", " ") == text.replace("'", " ") for text in changed)


def test_restyle() -> None:
    turns = (Turn("partner", "hi !"), Turn("self", "i'm ok .", ("no .", "i'm ok .")))
    dialogue = Dialogue("1", ("i ski .",), turns, ("i cook.",))
    assert restyle(dialogue, "raw") is dialogue
    shown = (
        Turn("partner", "Hi!", source="hi !"),
        Turn("self", "I'm ok.", ("No.", "I'm ok."), source="i'm ok ."),
    )
    assert restyle(dialogue, "natural") == Dialogue("1", ("I ski.",), shown, ("I cook.",))
    # A second pass does not take the restyled text for the data's own.
    assert restyle(restyle(dialogue, "natural"), "natural").turns == shown


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("it", "bene , gioco con i miei gatti .", "bene, gioco con i miei gatti."),
        ("it", "leggo i libri . i miei cani dormono", "leggo i libri. i miei cani dormono"),
        ("pl", "lubię psy i koty !", "lubię psy i koty!"),
        ("tr", "iyi misin ? ısparta'dayım .", "iyi misin? ısparta'dayım."),
        ("tr", "I ve İ ayrı harfler .", "I ve İ ayrı harfler."),
        ("de", "ich mag katzen , und du ?", "ich mag katzen, und du?"),
        ("de", "Ich mag Katzen , und Du ?", "Ich mag Katzen, und Du?"),
        ("fr", "ça va ? très bien ! j'ai 2 chats : a et b ; et toi , hein .", None),
        ("es", "¡hola ! ¿cómo estás ?", "¡hola! ¿cómo estás?"),
        ("nl", "ik heb 's avonds do n't , ij .", "ik heb 's avonds do n't, ij."),
        ("ru", "привет , как дела ?", "привет, как дела?"),
        ("ar", "مرحبا ، كيف حالك ؟", "مرحبا، كيف حالك؟"),
        ("ko", "안녕하세요 , 잘 지내요 ?", "안녕하세요, 잘 지내요?"),
        ("zh", "你好 呀 ， 我有 两只 狗 。", None),
        ("ja", "はい 、 元気 です 。 そう ?", None),
        ("th", "สวัสดี ครับ ?", None),
        ("hi", "मैं ठीक हूँ ।", None),
        ("und", "a b . c ?", None),
        ("mul", "i like dogs . me gustan los perros .", None),
        ("en", "I LOVE IT ! DO YOU ?", "I LOVE IT! DO YOU?"),
        ("en", "see https://ex.org/i/a . it's i ?", None),
        ("en", "write me at i@ex.org , ok .", None),
        ("en", "for i in range(3) : print(i) .", None),
        ("en", "x = i ; y = `i` .", None),
        ("en", "i paid $ 5 , and i <3 it .", "I paid $ 5, and I <3 it."),
    ],
)
def test_natural_keeps_to_what_is_right_in_the_language(language: str, text: str, expected: str | None) -> None:
    """None: the text as it is."""
    if language == "fr":
        expected = "ça va ? très bien ! j'ai 2 chats : a et b ; et toi, hein."
    assert natural(text, language) == (text if expected is None else expected)


@pytest.mark.parametrize("language", [code for code in REPLIES if code != "en"])
def test_natural_changes_nothing_but_spaces_in_other_languages(language: str) -> None:
    for text in REPLIES[language]:
        assert natural(text, language).replace(" ", "") == text.replace(" ", "")
        if language in ("zh", "ja", "th", "hi"):
            assert natural(text, language) == text


other_text = st.one_of(
    any_text,
    st.lists(st.sampled_from([reply for some in REPLIES.values() for reply in some]), min_size=1).map(" ".join),
)


@given(other_text, st.sampled_from([*REPLIES, "und", "mul"]))
def test_natural_text_is_stable_and_keeps_its_letters_in_every_language(text: str, language: str) -> None:
    once = natural(text, language)
    assert natural(once, language) == once
    assert letters(once) == letters(text)
    if language != "en":
        assert "".join(once.split()) == "".join(text.split())  # case and marks too


def dialogue_in(language: str) -> Dialogue:
    turns = (Turn("partner", REPLIES[language][0]), Turn("self", REPLIES[language][1]))
    return Dialogue(language, tuple(REPLIES[language][2:4]), turns)


def test_one_language_counts_for_all_dialogues() -> None:
    """Italian of a file is Italian in each of its dialogues, however short."""
    short = Dialogue("1", ("i cani .",), (Turn("partner", "no ?"), Turn("self", "i gatti .")))
    assert restyle(short, "natural", "it").turns[1].text == "i gatti."
    assert restyle(dialogue_in("it"), "natural").turns[0].text == "ciao! come stai oggi?"
    assert restyle(dialogue_in("en"), "natural").turns[0].text == "Hi! How are you today?"


def test_a_turn_keeps_what_the_data_had() -> None:
    assert restyle(dialogue_in("it"), "natural").turns[0].source == REPLIES["it"][0]


def test_chat_in_turkish_is_heard_with_its_own_small_letters() -> None:
    assert spaced("İyi misin? ISPARTA'dayım!", "tr") == "iyi misin ? ısparta'dayım !"
    assert spaced("I AM FINE.") == "i am fine ."
