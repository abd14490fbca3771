"""What a user's mistake says."""

import pytest
from pydantic import BaseModel, ValidationError

from falconer.errors import FalconerError, first_problem, nearest


def test_an_error_says_what_was_given_and_then_what_to_do() -> None:
    error = FalconerError("'x' is no key.", "Did you mean 'y'?")
    assert str(error) == "'x' is no key. Did you mean 'y'?"
    assert (error.message, error.hint) == ("'x' is no key.", "Did you mean 'y'?")
    assert str(FalconerError("'x' is no key.")) == "'x' is no key."


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("epoch", "Did you mean 'epochs'?"),
        ("EPOCHS", "Allowed: epochs, max_steps, seed."),
        ("", "Allowed: epochs, max_steps, seed."),
    ],
)
def test_a_near_name_is_offered_and_otherwise_the_whole_list(given: str, said: str) -> None:
    assert nearest(given, ["seed", "epochs", "max_steps"]) == said


def test_a_long_value_does_not_make_a_long_message():
    value = "x" * 10**6
    error = FalconerError(f"'adapter_config.json' is damaged: peft_type '{value}' is not known.", "Use another one.")
    assert len(str(error)) < 2100 and "[998," in str(error)
    assert str(error).startswith("'adapter_config.json' is damaged") and str(error).endswith("known. Use another one.")


def test_the_first_problem_of_a_record_has_its_place():
    class Inner(BaseModel):
        number: int

    class Outer(BaseModel):
        rows: list[Inner]

    for tree, place in (({"rows": [{"number": 1}, {"number": "x"}]}, "rows.1.number"), ([], "")):
        with pytest.raises(ValidationError) as caught:
            Outer.model_validate(tree)
        where, problem = first_problem(caught.value)
        assert where == place and problem.startswith("Input should be a valid ")
