"""The fast path for training: forward and backward pass over all blocks, using the parameters of a transformers model.

A block of Falcon-7B: one norm feeds attention and MLP in parallel, and both are added to the residual stream. In
Falcon-40B, attention and MLP have a norm each, with the same input; `layout.py` has all such differences.

        hidden ---> norm ---+--> query_key_value -> rotate -> attention -> dense --+
           |                |                                                      |
           |                +--> dense_h_to_4h --> GELU --> dense_4h_to_h ------+  |
           +----------------------------------------------------------------- (+)(+)--> hidden

`FastPath.forward` replaces the model's own forward pass for calls without cache and mask. Classes and parameters are
unchanged, so `generate`, `save_pretrained` and PEFT see a stock model. `block_forward.py` and `block_backward.py`
contain the two passes of one block.

The whole stack is one autograd function: the base is frozen, so its backward pass computes no weight gradients of the
base, and nothing below the lowest adapter. What is stored of each block depends on the memory mode:

    value of a block             width, at the 7B         fast                      lean
    hidden, the norm's input     D          4,544         stored                    stored, in pinned host memory
    norm's statistics            2, fp32                  stored                    recomputed with the norm
    norm's output                D          4,544         recomputed when read      recomputed when read
    qkv, rotated                 (Q + 2 G) H  4,672       stored                    recomputed
    attention's output, sums     D, Q fp32  4,615         stored                    recomputed
    pre, the MLP before GELU     F         18,176         stored                    recomputed
    GELU's output                F         18,176         recomputed if adapted     recomputed if adapted
    LoRA inner activations       R each        16         stored                    recomputed
    LoRA dropout                 a seed each (a mask in plain torch), stored in both modes
    dense's, MLP's output        D          4,544         not stored: no gradient needs them

In lean memory a block's input is copied to the host while the next block is computed, and copied back one block early.

Shapes: M tokens, D hidden, Q query heads, G key/value heads, H head size, F ffn, R LoRA rank.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any, Literal

import torch
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions

from falconer.kernels.formats import Both, Dropout, Layout, Norm, Operand, Want
from falconer.kernels.nf4_rows import RowProducts
from falconer.model.falcon.adapters import Adapter, adapter_of
from falconer.model.falcon.block_backward import Grads, block_grad
from falconer.model.falcon.block_forward import Block, BlockPass, Inner, Shared, Tokens, branches, inner_values
from falconer.model.falcon.frozen_linear import FrozenLinear
from falconer.model.falcon.layout import QKV, layout_of, linears_of
from falconer.model.falcon.offload import HostStore

Memory = Literal["fast", "lean"]


class FastPath:
    """The fast path of one model; `forward` replaces that of its backbone.

    Args:
        transformer: the `FalconModel`; `falconer.model.falcon.layout.why_generic` returns "" for it.
        ops: `kernels.reference` or `kernels.fused`.
        fp8: base matmuls in FP8.
        memory: "fast" stores every block's activations for the backward pass, "lean" only its input, on the host.
        cache_weights: cache dequantised weights.
        fused: multiply few rows with the 4-bit weights directly.
        row_kernel: see `FrozenLinear`.
    """

    def __init__(
        self, transformer: Any, ops: ModuleType, *, fp8: bool, memory: Memory, cache_weights: bool, fused: bool = False,
        row_kernel: RowProducts | None = None,
    ) -> None:  # fmt: skip
        self.transformer, self.ops, self.fp8, self.memory = transformer, ops, fp8, memory
        embedding, config = transformer.word_embeddings.weight, transformer.config
        self.model_layout = layout_of(config)
        self.dtype, self.device, self.heads = embedding.dtype, embedding.device, self.model_layout.heads
        positions = torch.arange(config.max_position_embeddings, device=self.device).unsqueeze(0)
        # In at least fp32, whatever the dtype of the weights: bf16 is too coarse for positions.
        exact = torch.zeros((), dtype=torch.promote_types(self.dtype, torch.float32), device=self.device)
        half = self.heads.size // 2
        cos, sin = (table[0, :, :half].contiguous() for table in transformer.rotary_emb(exact, positions))
        self.shared = Shared(ops, self.dtype, self.device, fp8, self.heads, cos, sin)
        products = {"fp8": fp8, "cache_weights": cache_weights, "fused": fused, "row_kernel": row_kernel}
        self.blocks = [self._block(layer, products) for layer in transformer.h]
        self.final_norm = _norm(transformer.ln_f)
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None

    def _block(self, layer: Any, products: dict[str, Any]) -> Block:
        modules = linears_of(layer)
        frozen = {
            name: FrozenLinear(getattr(module, "base_layer", module), self.ops, self.dtype, **products)
            for name, module in modules.items()
        }
        norms = tuple(_norm(getattr(layer, name)) for name in self.model_layout.norms)
        return Block(norms, modules, frozen)

    def forward(self, input_ids: torch.Tensor | None = None, **others: Any) -> Any:
        """Compute what `FalconModel.forward` computes; calls with a cache, mask or other options go to it."""
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
            layout: where each one starts.
            rows: int64 positions whose output is needed; None: all.

        Returns:
            [M or len(rows), D], in the weights' dtype.
        """
        adapters = [_adapters(block) for block in self.blocks]
        tensors = [tensor for block in adapters for adapter in block.values() for tensor in (adapter.a, adapter.b)]
        if not torch.is_grad_enabled():
            # An autograd function does not see that gradients are disabled.
            tensors = [tensor.detach() for tensor in tensors]
        with torch.autocast(self.device.type, enabled=False):
            return _Stack.apply(self, ids_M, layout, rows, adapters, *tensors)

    def passes(
        self, num_tokens: int, layout: Layout, rows: torch.Tensor | None, adapters: list[dict[str, Adapter]]
    ) -> list[BlockPass]:
        """Return the state of each block for a new pass: the adapters as they are now, and newly sampled dropout."""
        tokens = Tokens(num_tokens, layout, _positions(layout, num_tokens, self.device))
        cast = [{name: adapter.cast(self.dtype) for name, adapter in block.items()} for block in adapters]
        dropouts = [self.shared.sample_dropouts(block, num_tokens) for block in cast]
        if rows is not None:
            dropouts[-1] = {
                name: dropout if name == QKV else _dropout_at(dropout, rows) for name, dropout in dropouts[-1].items()
            }
        last = len(self.blocks) - 1
        return [
            BlockPass(block, self.shared, tokens, cast[number], dropouts[number], rows if number == last else None)
            for number, block in enumerate(self.blocks)
        ]


