"""Natural text word by word: what `natural` makes of the whole, however the text arrives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.data.sources import load_dialogues
from falconer.data.text import find_code, natural
from falconer.talk.natural import NaturalLine, natural_line
from many_languages import REPLIES

# Words that the rules look at, and words that they must not touch.
words = st.sampled_from(
    ["i", "you", "it", "hi", "i'm", "do", "n't", "don", "don't", "'s", "m", "re", "t", "v", "s", "a", "u", "7", "20"]
    + ["921", "what", "can", ".", ",", "?", "!", ";", ":", "...", "fiancé", "ß", "u.s.", "e.g.", "-", "你好"]
)
kinds = st.sampled_from(["Bob", "I", "USA", "x=1", "=", "==", "www.a.b", "a/b/c", "f(x)", "(", "{", "İ", "Σας"])
spaces = st.sampled_from([" ", " ", " ", "", "  ", "\t"])
lower_lines = st.lists(st.tuples(words, spaces), max_size=40).map(lambda pairs: "".join(a + b for a, b in pairs))
lines = st.one_of(
    st.lists(st.tuples(st.one_of(words, kinds), spaces), max_size=40).map(
        lambda pairs: "".join(a + b for a, b in pairs)
    ),
    st.text(max_size=60).map(lambda text: text.replace("\n", "")),
)
languages = st.sampled_from(["en", "fr", "de", "zh", "tr"])


def in_pieces(text: str, cuts: list[int], language: str) -> str:
    line = NaturalLine(language)
    borders = sorted({0, len(text), *(cut % (len(text) + 1) for cut in cuts)})
    shown = "".join(line.add(text[start:end]) for start, end in zip(borders[:-1], borders[1:], strict=True))
    return shown + line.end()


@given(lower_lines, languages)
def test_a_line_of_one_kind_is_natural(text: str, language: str) -> None:
    assert find_code(text) is None
    assert natural_line(text, language) == natural(text, language)


@given(lower_lines, languages, st.sampled_from(["Well ", "X = "]))
def test_a_line_that_begins_with_a_capital_letter_or_code_is_natural(text: str, language: str, start: str) -> None:
    assert natural_line(start + text, language) == natural(start + text, language)


@given(lines, st.lists(st.integers(0, 1000), max_size=60), languages)
def test_how_a_text_arrives_does_not_matter(text: str, cuts: list[int], language: str) -> None:
    assert in_pieces(text, cuts, language) == natural_line(text, language)
    assert in_pieces(text, list(range(len(text))), language) == natural_line(text, language)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("i know . bob is i . Bob is here . i think", "I know. Bob is I. Bob is here. i think"),
        ("i wrote f(x) . i do n't know", "I wrote f(x) . i do n't know"),
        ("it is at www.x.de , i think", "It is at www.x.de , i think"),
        ("if a = b , i win", "If a = b , i win"),
    ],
)
def test_what_stands_before_a_word_decides(text: str, shown: str) -> None:
    assert natural_line(text, "en") == shown


def test_real_replies_are_natural() -> None:
    replies = [
        turn.text for dialogue in load_dialogues("persona-chat-sample").dialogues[:300] for turn in dialogue.turns
    ]
    assert len(replies) > 3000
    for reply in replies:
        assert natural_line(reply, "en") == natural(reply)
        assert in_pieces(reply, list(range(len(reply))), "en") == natural(reply)


def test_replies_of_many_languages_are_natural() -> None:
    for language, replies in REPLIES.items():
        for reply in replies:
            assert in_pieces(reply, list(range(len(reply))), language) == natural_line(reply, language)


def test_all_but_the_last_words_are_shown_while_a_long_line_grows() -> None:
    line, text = NaturalLine("en"), "i like long walks on the beach , and you ? well . " * 20
    shown = ""
    for word in text.split():
        shown += line.add(f"{word} ")
        assert len(natural_line(text[: len(shown)], "en")) - len(shown) < 20
    assert shown + line.end() == natural(text)
