"""Falcon-7B's own forward and backward pass over the parameters of a Hugging Face (PEFT, 4-bit) model.

A block of the 7B layout: one norm feeds attention and MLP in parallel, and both are added to the residual stream.

        hidden ---> norm ---+--> query_key_value -> rotate -> attention -> dense --+
           |                |                                                      |
           |                +--> dense_h_to_4h --> GELU --> dense_4h_to_h ------+  |
           +----------------------------------------------------------------- (+)(+)--> hidden

`FastPath.forward` stands in for the model's own where that computes the same: no cache, no mask. Classes and parameters
stay as they are, so `generate`, `save_pretrained` and PEFT see a stock model.

The whole stack is one autograd function: the base is frozen, so its backward pass needs no weight gradient, only what
leads to the adapters. In `fast` memory it finds every block's values as they were; in `lean` memory only each block's
input, from which it makes them again.

Shapes: M tokens, D hidden, N outputs, Q query heads, H head size, F ffn, R LoRA rank, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from falconer.kernels.formats import Attended, Dropout, Fp8, Layout, Norm, Normed, Operand, Want
from falconer.model.falcon.adapters import Adapter, adapter_of
from falconer.model.falcon.frozen_linear import FrozenLinear
from falconer.model.falcon.offload import HostStore

Memory = Literal["fast", "lean"]
QKV, DENSE, UP, DOWN = "query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"
# In the order in which the model's own forward runs them, and draws their dropout.
LINEARS = (QKV, DENSE, UP, DOWN)


@dataclass(frozen=True, slots=True)
class Block:
    """One layer: its norm, the modules of its linear layers, and their frozen parts."""

    norm: Norm
    modules: dict[str, Any]
    frozen: dict[str, FrozenLinear]


@dataclass(slots=True)
class _Kept:
    """What the backward pass needs of a block.

    Args:
        normed: the norm's output.
        for_mlp, for_dense: inputs of the MLP (the norm's output) and of the dense layer (attention's), which in the
            last block are those at the wanted rows.
        low: the LoRAs' inner activations [M, R].
    """

    normed: Normed
    for_mlp: Normed
    for_dense: torch.Tensor
    qkv: torch.Tensor
    attended: Attended
    pre: torch.Tensor
    low: dict[str, torch.Tensor]


class FastPath:
    """The pass over one model; `forward` stands in for its backbone's.

    Args:
        transformer: the `FalconModel`, of a layout that `falconer.model.falcon.attach.why_generic` has nothing against.
        ops: `kernels.reference` or `kernels.fused`.
        fp8: frozen products in FP8.
        memory: "fast" keeps every block's values for the backward pass, "lean" only its input, on the host.
        hold: keep unpacked weights.
        fused: multiply few rows with 4-bit weights as they are.
    """

    def __init__(
        self, transformer: Any, ops: ModuleType, *, fp8: bool, memory: Memory, hold: bool, fused: bool = False
    ) -> None:
        self.transformer, self.ops, self.fp8, self.memory = transformer, ops, fp8, memory
        embedding = transformer.word_embeddings.weight
        self.dtype, self.device = embedding.dtype, embedding.device
        self.want = Want(plain=not fp8, fp8=fp8)
        config = transformer.config
        self.num_queries, self.head_size = config.num_attention_heads, config.head_dim
        self.blocks = [self._block(layer, hold, fused) for layer in transformer.h]
        self.final_norm = _norm(transformer.ln_f)
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        positions = torch.arange(config.max_position_embeddings, device=self.device).unsqueeze(0)
        # In at least fp32, whatever the weights are in: positions are too fine for bf16.
        exact = torch.zeros((), dtype=torch.promote_types(self.dtype, torch.float32), device=self.device)
        cos, sin = transformer.rotary_emb(exact, positions)
        half = self.head_size // 2
        self.cos, self.sin = cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()

    def _block(self, layer: Any, hold: bool, fused: bool) -> Block:
        modules = linears_of(layer)
        frozen = {
            name: FrozenLinear(
                getattr(module, "base_layer", module), self.ops, self.dtype, fp8=self.fp8, hold=hold, fused=fused
            )
            for name, module in modules.items()
        }
        return Block(_norm(layer.input_layernorm), modules, frozen)

    def forward(self, input_ids: torch.Tensor | None = None, **others: Any) -> Any:
        """Do what `FalconModel.forward` does; with a cache, a mask or anything else unusual, have it done by that."""
        known = ("use_cache", "return_dict")
        is_unusual = any(value is not None for name, value in others.items() if name not in known)
        if input_ids is None or is_unusual or others.get("use_cache", self.transformer.config.use_cache):
            return type(self.transformer).forward(self.transformer, input_ids=input_ids, **others)
        num_rows, longest = input_ids.shape
        hidden_MD = self.hidden_states(input_ids.flatten(), Layout(num_rows, longest))
        hidden: Any = hidden_MD.view(num_rows, longest, -1)
        out = BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden)
        return out if others.get("return_dict") is not False else out.to_tuple()

    def hidden_states(self, ids_M: torch.Tensor, layout: Layout, rows: torch.Tensor | None = None) -> torch.Tensor:
        """Return the last norm's output.

        Args:
            ids_M: token ids of all dialogues, one after the other, int64.
            layout: where each begins.
            rows: int64 positions whose output is wanted; None: all.

        Returns:
            [M or len(rows), D], in the weights' dtype.
        """
        adapters = [self._adapters(block) for block in self.blocks]
        tensors = [tensor for block in adapters for adapter in block.values() for tensor in (adapter.a, adapter.b)]
        if not torch.is_grad_enabled():
            # Inside an autograd function it can't be seen that nobody will go back.
            tensors = [tensor.detach() for tensor in tensors]
        with torch.autocast(self.device.type, enabled=False):
            return _Stack.apply(self, ids_M, layout, rows, adapters, *tensors)

    def _adapters(self, block: Block) -> dict[str, Adapter]:
        found = {name: adapter_of(module) for name, module in block.modules.items()}
        return {name: adapter for name, adapter in found.items() if adapter is not None}

    def draw(self, adapters: dict[str, Adapter], num_tokens: int) -> dict[str, Dropout]:
        """Draw the dropout of a block's LoRA inputs, in the order in which the model itself would."""
        return {
            name: self.ops.draw_dropout(num_tokens, adapters[name].a.shape[1], adapters[name].dropout, self.device)
            for name in LINEARS
            if name in adapters and adapters[name].dropout > 0
        }

    def operand(self, x: torch.Tensor) -> Operand:
        """Return a matrix as the frozen products take it."""
        return Operand(None, self.ops.quantise(x)) if self.fp8 else Operand(x, None)


