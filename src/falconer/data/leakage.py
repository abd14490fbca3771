"""What other dialogues have in common with the training data, computed from hashes that a run stores."""

import base64
import hashlib
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from falconer.records import Dialogue

# A dialogue's identity: its first turns, whoever is "self". ConvAI2's training files hold each dialogue twice, once
# from each side, where one of the two lacks the last turn.
_NUM_OPENING_TURNS = 4
# Stands in no normalised text, so that no two lists of texts join to the same one.
_BETWEEN = "\x1f"


@dataclass(frozen=True, slots=True)
class Leakage:
    """What another split has in common with training, after removing case, punctuation and spaces; shares in 0-100.

    Counted are distinct persona sets, persona sentences and replies of the other split's "self", and whole dialogues.
    A persona is shared if training shows it on either side, a reply if it is one there.
    """

    num_persona_sets: int
    shared_persona_sets: int
    num_persona_sentences: int
    shared_persona_sentences: int
    num_replies: int
    shared_replies: int
    num_dialogues: int
    shared_dialogues: int

    @property
    def persona_set_share(self) -> float:
        return _share(self.shared_persona_sets, self.num_persona_sets)

    @property
    def persona_sentence_share(self) -> float:
        return _share(self.shared_persona_sentences, self.num_persona_sentences)

    @property
    def reply_share(self) -> float:
        return _share(self.shared_replies, self.num_replies)

    @property
    def dialogue_share(self) -> float:
        return _share(self.shared_dialogues, self.num_dialogues)

    def __str__(self) -> str:
        parts = (
            (self.shared_persona_sets, self.num_persona_sets, "distinct personas"),
            (self.shared_persona_sentences, self.num_persona_sentences, "distinct persona sentences"),
            (self.shared_replies, self.num_replies, "distinct replies"),
            (self.shared_dialogues, self.num_dialogues, "dialogues"),
        )
        return ", ".join(f"{shared:,} of {whole:,} {what}" for shared, whole, what in parts)


@dataclass(frozen=True, slots=True)
class Contents:
    """What dialogues show: persona sets, persona sentences, replies and openings, each as 64 bits of a hash.

    Replies are those of "self" and, if training learns the partner's turns, too, also these.

    ConvAI2's training split has some 150,000 of them, 1.6 MB in `to_json`.
    """

    persona_sets: frozenset[int]
    persona_sentences: frozenset[int]
    replies: frozenset[int]
    dialogues: frozenset[int]

    def shared_with(self, other: Iterable[Dialogue]) -> Leakage:
        """Count what other dialogues, seen from the side of their "self", have in common with these."""
        found = contents(other, both_sides=False)
        pairs = [(getattr(self, name), getattr(found, name)) for name in self.__slots__]
        return Leakage(*(number for here, there in pairs for number in (len(there), len(there & here))))

    def shows(self, sentence: str) -> bool:
        """Say whether a persona sentence is among these, whatever its case, punctuation and spaces."""
        return _hash(normalise(sentence)) in self.persona_sentences

    def has_reply(self, text: str) -> bool:
        """Say whether a text is one of the replies, whatever its case, punctuation and spaces."""
        return _hash(normalise(text)) in self.replies

    def to_json(self) -> dict[str, str]:
        """Return each set as base64 of its sorted hashes, 8 bytes each, the lowest first."""
        return {
            name: base64.b64encode(np.array(sorted(getattr(self, name)), dtype="<u8").tobytes()).decode("ascii")
            for name in self.__slots__
        }

    @classmethod
    def from_json(cls, packed: dict[str, str]) -> "Contents":
        """Return what `to_json` has packed.

        Raises:
            KeyError, TypeError, ValueError: it has not.
        """
        read = (np.frombuffer(base64.b64decode(packed[name], validate=True), dtype="<u8") for name in cls.__slots__)
        return cls(*(frozenset(hashes.tolist()) for hashes in read))


def contents(dialogues: Iterable[Dialogue], *, both_sides: bool = True, partner_too: bool = False) -> Contents:
    """Return what dialogues show.

    Args:
        both_sides: the partners' personas count, too.
        partner_too: the partners' turns before the last reply count as replies, since they are learned, too.
    """
    sets: set[int] = set()
    sentences: set[int] = set()
    replies: set[int] = set()
    begun: set[int] = set()
    for dialogue in dialogues:
        for persona in (dialogue.persona, dialogue.partner_persona)[: 1 + both_sides]:
            if persona:
                sets.add(_hash(*sorted(sentence_set(persona))))
                sentences.update(map(_hash, sentence_set(persona)))
        replies.update(_hash(normalise(dialogue.turns[index].text)) for index in dialogue.replies)
        if partner_too and dialogue.replies:
            said = (turn.text for turn in dialogue.turns[: dialogue.replies[-1]] if turn.speaker == "partner")
            replies.update(_hash(normalise(text)) for text in said)
        begun.add(_hash(*openings(dialogue)[0]))
    return Contents(*map(frozenset, (sets, sentences, replies, begun)))


def leakage(train: Iterable[Dialogue], other: Iterable[Dialogue]) -> Leakage:
    """Count what `other` shares with `train`: persona sets, persona sentences, replies, dialogues."""
    return contents(train).shared_with(other)


@lru_cache(maxsize=500_000)
def normalise(text: str) -> str:
    """Return a text without case, punctuation and spaces, so that "I've" and "i ve" compare as equal."""
    folded = unicodedata.normalize("NFC", text.casefold())
    # Marks are parts of words: without them Hindi's "\u0915\u0940" and "\u0915\u093e" would be one.
    kept = (char for char in folded if char.isalnum() or (not char.isascii() and unicodedata.category(char)[0] == "M"))
    return (re.sub(r"[\W_]+", "", folded) if folded.isascii() else "".join(kept)) or text


def sentence_set(persona: Iterable[str]) -> frozenset[str]:
    """Return a persona as the set of its normalised sentences."""
    return frozenset(map(normalise, persona))


def openings(dialogue: Dialogue) -> list[tuple[str, ...]]:
    """Return one or two keys of which the same dialogue seen from the other side has at least one."""
    texts = tuple(normalise(turn.text) for turn in dialogue.turns[:_NUM_OPENING_TURNS])
    # A short one may have lost its last turn at the other side.
    is_short = 2 < len(dialogue.turns) <= _NUM_OPENING_TURNS
    return [texts, texts[:-1]] if is_short else [texts]


def _hash(*texts: str) -> int:
    return int.from_bytes(hashlib.blake2b(_BETWEEN.join(texts).encode(), digest_size=8).digest(), "little")


def _share(part: int, whole: int) -> float:
    return 100 * part / whole if whole else 0.0
