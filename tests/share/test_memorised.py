"""The share of replies that are training replies, counted by hand."""

import json

import pytest

from falconer.data.leakage import contents
from falconer.errors import FalconerError
from falconer.records import Dialogue, Prediction, Turn
from falconer.run.folder import SPLITS
from falconer.share.memorised import memorised, table

LONG = "my cat and i live in a big house by the sea"
TRAINED = contents([Dialogue("t", (), (Turn("partner", "hi"), Turn("self", "I like dogs."), Turn("self", LONG)))])


def rows(*pairs):
    return [Prediction(f"d{number}", 1, said, gold) for number, (said, gold) in enumerate(pairs)]


def test_verbatim_means_the_same_letters():
    found = table(
        TRAINED,
        {"tuned": rows(("i like dogs .", "no"), ("i like cats", "I LIKE DOGS"), (LONG.upper(), "hm"), ("", "x"))},
    )
    tuned, human = found.every["tuned"], found.every["human"]
    assert (tuned.num_verbatim, tuned.num_replies, tuned.percent) == (2, 4, 50)
    assert (human.num_verbatim, human.percent) == (1, 25)
    assert 0 <= tuned.low <= tuned.percent <= tuned.high <= 100
    assert (found.long["tuned"].num_replies, found.long["tuned"].percent) == (1, 100)
    assert found.long["human"].percent is None and not found.is_conspicuous


def test_what_the_partner_said_is_no_training_reply():
    assert table(TRAINED, {"tuned": rows(("hi", "hi"))}).every["tuned"].num_verbatim == 0


def test_many_long_training_replies_are_conspicuous():
    other = "nobody has ever said this long sentence before in his life"
    copied = table(TRAINED, {"tuned": rows(*[(LONG, other)] * 30)})
    alike = table(TRAINED, {"tuned": rows(*[(LONG, LONG)] * 30)})
    assert copied.is_conspicuous and not alike.is_conspicuous


def test_a_run_is_counted_from_its_hashes(run):
    found = memorised(run)
    assert set(found.every) == {"tuned", "base", "human"}
    assert found.every["tuned"].num_replies == 30


def test_it_says_why_there_is_no_table(run, tmp_path):
    assert "kept no hashes" in memorised(tmp_path)
    (tmp_path / SPLITS).write_bytes((run / SPLITS).read_bytes())
    assert "has not been evaluated" in memorised(tmp_path)


def test_damaged_hashes_are_named(run, tmp_path):
    packed = json.loads((run / SPLITS).read_text(encoding="utf-8"))
    packed["trained"]["replies"] = "%"
    (tmp_path / SPLITS).write_text(json.dumps(packed), encoding="utf-8")
    (tmp_path / "predictions-tuned.jsonl").write_bytes((run / "predictions-tuned.jsonl").read_bytes())
    with pytest.raises(FalconerError, match="splits.json does not describe its dialogues"):
        memorised(tmp_path)
