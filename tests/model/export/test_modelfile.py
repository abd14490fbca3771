"""An Ollama Modelfile: its template, written in Go's language, gives the text of our chat template."""

import pytest

from falconer.data.prompt import PromptFormat, messages
from falconer.data.sources import SAMPLE, load_dialogues
from falconer.errors import FalconerError
from falconer.model.export.modelfile import modelfile
from falconer.model.tokenizer import load_tokenizer
from modelfiles import quoted, render

END = "<|endoftext|>"


def test_the_template_writes_what_the_chat_template_does():
    tokenizer, _ = load_tokenizer("falcon-mini")
    for dialogue in load_dialogues(SAMPLE, split="valid").dialogues[:50]:
        text = modelfile("./model.gguf", end=END, format=PromptFormat(), persona=dialogue.persona)
        rows = messages(dialogue)
        (system,), (template,) = quoted(text, "SYSTEM"), quoted(text, "TEMPLATE")
        expected = tokenizer.apply_chat_template(rows, tokenize=False, add_generation_prompt=True)
        assert render(template, [{"role": "system", "content": system}, *rows[1:]]) == expected


@pytest.mark.parametrize(
    ("format", "stops"),
    [
        (PromptFormat(), [END, "\nUser:", "\n"]),
        (PromptFormat(multi_line=True), [END, "\nUser:"]),
        (PromptFormat(multi_line=True, quotes_tags=True), [END]),
    ],
)
def test_what_ends_a_reply(format, stops):
    assert quoted(modelfile("./model.gguf", end=END, format=format), "PARAMETER stop") == stops


def test_the_whole_file():
    text = modelfile(
        "./base.gguf", end=END, format=PromptFormat(multi_line=True), persona=["i ski .", 'i say "hi"'],
        adapter="./lora.gguf", parameters={"temperature": 0.7, "num_ctx": 2048}, lead=" ", license="apache-2.0",
    )  # fmt: skip
    lines = text.splitlines()
    assert lines[:2] == ["FROM ./base.gguf", "ADAPTER ./lora.gguf"] and lines[2].startswith('TEMPLATE """ {{ range')
    assert quoted(text, "SYSTEM") == ['Persona:\n- i ski .\n- i say "hi"']
    assert "PARAMETER temperature 0.7\nPARAMETER num_ctx 2048\n" in text and quoted(text, "LICENSE") == ["apache-2.0"]


def test_without_a_persona_there_is_no_system():
    text = modelfile("./model.gguf", end=END, format=PromptFormat())
    assert "SYSTEM" not in text and "PARAMETER temperature 0\n" in text


def test_three_quotation_marks_can_not_be_written():
    with pytest.raises(FalconerError, match="A Modelfile can't hold"):
        modelfile("./model.gguf", end=END, format=PromptFormat(), persona=['i say """'])
