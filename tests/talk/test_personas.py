"""Personas of the embedded sample."""

from falconer.data.sources import load_dialogues
from falconer.talk.personas import sample_personas


def test_a_fixed_choice_of_different_personas_in_natural_text() -> None:
    personas = sample_personas(24, seed=17)
    assert len(set(personas)) == 24
    assert personas == sample_personas(24, seed=17) and personas != sample_personas(24, seed=18)
    assert all(
        len(lines) >= 3 and line[0] == line[0].upper() and " ." not in line for lines in personas for line in lines
    )


def test_all_of_them_where_more_are_asked_for() -> None:
    in_sample = {dialogue.persona for dialogue in load_dialogues("persona-chat-sample", split="valid").dialogues}
    assert len(sample_personas(10_000, seed=1)) == len(in_sample)
