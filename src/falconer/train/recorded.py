"""Micro-batches of the generic path as CUDA graphs: forward and backward pass with one launch each.

A pass of a small model has thousands of kernels, and Python takes longer to start them than the GPU to compute them. A
graph starts them all at once. What differs between micro-batches is read from one tensor: token ids, the places that
predict targets, the targets, and the seeds of dropouts. They are drawn as they are for a pass that is not recorded, so
that a step has the same dropouts either way.

Only losses of targets leave a graph, and their gradients enter it, so that an objective may make of them what it likes.
Gradients of what is trained are added up in one tensor, of which the parameters' gradients are parts.

Whether a model gives the same in a graph as it does without is tried (`Recorded.why_not_alike`); where it does not, or
recording fails, micro-batches are computed as usual.

Shapes: B batch, T tokens, N targets, D hidden.
"""

import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache

from falconer import runtime
from falconer.model.falcon.frozen_linear import is_nf4
from falconer.model.layers.ops import ops_of
from falconer.model.layers.replace import refresh_of
from falconer.model.likelihood import target_nll
from falconer.model.output_head import Head
from falconer.model.probe import are_alike
from falconer.records import Batch
from falconer.train.padded_batch import Shape, assigned, padded, shape_of, with_padding
from falconer.train.same_masks import Masked, NoteMasks, SameMasks


@dataclass(frozen=True, slots=True)
class Pass:
    """A recorded pass of one shape.

    Args:
        forward, backward: compute `nll` from `given`, and add to the gradients what `grad` makes of them.
        given: int64, see `Recorded._given`.
        nll, grad: of each target, in nats, and the gradient of it; fp32 [N].
    """

    forward: Callable[[], None]
    backward: Callable[[], None]
    given: torch.Tensor
    nll: torch.Tensor
    grad: torch.Tensor