class _Pass:
    """One forward pass and its backward pass: the batch's layout and the adapters as they were."""

    def __init__(
        self, path: FastPath, layout: Layout, rows: torch.Tensor | None, num_tokens: int,
        adapters: list[dict[str, Adapter]],
    ) -> None:  # fmt: skip
        self.path, self.ops, self.layout = path, path.ops, layout
        # What stands behind attention in the last block works on the wanted rows alone: nobody sees the others.
        self.rows, self.num_tokens = rows, num_tokens
        self.adapters = [{name: adapter.cast(path.dtype) for name, adapter in block.items()} for block in adapters]
        if layout.starts is None:
            self.positions = torch.arange(num_tokens, device=path.device) % layout.longest
        else:
            begins = layout.starts[:-1].long().repeat_interleave(layout.starts.diff().long(), output_size=num_tokens)
            self.positions = torch.arange(num_tokens, device=path.device) - begins
        self.draws = [path.draw(block, num_tokens) for block in self.adapters]
        if rows is not None:
            self.draws[-1] = {
                name: draw if name == QKV or isinstance(draw.mask, int) else Dropout(draw.share, draw.mask[rows])
                for name, draw in self.draws[-1].items()
            }

    def rows_above(self, number: int) -> torch.Tensor | None:
        """Return the rows that a block's MLP and dense layer work on; None: all."""
        return self.rows if number == len(self.path.blocks) - 1 else None

    def are_alike(self, number: int, *names: str) -> bool:
        """Tell whether layers of a block have LoRAs of one rank and one share of dropout."""
        found = [self.adapters[number].get(name) for name in names]
        kinds = {(adapter.a.shape, adapter.dropout) if adapter else None for adapter in found}
        return None not in kinds and len(kinds) == 1

    def spread(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """Return a gradient at the rows above in the place of all rows, zero elsewhere."""
        rows = self.rows_above(number)
        return x if rows is None else x.new_zeros(self.num_tokens, x.shape[1]).index_copy_(0, rows, x)

    def first_half(self, number: int, normed: Normed, x: Operand) -> _Kept:
        """Do what both passes need of a block: attention, and the MLP up to its GELU."""
        path, ops = self.path, self.ops
        frozen, adapters, draws = path.blocks[number].frozen, self.adapters[number], self.draws[number]
        low: dict[str, torch.Tensor] = {}
        qkv = frozen[QKV].product(x)
        rows = self.rows_above(number)
        if rows is None and self.are_alike(number, QKV, UP):
            # Both read the norm's output: it is made again for both at once.
            low[QKV], low[UP] = ops.lora_down_pair(
                normed, adapters[QKV].a, draws.get(QKV), adapters[UP].a, draws.get(UP)
            )
        elif QKV in adapters:
            low[QKV] = ops.lora_down(normed, adapters[QKV].a, draws.get(QKV))
        b = adapters[QKV].b if QKV in adapters else None
        ops.rotate_(qkv, low.get(QKV), b, path.cos, path.sin, self.positions, path.head_size)
        attended = ops.attention(qkv, self.layout, path.head_size)
        for_mlp, for_dense = normed, attended.out
        if rows is not None:
            x, for_mlp, for_dense = _operand_at(x, rows), _normed_at(normed, rows), attended.out[rows]
        pre = frozen[UP].product(x)
        if UP in adapters:
            if UP not in low:
                low[UP] = ops.lora_down(for_mlp, adapters[UP].a, draws.get(UP))
            pre.addmm_(low[UP], adapters[UP].b.T)
        return _Kept(normed, for_mlp, for_dense, qkv, attended, pre, low)

    def second_half(self, number: int, kept: _Kept) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the block's two branches [M, D]."""
        path, ops = self.path, self.ops
        frozen, adapters, draws = path.blocks[number].frozen, self.adapters[number], self.draws[number]
        branch = frozen[DENSE].product(path.operand(kept.for_dense))
        if DENSE in adapters:
            kept.low[DENSE] = ops.lora_down(kept.for_dense, adapters[DENSE].a, draws.get(DENSE))
            branch.addmm_(kept.low[DENSE], adapters[DENSE].b.T)
        inner = ops.gelu(kept.pre, Want(plain=path.want.plain or DOWN in adapters, fp8=path.fp8))
        second = frozen[DOWN].product(inner)
        if DOWN in adapters:
            kept.low[DOWN] = ops.lora_down(inner.plain, adapters[DOWN].a, draws.get(DOWN))
            second.addmm_(kept.low[DOWN], adapters[DOWN].b.T)
        return branch, second

    def block_grad(
        self, number: int, kept: _Kept, grad: Operand, is_last: bool
    ) -> tuple[Operand | None, dict[str, tuple[torch.Tensor, torch.Tensor]]]:
        """Return the gradient of a block's input (None if `is_last`, since nothing below needs it), and its adapters'.

        Args:
            grad: of the block's output, which both branches and the residual stream share.
        """
        path, ops = self.path, self.ops
        frozen, adapters, draws = path.blocks[number].frozen, self.adapters[number], self.draws[number]
        grads: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

        def adapt(name: str, grad_MN: torch.Tensor, x: torch.Tensor | Normed, grad_MK: torch.Tensor | None) -> None:
            adapter, draw = adapters[name], draws.get(name)
            grad_low = grad_MN @ adapter.b
            grads[name] = (ops.lora_grad_a(grad_low, x, draw), adapter.scale * (grad_MN.T @ kept.low[name]))
            if grad_MK is not None:
                ops.lora_grad_input_(grad_MK, grad_low, adapter.a, draw)

        assert grad.plain is not None
        grads_x: list[torch.Tensor] = []
        through_mlp = not is_last or UP in adapters
        if through_mlp:
            grad_inner = frozen[DOWN].grad_input(grad)
        if DOWN in adapters:
            inner = ops.gelu(kept.pre, Want(plain=True, fp8=False)).plain
            if DOWN not in kept.low:
                kept.low[DOWN] = ops.lora_down(inner, adapters[DOWN].a, draws.get(DOWN))
            adapt(DOWN, grad.plain, inner, grad_inner if through_mlp else None)
            del inner
        if through_mlp:
            grad_pre = ops.gelu_grad(grad_inner, kept.pre, Want(path.want.plain or UP in adapters, path.fp8))
            del grad_inner
            if not is_last:
                grads_x.append(frozen[UP].grad_input(grad_pre))
            if UP in adapters:
                adapt(UP, grad_pre.plain, kept.for_mlp, None if is_last else grads_x[0])
            del grad_pre
            grads_x = [self.spread(number, grad_x) for grad_x in grads_x]
        through_attention = not is_last or QKV in adapters
        if through_attention:
            grad_attended = frozen[DENSE].grad_input(grad)
        if DENSE in adapters:
            if DENSE not in kept.low:
                kept.low[DENSE] = ops.lora_down(kept.for_dense, adapters[DENSE].a, draws.get(DENSE))
            adapt(DENSE, grad.plain, kept.for_dense, grad_attended if through_attention else None)
        if not through_attention:
            return None, grads
        grad_attended = self.spread(number, grad_attended)
        grad_heads = ops.attention_grad(grad_attended, kept.qkv, kept.attended, self.layout, path.head_size)
        want = Want(path.want.plain or QKV in adapters, path.fp8)
        grad_qkv = ops.rotate_grad(*grad_heads, path.cos, path.sin, self.positions, want)
        del grad_heads, grad_attended
        if not is_last:
            grads_x.append(frozen[QKV].grad_input(grad_qkv))
        if QKV in adapters:
            adapt(QKV, grad_qkv.plain, kept.normed, None if is_last else grads_x[1])
        if is_last:
            return None, grads
        residual = self.spread(number, grad.plain)
        return ops.layer_norm_grad(grads_x, kept.normed, residual, Want(plain=True, fp8=path.fp8)), grads


class _Stack(torch.autograd.Function):
    """All blocks and the last norm; differentiable in the adapters."""

    @staticmethod
    def forward(
        ctx: Any, path: FastPath, ids_M: torch.Tensor, layout: Layout, rows: torch.Tensor | None,
        adapters: list[dict[str, Adapter]], *tensors: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        ops, run = path.ops, _Pass(path, layout, rows, len(ids_M), adapters)
        needs_grad = any(ctx.needs_input_grad)
        # Nothing below the lowest adapter needs a gradient.
        lowest = min((number for number, block in enumerate(adapters) if block), default=len(adapters))
        kept: dict[int, _Kept] = {}
        inputs = HostStore(path.stream)
        hidden = path.transformer.word_embeddings(ids_M)
        branches: Sequence[torch.Tensor] = ()
        for number, block in enumerate(path.blocks):
            normed, x = ops.add_layer_norm(hidden, branches, block.norm, path.want)
            hidden = normed.hidden
            half = run.first_half(number, normed, x)
            del x
            branches = run.second_half(number, half)
            if needs_grad and number >= lowest:
                if path.memory == "fast":
                    kept[number] = half
                else:
                    inputs.put(number, hidden)
            del half
        if rows is not None:
            hidden = hidden[rows]
        last, out = ops.add_layer_norm(hidden, branches, path.final_norm, Want(plain=True, fp8=False))
        if needs_grad:
            ctx.run, ctx.kept, ctx.inputs, ctx.last, ctx.lowest = run, kept, inputs, last, lowest
        return out.plain

    @staticmethod
    def backward(ctx: Any, *grads_out: Any) -> Any:
        run: _Pass = ctx.run
        path, ops = run.path, run.ops
        plain = Want(plain=True, fp8=False)
        grad = ops.layer_norm_grad([grads_out[0].contiguous()], ctx.last, None, plain).plain
        current: Operand | None = Operand(grad, ops.quantise(grad)) if path.fp8 else Operand(grad, None)
        del grad
        ctx.last = None
        found: list[dict[str, tuple[torch.Tensor, torch.Tensor]]] = [{} for _ in path.blocks]
        for number in range(len(path.blocks) - 1, ctx.lowest - 1, -1):
            if path.memory == "fast":
                kept = ctx.kept.pop(number)
            else:
                hidden = ctx.inputs.take(number)
                ctx.inputs.fetch(number - 1)
                normed, x = ops.add_layer_norm(hidden, (), path.blocks[number].norm, path.want)
                kept = run.first_half(number, normed, x)
                del hidden, normed, x
            assert current is not None
            current, found[number] = run.block_grad(number, kept, current, number == ctx.lowest)
            del kept
        tensors = [
            part
            for number, block in enumerate(run.adapters)
            for name, adapter in block.items()
            for part in (g.to(adapter.source) for g in found[number][name])
        ]
        return None, None, None, None, None, *tensors


def _operand_at(x: Operand, rows: torch.Tensor) -> Operand:
    """Return some rows of a matrix."""
    if x.fp8 is None:
        assert x.plain is not None
        return Operand(x.plain[rows], None)
    # As bytes: torch has no indexing for 8-bit floats.
    values = x.fp8.values.view(torch.uint8)[rows].view(x.fp8.values.dtype)
    return Operand(None, Fp8(values, x.fp8.scale[rows]))


def _normed_at(x: Normed, rows: torch.Tensor) -> Normed:
    return Normed(x.hidden[rows], x.mean[rows], x.rstd[rows], x.norm)


def linears_of(layer: Any) -> dict[str, Any]:
    """Return the linear layers of a block by name, under whatever PEFT has put around them."""
    heads, mlp = layer.self_attention, layer.mlp
    return {QKV: heads.query_key_value, DENSE: heads.dense, UP: mlp.dense_h_to_4h, DOWN: mlp.dense_4h_to_h}


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), module.bias.detach(), module.eps)
