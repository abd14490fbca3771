"""Are a report's votes read beside the run's predictions, and no persona both trained and validated on?"""

import json

import pytest

from falconer.data.encode import Encoder
from falconer.errors import FalconerError
from falconer.evaluate.text.predictions import write_predictions
from falconer.model.tokenizer import load_tokenizer
from falconer.preference_votes import read_votes, split_votes
from falconer.records import Dialogue, Prediction, Turn


@pytest.fixture(scope="module")
def encoder():
    tokenizer, end_id = load_tokenizer("falcon-mini")
    return Encoder(tokenizer.backend_tokenizer.to_str(), end_id, 256)


def exported(folder, *rows):
    path = folder / "falconer-votes.json"
    votes = [dict(zip(("dialogue_id", "turn", "left", "right", "vote"), row, strict=True)) for row in rows]
    path.write_text(json.dumps({"report": "x", "votes": votes}, indent=2), encoding="utf-8")
    return path


@pytest.fixture
def run(tmp_path):
    for name in ("base", "tuned"):
        rows = [
            Prediction("d1", turn, f"{name} {turn}", "gold", ("i ski .",), (Turn("partner", "hi"),)) for turn in (1, 3)
        ]
        write_predictions(rows, tmp_path / f"predictions-{name}.jsonl")
    return tmp_path


def test_the_texts_are_those_of_the_predictions(run, encoder):
    path = exported(
        run, ("d1", 1, "base", "tuned", "right"), ("d1", 3, "base", "tuned", "left"), ("d1", 3, "base", "tuned", "tie")
    )
    votes = read_votes(path, run, encoder)
    assert votes.num_left_out == 1
    assert [one.turns[-1].candidates for one in votes.dialogues] == [("tuned 1", "base 1"), ("base 3", "tuned 3")]
    assert votes.dialogues[0].persona == ("i ski .",) and votes.dialogues[0].turns[0].text == "hi"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("d2", 1, "base", "tuned", "left"), "turn 1 of dialogue 'd2'.*Give the run whose report"),
        (("d1", 1, "base", "other", "left"), "predictions-other.jsonl"),
        (("d1", "1", "base", "tuned", "left"), "vote 1: turn"),
        (("d1", 1, "base", "tuned", "both"), "vote 1: vote"),
    ],
)
def test_votes_that_do_not_belong_to_the_run_are_refused(run, encoder, row, message):
    with pytest.raises(FalconerError, match=message):
        read_votes(exported(run, row), run, encoder)


def of(persona, number=0):
    return Dialogue(f"{persona}{number}", (f"i am {persona} .",), (Turn("partner", f"hi {number}"), Turn("self", "a")))


def test_personas_of_the_run_decide_and_a_tenth_of_the_others_is_held_out_by_persona():
    train, valid = [of("trained"), of("both")], [of("held"), of("both")]
    strangers = [of(f"stranger {index % 10}", index) for index in range(40)]
    votes = [of("trained", 1), of("held", 1), of("both", 1), *strangers]
    first, second = split_votes(votes, train, valid, 17)
    assert votes[0] in first and votes[1] in second and votes[2] in first
    assert len(first) + len(second) == len(votes) and 2 < len(second) < 12
    assert not {one.persona for one in first} & {one.persona for one in second}


def test_few_votes_of_strangers_are_all_trained_on():
    votes = [of(f"stranger {index}") for index in range(9)]
    assert split_votes(votes, [of("trained")], [of("held")], 17) == (votes, [])
