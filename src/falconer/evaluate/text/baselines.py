"""Baselines: three rules that reply without a model, and the scores that any model should exceed.

On ConvAI2's 7,801 validation replies a constant sentence gets ROUGE-L 15.89, more than GPT-J 6B without training.
"""

import random
from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType

from falconer.records import Prediction

CONSTANT_REPLY = "i am doing well . how are you ?"
# Name of each baseline, in the order of the report, and what it does.
BASELINES = MappingProxyType(
    {
        "constant": f"always says “{CONSTANT_REPLY}”",
        "echo": "repeats the partner's last turn",
        "persona": "says a random line of its persona",
    }
)


def baseline_replies(predictions: Sequence[Prediction], seed: int = 17, language: str = "en") -> dict[str, list[str]]:
    """Return the replies of each baseline for the contexts of `predictions`, in their order.

    A baseline that has nothing to work with in any context is left out: "echo" where no history holds a turn of the
    partner, "persona" where no row holds a persona, and "constant", an English sentence, where the replies are not
    English. In a single row without such a turn (the bot opens) or without persona, that baseline says nothing: an
    empty reply, which scores 0 and is counted.

    Args:
        predictions: the contexts; their own replies are not used.
        seed: together with a row's dialogue id and turn it picks the persona line, so a row's line does not depend on
            which other rows there are.
    """
    replies = {"constant": [CONSTANT_REPLY] * len(predictions)} if language == "en" else {}
    heard = [row.said_by("partner") for row in predictions]
    if any(heard):
        replies["echo"] = [texts[-1] if texts else "" for texts in heard]
    if any(row.persona for row in predictions):
        replies["persona"] = [_random_line(row, seed) for row in predictions]
    return replies


def baseline_rows(predictions: Sequence[Prediction], language: str = "en") -> dict[str, list[Prediction]]:
    """Return the baselines' replies as predictions at the same turns."""
    replies = baseline_replies(predictions, language=language)
    return {name: replies_in_place(predictions, texts) for name, texts in replies.items()}


def replies_in_place(predictions: Sequence[Prediction], texts: Sequence[str]) -> list[Prediction]:
    """Return the same turns with other replies, and nothing of what a model measured."""
    pairs = zip(predictions, texts, strict=True)
    return [replace(row, prediction=text, ended=None, likelihood=None, ranks=None) for row, text in pairs]


def _random_line(row: Prediction, seed: int) -> str:
    return random.Random(f"{seed} {row.dialogue_id} {row.turn}").choice(row.persona) if row.persona else ""
