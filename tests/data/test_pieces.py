"""The ids of a prompt's pieces are those that the tokenizer gives the whole text, for tokenizers of every kind."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoTokenizer

from falconer.data import prompt
from falconer.data.encode import Encoder
from falconer.data.pieces import Pieces, puts_before, spelled, written_before
from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.records import Dialogue, Turn
from tokenizers_made import MADE, byte_level, fast, sentencepiece

TOKENIZERS = {name: fast(make()) for name, make in MADE.items()}
TOKENIZERS["roberta-like"] = fast(byte_level("<s> $A </s>", prefix=True))

texts = st.one_of(
    st.text(st.characters(exclude_categories=("Cs", "Cc", "Co", "Cn")), min_size=1, max_size=20),
    st.sampled_from(
        ["(well)", ": x", "...", "7 dogs", "a\nb", "a.\n\n- b", "é", "你好 。", "😀", "'s", "- a", "a:", "\ta"]
    ),
).map(str.strip)
texts = texts.filter(lambda text: text and "<" not in text)
lines = texts.filter(lambda text: len(text.splitlines()) == 1)
dialogues = st.builds(
    Dialogue,
    id=st.just("d"),
    persona=st.lists(lines, max_size=2).map(tuple),
    turns=st.lists(st.builds(Turn, speaker=st.sampled_from(["self", "partner"]), text=texts), max_size=4).map(
        lambda turns: (*turns, Turn("self", "the end ."))
    ),
)


def encoder_of(tokenizer, format: PromptFormat | None = None) -> Encoder:
    return Encoder(tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token_id, 100_000, format)


ENCODERS = {name: encoder_of(tokenizer) for name, tokenizer in TOKENIZERS.items()}


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dialogue=dialogues)
def test_the_ids_are_those_of_the_whole_text_and_a_prompt_is_a_prefix(name, dialogue):
    tokenizer, encoder = TOKENIZERS[name], ENCODERS[name]
    (example,), _ = encoder.encode([dialogue])
    text = "".join(span.text + "</s>" * span.ends_turn for span in prompt.render(dialogue))
    whole = tokenizer(text, add_special_tokens=False).input_ids
    bos = spelled(tokenizer.backend_tokenizer, encoder.format.bos)
    assert example.ids.tolist() == bos + whole
    assert tokenizer(text).input_ids[: len(example.ids)] == bos + whole
    template = prompt.chat_template(written_before(tokenizer.backend_tokenizer, encoder.format.bos))
    jinja = tokenizer.apply_chat_template(prompt.messages(dialogue), chat_template=template, return_dict=False)
    assert jinja == bos + whole
    assert not example.is_target[: len(bos) + 1].any()
    for start, index in zip(example.reply_starts, example.turn_indices, strict=True):
        assert encoder.encode_prompt(dialogue.persona, dialogue.turns[:index]) == example.ids[:start].tolist()


@pytest.mark.parametrize(
    ("template", "before"),
    [
        ("$A", ""), ("$A </s>", ""), ("<s> $A", "<s>"), ("<s> $A </s>", "<s>"), ("</s> $A", "</s>"),
        ("<s> </s> $A", "<s></s>"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("make", [byte_level, lambda template: sentencepiece(template, prefix="legacy")])
def test_what_stands_before_a_text_is_asked_of_the_post_processor(make, template, before):
    made = make(template)
    assert puts_before(made) == before
    ids = spelled(made, before)
    assert ids == made.encode("hello").ids[: len(ids)]


def test_flags_in_the_configuration_do_not_count(tmp_path):
    tokenizer = fast(byte_level("$A"))
    assert tokenizer.bos_token == "<s>" and puts_before(tokenizer.backend_tokenizer) == ""
    fast(byte_level("<s> $A")).save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"add_bos_token": False}))
    assert puts_before(AutoTokenizer.from_pretrained(tmp_path).backend_tokenizer) == "<s>"


def test_a_format_without_bos_gives_the_same_ids_without_it():
    turns = (Turn("partner", "hi ."), Turn("self", "hello ."))
    talk = Dialogue("d", ("i ski .",), turns)
    for tokenizer in TOKENIZERS.values():
        (bare,), _ = encoder_of(tokenizer, PromptFormat()).encode([talk])
        (whole,), _ = encoder_of(tokenizer).encode([talk])
        assert whole.ids.tolist()[len(whole.ids) - len(bare.ids) :] == bare.ids.tolist()
        assert whole.num_targets == bare.num_targets


def test_bos_counts_as_a_token_of_the_example():
    tokenizer = TOKENIZERS["llama"]
    talk = Dialogue("d", (), tuple(Turn("self" if k % 2 else "partner", f"turn {k}") for k in range(12)))
    whole = encoder_of(tokenizer).encode([talk])[0][0]
    limit = len(whole.ids) - 1
    (cut,), truncation = Encoder(
        tokenizer.backend_tokenizer.to_str(), tokenizer.eos_token_id, limit, PromptFormat(bos="<s>")
    ).encode([talk])
    assert truncation.num_turns == 1 and len(cut.ids) <= limit and cut.ids[0] == whole.ids[0]


@pytest.mark.parametrize("name", ["llama", "gemma2", "smollm3"])
def test_text_that_spells_a_special_token_stays_text(name):
    tokenizer, text = TOKENIZERS[name], "</s> <s> \ufdd0falconer\ufdd1"
    talk = Dialogue(
        "d", (text,), (Turn("partner", text), Turn("self", text), Turn("partner", text), Turn("self", text))
    )
    ids = ENCODERS[name].encode([talk])[0][0].ids.tolist()
    assert ids.count(tokenizer.eos_token_id) == 2 and ids.count(tokenizer.bos_token_id) == 1
    assert max(ids) < len(tokenizer)


def test_a_tokenizer_that_joins_the_tag_with_the_reply_keeps_the_prefix():
    """Without any splitting before its merges, a BPE tokenizer learns tokens such as ": h"."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    special = {"special_tokens": ["<s>", "</s>"], "show_progress": False}
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = [f"{letter}: i" for letter in "abcdefghijklmnopqrstuvwxyz"] * 9
    made.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=261, initial_alphabet=alphabet, **special))
    tag, joined = (made.encode(text).ids for text in ("Assistant:", "Assistant: i"))
    assert joined[: len(tag)] != tag, "it joins them"
    encoder = Encoder(made.to_str(), 1, 4096)
    talk = Dialogue("d", ("i ski .",), (Turn("partner", "hi ."), Turn("self", "i am"), Turn("self", "hello .")))
    example = encoder.encode([talk])[0][0]
    for start, index in zip(example.reply_starts, example.turn_indices, strict=True):
        assert encoder.encode_prompt(talk.persona, talk.turns[:index]) == example.ids[:start].tolist()


