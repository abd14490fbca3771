"""Is a drawn reply never gold, the persona's own, said in the dialogue or drawn twice, and always the same?"""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from falconer.data.leakage import normalise, sentence_set
from falconer.data.other_replies import OtherReplies
from falconer.data.personas import persona_names
from falconer.records import Dialogue, Turn

TEXTS = [f"{who} {does} {what}" for who in ("i", "we") for does in ("like", "see") for what in ("dogs", "snow", "cats")]
PERSONAS = [(f"i am from town {number} .", f"i have {number} horses .") for number in range(3)]
# The same text may be written otherwise: it is still the same reply.
WRITTEN = [str, str.upper, lambda text: f" {text} !"]

texts = st.builds(lambda text, how: how(text), st.sampled_from(TEXTS), st.sampled_from(WRITTEN))
exchanges = st.builds(
    lambda said, text, candidates: (Turn("partner", said), Turn("self", text, tuple(candidates))),
    texts | st.just("and you ?"), texts, st.lists(texts, max_size=4),
)  # fmt: skip
turns = st.lists(exchanges, min_size=1, max_size=3).map(lambda said: tuple(turn for two in said for turn in two))
splits = st.lists(
    st.tuples(st.sampled_from([(), *PERSONAS]), turns), min_size=1, max_size=6
).map(lambda rows: [Dialogue(f"d{number}", *row) for number, row in enumerate(rows)])  # fmt: skip


def every_turn(split):
    return [(place, index) for place, dialogue in enumerate(split) for index in dialogue.replies]


def allowed(split, place, index):
    """Return the normalised texts that are wrong replies to a turn: the rule, written down once more."""
    names = persona_names(split)
    own, dialogue = names.get(sentence_set(split[place].persona)), split[place]
    same = [one for one in split if own is not None and names.get(sentence_set(one.persona)) == own]
    never = {normalise(one.turns[k].text) for one in (dialogue, *same) for k in one.replies}
    never |= {normalise(turn.text) for turn in dialogue.turns}
    possible = {normalise(one.turns[k].text) for one in split for k in one.replies}
    return (possible | {normalise(text) for text in dialogue.turns[index].candidates}) - never


@settings(max_examples=150, deadline=None)
@given(splits, st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
def test_drawn_are_as_many_different_texts_as_the_rule_allows(split, count, seed, occasion):
    others = OtherReplies(split, seed)
    for place, index in every_turn(split):
        drawn = others.draw(place, index, count, occasion=occasion)
        found = [normalise(text) for text in drawn]
        assert len(set(found)) == len(found)
        rule = allowed(split, place, index)
        assert set(found) <= rule
        assert len(found) >= min(count, len(rule - said_in_dialogues_that_begin_alike(split, place)))
        assert all(text == text.strip() for text in drawn)


def said_in_dialogues_that_begin_alike(split, place):
    """Return what may be missing, as two sides of one dialogue begin alike."""
    said = [[normalise(turn.text) for turn in one.turns] for one in split]
    return {text for one in said if one[:2] == said[place][:2] for text in one}


@settings(max_examples=60, deadline=None)
@given(splits, st.randoms(use_true_random=False))
def test_seed_place_turn_and_occasion_alone_decide(split, random):
    once = OtherReplies(split, 17)
    expected = {(place, index): once.draw(place, index, 2, occasion=1) for place, index in every_turn(split)}
    shuffled = every_turn(split)
    random.shuffle(shuffled)
    again = OtherReplies(split, 17)
    for place, index in shuffled:
        again.draw(place, index, 3, occasion=2)
        assert again.draw(place, index, 2, occasion=1) == expected[place, index]


def dialogue(name, persona, *replies, candidates=(), asked="hi"):
    turns = [turn for text in replies for turn in (Turn("partner", asked), Turn("self", text, candidates))]
    return Dialogue(name, persona, tuple(turns))


SKI, DOGS = ("i ski .", "i like snow ."), ("i have dogs .", "i walk .")
SOME = [dialogue("a", SKI, "yes", "I ski!"), dialogue("b", SKI, "snow"), dialogue("c", DOGS, "dogs", "yes .", "walks")]


def test_what_the_same_persona_says_elsewhere_is_never_drawn_from_another_one():
    # "snow" belongs to the dialogue of another persona here, but the same persona says it, too, in dialogue b.
    split = [*SOME, dialogue("d", DOGS, "Snow .")]
    others = OtherReplies(split, 17)
    drawn = [others.draw(0, 1, 5, occasion=occasion) for occasion in range(9)]
    assert all(sorted(found) == ["dogs", "walks"] for found in drawn), "'yes .' has the words of gold, 'yes'"
    assert len({tuple(found) for found in drawn}) == 2, "in random order"


def test_what_the_partner_says_in_the_dialogue_is_never_drawn():
    split = [dialogue("a", SKI, "yes", asked="do you walk ?"), dialogue("b", DOGS, "Do you walk?", "dogs")]
    assert OtherReplies(split, 17).draw(0, 1, 2) == ["dogs"]


def test_a_turns_own_candidates_come_first_and_the_rest_from_other_dialogues():
    one = dialogue("d", SKI, "gold", candidates=("gold", "first", " second ", "Gold!", "snow ."), asked="so ?")
    others = OtherReplies([*SOME, one], 17)
    assert sorted(others.draw(3, 1, 2)) == ["first", "second"], "the persona says 'snow' elsewhere"
    found = others.draw(3, 1, 9)
    assert sorted(found[:2]) == ["first", "second"] and sorted(found[2:]) == ["dogs", "walks"]


def test_data_with_one_persona_alone_has_none():
    assert OtherReplies(SOME[:2], 17).draw(0, 1, 2) == []


def test_dialogues_without_persona_draw_from_each_other():
    some = [dialogue("a", (), "one", "two"), dialogue("b", (), "three")]
    assert OtherReplies(some, 17).draw(0, 1, 3) == ["three"]


def test_only_texts_that_fit_are_drawn():
    some = [dialogue("a", SKI, "yes"), *(dialogue(f"o{n}", DOGS, "x" * n, asked=f"{n} ?") for n in range(1, 30))]
    found = OtherReplies(some, 17).draw(0, 1, 50, fits=lambda text: len(text) < 5)
    assert sorted(map(len, found)) == [1, 2, 3, 4]


def test_seeds_and_occasions_are_independent_and_every_reply_is_drawn_about_as_often():
    some = [dialogue(f"d{n}", (f"i am from town {n} .",), f"reply {n}", asked=f"{n} ?") for n in range(11)]
    for vary in (
        lambda k: OtherReplies(some, k).draw(0, 1, 1),
        lambda k: OtherReplies(some, 1).draw(0, 1, 1, occasion=k),
    ):
        counts = Counter(vary(k)[0] for k in range(1000))
        assert len(counts) == 10
        # Pearson's chi-squared of 9 degrees of freedom is below 27.9 in 999 of 1,000 cases; the draws are fixed.
        assert sum((n - 100) ** 2 / 100 for n in counts.values()) < 27.9, counts
    by_turn = [tuple(OtherReplies(many(), 1).draw(0, index, 3)) for index in (1, 3, 5)]
    assert len(set(by_turn)) == 3 and all(len(set(texts)) == 3 for texts in by_turn)


def many():
    return [
        dialogue(f"d{n}", (f"i live in {n} .",), *(f"{n} and {k}" for k in range(3)), asked=f"{n}") for n in range(9)
    ]
