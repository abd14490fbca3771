"""llama.cpp's ways of cutting text, worked out in Python; tests marked llama_cpp compare with llama.cpp itself."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from falconer.model.export.gguf_split import PATTERNS, SentencePiece, byte_level

ALPHABET = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}


def words(pre, text):
    """Return how a text is cut before any merge: with none, a token is a byte, so ask the pre-tokenizer itself."""
    plain = Tokenizer(models.BPE(vocab=ALPHABET, merges=[]))
    made = byte_level(json.loads(plain.to_str()), pre)
    return [word.replace("Ġ", " ").replace("Ċ", "\n") for word, _ in made.pre_tokenizer.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("pre", "text", "cut"),
    [
        ("gpt-2", "I'm 12345 here!  ok", ["I", "'m", " 12345", " here", "!", " ", " ok"]),
        ("smollm", "in 1999", ["in", " ", "1", "9", "9", "9"]),
        ("falcon", "in 12345, ok", ["in", " ", "123", "45", ",", " ok"]),
        ("falcon", "$5 <b>", ["$", "5", " ", "<", "b", ">"]),
        ("llama-bpe", "I'M 12345.\n\nok", ["I", "'M", " ", "123", "45", ".\n\n", "ok"]),
        ("qwen2", "a 12", ["a", " ", "1", "2"]),
    ],
)  # fmt: skip
def test_words(pre, text, cut):
    assert words(pre, text) == cut


def test_each_pattern_keeps_every_byte():
    text = "Größe\t１２3 — “x”\r\n\r\n  😀 'll $1,000.00  "
    for pre in PATTERNS:
        made = byte_level(json.loads(Tokenizer(models.BPE(vocab=ALPHABET, merges=[])).to_str()), pre)
        assert len(made.encode(text).ids) == len(text.encode())


TOKENS = ["<unk>", "<s>", "▁", "a", "b", "ab", "▁a", "aab", "bb", *(f"<0x{byte:02X}>" for byte in range(256))]
# "bb" is joined before "ab", and that before "▁a".
SCORES = [0.0, 0.0, 0.0, 0.0, 0.0, -2.0, -3.0, -4.0, -1.0, *[0.0] * 256]


@pytest.mark.parametrize(
    ("text", "prefix", "pieces"),
    [
        ("abb", False, ["a", "bb"]), ("aab", False, ["aab"]), ("ab a", False, ["ab", "▁a"]),
        ("ab", True, ["▁", "ab"]), ("a<s>a", True, ["▁a", "<s>", "▁a"]), ("a<s>a", False, ["a", "<s>", "a"]),
        ("ä", False, ["<0xC3>", "<0xA4>"]), ("", True, []),
    ],
)  # fmt: skip
def test_pairs_of_the_highest_score_are_joined_first(text, prefix, pieces):
    made = SentencePiece(TOKENS, SCORES, {"<s>": 1}, prefix=prefix)
    assert [TOKENS[number] for number in made.encode(text)] == pieces
