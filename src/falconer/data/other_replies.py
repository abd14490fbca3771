"""Wrong replies to a turn, as text: the one rule by which ranking and preference training draw them."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np

from falconer.data.leakage import normalise, openings, sentence_set
from falconer.data.personas import groups, persona_names
from falconer.records import Dialogue

# Sets these random numbers apart from others that are made of the same seed.
_PURPOSE = 0x4F544852
# Random picks for each reply that is wanted, before all replies are gone through in a random order.
_PICKS = 20


class OtherReplies:
    """Draws wrong replies to the turns of a split.

    A wrong reply is never the gold reply, never one that the same persona gives anywhere in the split, never said by
    either speaker of the same dialogue (also where the data shows it from the other side), and never the same as
    another one drawn with it. All are compared without case, punctuation and spaces. A turn's own candidates come
    first; what is missing is drawn from other dialogues of the split.

    Args:
        dialogues: of the split.
        seed: it, the place of the dialogue among these, the turn and the occasion alone decide what is drawn.
    """

    def __init__(self, dialogues: Sequence[Dialogue], seed: int) -> None:
        self._dialogues, self._seed = dialogues, seed
        self._personas = _personas(dialogues)
        self._identities = groups([openings(dialogue) for dialogue in dialogues])
        self._said: dict[Hashable, set[str]] = defaultdict(set)
        self._pool = [dialogue.turns[index].text.strip() for dialogue in dialogues for index in dialogue.replies]
        self._num_texts = len(set(map(normalise, self._pool)))
        for dialogue, persona, identity in zip(dialogues, self._personas, self._identities, strict=True):
            self._said["dialogue", identity].update(normalise(turn.text) for turn in dialogue.turns)
            if persona is not None:
                replies = (dialogue.turns[index].text for index in dialogue.replies)
                self._said["persona", persona].update(map(normalise, replies))

    def draw(
        self, place: int, turn: int, count: int, *, occasion: int = 0, fits: Callable[[str], bool] = bool
    ) -> list[str]:
        """Return `count` different wrong replies to a turn, fewer where the data has no more, without spaces around.

        Args:
            place: of the dialogue among those that the split has.
            turn: its index in the dialogue, a reply.
            occasion: draws on different occasions, such as the epochs of a training, are independent.
            fits: only texts for which this is true are drawn.
        """
        rng = np.random.default_rng((_PURPOSE, self._seed, occasion, place, turn))
        taken = {normalise(self._dialogues[place].turns[turn].text)}
        found: list[str] = []
        for text in self._possible(place, turn, count, rng):
            words = normalise(text)
            if not text or words in taken or any(words in said for said in self._never(place)) or not fits(text):
                continue
            taken.add(words)
            found.append(text)
            if len(found) == count:
                break
        return found

    def _possible(self, place: int, turn: int, count: int, rng: np.random.Generator) -> Iterator[str]:
        """Yield what may be a wrong reply to a turn, in a random order, with repetitions."""
        candidates = self._dialogues[place].turns[turn].candidates
        for one in rng.permutation(len(candidates)):
            yield candidates[one].strip()
        persona = self._personas[place]
        if persona is not None and len(self._said["persona", persona]) == self._num_texts:
            return  # this persona says everything that there is
        for one in rng.integers(len(self._pool), size=_PICKS * count):
            yield self._pool[one]
        for one in rng.permutation(len(self._pool)):
            yield self._pool[one]

    def _never(self, place: int) -> Iterator[set[str]]:
        """Yield the sets of normalised texts that are no wrong replies in a dialogue."""
        yield self._said["dialogue", self._identities[place]]
        if (persona := self._personas[place]) is not None:
            yield self._said["persona", persona]


def _personas(dialogues: Sequence[Dialogue]) -> list[int | None]:
    """Return the number of each dialogue's persona; None where it has none."""
    names = persona_names(dialogues)
    return [names.get(sentence_set(dialogue.persona)) for dialogue in dialogues]
