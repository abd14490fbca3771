"""The keys of the ranking objective: their bounds, and that runs without them stay readable."""

import pytest

from falconer.config import from_recorded, load
from falconer.errors import FalconerError


def test_the_language_model_alone_is_the_default():
    assert load().train.objective == "lm"


def test_a_configuration_of_before_has_the_defaults():
    tree = load().model_dump()
    del tree["ranking"], tree["train"]["objective"]
    assert from_recorded(tree) == load()


@pytest.mark.parametrize(
    "override", ["ranking.distractors=0", "ranking.share=0", "ranking.share=1.1", "ranking.weight=0", "ranking.scale=0"]
)
def test_what_would_rank_nothing_is_refused(override):
    with pytest.raises(FalconerError, match=override.partition("=")[0]):
        load(None, ["train.objective=lm+ranking", override])


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(FalconerError, match="ranking.distractor") as error:
        load(None, ["ranking.distractor=3"])
    assert "ranking.distractors" in error.value.hint
