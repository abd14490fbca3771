"""A reimplementation of llama.cpp's tokenization, to detect tokenizers that llama.cpp would handle differently.

The patterns are those of src/llama-vocab.cpp in llama.cpp (MIT), as llama-cpp-python 0.3.36 carries it, where they come
from the models' own tokenizer.json.
"""

import heapq
import json
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_CASELESS = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# By the name that `tokenizer.ggml.pre` takes: each pattern cuts what the one before it left.
PATTERNS: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "falcon": (r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"),
    "llama-bpe": (_CASELESS + r"\p{N}{1,3}" + _REST,),
    "qwen2": (_CASELESS + r"\p{N}" + _REST,),
})  # fmt: skip
# There a word that is in the vocabulary is one token, whatever the merges say.
_WHOLE_WORDS = frozenset({"llama-bpe"})


def byte_level(tree: Mapping[str, Any], pre: str) -> Tokenizer:
    """Return a tokenizer of the same vocabulary and merges that cuts text as llama.cpp does under that name."""
    model = {**tree["model"], "ignore_merges": pre in _WHOLE_WORDS}
    plain = {"normalizer": None, "pre_tokenizer": None, "post_processor": None, "padding": None, "truncation": None}
    made = Tokenizer.from_str(json.dumps({**tree, **plain, "model": model}))
    cuts = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PATTERNS[pre]]
    made.pre_tokenizer = pre_tokenizers.Sequence([*cuts, pre_tokenizers.ByteLevel(False, use_regex=False)])
    return made


class SentencePiece:
    """llama.cpp's tokenizer for SentencePiece vocabularies: the pair of the highest score is joined first.

    Args:
        tokens: the vocabulary; "▁" is a space, "<0x0A>" a byte.
        scores: of each token.
        special: tokens that are found as they are spelled, by their text.
        prefix: a space is put before a text, and behind each of these.
    """

    def __init__(
        self, tokens: Sequence[str], scores: Sequence[float], special: Mapping[str, int], *, prefix: bool
    ) -> None:
        self._ids = {token: number for number, token in enumerate(tokens)}
        self._scores, self._special, self._prefix = scores, special, prefix
        longest_first = sorted(map(re.escape, special), key=len, reverse=True)
        self._border = re.compile(f"({'|'.join(longest_first)})") if special else re.compile("(?!)")

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        ids: list[int] = []
        for part in filter(None, self._border.split(text)):
            if part in self._special:
                ids.append(self._special[part])
            else:
                # Every part stands first or behind a special token.
                ids += self._part((" " * self._prefix + part).replace(" ", "▁"))
        return ids

    def _part(self, text: str) -> list[int]:
        pieces: list[str | None] = list(text)
        after = [*range(1, len(text)), -1]
        before = list(range(-1, len(text) - 1))
        waiting: list[tuple[float, int, int, str]] = []

        def offer(left: int, right: int) -> None:
            if left != -1 and right != -1:
                joined = f"{pieces[left]}{pieces[right]}"
                if joined in self._ids:
                    heapq.heappush(waiting, (-self._scores[self._ids[joined]], left, right, joined))

        for place in range(len(text) - 1):
            offer(place, place + 1)
        while waiting:
            _, left, right, joined = heapq.heappop(waiting)
            if pieces[left] is None or pieces[right] is None or f"{pieces[left]}{pieces[right]}" != joined:
                continue
            pieces[left], pieces[right] = joined, None
            after[left] = after[right]
            if after[left] != -1:
                before[after[left]] = left
            offer(before[left], left)
            offer(left, after[left])
        return [number for piece in pieces if piece is not None for number in self._numbers(piece)]

    def _numbers(self, piece: str) -> list[int]:
        if piece in self._ids:
            return [self._ids[piece]]
        return [self._ids[f"<0x{byte:02X}>"] for byte in piece.encode()]
