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
NEXT_TURNS = "\nUser: and then ?\nAssistant: bake"
NAMES_A_TAG = "The User: field is empty.\nSo is the name."


@pytest.mark.parametrize(
    ("encoder", "text", "ends", "expected"),
    [
        (ONE_LINE, " i am fine .", True, Reply("i am fine .", ended=True)),
        (ONE_LINE, " i am fine .", False, Reply("i am fine .", ended=False)),
        (ONE_LINE, " i am fine .\nUser: and you ?", True, Reply("i am fine .", ended=False, ran_on=True)),
        (ONE_LINE, " i am fine .\nUser: and you ?", False, Reply("i am fine .", ended=False, ran_on=True)),
        (ONE_LINE, " first\nsecond", True, Reply("first", ended=False, ran_on=True)),
        (ONE_LINE, "\n i am fine .\n", True, Reply("i am fine .", ended=True)),
        (ONE_LINE, "", True, Reply("", ended=True)),
        (ONE_LINE, "", False, Reply("", ended=False)),
        (ONE_LINE, " <|endoftext|> is text", True, Reply("<|endoftext|> is text", ended=True)),
        (SEVERAL_LINES, " Take:\n1. eggs\n\n2. flour", True, Reply("Take:\n1. eggs\n\n2. flour", ended=True)),
        (SEVERAL_LINES, " Take:\n1. eggs", False, Reply("Take:\n1. eggs", ended=False)),
        (SEVERAL_LINES, f" Take:\n1. eggs{NEXT_TURNS}", True, Reply("Take:\n1. eggs", ended=False, ran_on=True)),
        (SEVERAL_LINES, " Take:\n1. eggs\n\n Assistant: bake", False, Reply("Take:\n1. eggs", False, ran_on=True)),
        (SEVERAL_LINES, f" {NAMES_A_TAG}", True, Reply(NAMES_A_TAG, ended=True)),
        (SEVERAL_LINES, " i am fine .\n", False, Reply("i am fine .", ended=False)),
    ],
)
def test_a_reply_of_one_line_and_of_several(encoder: Encoder, text: str, ends: bool, expected: Reply) -> None:
    check(encoder, text, ends, expected)


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
