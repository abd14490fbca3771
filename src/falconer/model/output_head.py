"""The output head: what a model computes between its hidden states and its logits, as a test on the model shows.

Most models multiply the last hidden states with a matrix. Some scale the result (Cohere, Granite) or cap it, as Gemma 2
does: `logits = cap * tanh(logits / cap)`. A list of names would soon be wrong, so the model is asked: the linear
layer's input is replaced by values of our own, small and large ones, and the logits are compared with what the matrix,
and the numbers in the model's configuration, make of the same values. If nothing explains them, the head is unknown.

A known head is applied at target positions only, some at a time, and its gradient is computed with the loss: a row's
gradient depends on its own logits alone, so no logits are stored and none are computed twice.

Shapes: N target tokens, C of them in a chunk, T tokens, D hidden, V vocabulary.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from types import ModuleType
from typing import Any

import torch
from peft import PeftModel
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from falconer.model.falcon.adapters import has_learned_prompt

# Targets whose logits are computed at a time: at most so many, and at most so many logits (256 MiB in fp32).
CHUNK_TARGETS = 1024
CHUNK_LOGITS = 2**26
# The standard deviations of the logits that a head is tested with: caps of up to some thousands show.
_LEVELS = (1.0, 30.0, 1000.0)
_TEST_TOKENS = 4
_TEST_ENTRIES = 256


def chunk_targets(vocabulary: int) -> int:
    """Return the number of targets whose logits are computed at a time."""
    return max(1, min(CHUNK_TARGETS, CHUNK_LOGITS // vocabulary))


@dataclass(frozen=True, slots=True)
class Head:
    """The output head of a model: `cap * tanh(scale * (W hidden + bias) / cap)`, without `tanh` where cap is None.

    Args:
        module: the linear layer, with its adapter if it has one.
    """

    module: Any
    scale: float = 1.0
    cap: float | None = None

    @property
    def is_frozen(self) -> bool:
        """Whether it is a plain linear layer that is not trained, so that its gradient is its input's alone."""
        is_linear = isinstance(self.module, nn.Linear) and self.module.weight.is_floating_point()
        return is_linear and not any(parameter.requires_grad for parameter in self.module.parameters())

    def finish(self, logits: torch.Tensor) -> torch.Tensor:
        """Return the logits from the linear layer's output."""
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the logits of hidden states, by the layer's own forward pass."""
        # Some models compute the last norm's output in fp32 and cast it to the dtype of the head (Mamba).
        return self.finish(self.module(hidden.to(next(self.module.parameters()).dtype)))

    def nll(self, hidden_ND: torch.Tensor, labels_N: torch.Tensor, ops: ModuleType) -> torch.Tensor:
        """Return each target's negative log-likelihood in nats, fp32 [N] (fp64 for a model in fp64).

        Args:
            hidden_ND: the hidden states that predict the targets.
            ops: `kernels.reference` or `kernels.fused`.
        """
        if self.is_frozen:
            return FrozenNll.apply(hidden_ND, self.module.weight, self.module.bias, self.scale, self.cap, labels_N, ops)
        rows = chunk_targets(self.module.weight.shape[0])
        chunks = zip(hidden_ND.split(rows), labels_N.split(rows), strict=True)
        if not torch.is_grad_enabled():
            return torch.cat([self._chunk_nll(hidden, labels) for hidden, labels in chunks])
        # What is trained within the head needs the logits' gradient: they are computed again for it.
        return torch.cat([
            checkpoint(self._chunk_nll, hidden, labels, use_reentrant=False) for hidden, labels in chunks
        ])  # fmt: skip

    def _chunk_nll(self, hidden_CD: torch.Tensor, labels_C: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(_at_least_fp32(self.logits(hidden_CD)), labels_C, reduction="none")


class FrozenNll(torch.autograd.Function):
    """A frozen head and the negative log-likelihood, in chunks; differentiable with respect to the hidden states."""

    @staticmethod
    def forward(
        ctx: Any, hidden_ND: torch.Tensor, head_VD: torch.Tensor, bias_V: torch.Tensor | None, scale: float,
        cap: float | None, labels_N: torch.Tensor, ops: ModuleType,
    ) -> torch.Tensor:  # fmt: skip
        needs_grad, rows = ctx.needs_input_grad[0], chunk_targets(len(head_VD))
        nll, grads = [], []
        with torch.autocast(hidden_ND.device.type, enabled=False):
            for hidden, labels in zip(hidden_ND.split(rows), labels_N.split(rows), strict=True):
                logits_CV = F.linear(hidden.to(head_VD.dtype), head_VD, bias_V)
                if scale != 1:
                    logits_CV *= scale
                slope_CV = None
                if cap is not None:
                    logits_CV.div_(cap).tanh_()
                    # The slope of the cap is 1 - tanh^2.
                    slope_CV = 1 - logits_CV.square() if needs_grad else None
                    logits_CV *= cap
                nll.append(ops.cross_entropy_(logits_CV, labels, needs_grad))
                if needs_grad:
                    # They have become their gradient.
                    logits_CV = logits_CV if slope_CV is None else logits_CV.mul_(slope_CV)
                    grads.append((logits_CV if scale == 1 else logits_CV.mul_(scale)) @ head_VD)
                del logits_CV, slope_CV
        if needs_grad:
            ctx.save_for_backward(torch.cat(grads))
            ctx.dtype = hidden_ND.dtype
        return torch.cat(nll)

    @staticmethod
    def backward(ctx: Any, *grads_nll: Any) -> Any:
        (grad_ND,) = ctx.saved_tensors
        return (grad_ND * grads_nll[0].unsqueeze(1)).to(ctx.dtype), *(None,) * 6


@torch.no_grad()
def head_of(model: Any) -> Head | None:
    """Return the output head of a model; None where its logits can't be explained, or with a learned prompt of PEFT.

    The adapters are within the backbone and the head.
    """
    base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
    module = base.get_output_embeddings()
    if has_learned_prompt(model) or module is None or base.base_model is base:
        return None
    if getattr(getattr(module, "weight", None), "dim", int)() != 2:
        return None
    was_training = base.training
    base.eval()
    try:
        like = _hidden(base, module)
        pairs = [] if like is None else [_tested(base, module, like, level) for level in _LEVELS]
    except (AttributeError, RuntimeError, TypeError, ValueError):  # whatever a model raises that is made otherwise
        return None
    finally:
        base.train(was_training)
    if not pairs:
        return None
    plain, whole = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    if plain.shape != whole.shape:
        return None
    # Most guesses are wrong, which a part of the vocabulary shows.
    some = slice(None, None, 1 + plain.shape[1] // _TEST_ENTRIES)
    for scale, cap in _guesses(base.config):
        head = Head(module, scale, cap)
        if _are_equal(head.finish(plain[:, some]), whole[:, some]) and _are_equal(head.finish(plain), whole):
            return head
    return None


def _hidden(base: Any, module: Any) -> torch.Tensor | None:
    """Return the backbone's output [1, T, D] for a short text; None if the head gets something else from the model."""
    ids_BT = torch.arange(_TEST_TOKENS, device=next(module.parameters()).device).unsqueeze(0)
    seen: list[torch.Tensor] = []
    hook = module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        base(input_ids=ids_BT, use_cache=False)
    finally:
        hook.remove()
    hidden: torch.Tensor = base.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
    is_it = len(seen) == 1 and seen[0].shape == hidden.shape and _are_equal(seen[0], hidden)
    return hidden if is_it else None


def _tested(base: Any, module: Any, like: torch.Tensor, level: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what the linear layer makes of some hidden states, [T, V], and the model's logits for them.

    Args:
        like: hidden states of the model.
        level: the standard deviation of the logits.
    """
    # From a generator of their own: the run's random numbers stay as they are.
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(0))
    hidden = drawn.to(like.device, next(module.parameters()).dtype)
    hidden *= level / max(float(module(hidden).float().std()), 1e-6)
    frozen = Head(module).is_frozen
    linear = F.linear(hidden, module.weight, module.bias) if frozen else module(hidden)
    hook = module.register_forward_pre_hook(lambda _, inputs: (hidden, *inputs[1:]))
    try:
        whole = base(input_ids=torch.zeros(like.shape[:2], dtype=torch.int64, device=like.device), use_cache=False)
    finally:
        hook.remove()
    return linear[0], whole.logits[0]


def _guesses(config: Any) -> Iterator[tuple[float, float | None]]:
    """Yield each (scale, cap) that the numbers of a configuration allow, nothing at all first."""
    text = config.get_text_config(decoder=True)
    numbers = sorted({
        float(value) for value in text.to_dict().values()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0 and value != 1
    })  # fmt: skip
    scales = [1.0, *(scale for number in numbers for scale in (number, 1 / number))]
    # By how much is changed: most models change nothing, few of them twice.
    yield from sorted(product(scales, [None, *numbers]), key=lambda one: (one[0] != 1) + (one[1] is not None))


def _are_equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two ways to the same logits differ by the rounding of the last operations alone."""
    rounding = 2 * max(torch.finfo(one.dtype).eps, torch.finfo(other.dtype).eps)
    return torch.allclose(one.double(), other.double(), rtol=rounding, atol=rounding)


def _at_least_fp32(logits: torch.Tensor) -> torch.Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()
