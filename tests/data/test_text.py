"""Persona-Chat's spaced lower case to natural text and back."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.data.sources import load_dialogues
from falconer.data.text import natural, restyle, spaced
from falconer.records import Dialogue, Turn

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
