"""Is a drawn reply never gold, and never one of the same persona?"""

import numpy as np

from falconer.data.other_replies import OtherReplies
from falconer.records import Dialogue, Turn


def dialogue(name, persona, *replies, candidates=()):
    turns = [turn for text in replies for turn in (Turn("partner", "hi"), Turn("self", text, candidates))]
    return Dialogue(name, persona, tuple(turns))


SKI, DOGS = ("i ski .", "i like snow ."), ("i have dogs .", "i walk .")
SOME = [dialogue("a", SKI, "yes", "I ski!"), dialogue("b", SKI, "snow"), dialogue("c", DOGS, "dogs", "yes .", "walks")]


def test_replies_are_those_of_other_personas_and_never_golds_words():
    others = OtherReplies(SOME)
    drawn = [others.draw(SOME[0], 1, 5, np.random.default_rng(seed)) for seed in range(9)]
    assert all(sorted(texts) == ["dogs", "walks"] for texts in drawn), "'yes .' has the words of gold, 'yes'"
    assert len({tuple(texts) for texts in drawn}) == 2, "in random order"
    assert len(others.draw(SOME[0], 1, 1, np.random.default_rng(0))) == 1


def test_a_turns_own_candidates_come_instead():
    one = dialogue("d", SKI, "gold", candidates=("gold", "first", " second ", "Gold!"))
    found = OtherReplies([*SOME, one]).draw(one, 1, 9, np.random.default_rng(0))
    assert sorted(found) == ["first", "second"]


def test_data_with_one_persona_alone_has_none():
    assert OtherReplies(SOME[:2]).draw(SOME[0], 1, 2, np.random.default_rng(0)) == []


def test_dialogues_without_persona_draw_from_each_other():
    some = [dialogue("a", (), "one", "two"), dialogue("b", (), "three")]
    assert OtherReplies(some).draw(some[0], 1, 3, np.random.default_rng(0)) == ["three"]
