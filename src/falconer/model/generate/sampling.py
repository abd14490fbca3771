"""How the next token is chosen: greedily, or drawn by temperature, top-k and top-p, after a repetition penalty.

What is drawn for a reply depends on the seed, the reply's number and how many tokens it has, and on nothing else: not
on what else is in its batch, nor on the device's own generator.

The repetition penalty spares the tokens that stop a reply: to end one's turn again is no repetition.

Shapes: B rows, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from falconer.kernels.reference import lowbias32

# Added before each hash, as lowbias32 leaves 0 as it is: the golden ratio's first 32 bits.
GOLDEN = 0x9E3779B9


@dataclass(frozen=True, slots=True)
class Decoding:
    """How tokens are chosen.

    `temperature` 0 is greedy; `top_p`, `top_k` and `seed` matter only above it. `top_k` 0 keeps all tokens.
    """

    max_new_tokens: int = 32
    temperature: float = 0.0
    top_p: float = 0.9
    repetition_penalty: float = 1.0
    seed: int = 17
    top_k: int = 0

    def __str__(self) -> str:
        top_k = f", top-k {self.top_k}" if self.top_k else ""
        how = (
            "greedy"
            if self.temperature == 0
            else f"temperature {self.temperature}{top_k}, top-p {self.top_p}, seed {self.seed}"
        )
        penalty = f", repetition penalty {self.repetition_penalty}" if self.repetition_penalty != 1 else ""
        return f"{how}{penalty}, at most {self.max_new_tokens} tokens"


class KnownTokens:
    """A model's head for choosing tokens: ids that stand for no text are never chosen, as they would say nothing.

    Args:
        unknown: these ids.
    """

    def __init__(self, head: Any, unknown: Sequence[int]) -> None:
        self.head, self.out_features = head, head.out_features
        # Made once: a step that is recorded can't copy from the host.
        self._unknown = torch.tensor(list(unknown), dtype=torch.int64, device=head.weight.device)

    def __call__(self, hidden_MD: torch.Tensor) -> torch.Tensor:
        return without(self.head(hidden_MD), self._unknown)


def without(logits_BV: torch.Tensor, unknown: torch.Tensor) -> torch.Tensor:
    """Let no token of `unknown` (int64) be chosen; changes the logits in place."""
    return logits_BV.index_fill_(1, unknown, -torch.inf) if len(unknown) else logits_BV


def penalised(
    logits_BV: torch.Tensor, seen_BV: torch.Tensor | None, penalty: float, spared: torch.Tensor
) -> torch.Tensor:
    """Make tokens that were seen, in the prompt or the reply, less likely (Keskar et al. 2019, arXiv:1909.05858).

    As transformers applies it, positive logits are divided and negative ones multiplied.

    Args:
        seen_BV: bool; None where there is no penalty.
        spared: int64 tokens that stay as they are.
    """
    if penalty == 1 or seen_BV is None:
        return logits_BV
    changed_BV = torch.where(logits_BV > 0, logits_BV / penalty, logits_BV * penalty)
    changed_BV = torch.where(seen_BV, changed_BV, logits_BV)
    changed_BV[:, spared] = logits_BV[:, spared]
    return changed_BV


def choose(logits_BV: torch.Tensor, decoding: Decoding, rows_B: torch.Tensor, steps_B: torch.Tensor) -> torch.Tensor:
    """Choose each row's next token.

    Args:
        logits_BV: fp32 or fp64, penalised.
        rows_B, steps_B: number of the reply, and of its token; int64. With the seed they fix what is drawn.

    Returns:
        int64 [B].
    """
    if decoding.temperature == 0:
        return logits_BV.argmax(dim=1)
    # The largest is made 0 first, so that no temperature, however low, overflows.
    scaled_BV = (logits_BV - logits_BV.amax(dim=1, keepdim=True)) / decoding.temperature
    probabilities_BV, order_BV = torch.softmax(scaled_BV, dim=1).sort(dim=1, descending=True)
    if decoding.top_k:
        probabilities_BV[:, decoding.top_k :] = 0
        probabilities_BV /= probabilities_BV.sum(dim=1, keepdim=True)
    # Keep the smallest set whose mass reaches top_p; the first token always stays.
    before_BV = probabilities_BV.cumsum(dim=1) - probabilities_BV
    kept_BV = (before_BV < decoding.top_p) & (probabilities_BV > 0)
    kept_BV[:, 0] = True
    mass_BV = torch.where(kept_BV, probabilities_BV, 0).cumsum(dim=1)
    drawn_B = _uniform(decoding.seed, rows_B, steps_B).to(mass_BV.dtype) * mass_BV[:, -1]
    # Rounding may put what is drawn at the very end; the last token that is kept stands there.
    place_B = torch.minimum((mass_BV <= drawn_B[:, None]).sum(dim=1), kept_BV.sum(dim=1) - 1)
    return order_BV.gather(1, place_B[:, None]).squeeze(1)


def _uniform(seed: int, rows_B: torch.Tensor, steps_B: torch.Tensor) -> torch.Tensor:
    """Return a number in [0, 1) with 24 random bits for each row, fp32."""
    x = torch.full_like(rows_B, seed & 0xFFFFFFFF)
    for number in (rows_B, steps_B):
        x = lowbias32(lowbias32(x + GOLDEN) + number + GOLDEN)
    return (x >> 8).float() / 2**24
