"""Converting a tokenizer to GGUF's vocabulary, and verifying it on conversations."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gguf import TokenType
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from falconer.data.prompt import messages
from falconer.data.sources import SAMPLE, load_dialogues
from falconer.errors import FalconerError
from falconer.model.export.gguf_split import PATTERNS, SentencePiece, byte_level

_NUM_CONVERSATIONS = 50
# What conversations rarely hold, and where tokenizers differ. Cut otherwise, it is worth a sentence to the user.
_RARE = (
    "in  1999", "in     1999", "\n\n  7 \t 8", "12345 + 678 = 13023", "1,234.56", "I'M HERE, YOU'LL SEE", "a \t tab",
    "end  ", "two   spaces", "line\n\n\nbreaks\r\n", "cafe\u0301 re\u0301sume\u0301", "你好，世界 123", "😀👍🏽",
    "$5 <b>x</b> `y` ^ ~ |", "…“quoted”—",
)  # fmt: skip
_HINT = "Use the merged folder, with transformers or vLLM."


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What GGUF says of a tokenizer.

    Args:
        model: "gpt2" (byte-level BPE) or "llama" (SentencePiece).
        pre: how text is cut before the merges.
        tokens, types: one of each for every row of the embedding.
        merges: of "gpt2"; scores: of "llama".
        special: ids of the begin, end, unknown and pad token, by GGUF's name.
        adds_bos: llama.cpp puts the begin token before every text.
        notes: what llama.cpp reads otherwise.
    """

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float]
    special: dict[str, int]
    adds_bos: bool
    adds_space: bool
    notes: tuple[str, ...]


def vocabulary_of(tokenizer: PreTrainedTokenizerFast, num_rows: int, end_id: int, bos: str) -> Vocabulary:
    """Return a tokenizer as GGUF has it.

    Args:
        num_rows: of the model's embedding; rows without a token get one that no text gives.
        end_id: the token that ends a reply.
        bos: what prompts begin with, as text; "" for nothing.

    Raises:
        FalconerError: llama.cpp would read conversations otherwise; the reason is named.
    """
    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = tree["model"]["type"]
    is_bytes = kind == "BPE" and "ByteLevel" in json.dumps([tree["pre_tokenizer"], tree["decoder"]])
    if not is_bytes and not (kind == "BPE" and tree["model"]["byte_fallback"]):
        raise FalconerError(
            f"GGUF does not support this tokenizer, a {kind} model{'' if kind != 'BPE' else ' without bytes'}; "
            "byte-level and SentencePiece BPE can be written.",
            _HINT,
        )
    tokens, types = _tokens(tree, num_rows, is_bytes=is_bytes)
    ids = {
        "bos": tokenizer.bos_token_id,
        "eos": end_id,
        "unknown": tokenizer.unk_token_id,
        "padding": tokenizer.pad_token_id,
    }
    special = {name: int(number) for name, number in ids.items() if number is not None and number < num_rows}
    adds_bos = bool(bos) and tokenizer.backend_tokenizer.token_to_id(bos) == tokenizer.bos_token_id
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in tree["model"]["merges"]]
    if is_bytes:
        pre, notes = _cut_like(tokenizer, tree)
        return Vocabulary("gpt2", pre, tokens, types, merges, [], special, adds_bos, False, notes)
    scores = _scores(tokens, types, merges)
    prefix, notes = _spaced_like(tokenizer, tree, tokens, scores)
    return Vocabulary("llama", "default", tokens, types, [], scores, special, adds_bos, prefix, notes)


def _tokens(tree: Mapping[str, Any], num_rows: int, *, is_bytes: bool) -> tuple[list[str], list[int]]:
    found = {number: token for token, number in tree["model"]["vocab"].items()}
    # An added token beyond the embedding has no meaning to the model; classes of transformers add some by themselves.
    added = {token["id"]: token for token in tree["added_tokens"] if token["id"] < num_rows}
    found |= {number: token["content"] for number, token in added.items()}
    if max(found) >= num_rows:
        raise FalconerError(
            f"The tokenizer has {max(found) + 1:,} entries, the model's embedding {num_rows:,} rows.",
            "Use the tokenizer that belongs to the model.",
        )
    unknown = tree["model"].get("unk_token")
    types = []
    for number in range(num_rows):
        if number not in found:
            found[number] = f"[PAD{number}]"
            types.append(TokenType.UNUSED)
        elif number in added:
            is_special = added[number]["special"]
            kind = TokenType.UNKNOWN if found[number] == unknown and not is_bytes else TokenType.CONTROL
            types.append(kind if is_special else TokenType.USER_DEFINED)
        elif not is_bytes and found[number] == unknown:
            types.append(TokenType.UNKNOWN)
        elif not is_bytes and len(found[number]) == 6 and found[number].startswith("<0x"):
            types.append(TokenType.BYTE)
        else:
            types.append(TokenType.NORMAL)
    texts = [found[number] for number in range(num_rows)]
    if not is_bytes:
        # llama.cpp looks for the text of these as it is typed.
        own = TokenType.USER_DEFINED
        texts = [text.replace("▁", " ") if kind == own else text for text, kind in zip(texts, types, strict=True)]
    if len(set(texts)) != num_rows:
        raise FalconerError(
            "Two entries of this tokenizer have the same text, which llama.cpp does not support.", _HINT
        )
    return texts, [int(kind) for kind in types]