class Recorded:
    """The recorded passes of one model, which share their memory. `why_not` says why none is used any more.

    Args:
        model: with falconer's own layers, see `why_not_recorded`.
        parameters: all that is trained.
        shapes: of the micro-batches, see `padded_batch.shapes_for`; each is recorded when it is first needed.
        pad_id: any token that the model knows.
    """

    def __init__(
        self, model: Any, head: Head, parameters: Sequence[nn.Parameter], shapes: Sequence[Shape], pad_id: int
    ) -> None:
        self._model, self._head, self._shapes, self._pad_id = model, head, tuple(shapes), pad_id
        self._parameters, self._refresh = list(parameters), refresh_of(model)
        self._device = self._parameters[0].device
        self._ops = ops_of(self._device)
        self._total = torch.zeros(
            sum(p.numel() for p in self._parameters), dtype=self._parameters[0].dtype, device=self._device
        )
        parts = self._total.split([p.numel() for p in self._parameters])
        self._parts = [part.view_as(p) for part, p in zip(parts, self._parameters, strict=True)]
        # Autograd asks for a backward pass only of what depends on a tensor with a gradient.
        self._anchor = torch.zeros((), device=self._device, requires_grad=True)
        self._passes: dict[Shape, Pass] = {}
        self._pool: Any = None
        self._stream: Any = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None
        self._turn = 0
        self.why_not = ""

    @property
    def num_recorded(self) -> int:
        """The number of shapes that have been recorded."""
        return len(self._passes)

    def nlls(self, batch: Batch) -> torch.Tensor | None:
        """Return the negative log-likelihood of each of a batch's targets, as `train.step.nlls` does.

        The backward pass of one batch must come before the next batch.

        Returns:
            Nats, fp32 [N]; None if this batch has to be computed as usual.
        """
        if self.why_not or not (self._model.training and torch.is_grad_enabled()) or not self.takes(batch):
            return None
        shape = assigned(shape_of(batch), self._shapes)
        if shape is None:
            return None
        given = self._given(batch, shape)
        recorded = self._passes.get(shape) or self._tried(shape, given)
        if recorded is None:
            return None
        recorded.given.copy_(given, non_blocking=True)
        self._turn += 1
        nll: torch.Tensor = _Replayed.apply(self._anchor, self, recorded, batch.num_targets)
        return nll

    @staticmethod
    def takes(batch: Batch) -> bool:
        """Return whether batches of this kind can be recorded: rows of one text each, with targets."""
        return batch.tree is None and batch.num_targets > 0

    def positions(self, batch: Batch) -> int:
        """Return the positions that are computed of a batch, with its padding; 0 if it is not recorded."""
        shape = assigned(shape_of(batch), self._shapes)
        return shape.positions if shape else 0

    def why_not_alike(self, batch: Batch) -> str:
        """Compute a batch both ways, with the same dropouts; return why the recorded one can't be used, "" if it can.

        The gradients of the parameters are None afterwards.
        """
        shape = assigned(shape_of(batch), self._shapes)
        if not self.takes(batch) or shape is None:
            return "micro-batches of this kind are not recorded"
        whole = with_padding(batch, shape, self._pad_id)

        def as_usual() -> torch.Tensor:
            with runtime.autocast(self._device.type, None):
                return target_nll(self._model, whole, head_on_targets=self._head)

        expected, found = self._outcome(as_usual), self._outcome(lambda: self.nlls(batch))
        if not self.why_not and (expected is None or found is None):
            self.why_not = "the model is not in training"
        if expected and found and not self.why_not:
            pairs = zip(expected, found, strict=True)
            if not all(are_alike(self._model, one, other, torch.bfloat16) for one, other in pairs):
                self.why_not = "a recorded pass gives another loss or gradient"
        if self.why_not:
            self.free()
        return self.why_not

    def free(self) -> None:
        """Give all recorded passes and their memory back."""
        self._passes.clear()
        self._pool = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def attach_gradients(self) -> None:
        """Make the parameters' gradients parts of one tensor, to which recorded passes add; they keep their values."""
        pairs = list(zip(self._parameters, self._parts, strict=True))
        if all(p.grad is part for p, part in pairs):
            return
        if begins := all(p.grad is None for p in self._parameters):
            self._total.zero_()
        for p, part in pairs:
            if p.grad is None and not begins:
                part.zero_()
            elif p.grad is not None and p.grad is not part:
                part.copy_(p.grad)
            p.grad = part

    def check_turn(self, turn: int) -> None:
        """Check that nothing has been computed since a forward pass, whose memory it would have overwritten.

        Raises:
            RuntimeError: something has.
        """
        if turn != self._turn:
            raise RuntimeError("another recorded pass has been computed before this one's backward pass")

    @property
    def turn(self) -> int:
        """The number of the last forward pass."""
        return self._turn

    def _given(self, batch: Batch, shape: Shape) -> torch.Tensor:
        """Return all that a pass reads, int64 [B*T + 2 N + seeds]; the seeds are drawn."""
        given = torch.cat([torch.from_numpy(padded(batch, shape, self._pad_id)), self._refresh.draw()])
        return given.pin_memory() if self._device.type == "cuda" else given

    def _outcome(self, compute: Callable[[], torch.Tensor | None]) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Return the losses of targets, and the gradient of their mean by all parameters, one after the other."""
        runtime.seed_everything(0)
        nll = compute()
        if nll is None:
            return None
        nll.mean().backward()
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        outcome = nll.detach().clone(), torch.cat([grad.flatten() for grad in grads])
        for p in self._parameters:
            p.grad = None
        return outcome

    def _tried(self, shape: Shape, given: torch.Tensor) -> Pass | None:
        """Record a shape; if that fails, nothing is recorded any more."""
        try:
            with _restored(self._device):
                self._passes[shape] = self._record(shape, given)
            return self._passes[shape]
        except torch.OutOfMemoryError:
            self.why_not = "memory does not suffice for recording"
        # Whatever a model does that can't be recorded, such as looking at values on the host.
        except (RuntimeError, TypeError, ValueError, AttributeError, LookupError) as error:
            self.why_not = f"recording fails ({type(error).__name__}: {(str(error).splitlines() or [''])[0]})"
        # After the except clause: inside it, the traceback still references the tensors to be freed.
        self.free()
        return None

    def _record(self, shape: Shape, given: torch.Tensor) -> Pass:
        held, grad = given.to(self._device), torch.zeros(shape.targets, device=self._device)
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            # The first run compiles kernels and loads libraries, which is not possible while recording; the second one
            # finds what waits for the GPU, which is not, either, and harder to recover from.
            for finds_waiting in (False, True):
                masks: list[Masked] = []
                with _refused_waiting(finds_waiting), NoteMasks(masks):
                    nll = self._compute(held, shape)
                    torch._foreach_add_(*self._gradients(nll, grad)[::-1])
                del nll
        current.wait_stream(self._stream)
        # Nothing of an earlier pass may hang on the parameters: its stream would be waited for.
        gc.collect()
        forward, backward = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        # Other threads, such as that of a process group, may go on meanwhile.
        with (
            torch.cuda.graph(forward, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
            SameMasks(masks),
        ):
            nll = self._compute(held, shape)
        self._pool = forward.pool() if self._pool is None else self._pool
        with torch.cuda.graph(backward, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            torch._foreach_add_(*self._gradients(nll, grad))
        return Pass(forward.replay, backward.replay, held, nll.detach(), grad)

    def _compute(self, given: torch.Tensor, shape: Shape) -> torch.Tensor:
        """Return the negative log-likelihood of the targets of a padded batch, [N]; nothing here waits for the GPU."""
        sizes = [shape.positions, shape.targets, shape.targets, self._refresh.num_seeds]
        ids, predicting_N, labels_N, seeds = given.split(sizes)
        backbone = self._model.get_base_model().base_model
        with torch.enable_grad(), runtime.autocast(self._device.type, None), self._refresh.given(seeds):
            hidden_BTD = backbone(
                input_ids=ids.view(shape.rows, shape.tokens), use_cache=False, past_key_values=_NothingKept()
            ).last_hidden_state
            return self._head.nll(hidden_BTD.flatten(0, 1).index_select(0, predicting_N), labels_N, self._ops)

    def _gradients(self, nll: torch.Tensor, grad: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the parts of the parameters that the losses depend on, and their gradients."""
        grads = torch.autograd.grad(nll, self._parameters, grad, allow_unused=True)
        pairs = [(part, one) for part, one in zip(self._parts, grads, strict=True) if one is not None]
        return [part for part, _ in pairs], [one for _, one in pairs]