class _Stack(torch.autograd.Function):
    """All blocks and the last norm; differentiable in the adapters."""

    @staticmethod
    def forward(
        ctx: Any, path: FastPath, ids_M: torch.Tensor, layout: Layout, rows: torch.Tensor | None,
        adapters: list[dict[str, Adapter]], *tensors: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        ops, passes = path.ops, path.passes(len(ids_M), layout, rows, adapters)
        needs_grad = any(ctx.needs_input_grad)
        # Nothing below the lowest adapter needs a gradient.
        lowest = min((number for number, block in enumerate(adapters) if block), default=len(adapters))
        kept: dict[int, Inner] = {}
        inputs = HostStore(path.stream)
        hidden = path.transformer.word_embeddings(ids_M)
        added: Sequence[torch.Tensor] = ()
        for number, at in enumerate(passes):
            normed = ops.add_layer_norms(hidden, added, at.block.norms, path.shared.want(plain=False))
            hidden = normed[0][0].hidden
            inner = inner_values(at, normed)
            del normed
            added = branches(at, inner)
            if needs_grad and number >= lowest:
                if path.memory == "fast":
                    kept[number] = inner
                else:
                    inputs.put(number, hidden)
            del inner
        if rows is not None:
            hidden = hidden[rows]
        last, out = ops.add_layer_norm(hidden, added, path.final_norm, Want.PLAIN)
        if needs_grad:
            ctx.path, ctx.passes, ctx.lowest = path, passes, lowest
            ctx.kept, ctx.inputs, ctx.last = kept, inputs, last
        return out

    @staticmethod
    def backward(ctx: Any, *grads_out: Any) -> Any:
        path, passes = ctx.path, ctx.passes
        grad = path.ops.layer_norm_grad([grads_out[0].contiguous()], ctx.last, None, Want.PLAIN)
        current: Operand | None = Both(grad, path.ops.quantise(grad)) if path.fp8 else grad
        del grad
        ctx.last = None
        found: list[Grads] = [{} for _ in passes]
        for number in range(len(passes) - 1, ctx.lowest - 1, -1):
            inner = ctx.kept.pop(number) if path.memory == "fast" else _recomputed(passes[number], ctx.inputs, number)
            assert current is not None, "every block above the lowest returns a gradient"
            current, found[number] = block_grad(passes[number], inner, current, is_lowest=number == ctx.lowest)
            del inner
        tensors = [
            part
            for number, at in enumerate(passes)
            for name, adapter in at.adapters.items()
            for part in (g.to(adapter.source) for g in found[number][name])
        ]
        return None, None, None, None, None, *tensors


def _recomputed(at: BlockPass, inputs: HostStore, number: int) -> Inner:
    """Recompute a block's activations from its input, while the input of the block below is copied back."""
    hidden = inputs.take(number)
    inputs.fetch(number - 1)
    return inner_values(at, at.shared.ops.add_layer_norms(hidden, (), at.block.norms, at.shared.want(plain=False)))


def _adapters(block: Block) -> dict[str, Adapter]:
    found = {name: adapter_of(module) for name, module in block.modules.items()}
    return {name: adapter for name, adapter in found.items() if adapter is not None}


def _positions(layout: Layout, num_tokens: int, device: torch.device) -> torch.Tensor:
    """Return each token's place in its dialogue, int64 [M]."""
    if layout.positions is not None:
        return layout.positions
    if layout.starts is None:
        return torch.arange(num_tokens, device=device) % layout.longest
    begins = layout.starts[:-1].long().repeat_interleave(layout.starts.diff().long(), output_size=num_tokens)
    return torch.arange(num_tokens, device=device) - begins


def _dropout_at(dropout: Dropout, rows: torch.Tensor) -> Dropout:
    # The mask of a seed depends on the index of a row in the kernel's input, so no rows have to be selected.
    return dropout if isinstance(dropout.mask, int) else Dropout(dropout.share, dropout.mask[rows])


def _norm(module: Any) -> Norm:
    return Norm(module.weight.detach(), module.bias.detach(), module.eps)
