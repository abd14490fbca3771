"""One template: spans, the Jinja chat template, and every opened reply must agree token for token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.data import prompt
from falconer.data.encode import Encoder
from falconer.model.tokenizer import load_tokenizer
from falconer.records import Dialogue, Turn

TOKENIZER, END_ID = load_tokenizer("falcon-mini")
BACKEND = TOKENIZER.backend_tokenizer.to_str()

# Any text that does not spell a special token: the Jinja template renders to one string, where such text becomes one.
texts = (
    st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=40)
    .map(str.strip)
    .filter(lambda text: text and "<|" not in text)
)
lines = texts.filter(lambda text: len(text.splitlines()) == 1)
turns = st.builds(Turn, speaker=st.sampled_from(["self", "partner"]), text=texts)
dialogues = st.builds(
    Dialogue,
    id=st.just("d"),
    persona=st.lists(lines, max_size=4).map(tuple),
    turns=st.lists(turns, min_size=1, max_size=6).map(tuple),
).filter(lambda dialogue: dialogue.turns[-1].speaker == "self")


def encoder() -> Encoder:
    return Encoder(BACKEND, END_ID, max_tokens=100_000)


@given(dialogues)
def test_the_jinja_template_gives_the_same_ids(dialogue):
    example = encoder().encode([dialogue])[0][0]
    jinja = TOKENIZER.apply_chat_template(prompt.messages(dialogue), tokenize=True, return_dict=False)
    assert example.ids.tolist() == jinja


@given(dialogues)
def test_the_generation_prompt_gives_the_same_ids(dialogue):
    history = Dialogue(dialogue.id, dialogue.persona, dialogue.turns[:-1])
    ours = encoder().encode_prompt(history.persona, history.turns)
    if history.persona or history.turns:
        jinja = TOKENIZER.apply_chat_template(
            prompt.messages(history), tokenize=True, add_generation_prompt=True, return_dict=False
        )
        assert ours == jinja


@given(dialogues)
def test_an_opened_reply_is_an_exact_prefix_of_the_whole_dialogue(dialogue):
    encode = encoder()
    example = encode.encode([dialogue])[0][0]
    for start, index in zip(example.reply_starts, example.turn_indices, strict=True):
        assert encode.encode_prompt(dialogue.persona, dialogue.turns[:index]) == example.ids[:start].tolist()


def test_the_words_of_the_template():
    dialogue = Dialogue("d", ("i ski .", "i cook ."), (Turn("partner", "hi !"), Turn("self", "hello .")))
    text = "".join(span.text + ("<end>" if span.ends_turn else "") for span in prompt.render(dialogue))
    assert text == "Persona:\n- i ski .\n- i cook .\nUser: hi !\nAssistant: hello .<end>"


@pytest.mark.parametrize(("persona", "first"), [((), "Assistant"), (("i ski .",), "Persona")])
def test_the_bot_may_open(persona, first):
    text = "".join(span.text for span in prompt.render(Dialogue("d", persona, (Turn("self", "hi"),))))
    assert text.startswith(first)
    assert text.endswith("Assistant: hi")


def test_the_hash_names_this_template():
    # A change of the template makes every adapter trained before it useless: change this line only knowingly.
    assert prompt.template_sha256()[:16] == "775824daada87229"
