"""Distractors: wrong replies, as token ids, to rank below the gold ones in training."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from falconer.data.encode import Encoder
from falconer.data.other_replies import OtherReplies
from falconer.records import Dialogue, Example

# Sets these random numbers apart from those that the order of an epoch is made of.
_PURPOSE = 0x52414E4B


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
    """The distractors of a split: wrong replies as `OtherReplies` draws them, as far as the context has room for them.

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
        self._others = OtherReplies(dialogues, seed)
        # Replies are encoded already; candidates of the data are encoded where they are drawn.
        self._ids = {
            dialogue.turns[turn].text.strip(): example.ids[start:end]
            for dialogue, example in zip(dialogues, examples, strict=True)
            for turn, start, end in zip(example.turn_indices, example.reply_starts, example.reply_ends, strict=True)
        }

    @property
    def has_candidates(self) -> bool:
        """Whether the data has candidates at some turn."""
        return any(turn.candidates for dialogue in self._dialogues for turn in dialogue.turns)

    def draw(self, epoch: int, index: int) -> tuple[Ranked, ...]:
        """Return the replies of an example that are ranked in an epoch, in order, with their distractors.

        Replies for which there are too few distractors, or too long ones, are not ranked.
        """
        found = ((reply, self._for(epoch, index, reply)) for reply in self._chosen(epoch, index))
        return tuple(Ranked(reply, ids) for reply, ids in found if len(ids) == self._number)

    def count(self, epoch: int) -> tuple[int, int]:
        """Return how many replies are ranked in an epoch, and how many can't be, though they were chosen."""
        chosen = sum(len(self._chosen(epoch, index)) for index in range(len(self._examples)))
        num_ranked = sum(len(self.draw(epoch, index)) for index in range(len(self._examples)))
        return num_ranked, chosen - num_ranked

    def _chosen(self, epoch: int, index: int) -> list[int]:
        """Return the replies of an example that are to be ranked in an epoch."""
        rng = np.random.default_rng((_PURPOSE, self._seed, epoch, index))
        num_replies = len(self._examples[index].reply_starts)
        # On average the share, whatever the number of replies.
        num_chosen = int(self._share * num_replies + rng.random())
        return sorted(rng.permutation(num_replies)[:num_chosen].tolist())

    def _for(self, epoch: int, index: int, reply: int) -> tuple[np.ndarray, ...]:
        """Return the distractors of a reply, fewer than wanted where there are no more."""
        example = self._examples[index]
        room = self._encoder.max_tokens - example.reply_starts[reply]
        texts = self._others.draw(
            index, example.turn_indices[reply], self._number, occasion=epoch,
            fits=lambda text: len(self._encoded(text)) <= room,
        )  # fmt: skip
        return tuple(self._encoded(text) for text in texts)

    def _encoded(self, text: str) -> np.ndarray:
        known = self._ids.get(text)
        return np.array(self._encoder.encode_reply(text), dtype=np.int32) if known is None else known
