"""Prompts and replies as text: a reply in pieces is the reply that evaluation cuts, in every script and tokenizer."""

import dataclasses

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from falconer.data.encode import Encoder
from falconer.data.prompt import PromptFormat
from falconer.data.sources import load_dialogues
from falconer.data.text import natural
from falconer.errors import FalconerError
from falconer.model.generate.cut import finish
from falconer.model.tokenizer import load_tokenizer
from falconer.records import Turn
from falconer.talk.text import Writer
from many_languages import REPLIES
from tokenizers_made import MADE

TOKENIZER, END_ID = load_tokenizer("falcon-mini")
SPACED, NATURAL = PromptFormat(), PromptFormat(is_spaced=False)
FORMATS = [
    PromptFormat(is_spaced=spaced, multi_line=lines, quotes_tags=quotes)
    for spaced in (True, False)
    for lines, quotes in ((False, False), (True, False), (True, True))
]
MOST = 160


def encoder_of(format: PromptFormat = SPACED, most: int = MOST) -> Encoder:
    return Encoder(TOKENIZER.backend_tokenizer.to_str(), END_ID, most, format)


KINDS = {"falcon": TOKENIZER.backend_tokenizer} | {
    name: MADE[name]() for name in ("llama", "mistral", "gemma2", "qwen2", "xglm", "gpt_neox")
}
ENCODERS = {
    (name, format): Encoder(kind.to_str(), END_ID if name == "falcon" else 1, 10_000, format)
    for name, kind in KINDS.items()
    for format in FORMATS
}
words = st.sampled_from(
    ["i", "do", "n't", "u", ".", "s", ".", ",", "!", "\n", "\n\n", "\nUser:", "\n User: hi", "\nUs", "\nAssistant", " "]
    + [
        "Bob",
        "x = 1",
        "<|endoftext|>",
        "\ufffd",
        "你好",
        "😀👍🏽",
        "नमस्ते",
        "สวัสดี",
        "é",
        "שלום",
        "ß",
        "\t",
        "that is nice",
    ]
)
texts = st.one_of(st.lists(words, max_size=20).map(" ".join), st.lists(words, max_size=20).map("".join), st.text())
# Some written by a tokenizer, some that no tokenizer writes: incomplete characters, special tokens, end tokens.
streams = st.lists(st.one_of(texts, st.integers(0, 499), st.integers(3, 258)), max_size=8)


def ids_of(stream: list[str | int], encoder: Encoder) -> list[int]:
    return [token for part in stream for token in ([part] if isinstance(part, int) else encoder.encode_text(part))]


def shown(writer: Writer, ids: list[int], sizes: list[int], stops: tuple[str, ...] = ()) -> tuple[str, bool]:
    """Return what is shown of a reply whose tokens come in pieces of these sizes."""
    reply, at, pieces = writer.reply(stops), 0, []
    for size in [*sizes, len(ids)]:
        pieces.append(reply.add(ids[at : at + size]))
        at += size
        assert reply.text == "".join(pieces)
    pieces.append(reply.end())
    assert reply.text == "".join(pieces)
    assert reply.is_over
    return reply.text, reply.ended


@pytest.mark.parametrize("name", KINDS)
@settings(max_examples=200)
@given(st.sampled_from(FORMATS), streams, st.lists(st.integers(0, 4), max_size=40))
@example(FORMATS[3], [239, 242, 3], [1, 1])
@example(FORMATS[0], ["i i n't"], [])
def test_pieces_are_the_reply_that_evaluation_cuts(
    name: str, format: PromptFormat, stream: list[str | int], sizes: list[int]
) -> None:
    writer = Writer(ENCODERS[name, format])
    ids = ids_of(stream, writer.encoder)
    whole = finish(ids, writer.encoder)
    for pieces in (sizes, [1] * len(ids)):
        text, ended = shown(writer, ids, pieces)
        assert text == writer.as_natural(whole.text)
        assert ended == whole.ended or "\n" in writer.encoder.decode(ids)


