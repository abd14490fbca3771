"""A tokenizer goes into GGUF if llama.cpp would read conversations as it does, and is refused otherwise."""

import pytest
from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from falconer.data.pieces import puts_before, written_before
from falconer.data.prompt import chat_template
from falconer.errors import FalconerError
from falconer.model.export.gguf_vocabulary import vocabulary_of
from falconer.model.tokenizer import load_tokenizer
from tokenizers_made import MADE, corpus, fast


def written(made, more_rows=0):
    tokenizer = fast(made)
    bos = puts_before(made)
    tokenizer.chat_template = chat_template(written_before(made, bos))
    return vocabulary_of(tokenizer, len(tokenizer) + more_rows, tokenizer.eos_token_id, bos)


def like_falcon_7b():
    """Cut as the hub's Falcon-7B: punctuation, GPT-2's words, runs of digits, and these in threes."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(False), pre_tokenizers.Digits(False),
        pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated"),
    ])  # fmt: skip
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    made.train_from_iterator([*corpus(), *["in 1999 , 2000 and 12345 ."] * 50], trainer)
    return made


def test_falcon_mini_is_read_exactly_although_llama_cpp_does_not_know_it():
    """It cuts words and then digits, SmolLM digits and then words; no merge joins two spaces, so both give the same."""
    tokenizer, end_id = load_tokenizer("falcon-mini")
    found = vocabulary_of(tokenizer, len(tokenizer), end_id, "")
    assert (found.model, found.pre, found.notes, found.adds_bos) == ("gpt2", "smollm", (), False)
    assert found.special == {"bos": 0, "eos": 0} and len(found.merges) == 9983
    assert found.types[0] == TokenType.CONTROL and set(found.types[1:]) == {TokenType.NORMAL}


@pytest.mark.parametrize(
    ("kind", "model", "pre", "adds_bos", "adds_space"),
    [
        ("llama", "llama", "default", True, True), ("mistral", "llama", "default", True, False),
        ("gemma2", "llama", "default", True, False), ("qwen2", "gpt2", "llama-bpe", False, False),
        ("smollm3", "gpt2", "llama-bpe", True, False), ("stablelm", "gpt2", "gpt-2", False, False),
    ],
)  # fmt: skip
def test_kinds(kind, model, pre, adds_bos, adds_space):
    found = written(MADE[kind](), more_rows=2)
    assert (found.model, found.pre, found.adds_bos, found.adds_space) == (model, pre, adds_bos, adds_space)
    assert found.types[-2:] == [TokenType.UNUSED] * 2 and len(set(found.tokens)) == len(found.tokens)
    is_bytes = model == "gpt2"
    assert (len(found.merges) > 0, len(found.scores) > 0) == (is_bytes, not is_bytes)
    if not is_bytes:
        assert found.types[found.tokens.index("<0x0A>")] == TokenType.BYTE
        assert found.types[found.special["unknown"]] == TokenType.UNKNOWN


def test_falcon_7b_is_cut_as_falcon():
    assert (written(like_falcon_7b()).pre, written(like_falcon_7b()).notes) == ("falcon", ())


@pytest.mark.parametrize(
    ("kind", "reason"),
    [("gpt2", "tokenizer's pre-tokenization"), ("xglm", "a Unigram model"), ("gpt_neox", "a WordPiece model")],
)
def test_what_llama_cpp_would_read_otherwise_is_refused(kind, reason):
    with pytest.raises(FalconerError, match=reason):
        written(MADE[kind]())


def test_what_it_reads_otherwise_in_rare_texts_is_said():
    made = MADE["stablelm"]()
    # Composed before it is cut, as Qwen does, which llama.cpp does not do; the embedded dialogues hold no such letters.
    from tokenizers import normalizers

    made.normalizer = normalizers.NFC()
    (note,) = written(made).notes
    assert note.startswith("llama.cpp gives other token ids than the tokenizer") and "re\u0301sume\u0301" in note


def test_tokens_that_are_not_special_are_the_users(tmp_path):
    made = MADE["stablelm"]()
    made.add_tokens([AddedToken("<mood>", normalized=False)])
    found = written(made)
    assert found.types[found.tokens.index("<mood>")] == TokenType.USER_DEFINED


def test_more_entries_than_rows():
    tokenizer, end_id = load_tokenizer("falcon-mini")
    with pytest.raises(FalconerError, match="has 10,240 entries, the model's embedding 10,000 rows"):
        vocabulary_of(tokenizer, 10_000, end_id, "")
