"""Micro-batches of the generic path as CUDA graphs: forward and backward pass with a single launch.

A model of a few hundred million parameters has thousands of small kernels in a pass, and launching them one by one
takes longer than computing them. Micro-batches of one shape, rounded up, share a graph. Nothing in it depends on the
host: token ids, places and the number of targets are read from one tensor, dropout from the generator of the GPU.

Transformers writes out a mask while a graph is recorded, since it can't look at values. Right padding needs none, so
attention is causal instead. Whether a model gives the same result then is tried once; where it does not, or recording
fails, every micro-batch is computed as usual.

Shapes: B batch, T tokens, N targets with padding, D hidden.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from falconer.model.layers.ops import ops_of
from falconer.model.output_head import Head
from falconer.model.probe import are_alike
from falconer.records import Batch

# What a shape is rounded up to, and how many of them are recorded.
_TOKENS_STEP, _TARGETS_STEP = 32, 256
MOST_GRAPHS = 48


class Recorded:
    """The recorded passes of one model, which has falconer's own layers.

    Args:
        parameters: what is trained.
        pad_id: any token that the model knows.
    """

    def __init__(self, model: Any, head: Head, parameters: Sequence[nn.Parameter], pad_id: int) -> None:
        self._model, self._head, self._parameters, self._pad_id = model, head, list(parameters), pad_id
        self._device = self._parameters[0].device
        self._graphs: dict[tuple[int, int, int], _Graph] = {}
        self._pool: Any = None
        self._total = torch.zeros(sum(p.numel() for p in self._parameters), device=self._device)
        self._longest = longest_causal(model.config)
        self.why_not = ""

    def add_gradient(self, batch: Batch, num_targets: int) -> torch.Tensor | None:
        """Add the gradient of a batch's summed loss, divided by a number, and return the sum; None if it can't.

        Args:
            num_targets: what the gradient is divided by.
        """
        shape, packed = pack(batch, num_targets, self._pad_id)
        if self.why_not or shape[1] > self._longest:
            return None
        if shape not in self._graphs:
            if len(self._graphs) == MOST_GRAPHS:
                return None
            try:
                self._graphs[shape] = self._record(shape, packed)
            except (RuntimeError, TypeError, ValueError) as error:  # whatever a model does that can't be recorded
                self.free()
                self.why_not = f"recording fails ({type(error).__name__}: {str(error).splitlines()[0]})"
                return None
        graph = self._graphs[shape]
        graph.input.copy_(packed.pin_memory(), non_blocking=True)
        graph.graph.replay()
        self._total += graph.gradient
        return graph.loss.clone()

    def take(self) -> torch.Tensor:
        """Return the gradients that were added, one after the other, and begin anew."""
        taken = self._total.clone()
        self._total.zero_()
        return taken

    def free(self) -> None:
        """Give all graphs and their memory back."""
        self._graphs.clear()
        self._pool = None
        torch.cuda.empty_cache()

    def prove(self, batch: Batch) -> str:
        """Try a batch both ways, without dropout; return why nothing is recorded, "" if it can be.

        Nothing of the try is left.
        """
        was_training = self._model.training
        self._model.eval()
        try:
            shape, packed = pack(batch, batch.num_targets, self._pad_id)
            expected = [one.clone() for one in self._compute(packed.to(self._device), shape, is_plain=True)]
            loss = self.add_gradient(batch, batch.num_targets)
            if loss is not None:
                found = (loss, self.take())
                pairs = zip(expected, found, strict=True)
                if not all(are_alike(self._model, one, two, torch.bfloat16) for one, two in pairs):
                    self.why_not = "a recorded pass gives another result"
        finally:
            self._model.train(was_training)
            self.free()
        return self.why_not

    def _record(self, shape: tuple[int, int, int], packed: torch.Tensor) -> "_Graph":
        given = packed.to(self._device)
        aside = torch.cuda.Stream(self._device)
        aside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(aside):
            # Kernels are compiled by the first run, which is not possible while recording.
            self._compute(given, shape, is_plain=False)
        torch.cuda.current_stream(self._device).wait_stream(aside)
        # What the first run used is not kept beside the graph's own memory.
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            loss, gradient = self._compute(given, shape, is_plain=False)
        self._pool = self._pool or graph.pool()
        return _Graph(graph, given, loss, gradient)

    def _compute(
        self, given: torch.Tensor, shape: tuple[int, int, int], *, is_plain: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the summed loss of a packed batch and all gradients, one after the other."""
        rows, tokens, targets = shape
        ids_BT, predicting_N, labels_N, numbers = given.split([rows * tokens, targets, targets, 2])
        is_target_N = torch.arange(targets, device=self._device) < numbers[0]
        backbone = self._model.get_base_model().base_model
        with torch.enable_grad():
            if is_plain:
                output = backbone(input_ids=ids_BT.view(rows, tokens), use_cache=False)
            else:
                with CausalAttention(self._model.config):
                    output = backbone(input_ids=ids_BT.view(rows, tokens), use_cache=False)
            hidden_ND = output.last_hidden_state.flatten(0, 1).index_select(0, predicting_N)
            nll_N = self._head.nll(hidden_ND, labels_N, ops_of(self._device))
            loss = torch.where(is_target_N, nll_N, 0.0).sum()
            grads = torch.autograd.grad(loss / numbers[1], self._parameters, allow_unused=True)
        pairs = zip(grads, self._parameters, strict=True)
        flat = torch.cat([(torch.zeros_like(p) if grad is None else grad).flatten() for grad, p in pairs])
        return loss.detach(), flat


