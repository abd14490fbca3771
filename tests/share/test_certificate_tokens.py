"""Token ids through exported templates and tokenizers, and what is said if they are others."""

import json

import pytest

from falconer.data.encode import Encoder
from falconer.data.prompt import PromptFormat
from falconer.data.sources import SAMPLE, load_dialogues
from falconer.model.export.gguf import About, write_gguf
from falconer.model.export.gguf_read import GgufFile
from falconer.model.tokenizer import open_tokenizer, set_template
from falconer.share.certificate_tokens import compare_tokens, folder_encoder, gguf_encoder
from tiny import save_tiny_model
from tokenizers_made import save_made


@pytest.fixture(scope="module")
def dialogues():
    return load_dialogues(SAMPLE, split="test").dialogues[:20]


def encoder_of(folder):
    opened = open_tokenizer(str(folder))
    return Encoder(opened.tokenizer.backend_tokenizer.to_str(), opened.end_id, 2**31, PromptFormat(bos=opened.bos))


@pytest.mark.parametrize("kind", ["falcon-mini", "llama"])
def test_they_are_the_same(tmp_path, dialogues, kind):
    """The llama has a BOS, which the template writes and which llama.cpp does not write a second time."""
    if kind == "llama":
        folder = save_made(tmp_path / "model", "llama")
    else:
        folder = save_tiny_model(tmp_path / "model", "falcon")
    opened = open_tokenizer(str(folder))
    set_template(opened.tokenizer, opened.bos)
    opened.tokenizer.save_pretrained(folder)
    write_gguf(folder, tmp_path / "model.gguf", "f16", About("Tiny"))
    for encode in (folder_encoder(folder), gguf_encoder(GgufFile(tmp_path / "model.gguf"), folder)):
        found = compare_tokens(encoder_of(folder), dialogues, encode)
        assert (found.num_conversations, found.num_equal, found.first_difference) == (20, 20, "")


def test_another_template_is_noticed(tmp_path, dialogues):
    folder = save_tiny_model(tmp_path / "model", "falcon")
    opened = open_tokenizer(str(folder))
    opened.tokenizer.chat_template = str(opened.tokenizer.chat_template).replace("User:", "Human:")
    opened.tokenizer.save_pretrained(folder)
    found = compare_tokens(encoder_of(folder), dialogues, folder_encoder(folder))
    assert found.num_equal == 0 and dialogues[0].persona[0] in found.first_difference


def test_another_tokenizer_is_noticed(tmp_path, dialogues):
    folder = save_tiny_model(tmp_path / "model", "falcon")
    encoder = encoder_of(folder)
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree["model"]["merges"] = tree["model"]["merges"][:500]
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    open_tokenizer(str(folder)).tokenizer.save_pretrained(folder)
    found = compare_tokens(encoder, dialogues, folder_encoder(folder))
    assert found.num_equal < 20 and found.first_difference
