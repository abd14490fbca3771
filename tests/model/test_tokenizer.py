"""A tokenizer is taken from what the folder really holds, tried, and carries our template as its texts begin."""

import json
import shutil

import pytest
from transformers import AutoTokenizer

from falconer.data import prompt
from falconer.errors import FalconerError
from falconer.model.tokenizer import load_tokenizer, open_tokenizer, set_template
from falconer.records import Dialogue, Turn
from tokenizers_made import MADE, byte_level, fast

INVENTED = ("gemma", "gemma2", "gemma3_text", "qwen2", "qwen3", "gpt2", "gpt_neox", "opt", "cohere", "xglm", "mpt")
TALK = Dialogue("d", ("i ski .",), (Turn("partner", "hi ."), Turn("self", "hello .")))


def folder_of(folder, model_type, tokenizer=None):
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("model_type", [*INVENTED, "falcon", "llama", "mistral", "phi3", "bloom"])
def test_a_folder_without_a_tokenizer_says_what_is_missing(tmp_path, model_type):
    name = folder_of(tmp_path, model_type)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(
        FalconerError, match=r"contains no tokenizer: tokenizer\.json is missing .*Add the tokenizer\.json"
    ):
        load_tokenizer(name)


@pytest.mark.parametrize("model_type", INVENTED)
def test_a_tokenizer_that_transformers_made_up_is_refused(tmp_path, model_type):
    """A file of another name is there, so the folder looks as if it had a tokenizer."""
    name = folder_of(tmp_path, model_type)
    (tmp_path / "vocab.txt").write_text("hello\n")
    with pytest.raises(
        FalconerError, match=r"loses \d+ % of the letters in 300 plain sentences.*the folder has no tokenizer\.json"
    ):
        load_tokenizer(name)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2"])
def test_files_that_no_tokenizer_can_be_made_of_are_explained(tmp_path, model_type):
    name = folder_of(tmp_path, model_type)
    (tmp_path / ("vocab.json" if model_type == "gpt2" else "tokenizer.model")).write_bytes(b"\x00\x01")
    with pytest.raises(FalconerError, match=r"has no tokenizer\.json, and its other files can't be converted to one"):
        load_tokenizer(name)


def test_vocabulary_and_merges_are_enough_where_a_right_tokenizer_comes_of_them(tmp_path):
    model = json.loads(byte_level().to_str())["model"]
    vocab = {("<|endoftext|>" if token == "</s>" else token): number for token, number in model["vocab"].items()}
    name = folder_of(tmp_path, "gpt2")
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in model["merges"]))
    opened = open_tokenizer(name)
    assert opened.end_id == 1 and opened.notes == ()


def test_a_models_own_chat_template_gives_way_to_ours_and_that_is_said(tmp_path):
    tokenizer = fast(byte_level("<s> $A"))
    tokenizer.chat_template = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}"
    opened = open_tokenizer(folder_of(tmp_path, "llama", tokenizer))
    assert opened.tokenizer.chat_template == prompt.chat_template("<s>")
    assert any("chat template" in note for note in opened.notes)
    # What we saved ourselves is no template of its own.
    opened.tokenizer.save_pretrained(tmp_path)
    assert open_tokenizer(str(tmp_path)).notes == ()


def test_the_template_changes_only_where_something_stands_before_a_text(tmp_path):
    opened = open_tokenizer("falcon-mini")
    assert opened.bos == "" and opened.tokenizer.chat_template == prompt.CHAT_TEMPLATE
    with_bos = open_tokenizer(folder_of(tmp_path, "llama", fast(byte_level("<s> $A"))))
    assert with_bos.bos == "<s>"
    assert prompt.template_sha256(with_bos.tokenizer.chat_template) != prompt.template_sha256()
    set_template(with_bos.tokenizer, "")
    assert with_bos.tokenizer.chat_template == prompt.CHAT_TEMPLATE


@pytest.mark.parametrize("architecture", MADE)
def test_somebody_elses_program_gets_bos_once(tmp_path, architecture):
    """From the saved folder, with transformers alone: tokenised by the template, or as a string."""
    opened = open_tokenizer(folder_of(tmp_path, architecture, fast(MADE[architecture]())))
    opened.tokenizer.save_pretrained(tmp_path / "saved")
    shutil.copy(tmp_path / "config.json", tmp_path / "saved")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "saved")
    ids = theirs.apply_chat_template(prompt.messages(TALK), tokenize=True, return_dict=False)
    text = theirs.apply_chat_template(prompt.messages(TALK), tokenize=False)
    assert theirs(text, add_special_tokens=False).input_ids == ids
    first = [theirs.convert_tokens_to_ids(opened.bos)] if opened.bos else []
    assert ids[: len(first)] == first and (not first or ids[1] != first[0])
    spans = "".join(span.text + "</s>" * span.ends_turn for span in prompt.render(TALK))
    assert theirs(spans).input_ids[: len(ids)] == ids
