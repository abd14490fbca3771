"""A submission must be the replies of ConvAI2's validation set; the embedded test split has a fifth of them."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from falconer.data.sources import SAMPLE, load_dialogues
from falconer.errors import FalconerError
from falconer.evaluate.text import submission
from falconer.evaluate.text.submission import as_submission, digest, gold_digests
from falconer.records import Prediction

FILE = Path("mine.jsonl")


@pytest.fixture(scope="module")
def known():
    """The dialogues of the embedded split, by their place in the set."""
    found = {int(d.id.rpartition("-")[2]) - 1: d for d in load_dialogues(SAMPLE, split="test").dialogues}
    assert len(found) == 203
    return found


def refused(rows):
    with pytest.raises(FalconerError) as error:
        as_submission(rows, FILE)
    assert "valid_self_original.txt" in error.value.hint
    return error.value.message


@pytest.fixture
def small(known, monkeypatch):
    """Rows of the first three embedded dialogues, which stand for the whole set here."""
    some = [known[number] for number in sorted(known)[:3]]
    golds = [[d.turns[index].text for index in d.replies] for d in some]
    monkeypatch.setattr(submission, "gold_digests", lambda: [[digest(gold) for gold in one] for one in golds])
    return [Prediction(f"x{n}", 0, f"reply {n}", gold) for n, gold in enumerate(sum(golds, []))]


def test_digests_are_those_of_the_set(known):
    digests = gold_digests()
    assert (len(digests), sum(map(len, digests))) == (1000, 7801)
    for number, dialogue in known.items():
        assert digests[number] == [digest(dialogue.turns[index].text) for index in dialogue.replies]


def test_case_punctuation_and_spaces_do_not_count():
    assert digest("I'm fine. You?") == digest("i ' m fine , you !") != digest("i am fine you")


def test_the_rows_get_the_sets_dialogues(small):
    rows = as_submission([replace(row, reference=row.reference.upper()) for row in small], FILE)
    assert [row.prediction for row in rows] == [row.prediction for row in small]
    assert sum(one.dialogue_id != other.dialogue_id for one, other in pairwise(rows)) == 2


def test_the_first_difference_is_named(small):
    small[9] = replace(small[9], reference="no such reply")
    message = refused(small)
    assert "has other gold replies" in message and "row 10 (reply" in message and "'no such reply'" in message


def test_another_order_is_told_apart(small, monkeypatch):
    whole = submission.gold_sha256(row.reference for row in small)
    monkeypatch.setattr(submission, "CONVAI2_VALID_SHA256", whole)
    small[4], small[5] = small[5], small[4]
    message = refused(small)
    assert "in another order: row 5 (reply 5 of dialogue 1)" in message


def test_too_few_and_too_many(small):
    num = len(small)
    assert f"the file ends after row {num - 2}" in refused(small[:-2])
    assert f"row {num + 1} is the first one too many" in refused([*small, small[0]])
    message = refused([*small[:3], *small[4:]])
    assert f"has {num - 1} replies, and ConvAI2's validation set has {num}. The first that differs: row 4 " in message