class _Graph:
    """A recorded pass, with the tensors that it reads and writes."""

    def __init__(self, graph: Any, given: torch.Tensor, loss: torch.Tensor, gradient: torch.Tensor) -> None:
        self.graph, self.input, self.loss, self.gradient = graph, given, loss, gradient


class CausalAttention(TorchFunctionMode):
    """Attention looks at all tokens before, whatever mask it is given, and key/value heads are not repeated.

    Raises:
        RuntimeError: the mask is a bias, as that of ALiBi.
    """

    def __init__(self, config: Any) -> None:
        super().__init__()
        text = config.get_text_config(decoder=True)
        self._num_heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", None) or 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **named)
        query, key, value, *_ = args
        mask = named.get("attn_mask")
        if mask is not None and mask.is_floating_point():
            raise RuntimeError("attention has a bias")
        times = key.shape[1] // self._num_heads
        if times > 1 and key.shape[1] == query.shape[1]:
            key, value = (one[:, ::times].contiguous() for one in (key, value))
        named |= {"attn_mask": None, "is_causal": True, "enable_gqa": key.shape[1] != query.shape[1]}
        return func(query, key, value, **named)


def longest_causal(config: Any) -> int:
    """Return up to how many tokens every layer of a model sees all tokens before: the smallest window or chunk."""
    numbers = config.get_text_config(decoder=True).to_dict()
    windows = [
        value for name, value in numbers.items()
        if name.endswith(("window", "window_size", "chunk_size")) and isinstance(value, int) and value > 0
    ]  # fmt: skip
    return min(windows, default=1 << 30)


def pack(batch: Batch, num_targets: int, pad_id: int) -> tuple[tuple[int, int, int], torch.Tensor]:
    """Return the rounded shape (rows, tokens, targets) of a batch, and all that a pass reads as one tensor, int64.

    Args:
        num_targets: what the gradient is divided by.
    """
    rows, width = batch.ids.shape
    tokens = -(-width // _TOKENS_STEP) * _TOKENS_STEP
    places = np.argwhere(batch.is_target)
    targets = -(-len(places) // _TARGETS_STEP) * _TARGETS_STEP
    ids = np.full((rows, tokens), pad_id, dtype=np.int64)
    ids[:, :width] = batch.ids
    predicting, labels = np.zeros(targets, dtype=np.int64), np.zeros(targets, dtype=np.int64)
    predicting[: len(places)] = places[:, 0] * tokens + places[:, 1] - 1
    labels[: len(places)] = batch.ids[batch.is_target]
    packed = np.concatenate([ids.flatten(), predicting, labels, [len(places), num_targets]])
    return (rows, tokens, targets), torch.from_numpy(packed)
