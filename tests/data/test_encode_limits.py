"""What does not fit: what is dropped, what is left out, and what the error names."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.data.encode import Encoder, Truncation
from falconer.errors import FalconerError
from falconer.model.tokenizer import load_tokenizer
from falconer.records import Dialogue, Turn

TOKENIZER, END_ID = load_tokenizer("falcon-mini")
BACKEND = TOKENIZER.backend_tokenizer.to_str()
texts = st.sampled_from(["hi", "one two three", "w " * 20])
turns = st.lists(st.builds(Turn, speaker=st.sampled_from(["self", "partner"]), text=texts), max_size=9)


def talk(count: int, persona: tuple[str, ...] = ()) -> Dialogue:
    lines = tuple(Turn("self" if k % 2 else "partner", f"this is turn number {k} .") for k in range(count))
    return Dialogue(f"d{count}", persona, lines)


def encoder(max_tokens: int) -> Encoder:
    return Encoder(BACKEND, END_ID, max_tokens)


@pytest.mark.parametrize("limit", [60, 200, 500])
@pytest.mark.parametrize("first", ["partner", "self"])
def test_a_long_dialogue_without_persona_is_shortened(limit, first):
    whole = talk(200)
    whole = whole if first == "partner" else replace(whole, turns=whole.turns[1:])
    (example,), truncation = encoder(limit).encode([whole])
    text = TOKENIZER.decode(example.ids)
    assert limit - 40 < len(example.ids) <= limit
    assert text.startswith(("User:", "Assistant:")) and text.endswith("turn number 199 .<|endoftext|>")
    assert truncation.num_dialogues == 1 and truncation.num_turns > 0


@given(turns, st.booleans(), st.integers(0, 160))
def test_as_few_turns_are_dropped_as_fit(before, has_persona, limit):
    """Against trying every number of dropped turns."""
    dialogue = Dialogue("d", ("i ski .",) if has_persona else (), (*before, Turn("self", "the end .")))
    rests = [replace(dialogue, turns=dialogue.turns[dropped:]) for dropped in range(len(dialogue.turns))]
    sizes = [len(example.ids) for example in encoder(10_000).encode(rests)[0]]
    wanted = next((number for number, size in enumerate(sizes) if size <= limit), None)
    limited = encoder(limit)
    assert limited.fits(dialogue) == (wanted is not None)
    if wanted is None:
        with pytest.raises(FalconerError, match=r"leaves no room|is too long"):
            limited.encode([dialogue])
        return
    (example,), truncation = limited.encode([dialogue])
    assert len(example.ids) == sizes[wanted] and truncation.num_turns == wanted
    history = dialogue.turns[:-1]
    prompt = limited.encode_prompt(dialogue.persona, history)
    assert prompt == example.ids[: len(prompt)].tolist() or len(prompt) > example.reply_starts[-1]


def test_a_reply_that_is_too_long_is_named_with_its_tokens():
    long = Dialogue("mine", ("i ski .",), (Turn("partner", "hi ."), Turn("self", "word " * 300)))
    with pytest.raises(
        FalconerError, match=r"reply at turn 1 \(from 0\) of dialogue 'mine' is too long: \d+ tokens are"
    ):
        encoder(128).encode([long])
    with pytest.raises(FalconerError, match=r"128 allowed \(reply 30\d, persona and tag 1\d\)\. Shorten the reply"):
        encoder(128).encode([long])


def test_a_persona_that_is_too_long_is_named_with_its_tokens():
    long = Dialogue("mine", ("word " * 300,), (Turn("partner", "hi ."), Turn("self", "hello .")))
    with pytest.raises(FalconerError, match=r"persona in dialogue 'mine' leaves no room.*persona 3\d\d, last reply 3"):
        encoder(128).encode([long])


@pytest.mark.parametrize(
    "bad",
    [
        Dialogue("reply", (), (Turn("self", "word " * 300),)),
        Dialogue("persona", ("word " * 300,), (Turn("self", "hi"),)),
        Dialogue("silent", (), (Turn("partner", "hi"),)),
    ],
)
def test_what_does_not_fit_can_be_left_out_and_is_counted(bad):
    encode = encoder(128)
    assert not encode.fits(bad)
    examples, truncation = encode.encode([talk(4), bad, talk(6)], leave_out=True)
    assert [example.dialogue_id for example in examples] == ["d4", "d6"]
    assert truncation == Truncation(num_left_out=1)
    with pytest.raises(FalconerError):
        encode.encode([talk(4), bad])


def test_an_early_reply_that_is_too_long_goes_with_the_older_turns():
    whole = talk(6)
    whole = replace(whole, turns=(whole.turns[0], Turn("self", "word " * 300), *whole.turns[2:]))
    (example,), truncation = encoder(128).encode([whole])
    assert example.turn_indices == (3, 5) and truncation == Truncation(1, 2, 1)


def test_the_room_behind_a_persona_is_what_a_prompt_can_reserve():
    encode = encoder(128)
    room = encode.room(("i ski .",))
    assert len(encode.encode_prompt(("i ski .",), (), reserve=room)) == 128 - room
    with pytest.raises(FalconerError, match=f"no room for a reply of {room + 1} tokens: it takes {128 - room} of 128"):
        encode.encode_prompt(("i ski .",), (), reserve=room + 1)


def test_thousands_of_turns_are_cut_without_trying_each():
    (example,), truncation = encoder(256).encode([talk(8000, ("i ski .",))])
    assert len(example.ids) <= 256 and truncation.num_turns > 7900
