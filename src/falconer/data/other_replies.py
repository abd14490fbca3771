"""Replies that do not belong to a turn, as text: its other candidates, else replies of other dialogues."""

from collections.abc import Hashable, Sequence

import numpy as np

from falconer.data.leakage import normalise, sentence_set
from falconer.data.personas import persona_names
from falconer.records import Dialogue

# A reply of another persona is found in one or two draws; data with one persona alone has none.
_MOST_DRAWS = 100


class OtherReplies:
    """Draws replies that do not belong to the turns of some dialogues.

    Args:
        dialogues: where a turn has no candidates, replies are drawn from these, never from a dialogue of the same
            persona, or the same dialogue where there is no persona.
    """

    def __init__(self, dialogues: Sequence[Dialogue]) -> None:
        self._personas = persona_names(dialogues)
        self._pool = [
            (self._owner(dialogue), dialogue.turns[index].text.strip())
            for dialogue in dialogues
            for index in dialogue.replies
        ]

    def draw(self, dialogue: Dialogue, index: int, count: int, rng: np.random.Generator) -> list[str]:
        """Return at most `count` different replies that do not belong to a turn; none has gold's words.

        Args:
            dialogue: one of those that the pool is of.
            index: the turn, a reply.
        """
        turn = dialogue.turns[index]
        seen = {normalise(turn.text)}
        found: list[str] = []
        if len(turn.candidates) > 1:
            texts = (turn.candidates[place].strip() for place in rng.permutation(len(turn.candidates)))
        else:
            texts = (text for _ in range(_MOST_DRAWS * count) if (text := self._other(dialogue, rng)))
        for text in texts:
            if len(found) == count:
                break
            if text and (words := normalise(text)) not in seen:
                seen.add(words)
                found.append(text)
        return found

    def _other(self, dialogue: Dialogue, rng: np.random.Generator) -> str:
        """Return a random reply of the pool, "" if it is one of the same persona."""
        owner, text = self._pool[int(rng.integers(len(self._pool)))]
        return "" if owner == self._owner(dialogue) else text

    def _owner(self, dialogue: Dialogue) -> Hashable:
        number = self._personas.get(sentence_set(dialogue.persona))
        return ("dialogue", dialogue.id) if number is None else number