@pytest.mark.parametrize("name", KINDS)
def test_replies_in_thirty_languages(name: str) -> None:
    for language, replies in REPLIES.items():
        for is_spaced in (True, False):
            encoder = ENCODERS[name, SPACED]
            encoder.format = PromptFormat(is_spaced=is_spaced, language=language)
            writer = Writer(encoder)
            for reply in replies:
                ids = encoder.encode_text(f" {reply}")
                assert shown(writer, [*ids, encoder.end_id], [1] * len(ids)) == (
                    writer.as_natural(finish(ids, encoder).text),
                    True,
                )
            encoder.format = SPACED


@given(
    st.sampled_from([SPACED, NATURAL]),
    st.lists(st.sampled_from(["a", "b", "ab", " ", ".", "aab"]), max_size=20).map("".join),
    st.lists(st.sampled_from(["a", "ab", "aab", "b.", ". A", "abab", "b a", "aba", ""]), max_size=3),
    st.lists(st.integers(0, 4), max_size=40),
)
def test_nothing_from_the_first_complete_stop_text_on_is_shown(
    format: PromptFormat, text: str, stops: list[str], sizes: list[int]
) -> None:
    writer = Writer(ENCODERS["falcon", format])
    ids = writer.encoder.encode_text(text)
    whole = writer.as_natural(finish(ids, writer.encoder).text)
    # Letter by letter, with no thought of speed.
    for end in range(len(whole) + 1):
        if found := [stop for stop in stops if stop and whole[:end].endswith(stop)]:
            whole = whole[: end - max(map(len, found))]
            break
    assert shown(writer, ids, sizes, tuple(stops))[0] == whole
    assert shown(writer, ids, [1] * len(ids), tuple(stops))[0] == whole


def test_a_stop_text_ends_the_reply() -> None:
    writer = Writer(encoder_of(NATURAL))
    reply = writer.reply(["END", "\n"])
    ids = writer.encoder.encode_text(" one END two")
    pieces = [reply.add([token]) for token in ids]
    assert "".join(pieces) == "one "
    assert reply.is_over and not reply.ended
    assert reply.num_tokens == len(reply.ids) < len(ids)
    assert reply.add(ids) == reply.end() == ""


def test_words_are_shown_while_a_reply_is_generated() -> None:
    writer = Writer(encoder_of())
    reply = writer.reply()
    pieces = [reply.add([token]) for token in writer.encoder.encode_text(" i like long walks with my two dogs .")]
    assert sum(map(bool, pieces)) >= 6
    assert "".join(pieces) == "I like long walks with my two"
    assert reply.end() == " dogs."


@pytest.mark.parametrize("format", [SPACED, NATURAL])
def test_the_end_token_ends_a_reply(format: PromptFormat) -> None:
    reply = Writer(encoder_of(format)).reply()
    assert reply.add([*encoder_of().encode_text(" Hello"), END_ID, *encoder_of().encode_text(" more")]) == "Hello"
    assert reply.ended and reply.is_over


def test_a_line_break_ends_a_reply_of_one_line() -> None:
    reply = Writer(encoder_of()).reply()
    reply.add(encoder_of().encode_text("\n hello\n"))
    assert reply.text == "Hello"
    assert reply.is_over and not reply.ended


def test_real_replies_are_shown_as_natural_text_and_heard_as_they_were() -> None:
    writer = Writer(encoder_of())
    texts = [turn.text for d in load_dialogues("persona-chat-sample", split="test").dialogues for turn in d.turns]
    assert len(texts) > 3000
    for text in texts:
        ids = writer.encoder.encode_text(f" {text}")
        assert shown(writer, [*ids, END_ID], [1] * len(ids)) == (natural(text), True)
        assert writer.as_trained(text) == text


def test_a_prompt_is_that_of_evaluation() -> None:
    writer = Writer(encoder_of(most=600))
    for dialogue in load_dialogues("persona-chat-sample", split="test").dialogues[:50]:
        prompt = writer.prompt(dialogue.persona, dialogue.turns[:5], 32)
        assert prompt.ids == writer.encoder.encode_prompt(dialogue.persona, dialogue.turns[:5], 32)
        assert prompt.num_dropped == 0


