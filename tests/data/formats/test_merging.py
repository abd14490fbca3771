"""Turns of one speaker in a row become one: nothing is lost, gold stays a candidate, and it is counted."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from falconer.data.formats.merging import MERGED, merged
from falconer.data.formats.rows import Quirks
from falconer.records import Speaker, Turn

speakers: st.SearchStrategy[Speaker] = st.sampled_from(("self", "partner"))
texts = st.text("ab\n", min_size=1, max_size=5).map(str.strip).filter(bool)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    text = draw(texts)
    others = draw(st.lists(texts, max_size=2))
    return Turn(draw(speakers), text, (*others, text) if others else (), is_learned=draw(st.booleans()))


@given(given_turns=st.lists(turns(), max_size=8))
def test_merging(given_turns: list[Turn]) -> None:
    counted: Quirks = Counter()
    found = merged(given_turns, counted)
    assert all(one.speaker != two.speaker for one, two in pairwise(found))
    assert counted[MERGED] == len(given_turns) - len(found)
    # Nothing is lost and nothing added but what stands between two texts.
    assert "".join(" ".join(turn.text for turn in found).split()) == "".join(
        " ".join(turn.text for turn in given_turns).split()
    )
    for turn in found:
        assert not turn.candidates or turn.text in turn.candidates
    assert merged(found, Counter()) == found


def test_texts_candidates_and_marks_of_merged_turns() -> None:
    def merge(*both: Turn) -> Turn:
        (turn,) = merged(both, Counter())
        return turn

    assert merge(Turn("self", "a"), Turn("self", "b")) == Turn("self", "a b")
    assert merge(Turn("self", "a\nb"), Turn("self", "c")).text == "a\nb\nc"
    assert merge(Turn("self", "a"), Turn("self", "b", ("x", "b"))).candidates == ("a x", "a b")
    assert merge(Turn("self", "a", ("x", "a")), Turn("self", "b")).candidates == ("x b", "a b")
    assert merge(Turn("self", "a", ("x", "a")), Turn("self", "b", ("y", "b"))).candidates == ("a y", "a b")
    assert not merge(Turn("self", "a", is_learned=False), Turn("self", "b")).is_learned
