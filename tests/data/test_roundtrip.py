"""What a tokenizer loses is found when it is loaded, and one that knows no text is refused."""

import json
import random

import pytest
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

from falconer.data.roundtrip import check_roundtrip
from falconer.model.tokenizer import load_tokenizer
from tokenizers_made import MADE, byte_level

END = 1


def normalised(*parts: normalizers.Normalizer) -> Tokenizer:
    made = byte_level("<s> $A")
    made.normalizer = normalizers.Sequence(list(parts))
    return made


@pytest.mark.parametrize(
    "name", ["llama", "mistral", "gemma2", "qwen2", "smollm3", "opt", "gpt2", "stablelm", "cohere"]
)
def test_a_good_tokenizer_has_no_notes(name):
    found = check_roundtrip(MADE[name](), END)
    assert not found.fault and not found.notes


def test_falcons_tokenizer_has_no_notes():
    tokenizer, end_id = load_tokenizer("falcon-mini")
    assert check_roundtrip(tokenizer.backend_tokenizer, end_id).notes == ()


@pytest.mark.parametrize(
    ("parts", "lost", "kept"),
    [
        ((normalizers.Lowercase(),), ["capital letters"], ["accents", "line breaks"]),
        ((normalizers.NFD(), normalizers.StripAccents()), ["accents"], ["capital letters", "Greek\\b.*Greek"]),
        ((normalizers.NFKC(),), ["full-width and other compatibility forms"], ["capital letters", "line breaks"]),
        ((normalizers.Replace(Regex(r"\s+"), " "),), ["line breaks", "runs of spaces"], ["capital letters"]),
        ((normalizers.Replace(Regex(" +"), " "),), ["runs of spaces"], ["line breaks"]),
        ((normalizers.NFD(),), [], ["accents", "Korean"]),
    ],
)
def test_what_a_normaliser_changes_is_named(parts, lost, kept):
    found = check_roundtrip(normalised(*parts), END)
    said = "; ".join(found.notes)
    assert not found.fault
    assert all(what in said for what in lost) and not any(what in said for what in kept)
    assert bool(said) == bool(lost)


def test_letters_that_its_vocabulary_lacks_are_shown_in_a_sentence():
    tree = json.loads(MADE["gpt_neox"]().to_str())
    said = check_roundtrip(Tokenizer.from_str(json.dumps(tree)), END).notes
    assert "plain sentences to the same text" in said[0] and "becomes" in said[0]


def invented() -> Tokenizer:
    """Return what transformers makes up where a folder holds no tokenizer."""
    return Tokenizer(models.BPE({"<pad>": 0, "</s>": 1, "<s>": 2, "<unk>": 3}, [], unk_token="<unk>", fuse_unk=True))


def silent() -> Tokenizer:
    return Tokenizer(models.BPE({"</s>": 0, "<s>": 1}, []))


def vowelless() -> Tokenizer:
    return normalised(normalizers.Replace(Regex("[aeiou]"), ""))


@pytest.mark.parametrize(
    ("make", "words"),
    [(invented, "is decoded to '<unk>"), (silent, "is decoded to nothing"), (vowelless, "to 'm  bddhst")],
)
def test_a_tokenizer_that_knows_no_text_is_refused(make, words):
    fault = check_roundtrip(make(), END).fault
    assert "of the letters in 300 plain sentences" in fault and words in fault


def test_tags_that_come_out_alike_are_refused():
    made = normalised(normalizers.Replace("User:", "X:"), normalizers.Replace("Assistant:", "X:"))
    assert check_roundtrip(made, END).fault == "it encodes 'User:' and 'Assistant:' as the same tokens, or as none"


@pytest.mark.parametrize("name", ["smollm3", "gemma2"])
def test_merges_that_were_lost_in_a_conversion_are_noticed(name):
    """Text comes back from it all the same: "how" as "h" and "ow"."""
    tree, rng = json.loads(MADE[name]().to_str()), random.Random(3)
    tree["model"]["merges"] = [merge for merge in tree["model"]["merges"] if rng.random() < 0.8]
    said = check_roundtrip(Tokenizer.from_str(json.dumps(tree)), END).notes
    assert any("common words into several tokens" in note and "converted wrongly" in note for note in said)


def test_a_tokenizer_that_joins_the_tag_with_the_reply_is_told_of():
    merges = [(":", "Ġ"), (":Ġ", "i")]
    tree = json.loads(byte_level().to_str())
    tree["pre_tokenizer"] = json.loads(pre_tokenizers.ByteLevel(False, use_regex=False).__getstate__())
    tree["model"]["merges"] = [list(merge) for merge in merges] + tree["model"]["merges"]
    for merge in merges:
        tree["model"]["vocab"]["".join(merge)] = len(tree["model"]["vocab"])
    said = check_roundtrip(Tokenizer.from_str(json.dumps(tree)), END).notes
    assert any("tokens that cross the borders of a reply" in note for note in said)
