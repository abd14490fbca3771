"""Prompts of a few dialogues, and replies to them by the fast path itself, without an engine around it."""

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from falcon_tiny import VOCAB, tiny_falcon
from falconer.kernels import reference
from falconer.model.falcon.infer_pass import Forward
from falconer.model.falcon.layout import backbone_of
from falconer.model.falcon.train_pass import FastPath
from falconer.model.generate import slots
from falconer.model.generate.batch import decode
from falconer.model.request import Decoding, Request

END = 11
DIALOGUE = [(37 * index + 5) % VOCAB for index in range(90)]
# Four of one dialogue, one of which comes twice; two that are prefixes of nothing, one of which shares a beginning.
PROMPTS = [DIALOGUE[:20], DIALOGUE, [400], DIALOGUE[:71], DIALOGUE[:20], DIALOGUE[:8] + [3, 4], DIALOGUE[:1]]


def model_of(dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    """Return a tiny model in evaluation mode, with weights large enough to say more than its last token again."""
    return tiny_falcon(dtype, targets="all-linear", initializer_range=0.15, **settings).eval()


def forward_of(model: Any, ops: ModuleType = reference, **settings: Any) -> Forward:
    """Return the forward pass with the adapter as it is."""
    settings = {"cache_weights": False, **settings}
    path = FastPath(backbone_of(model), ops, fp8=False, memory="fast", **settings)
    return Forward(path, model.get_output_embeddings())


def requests_of(prompts: Any = PROMPTS, decoding: Decoding | None = None, stops: Any = (END,)) -> list[Request]:
    """Return numbered requests that differ in their prompts alone."""
    decoding = replace(decoding or Decoding(max_new_tokens=7), stops=tuple(stops))
    return [Request(prompt, decoding, number) for number, prompt in enumerate(prompts)]


def asked(
    model: Any, requests: list[Request], num_slots: int | None = None, share: float = 1.0, **settings: Any
) -> list[list[int]]:
    """Return the replies in the order of their requests."""
    unknown = torch.tensor([], dtype=torch.int64, device=backbone_of(model).word_embeddings.weight.device)
    found = decode(forward_of(model, **settings), requests, unknown, num_slots, share)
    return [reply for _, reply in sorted(found)]


def ours(
    model: Any, prompts: Any = PROMPTS, num_slots: int | None = None, stops: Any = (END,),
    decoding: Decoding | None = None, **settings: Any,
) -> list[list[int]]:  # fmt: skip
    """Return the replies to some prompts."""
    return asked(model, requests_of(prompts, decoding, stops), num_slots, **settings)


class Recorded:
    """Stands in for a CUDA graph without a GPU: a step runs twice before it is recorded, and at each replay."""

    def __init__(self, step: Callable[[], object], device: torch.device) -> None:
        self.replay = step
        step()
        step()


def listen_to_recordings(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """Let slots that record have a `Recorded`, and return the list of those that are made."""
    found: list[Recorded] = []

    def recorded(step: Callable[[], object], device: torch.device) -> Recorded:
        found.append(Recorded(step, device))
        return found[-1]

    monkeypatch.setattr(slots, "recorded", recorded)
    return found


def listen_to_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets the number of tokens of each pass of a fast path."""
    sizes: list[int] = []
    whole = Forward.hidden_states

    def counted(self: Forward, ids_M: torch.Tensor, *others: Any, **named: Any) -> torch.Tensor:
        sizes.append(len(ids_M))
        return whole(self, ids_M, *others, **named)

    monkeypatch.setattr(Forward, "hidden_states", counted)
    return sizes
