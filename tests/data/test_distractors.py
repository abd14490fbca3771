"""Is a distractor never right, never of the same persona, never one that stands there already, and always the same?"""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engines import mini_encoder
from falconer.data.distractors import Distractors
from falconer.data.leakage import normalise, sentence_set
from falconer.data.personas import persona_names
from falconer.records import Dialogue, Turn

ENCODER = mini_encoder()
TEXTS = [f"{who} {does} {what}" for who in ("i", "we") for does in ("like", "see") for what in ("dogs", "snow", "cats")]
PERSONAS = [(f"i am from town {number} .", f"i have {number} horses .") for number in range(3)]
# The same text may be written otherwise: it is still the same reply.
WRITTEN = [str, str.upper, lambda text: f"{text} !"]

texts = st.builds(lambda text, how: how(text), st.sampled_from(TEXTS), st.sampled_from(WRITTEN))
replies = st.builds(
    lambda text, candidates: Turn("self", text, tuple(candidates)), texts, st.lists(texts, max_size=4)
)  # fmt: skip
turns = st.lists(replies, min_size=1, max_size=3).map(
    lambda said: tuple(turn for reply in said for turn in (Turn("partner", "and you ?"), reply))
)
dialogues = st.lists(
    st.tuples(st.sampled_from([(), *PERSONAS]), turns), min_size=1, max_size=6
).map(lambda rows: [Dialogue(f"d{number}", *row) for number, row in enumerate(rows)])  # fmt: skip


def distractors_of(rows, number=2, share=1.0, seed=17):
    examples, _ = ENCODER.encode(rows)
    return Distractors(rows, examples, ENCODER, number=number, share=share, seed=seed), examples


def drawn(rows, epoch=0, **options):
    """Yield (dialogue, turn, texts of its distractors) of every ranked reply."""
    distractors, examples = distractors_of(rows, **options)
    for index, (row, example) in enumerate(zip(rows, examples, strict=True)):
        for one in distractors.draw(epoch, index):
            assert all(ids[-1] == ENCODER.end_id for ids in one.distractors)
            said = [ENCODER.decode(ids[:-1]).strip() for ids in one.distractors]
            yield row, row.turns[example.turn_indices[one.reply]], said


@settings(max_examples=60, deadline=None)
@given(dialogues, st.integers(1, 3), st.integers(0, 5))
def test_a_distractor_is_never_gold_of_the_same_persona_or_twice(rows, number, epoch):
    names = persona_names(rows)
    possible = {normalise(t.text) for row in rows for t in row.turns if t.speaker == "self"}
    for row, turn, said in drawn(rows, epoch, number=number):
        found = [normalise(text) for text in said]
        assert len(set(found)) == len(found) == number
        assert normalise(turn.text) not in found
        persona = names.get(sentence_set(row.persona))
        same = [other for other in rows if persona is not None and names.get(sentence_set(other.persona)) == persona]
        own = {normalise(t.text) for other in (row, *same) for t in other.turns if t.speaker == "self"}
        assert not own.intersection(found)
        assert set(found) <= possible | {normalise(text) for text in turn.candidates}


@settings(max_examples=30, deadline=None)
@given(dialogues)
def test_seed_epoch_and_dialogue_alone_decide(rows):
    once, again = (distractors_of(rows)[0] for _ in range(2))
    # In another order, and after other epochs.
    later = [again.draw(3, index) for index in reversed(range(len(rows)))][::-1]
    for index, found in enumerate(later):
        expected = once.draw(3, index)
        assert [one.reply for one in found] == [one.reply for one in expected]
        for one, other in zip(found, expected, strict=True):
            assert all(map(np.array_equal, one.distractors, other.distractors))


def many(num=12, candidates=()):
    def said(number):
        for k in range(4):
            yield Turn("partner", f"hello {number} ?")
            yield Turn("self", f"i say {number} times {k}", candidates)

    return [Dialogue(f"d{n}", (f"i am from town {n} .",), tuple(said(n))) for n in range(num)]


def test_each_epoch_and_each_seed_draws_anew():
    rows = many()
    assert len({str(list(drawn(rows, epoch))) for epoch in range(3)}) == 3
    assert list(drawn(rows, seed=1)) != list(drawn(rows, seed=2))


def test_the_share_is_kept_on_average_and_changes_from_epoch_to_epoch():
    distractors, _ = distractors_of(many(), share=0.3)
    chosen = [tuple(one.reply for one in distractors.draw(epoch, index)) for epoch in range(20) for index in range(12)]
    assert len(set(chosen)) > 4
    assert 0.27 < sum(map(len, chosen)) / (20 * 12 * 4) < 0.33
    assert {len(one) for one in chosen} == {1, 2}
    assert distractors.count(0) == (sum(len(distractors.draw(0, index)) for index in range(12)), 0)


def test_candidates_of_the_data_come_first_and_the_rest_from_other_dialogues():
    rows = many(candidates=("a first one", "a second one"))
    assert distractors_of(rows)[0].has_candidates and not distractors_of(many())[0].has_candidates
    assert all(set(said) == {"a first one", "a second one"} for _, _, said in drawn(rows, number=2))
    for _, _, said in drawn(rows, number=4):
        assert len({"a first one", "a second one"}.intersection(said)) == 2 and len(said) == 4


def test_one_persona_has_no_distractors_and_this_is_counted():
    rows = [Dialogue(f"d{n}", ("i ski .",), (Turn("partner", "hi"), Turn("self", f"reply {n}"))) for n in range(5)]
    distractors, _ = distractors_of(rows)
    assert distractors.count(0) == (0, 5)


def test_a_distractor_fits_into_the_context_behind_its_prompt():
    rows = [*many(4), Dialogue("long", ("i ski .",), (Turn("partner", "hi"), Turn("self", "word " * 60)))]
    encoder = mini_encoder(max_tokens=100)
    examples, _ = encoder.encode(rows)
    distractors = Distractors(rows, examples, encoder, number=1, share=1.0, seed=1)
    lengths = [
        example.reply_starts[one.reply] + len(one.distractors[0])
        for epoch in range(10)
        for index, example in enumerate(examples)
        for one in distractors.draw(epoch, index)
    ]
    assert len(lengths) > 100 and max(lengths) <= 100


def test_the_same_dialogue_from_the_other_side_gives_no_distractors():
    said = ("hello there", "hi to you", "i ski", "i swim", "good for you", "bye")
    sides = [
        Dialogue(name, (f"i am {name} .",), tuple(Turn(who[k % 2], text) for k, text in enumerate(said)))
        for name, who in (("one", ("self", "partner")), ("other", ("partner", "self")))
    ]
    for row, _, found in drawn([*sides, *many(3)]):
        assert row.id not in ("one", "other") or not set(said).intersection(found)