def test_a_recorded_bos_that_the_tokenizer_lacks_is_refused():
    with pytest.raises(FalconerError, match=r"begin with '<bos>', but the base model's tokenizer has no such token"):
        Pieces(byte_level().to_str(), 1, "<bos>")


def test_white_space_that_an_end_token_takes_is_taken_here_too():
    """Phi-3's end tokens take the line break behind them; so do the pieces."""
    tree = json.loads(byte_level("<s> $A").to_str())
    for token in tree["added_tokens"]:
        token["rstrip"] = token["content"] == "</s>"
    made = Tokenizer.from_str(json.dumps(tree))
    talk = Dialogue("d", (), (Turn("self", "hi ."), Turn("partner", "hello ."), Turn("self", "bye .")))
    ids = Encoder(made.to_str(), 1, 4096, PromptFormat(bos="<s>")).encode([talk])[0][0].ids.tolist()
    assert ids == made.encode("Assistant: hi .</s>\nUser: hello .\nAssistant: bye .</s>").ids


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_line_break_is_a_token_only_where_it_comes_back(name):
    """A tokenizer that collapses white space makes a line break a space, at which no reply may stop."""
    found = ENCODERS[name].line_break()
    assert len(found) == (name not in ("xglm", "gpt_neox"))
    assert all("\n" in TOKENIZERS[name].backend_tokenizer.decode([token]) for token in found)