class _Replayed(torch.autograd.Function):
    """A recorded pass as one step of autograd."""

    @staticmethod
    def forward(ctx: Any, anchor: torch.Tensor, recorded: Recorded, one: Pass, num_targets: int) -> torch.Tensor:
        ctx.recorded, ctx.one, ctx.turn, ctx.num_targets = recorded, one, recorded.turn, num_targets
        one.forward()
        return one.nll[:num_targets].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        recorded, one, num_targets = ctx.recorded, ctx.one, ctx.num_targets
        recorded.check_turn(ctx.turn)
        recorded.attach_gradients()
        one.grad[:num_targets].copy_(grads[0])
        one.grad[num_targets:].zero_()
        one.backward()
        return None, None, None, None


class _NothingKept(DynamicCache):
    """A cache that keeps nothing: without one transformers looks at the positions, to find rows of several texts."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *others: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return key_states, value_states


def why_not_recorded(model: Any, head: Head | None, parameters: Sequence[nn.Parameter]) -> str:
    """Return why the passes of a model with falconer's own layers can't be recorded; "" if it may be tried."""
    if parameters[0].device.type != "cuda":
        return "there is no GPU"
    if not refresh_of(model).has_seeds:
        return "Triton's kernels can't be built here"
    if any(is_nf4(module) for module in model.modules()):
        return "its layers are in 4 bits"
    if head is None or not head.is_frozen:
        return "its output head is trained, or computes something unknown"
    if getattr(model, "is_gradient_checkpointing", False):
        return "blocks are computed again in the backward pass"
    return "" if {p.dtype for p in parameters} == {torch.float32} else "its adapter is not in fp32"


@contextmanager
def _restored(device: torch.device) -> Iterator[None]:
    """Bring stream and generator of a GPU back into order if recording fails, which leaves both as they were in it."""
    if device.type != "cuda":
        yield
        return
    stream = torch.cuda.current_stream(device)
    try:
        yield
    except BaseException:
        torch.cuda.set_stream(stream)
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].graphsafe_set_state(torch.Generator(device))
        raise


@contextmanager
def _refused_waiting(is_refused: bool) -> Iterator[None]:
    """Let operations raise a RuntimeError for which the host waits for the GPU."""
    before = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        # That not every such operation is found.
        warnings.simplefilter("ignore")
        torch.cuda.set_sync_debug_mode("error" if is_refused else before)
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)
