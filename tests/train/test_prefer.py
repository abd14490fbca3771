"""Are pairs encoded for training, and is what does not fit into the context left out and counted?"""

import pytest

from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.model.load import load_model
from falconer.records import PreferencePair, Turn
from falconer.train.prefer import pair_materials


@pytest.fixture(scope="module")
def base(small):
    return load_model(str(small.model), quantization="none", dtype="fp32", device="cpu")


def pair(number, is_validation, rejected="no ."):
    history = (Turn("partner", "hi ."),)
    return PreferencePair("votes:a", f"d{number}", 1, ("i ski .",), history, "yes .", rejected, is_validation)


def test_pairs_that_do_not_fit_are_left_out_and_counted(small, base):
    pairs = [pair(0, False), pair(1, False, "no " * 99), pair(2, True)]
    made = pair_materials(base, pairs, small.config("data.max_tokens=64", "prefer.pairs=distractors"), PromptFormat())
    assert made.objective.record()["pairs"] == {"training": {"votes:a": 1}, "validation": {"votes:a": 1}}
    assert [example.dialogue_id for example in made.examples.train] == ["d0"]
    assert made.examples.truncation.num_left_out == 1
    assert made.examples.notes == ("1 training pair left out: persona and reply do not fit into 64 tokens",)


def test_nothing_begins_if_none_fits(small, base):
    pairs = [pair(0, False), pair(1, True, "no " * 99)]
    with pytest.raises(FalconerError, match="None of the pairs for validation fits into 64 tokens"):
        pair_materials(base, pairs, small.config("data.max_tokens=64", "prefer.pairs=distractors"), PromptFormat())
