"""Distractors: wrong replies to rank below the gold one in training, from the data's candidates or other dialogues."""

from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from falconer.data.encode import Encoder
from falconer.data.leakage import normalise, openings, sentence_set
from falconer.data.personas import groups, persona_names
from falconer.records import Dialogue, Example, Turn

# Sets these random numbers apart from those that the order of an epoch is made of.
_PURPOSE = 0x52414E4B
# Random picks for each distractor that is wanted, before all replies are gone through in a random order.
_PICKS = 20


@dataclass(frozen=True, slots=True)
class Ranked:
    """A reply of an example that is ranked.

    Args:
        reply: its number in the example.
        distractors: token ids of each distractor with its end token, int32.
    """

    reply: int
    distractors: tuple[np.ndarray, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens of the distractors."""
        return sum(map(len, self.distractors))


class Distractors:
    """The distractors of a split.

    A distractor is never the gold reply, never said by the same persona anywhere in the split, never said in the same
    dialogue (whichever side shows it), and never one of the others, all compared without case, punctuation and spaces.
    A turn's own candidates come first; what is missing is drawn from other dialogues of the split.

    Args:
        dialogues: of the split, one for each example.
        examples: the same dialogues, encoded.
        encoder: that of the examples.
        number: distractors of a reply.
        share: of the replies of each example that are ranked, 0-1.
        seed: it, the epoch and the dialogue's index alone decide what is drawn.
    """

    def __init__(
        self, dialogues: Sequence[Dialogue], examples: Sequence[Example], encoder: Encoder, *,
        number: int, share: float, seed: int,
    ) -> None:  # fmt: skip
        self._dialogues, self._examples, self._encoder = dialogues, examples, encoder
        self._number, self._share, self._seed = number, share, seed
        self._keys = _keys(dialogues)
        self._said: dict[Hashable, set[str]] = defaultdict(set)
        self._pool: list[tuple[str, np.ndarray]] = []
        for keys, dialogue, example in zip(self._keys, dialogues, examples, strict=True):
            texts = {index: normalise(dialogue.turns[index].text) for index in dialogue.replies}
            for key in keys:
                self._said[key].update(texts.values())
            for turn, ids in zip(example.turn_indices, _replies(example), strict=True):
                self._pool.append((texts[turn], ids))

    @property
    def has_candidates(self) -> bool:
        """Whether the data has candidates at some turn."""
        return any(turn.candidates for dialogue in self._dialogues for turn in dialogue.turns)

    def draw(self, epoch: int, index: int) -> tuple[Ranked, ...]:
        """Return the replies of an example that are ranked in an epoch, in order, with their distractors.

        Replies for which there are too few distractors, or too long ones, are not ranked.
        """
        rng, chosen = self._chosen(epoch, index)
        found = ((reply, self._for(index, reply, rng)) for reply in chosen)
        return tuple(Ranked(reply, ids) for reply, ids in found if ids is not None)

    def count(self, epoch: int) -> tuple[int, int]:
        """Return how many replies are ranked in an epoch, and how many can't be, though they were chosen."""
        chosen = sum(len(self._chosen(epoch, index)[1]) for index in range(len(self._examples)))
        num_ranked = sum(len(self.draw(epoch, index)) for index in range(len(self._examples)))
        return num_ranked, chosen - num_ranked

    def _chosen(self, epoch: int, index: int) -> tuple[np.random.Generator, list[int]]:
        """Return the replies of an example that are to be ranked in an epoch, and the generator for what follows."""
        rng = np.random.default_rng((_PURPOSE, self._seed, epoch, index))
        num_replies = len(self._examples[index].reply_starts)
        # On average the share, whatever the number of replies.
        num_chosen = int(self._share * num_replies + rng.random())
        return rng, sorted(rng.permutation(num_replies)[:num_chosen].tolist())

    def _for(self, index: int, reply: int, rng: np.random.Generator) -> tuple[np.ndarray, ...] | None:
        """Return the distractors of a reply; None if there are not enough."""
        example = self._examples[index]
        turn = self._dialogues[index].turns[example.turn_indices[reply]]
        room = self._encoder.max_tokens - example.reply_starts[reply]
        taken = {normalise(turn.text)}
        found: list[np.ndarray] = []
        for text, ids in self._possible(turn, rng):
            if len(ids) > room or text in taken or any(text in self._said[key] for key in self._keys[index]):
                continue
            taken.add(text)
            found.append(ids)
            if len(found) == self._number:
                return tuple(found)
        return None

    def _possible(self, turn: Turn, rng: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
        """Yield what may be distractors of a turn, in a random order: its normalised text and its token ids."""
        for place in rng.permutation(len(turn.candidates)):
            text = turn.candidates[place]
            yield normalise(text), np.array(self._encoder.encode_reply(text), dtype=np.int32)
        for place in rng.integers(len(self._pool), size=_PICKS * self._number):
            yield self._pool[place]
        for place in rng.permutation(len(self._pool)):
            yield self._pool[place]


def _keys(dialogues: Sequence[Dialogue]) -> list[list[Hashable]]:
    """Return for each dialogue what it is and whose persona it shows; dialogues of equal keys share no distractors."""
    personas = persona_names(dialogues)
    identities = groups([openings(dialogue) for dialogue in dialogues])
    own = [personas.get(sentence_set(dialogue.persona)) for dialogue in dialogues]
    return [
        [("dialogue", identity), *([] if persona is None else [("persona", persona)])]
        for identity, persona in zip(identities, own, strict=True)
    ]


def _replies(example: Example) -> Iterator[np.ndarray]:
    for start, end in zip(example.reply_starts, example.reply_ends, strict=True):
        yield example.ids[start:end]
