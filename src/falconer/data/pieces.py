"""Encoding the pieces of a prompt so that their token ids are those of the whole text.

Where a piece stands matters. SentencePiece-like tokenizers put a space before a text, and some of them one behind every
special token as well; a reply behind its tag must not get one. Others join a full stop with the line break behind it. A
prompt is therefore cut in two places alone: behind the tag that opens a reply, and behind the reply's end token.
"""

import re
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import NamedTuple

from tokenizers import AddedToken, Tokenizer

from falconer.data.prompt import TAGS
from falconer.errors import FalconerError


class Place(Enum):
    """Where a piece stands: first, behind an end token, or behind the tag that opens a reply."""

    FIRST = "first"
    BEHIND_END = "behind end"
    REPLY = "reply"


class Piece(NamedTuple):
    """A stretch of text in its place."""

    place: Place
    text: str


# Stands for the end token, so that text which spells that one stays text. Unicode never gives these two a meaning.
_MARK = "\ufdd0falconer\ufdd1"
_TAG = TAGS["self"]
_BYTE = re.compile("<0x[0-9A-F]{2}>")
_PROBES = ("Persona:", "User: hello", "a", "Assistant:")


class Pieces:
    """Encodes pieces; text that spells a special token is encoded as text.

    Args:
        tokenizer: the serialised fast tokenizer.
        end_id: the end token; what it takes of the white space behind it is taken here too.
        bos: what stands before every text, as `puts_before` gives it; None: what it gives for this tokenizer.

    Raises:
        FalconerError: the tokenizer has no such token.
    """

    def __init__(self, tokenizer: str, end_id: int, bos: str | None) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.bos = puts_before(self._tokenizer) if bos is None else bos
        self.bos_ids = spelled(self._tokenizer, self.bos)
        vocabulary = self._tokenizer.get_vocab()
        self.known_ids = frozenset(vocabulary.values())
        # SentencePiece's tokens for the bytes of characters that the vocabulary lacks.
        self.byte_ids = frozenset(token_id for token, token_id in vocabulary.items() if _BYTE.fullmatch(token))
        end = self._tokenizer.get_added_tokens_decoder().get(end_id)
        self._tokenizer.add_tokens([AddedToken(_MARK, rstrip=bool(end and end.rstrip), normalized=False)])
        self._tokenizer.encode_special_tokens = True
        self._tag_ids = self._encode([_TAG])[0]

    def encode(self, pieces: Iterable[Piece]) -> dict[Piece, list[int]]:
        """Return the ids of each piece."""
        wanted = list(pieces)
        before = {Place.FIRST: "", Place.BEHIND_END: _MARK, Place.REPLY: _TAG}
        texts = [before[piece.place] + piece.text.replace(_MARK, "") for piece in wanted]
        found: dict[Piece, list[int]] = {}
        for piece, ids in zip(wanted, self._encode(texts), strict=True):
            if piece.place is Place.BEHIND_END:
                ids = ids[1:]
            elif piece.place is Place.REPLY:
                # A tokenizer that joins the tag's colon with what follows gets the reply as a text of its own.
                joined = ids[: len(self._tag_ids)] != self._tag_ids
                ids = self._encode([piece.text])[0] if joined else ids[len(self._tag_ids) :]
            found[piece] = ids
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens as they are spelled."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def puts_before(tokenizer: Tokenizer) -> str:
    """Return what a tokenizer's post-processor puts before every text, as text ("<s>"); "" if it puts nothing there.

    What its configuration says (`add_bos_token`, `bos_token`) does not count, nor what it puts behind a text.
    """
    before: set[tuple[int, ...]] = set()
    for probe in _PROBES:
        plain = tokenizer.encode(probe, add_special_tokens=False).ids
        whole = tokenizer.encode(probe, add_special_tokens=True).ids
        starts = [at for at in range(len(whole) - len(plain) + 1) if whole[at : at + len(plain)] == plain]
        before.add(tuple(whole[: starts[0]]) if starts and plain else ())
    if len(before) != 1:
        return ""
    return "".join(str(tokenizer.id_to_token(token)) for token in before.pop())


def spelled(tokenizer: Tokenizer, bos: str) -> list[int]:
    """Return the ids of what `puts_before` gave as text.

    Raises:
        FalconerError: the tokenizer has no such token.
    """
    if not bos:
        return []
    single = tokenizer.token_to_id(bos)
    ids: list[int] = [single] if single is not None else tokenizer.encode(bos, add_special_tokens=False).ids
    known = {single, *tokenizer.get_added_tokens_decoder()}
    if not known.issuperset(ids) or "".join(str(tokenizer.id_to_token(token)) for token in ids) != bos:
        raise FalconerError(
            f"The prompts of this adapter begin with '{bos}', but the base model's tokenizer has no such token.",
            "Use the tokenizer that the adapter was trained with.",
        )
    return ids


def written_before(tokenizer: Tokenizer, bos: str) -> str:
    """Return how `bos` must be written before a text in one string for the ids of the text with `bos` before it.

    Tokenizers that put a space before a text, but none behind a special token, need that space written.
    """
    if not bos:
        return ""
    probe = _PROBES[1]
    wanted = spelled(tokenizer, bos) + tokenizer.encode(probe, add_special_tokens=False).ids
    fits = [lead for lead in ("", " ") if tokenizer.encode(bos + lead + probe, add_special_tokens=False).ids == wanted]
    return bos + (fits[0] if fits else "")