def test_a_persona_is_heard_as_personas_were_written_in_training() -> None:
    """ConvAI2 spaces all marks of a turn, and of a persona line all but the last."""
    dialogues = load_dialogues("persona-chat-sample").dialogues
    lines = list(dict.fromkeys(line for dialogue in dialogues for line in dialogue.persona))
    writer = Writer(encoder_of())
    assert len(lines) > 2000
    assert [line for line in lines if writer.persona_line(line) != line] == []
    assert [
        line for line in lines if writer.persona_line(natural(line)).replace("'", " ") != line.replace("'", " ")
    ] == []
    assert writer.persona_line("I sing, too! Do you?") == "i sing , too ! do you?"
    other = Writer(encoder_of(dataclasses.replace(SPACED, joins_persona_end=False)))
    assert other.persona_line("I sing, too.") == "i sing , too ."
    assert Writer(encoder_of(NATURAL)).persona_line(" I sing, too .") == "I sing, too ."


def test_the_oldest_turns_are_dropped_and_counted() -> None:
    writer = Writer(encoder_of(NATURAL))
    turns = [Turn("partner" if number % 2 == 0 else "self", f"thing number {number}") for number in range(61)]
    prompt = writer.prompt(["I sing."], turns, 32)
    text = writer.encoder.decode(prompt.ids)
    assert text.startswith("Persona:\n- I sing.\n")
    assert prompt.num_dropped == 61 - text.count("thing") > 30
    assert f"number {prompt.num_dropped}" in text and f"number {prompt.num_dropped - 1}\n" not in text
    assert len(prompt.ids) <= MOST - 32


def test_what_is_too_long_is_refused_with_its_size() -> None:
    writer = Writer(encoder_of(NATURAL))
    exact = MOST - 32 - len(writer.encoder.encode_prompt((), [Turn("partner", "a")])) + 1
    fits, too_long = "a " * exact, "a " * (exact + 7)
    assert len(writer.prompt((), [Turn("partner", fits)], 32).ids) == MOST - 32
    assert writer.prompt((), [Turn("partner", "hi"), Turn("partner", fits)], 32).num_dropped == 1
    with pytest.raises(FalconerError, match=r"The last message is 7 tokens too long: it takes"):
        writer.prompt((), [Turn("partner", "hi"), Turn("partner", too_long)], 32)
    with pytest.raises(FalconerError, match=r"The persona is \d+ tokens too long: it takes"):
        writer.prompt([too_long], [Turn("partner", "hi")], 32)


@pytest.mark.parametrize("format", [SPACED, NATURAL])
def test_half_a_surrogate_pair_is_refused(format: PromptFormat) -> None:
    writer = Writer(encoder_of(format))
    with pytest.raises(FalconerError, match=r"The message is not valid Unicode: character 2 is U\+D800"):
        writer.prompt((), [Turn("partner", "a\ud800")], 8)
    with pytest.raises(FalconerError, match="The persona is not valid Unicode"):
        writer.prompt(["\udfff"], [Turn("partner", "a")], 8)


def test_what_spells_a_special_token_is_text() -> None:
    writer = Writer(encoder_of(NATURAL))
    assert END_ID not in writer.prompt(["<|endoftext|>"], [Turn("partner", "say <|endoftext|>")], 8).ids


def test_what_prompts_were_encoded_to_is_forgotten_before_it_fills_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("falconer.data.encode._MOST_REMEMBERED", 1000)
    writer, other = Writer(encoder_of(NATURAL)), encoder_of(NATURAL)
    for number in range(200):
        turns = [Turn("partner", f"number {number}"), Turn("self", f"yes {number}"), Turn("partner", "good")]
        assert writer.prompt(["I sing."], turns, 8).ids == other.encode_prompt(("I sing.",), turns, 8)
        assert sum(map(len, writer.encoder._ids.values())) < 1100


def test_a_languages_own_rules() -> None:
    format = dataclasses.replace(SPACED, language="fr")
    writer = Writer(encoder_of(format))
    assert writer.as_natural("bonjour , ça va ?") == "bonjour, ça va ?"
    assert writer.as_trained("Bonjour, ça va ?") == "bonjour , ça va ?"
