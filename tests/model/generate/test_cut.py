"""Where a reply ends: at the end token, at a line break or the next speaker's tag, as the training data has it."""

import pytest

from falconer.data.encode import Encoder
from falconer.data.prompt import PromptFormat
from falconer.model.generate.cut import Reply, finish, stop_tokens
from falconer.model.tokenizer import load_tokenizer

TOKENIZER, END_ID = load_tokenizer("falcon-mini")


def encoder(multi_line: bool, quotes_tags: bool = False) -> Encoder:
    format = PromptFormat(multi_line=multi_line, quotes_tags=quotes_tags)
    return Encoder(TOKENIZER.backend_tokenizer.to_str(), END_ID, 400, format)


ONE_LINE, SEVERAL_LINES = encoder(multi_line=False), encoder(multi_line=True)


@pytest.mark.parametrize(
    ("text", "ends", "expected", "ended", "ran_on"),
    [
        (" i am fine .", True, "i am fine .", True, False),
        (" i am fine .", False, "i am fine .", False, False),
        (" i am fine .\nUser: and you ?", True, "i am fine .", False, True),
        (" i am fine .\nUser: and you ?", False, "i am fine .", False, True),
        (" first\nsecond", True, "first", False, True),
        ("\n i am fine .\n", True, "i am fine .", True, False),
        ("", True, "", True, False),
        ("", False, "", False, False),
        (" <|endoftext|> is text", True, "<|endoftext|> is text", True, False),
    ],
)
def test_a_reply_of_one_line(text: str, ends: bool, expected: str, ended: bool, ran_on: bool) -> None:
    check(ONE_LINE, text, ends, Reply(expected, ended, ran_on))


@pytest.mark.parametrize(
    ("text", "ends", "expected", "ended", "ran_on"),
    [
        (" Take:\n1. eggs\n\n2. flour", True, "Take:\n1. eggs\n\n2. flour", True, False),
        (" Take:\n1. eggs", False, "Take:\n1. eggs", False, False),
        (" Take:\n1. eggs\nUser: and then ?\nAssistant: bake", True, "Take:\n1. eggs", False, True),
        (" Take:\n1. eggs\n\n Assistant: bake", False, "Take:\n1. eggs", False, True),
        (
            " The User: field is empty.\nSo is the name.",
            True,
            "The User: field is empty.\nSo is the name.",
            True,
            False,
        ),
        (" i am fine .\n", False, "i am fine .", False, False),
    ],
)
def test_a_reply_of_several_lines(text: str, ends: bool, expected: str, ended: bool, ran_on: bool) -> None:
    check(SEVERAL_LINES, text, ends, Reply(expected, ended, ran_on))


def test_a_reply_that_quotes_a_dialogue_is_whole_where_training_had_such() -> None:
    text = "Like this:\nUser: hi\nAssistant: hello"
    check(encoder(multi_line=True, quotes_tags=True), f" {text}", True, Reply(text, ended=True))
    check(encoder(multi_line=True, quotes_tags=True), f" {text}", False, Reply(text, ended=False))


def check(encoder: Encoder, text: str, ends: bool, expected: Reply) -> None:
    ids = encoder.encode_text(text) + ([END_ID] if ends else [])
    assert finish(ids, encoder) == expected
    if ends:
        # What fills a row of a batch behind the end token is not part of the reply.
        assert finish(ids + encoder.encode_text(" never seen"), encoder) == expected


def test_a_line_break_stops_only_where_every_reply_of_training_is_one_line() -> None:
    (line_break,) = ONE_LINE.encode_text("\n")
    assert stop_tokens(ONE_LINE) == [END_ID, line_break]
    assert stop_tokens(SEVERAL_LINES) == [END_ID]