def _scores(tokens: Sequence[str], types: Sequence[int], merges: Sequence[str]) -> list[float]:
    """Return scores that join what the merges join, in their order: the earlier, the higher."""
    ranks: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        left, _, right = pair.partition(" ")
        ranks.setdefault(left + right, rank)
    last = float(len(merges))
    return [
        -float(ranks.get(token, last)) if kind == TokenType.NORMAL else 0.0
        for token, kind in zip(tokens, types, strict=True)
    ]


def _cut_like(tokenizer: PreTrainedTokenizerFast, tree: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    named = _named_in(json.dumps(tree["pre_tokenizer"]))
    found = {}
    # Of those that cut all texts here the same way, the one that the tokenizer's own file describes comes first.
    for pre in sorted(PATTERNS, key=lambda pre: pre != named):
        rare = _differences(tokenizer, partial(_ids, byte_level(tree, pre)))
        if rare is not None:
            found[pre] = rare
            if not rare:
                break
    if not found:
        raise FalconerError(
            "llama.cpp does not support this tokenizer's pre-tokenization: conversations would get other token ids.",
            _HINT,
        )
    best = min(found, key=lambda pre: len(found[pre]))
    return best, _notes(found[best])


def _named_in(pre_tokenizer: str) -> str:
    if "Punctuation" in pre_tokenizer:
        return "falcon"
    if r"\\p{N}{1,3}" in pre_tokenizer:
        return "llama-bpe"
    if r"|\\p{N}|" in pre_tokenizer:
        return "qwen2"
    return "smollm" if "Digits" in pre_tokenizer else "gpt-2"


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _spaced_like(
    tokenizer: PreTrainedTokenizerFast, tree: Mapping[str, Any], tokens: Sequence[str], scores: Sequence[float]
) -> tuple[bool, tuple[str, ...]]:
    special = {token["content"]: token["id"] for token in tree["added_tokens"]}
    for prefix in (True, False):
        made = SentencePiece(tokens, scores, special, prefix=prefix)
        rare = _differences(tokenizer, made.encode)
        if rare is not None:
            return prefix, _notes(rare)
    raise FalconerError(
        "llama.cpp would merge the pieces of this tokenizer in another order, or place spaces differently: "
        "conversations would get other token ids.",
        _HINT,
    )


def _differences(tokenizer: PreTrainedTokenizerFast, encode: Callable[[str], list[int]]) -> list[str] | None:
    """Return the rare texts that do not get the tokenizer's own ids; None where a whole conversation does not."""
    backend: Tokenizer = tokenizer.backend_tokenizer

    def differs(text: str) -> bool:
        return _ids(backend, text) != encode(text)

    if any(differs(text) for text in sample_conversations(tokenizer)):
        return None
    begin = conversation(tokenizer, [{"role": "user", "content": "|"}]).split("|")[0]
    return [text for text in _RARE if differs(begin + text)]


def sample_conversations(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return embedded dialogues, written by the tokenizer's chat template."""
    dialogues = load_dialogues(SAMPLE, split="valid").dialogues[:_NUM_CONVERSATIONS]
    return [conversation(tokenizer, messages(dialogue)) for dialogue in dialogues]


def conversation(tokenizer: PreTrainedTokenizerFast, rows: list[dict[str, str]]) -> str:
    """Return messages as the tokenizer's chat template writes them."""
    return str(tokenizer.apply_chat_template(rows, tokenize=False))


def _notes(rare: Sequence[str]) -> tuple[str, ...]:
    if not rare:
        return ()
    shown = ", ".join(json.dumps(text, ensure_ascii=False) for text in rare)
    return (f"llama.cpp gives other token ids than the tokenizer where text looks like this: {shown}",)
