"""Personas to try: a random choice from the embedded sample of Persona-Chat, in natural text."""

import random

from falconer.data.sources import SAMPLE, load_dialogues
from falconer.data.text import natural

# The validation split: a run on the sample has seen none of its personas in training.
_SPLIT = "valid"


def sample_personas(number: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """Return different personas of the sample; equal seeds give the same ones in the same order.

    Args:
        number: how many; all of them if the split has fewer.
    """
    dialogues = load_dialogues(SAMPLE, split=_SPLIT).dialogues
    personas = list(dict.fromkeys(tuple(map(natural, dialogue.persona)) for dialogue in dialogues))
    return tuple(random.Random(seed).sample(personas, min(number, len(personas))))
