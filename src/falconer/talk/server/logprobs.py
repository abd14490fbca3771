"""Log-probabilities of tokens, as the two kinds of answers have them."""

from collections.abc import Callable, Sequence
from typing import Any

from falconer.model.request import Said

# JSON has no infinity; OpenAI's value for a token that is as good as impossible.
_LEAST = -9999.0
Decode = Callable[[Sequence[int]], str]


def of_chat(said: Sequence[Said], decode: Decode) -> dict[str, Any]:
    """Return the tokens as a chat completion has them.

    The bytes of a token that is a part of a character are null.
    """
    found = []
    for one in said:
        top = [_entry(token, logprob, decode) for token, logprob in one.top]
        found.append(_entry(one.token, one.logprob, decode) | {"top_logprobs": top})
    return {"content": found, "refusal": None}


def of_text(said: Sequence[Said], decode: Decode, start: int) -> dict[str, Any]:
    """Return the tokens as a completion of bare text has them.

    Args:
        start: characters of the reply before these tokens.
    """
    texts = [decode([one.token]) for one in said]
    offsets = []
    for text in texts:
        offsets.append(start)
        start += len(text)
    return {
        "tokens": texts,
        "token_logprobs": [_finite(one.logprob) for one in said],
        "top_logprobs": [{decode([token]): _finite(logprob) for token, logprob in one.top} for one in said],
        "text_offset": offsets,
    }


def _entry(token: int, logprob: float | None, decode: Decode) -> dict[str, Any]:
    text = decode([token])
    return {
        "token": text,
        "logprob": _finite(logprob),
        "bytes": None if "\ufffd" in text else list(text.encode()),
    }


def _finite(logprob: float | None) -> float:
    # NaN is on no side of a border.
    return logprob if logprob is not None and logprob >= _LEAST else _LEAST
