"""Token ids and the loss mask: by structure, to the last token."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.data.encode import Encoder, Truncation, check_examples
from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.model.tokenizer import load_tokenizer
from falconer.records import Dialogue, Example, Turn

TOKENIZER, END_ID = load_tokenizer("falcon-mini")
BACKEND = TOKENIZER.backend_tokenizer.to_str()


def dialogue(num_turns: int, persona: tuple[str, ...] = ("i ski .",), words: int = 4) -> Dialogue:
    turns = tuple(Turn("self" if k % 2 else "partner", f"turn {k} " + "word " * words) for k in range(num_turns))
    return Dialogue(f"d{num_turns}", persona, turns)


def test_the_mask_covers_replies_and_their_end_tokens_and_nothing_else():
    talk = Dialogue(
        "d",
        ("i ski .",),
        (
            Turn("partner", "hi !"),
            Turn("self", "hello you ."),
            Turn("partner", "bye"),
            Turn("self", "bye ."),
            Turn("partner", "lost"),
        ),
    )
    example = Encoder(BACKEND, END_ID, 512).encode([talk])[0][0]
    pieces = [TOKENIZER.decode(run) for run in np.split(example.ids, np.flatnonzero(np.diff(example.is_target)) + 1)]
    assert pieces == [
        "Persona:\n- i ski .\nUser: hi !\nAssistant:",
        " hello you .<|endoftext|>",
        "\nUser: bye\nAssistant:",
        " bye .<|endoftext|>",
    ]
    assert example.is_target.tolist()[-1] is True
    assert example.turn_indices == (1, 3)
    assert [example.is_target[start] and not example.is_target[start - 1] for start in example.reply_starts] == [
        True,
        True,
    ]


PARTNERS = Dialogue(
    "d",
    ("i ski .", "i have two dogs ."),
    (
        Turn("partner", "hi !"), Turn("self", "hello you ."), Turn("partner", "i am sad ."), Turn("partner", "bye"),
        Turn("self", "bye ."), Turn("partner", "lost"),
    ),
)  # fmt: skip


def targets(example):
    """Return the text of each run of targets, and of what is none."""
    borders = np.flatnonzero(np.diff(example.is_target)) + 1
    runs = zip(np.split(example.ids, borders), np.split(example.is_target, borders), strict=True)
    return [(TOKENIZER.decode(ids), bool(mask[0])) for ids, mask in runs]


@pytest.mark.parametrize("bos", ["", "<|endoftext|>"])
def test_the_partners_turns_can_be_learned_too_but_never_the_persona(bos):
    encoder = Encoder(BACKEND, END_ID, 512, PromptFormat(bos=bos))
    (plain,), _ = encoder.encode([PARTNERS])
    (both,), _ = encoder.encode([PARTNERS], partner_too=True)
    assert both.ids.tolist() == plain.ids.tolist() and both.reply_ends == plain.reply_ends
    assert targets(both) == [
        (bos + "Persona:\n- i ski .\n- i have two dogs .", False),
        (
            "\nUser: hi !\nAssistant: hello you .<|endoftext|>\nUser: i am sad .\nUser: bye\nAssistant: bye ."
            "<|endoftext|>", True,
        ),
    ]  # fmt: skip
    check_examples([both], END_ID, partner_too=True)
    with pytest.raises(FalconerError, match="without a supervised end token"):
        check_examples([both], END_ID)
    # What the data says is not to be learned is not, whoever else's turns are.
    turns = (PARTNERS.turns[0], replace(PARTNERS.turns[1], is_learned=False), *PARTNERS.turns[2:])
    (marked,), _ = encoder.encode([replace(PARTNERS, turns=turns)], partner_too=True)
    assert [text for text, is_target in targets(marked) if not is_target][1:] == [" hello you .<|endoftext|>"]


@pytest.mark.parametrize("persona", [(), ("i ski .",)])
def test_what_is_dropped_of_a_dialogue_is_not_learned_and_no_first_token_is(persona):
    encoder = Encoder(BACKEND, END_ID, 40)
    (example,), cut = encoder.encode([dialogue(9, persona)], partner_too=True)
    assert cut.num_turns and not example.is_target[0]
    kept = TOKENIZER.decode(example.ids).removeprefix("Persona:\n- i ski .")
    learned = TOKENIZER.decode(example.ids[example.is_target])
    assert learned == kept if persona else kept.endswith(learned) and example.is_target[1:].all()


@given(st.text(max_size=60))
def test_text_that_spells_a_special_token_stays_text(around):
    text = (around + "<|endoftext|>" + around).strip()
    example = Encoder(BACKEND, END_ID, 4096).encode(
        [Dialogue("d", (text,), (Turn("partner", text), Turn("self", text)))]
    )[0][0]
    assert np.count_nonzero(example.ids == END_ID) == 1
    assert example.ids[-1] == END_ID


def test_the_oldest_turns_go_first_and_are_counted():
    whole = Encoder(BACKEND, END_ID, 10_000).encode([dialogue(20)])[0][0]
    limit = len(whole.ids) // 2
    (cut,), truncation = Encoder(BACKEND, END_ID, limit).encode([dialogue(20)])
    text = TOKENIZER.decode(cut.ids)
    assert len(cut.ids) <= limit
    assert text.startswith("Persona:\n- i ski .\n")
    assert "turn 19" in text and "turn 0 " not in text
    dropped = cut.turn_indices[0] // 2 * 2
    assert truncation.num_dialogues == 1
    assert dropped <= truncation.num_turns <= dropped + 1
    assert truncation.num_replies == 10 - len(cut.turn_indices)
    assert np.count_nonzero(cut.ids == END_ID) == len(cut.turn_indices)


def test_nothing_is_dropped_that_fits():
    assert Encoder(BACKEND, END_ID, 10_000).encode([dialogue(20)])[1] == Truncation()


def test_a_persona_that_leaves_no_room_is_named():
    with pytest.raises(FalconerError, match=r"persona in dialogue 'd2' leaves no room.*data\.max_tokens"):
        Encoder(BACKEND, END_ID, 40).encode([dialogue(2, persona=("long " * 60,))])
    with pytest.raises(FalconerError, match="leaves no room"):
        Encoder(BACKEND, END_ID, 40).encode_prompt(("long " * 60,), ())


def test_a_dialogue_without_replies_is_named():
    with pytest.raises(FalconerError, match="'d1' has no reply"):
        Encoder(BACKEND, END_ID, 512).encode([dialogue(1)])


def test_a_prompt_leaves_room_for_the_reply():
    encoder = Encoder(BACKEND, END_ID, 128)
    prompt = encoder.encode_prompt(("i ski .",), dialogue(30).turns, reserve=32)
    assert len(prompt) <= 96
    assert TOKENIZER.decode(prompt).startswith("Persona:\n- i ski .")


def example(ids: list[int], mask: list[int], *replies: tuple[int, int]) -> Example:
    starts, ends = zip(*replies, strict=True) if replies else ((), ())
    return Example(np.array(ids, np.int32), np.array(mask, bool), "bad", starts, ends, (0,) * len(starts))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (example([5, 6, END_ID], [0, 0, 0]), "no target"),
        (example([5, 6, 7], [0, 1, 1], (1, 3)), "without a supervised end token"),
        (example([5, 6, END_ID], [0, 1, 0], (1, 3)), "without a supervised end token"),
        (example([5, 6, END_ID], [0, 1, 1], (1, 2)), "without a supervised end token"),
        (example([5, 6, END_ID, 7, 8, END_ID], [0, 1, 1, 0, 1, 0], (1, 3), (4, 6)), "without a supervised end token"),
        (example([5, 6, END_ID, 7, 8, END_ID], [0, 1, 1, 0, 1, 1], (1, 3)), "without a supervised end token"),
    ],
)
def test_a_run_refuses_examples_that_teach_no_end(bad, message):
    with pytest.raises(FalconerError, match=message):
        check_examples([bad], END_ID)


def test_replies_side_by_side_are_told_apart():
    """No token need stand between two replies: where one ends is known by structure, not by a gap in the mask."""
    joined = example([5, 6, END_ID, 7, END_ID], [0, 1, 1, 1, 1], (1, 3), (3, 5))
    check_examples([joined], END_ID)
    assert joined.reply_sizes == (2, 2) and joined.num_targets == 4


def test_each_reply_ends_behind_its_end_token():
    (found,), _ = Encoder(BACKEND, END_ID, 512).encode([dialogue(6)])
    texts = [
        TOKENIZER.decode(found.ids[start:end]) for start, end in zip(found.reply_starts, found.reply_ends, strict=True)
    ]
    end_token = TOKENIZER.decode([END_ID])
    assert texts == [f" {dialogue(6).turns[index].text.strip()}{end_token}" for index in found.turn_indices]
    assert sum(found.reply_sizes) == found.num_targets


def test_a_run_refuses_no_examples():
    with pytest.raises(FalconerError, match="no dialogues"):
        check_examples([], END_ID)


def test_a_reply_that_the_data_excludes_is_context_alone() -> None:
    turns = (
        Turn("partner", "hi !"), Turn("self", "bad ."), Turn("partner", "again ?"), Turn("self", "good ."),
    )  # fmt: skip
    whole = Dialogue("d", (), turns)
    marked = replace(whole, turns=(turns[0], replace(turns[1], is_learned=False), *turns[2:]))
    assert whole.replies == (1, 3) and marked.replies == (3,)
    (all_of_it,), _ = Encoder(BACKEND, END_ID, 512).encode([whole])
    (without,), _ = Encoder(BACKEND, END_ID, 512).encode([marked])
    assert without.ids.tolist() == all_of_it.ids.tolist()
    assert without.turn_indices == (3,) and without.reply_starts == all_of_it.reply_starts[1:]
    expected = all_of_it.is_target & (np.arange(len(all_of_it.ids)) >= all_of_it.reply_starts[1])
    assert without.is_target.tolist() == expected.tolist()


def test_a_reply_is_encoded_as_it_stands_in_its_dialogue() -> None:
    encoder, shown = Encoder(BACKEND, END_ID, 512), dialogue(6)
    (example,), _ = encoder.encode([shown])
    for start, end, turn in zip(example.reply_starts, example.reply_ends, example.turn_indices, strict=True):
        assert encoder.encode_reply(shown.turns[turn].text) == example.ids[start:end].tolist()


def test_many_at_once_are_as_one_by_one() -> None:
    talks = [dialogue(num, words=words) for num, words in ((1, 4), (6, 4), (5, 30), (3, 2))]
    asked = [(talk.persona, talk.turns[: len(talk.turns) - 1], 7) for talk in talks]
    one, other = (Encoder(BACKEND, END_ID, 120) for _ in range(2))
    assert one.encode_prompts(asked) == [other.encode_prompt(*each) for each in asked]
    with pytest.raises(FalconerError, match="The persona leaves no room for a reply of 119 tokens"):
        one.encode_prompts([*asked, (("i ski .",), (), 119)])
    texts = [" hello you .", " bye", " hello you .", " <|endoftext|>", ""]
    assert one.encode_texts(iter(texts)) == {text: other.encode_text(text) for text in texts}
