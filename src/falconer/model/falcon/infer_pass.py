"""The fast path's forward pass for inference; its caller supplies the attention function.

It uses the blocks and parameters of `train_pass.FastPath`. A prompt, the next token of a reply and a candidate only
differ in the keys that attention reads and where keys are stored.

Shapes: M tokens, D hidden, N outputs, Q query heads, G key/value heads, H head size, R LoRA rank, V vocabulary,
L layers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from falconer.kernels.formats import Want
from falconer.kernels.reference import grouped
from falconer.model.falcon.adapters import Stacked, adapter_of, stacked_adapters
from falconer.model.falcon.frozen_linear import LinearPair
from falconer.model.falcon.layout import DENSE, DOWN, PAIRS, QKV, UP
from falconer.model.falcon.train_pass import FastPath

# Takes the index of the block and its rotated projection [M, (Q + 2 G) * H]; returns attention's output [M, Q * H].
Attend = Callable[[int, torch.Tensor], torch.Tensor]


# A higher rank does not fit into the registers of the kernel that adds a LoRA's product and rotates.
MOST_FUSED_RANK = 64


class Forward:
    """The forward pass with the adapters as they are now, dropout off.

    Args:
        path: not in FP8, which is not exact enough for choosing tokens.
        head: the model's last layer, which computes the logits.
        adapters: the names of adapters, of which each row of a batch may use another one; none: all rows use the
            active adapter.
    """

    def __init__(self, path: FastPath, head: Any, adapters: Sequence[str] = ()) -> None:
        assert not path.fp8, "replies are generated in the weights' own format"
        self.path, self.ops, self.head, self.adapters = path, path.ops, head, tuple(adapters)
        self.num_layers, self.heads = len(path.blocks), path.heads
        # By block.
        self._pairs = [
            tuple(LinearPair(block.frozen[one], block.frozen[other]) for one, other in PAIRS) for block in path.blocks
        ]
        # By block and linear layer: both matrices, and which of the distinct lists of owners is theirs.
        self._loras: list[dict[str, tuple[torch.Tensor, torch.Tensor, int]]] = []
        distinct: dict[tuple[int, ...], int] = {}
        for block in path.blocks:
            loras = {name: self._lora(module) for name, module in block.modules.items()}
            self._loras.append({
                name: (lora.a, lora.b, distinct.setdefault(lora.owners, len(distinct)))
                for name, lora in loras.items() if lora is not None
            })  # fmt: skip
        self._owners = [torch.tensor(owners, device=path.device) for owners in distinct]

    def _lora(self, module: Any) -> Stacked | None:
        if self.adapters:
            return stacked_adapters(module, self.adapters, self.path.dtype)
        adapter = adapter_of(module)
        if adapter is None:
            return None
        cast = adapter.cast(self.path.dtype)
        return Stacked(cast.a, cast.b, (1,) * len(cast.a))

    def hidden_states(
        self, ids_M: torch.Tensor, positions_M: torch.Tensor, attend: Attend, rows: torch.Tensor | None = None,
        adapters_M: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Return the last norm's output, [M or len(rows), D].

        Args:
            ids_M, positions_M: int64.
            rows: int64 positions whose output is needed; None: all. What they attend to is always computed.
            adapters_M: where there are `adapters`: each token's, int64, counted from 1; 0 for the base alone.
        """
        path, ops = self.path, self.ops
        masks = self._masks(adapters_M)
        hidden_MD = torch.nn.functional.embedding(ids_M, path.transformer.word_embeddings.weight)
        branches: Sequence[torch.Tensor] = ()
        for number, block in enumerate(path.blocks):
            normed = ops.add_layer_norms(hidden_MD, branches, block.norms, Want.PLAIN)
            hidden_MD = normed[0][0].hidden
            x_MD, for_mlp_MD = normed[0][1], normed[-1][1]
            readers, makers = self._pairs[number]
            # Few rows are multiplied with both weights at once; of many, the last block may need some alone in the MLP.
            if readers.is_joint(len(x_MD)):
                qkv_MN, pre_MF = readers.products(x_MD, for_mlp_MD)
            else:
                qkv_MN, pre_MF = block.frozen[QKV].product(x_MD), None
            low_MR, b_NR = self._low(number, QKV, x_MD, masks)
            if low_MR is not None and b_NR is not None and low_MR.shape[1] > MOST_FUSED_RANK:
                qkv_MN.addmm_(low_MR, b_NR.T)
                low_MR, b_NR = None, None
            ops.rotate_(qkv_MN, low_MR, b_NR, path.shared.cos, path.shared.sin, positions_M, self.heads)
            mixed_MD = attend(number, qkv_MN)
            if rows is not None and number == self.num_layers - 1:
                hidden_MD, for_mlp_MD, mixed_MD = hidden_MD[rows], for_mlp_MD[rows], mixed_MD[rows]
                masks = [mask_MR[rows] for mask_MR in masks]
                pre_MF = None if pre_MF is None else pre_MF[rows]
            if pre_MF is None:
                pre_MF = block.frozen[UP].product(for_mlp_MD)
            inner_MF = ops.gelu(self._adapted(number, UP, pre_MF, for_mlp_MD, masks), Want.PLAIN)
            branch_MD, down_MD = makers.products(mixed_MD, inner_MF)
            branches = (
                self._adapted(number, DENSE, branch_MD, mixed_MD, masks),
                self._adapted(number, DOWN, down_MD, inner_MF, masks),
            )
            del normed, x_MD, for_mlp_MD, qkv_MN, pre_MF, mixed_MD, inner_MF, branch_MD, down_MD
        return ops.add_layer_norm(hidden_MD, branches, path.final_norm, Want.PLAIN)[1]

    def logits(self, hidden_MD: torch.Tensor) -> torch.Tensor:
        """Return logits [M, V] in fp32, or fp64 for fp64 weights."""
        logits_MV = self.head(hidden_MD)
        return logits_MV if logits_MV.dtype == torch.float64 else logits_MV.float()

    def new_cache(self, num_tokens: int) -> torch.Tensor:
        """Return an empty cache for keys and values of this many tokens, [L, tokens, G, 2, H]."""
        shape = (self.num_layers, num_tokens, self.heads.num_groups, 2, self.heads.size)
        return torch.zeros(shape, dtype=self.path.dtype, device=self.path.device)

    def key_values(self, qkv_MN: torch.Tensor) -> torch.Tensor:
        """Return a view of keys and values [M, G, 2, H] in a projection."""
        return grouped(qkv_MN, self.heads)[:, :, -2:]

    @property
    def token_bytes(self) -> int:
        """Bytes per token in a cache; 8 KiB for the 7B in bf16."""
        return self.num_layers * self.heads.num_groups * 2 * self.heads.size * self.path.dtype.itemsize

    @property
    def pass_token_bytes(self) -> int:
        """Approximate bytes per token at the peak of a pass: the MLP's activations twice, and some others."""
        config = self.path.transformer.config
        return (2 * config.ffn_hidden_size + 8 * config.hidden_size) * self.path.dtype.itemsize

    def _masks(self, adapters_M: torch.Tensor | None) -> list[torch.Tensor]:
        """Return for each distinct list of owners which of the R count in each row, bool [M, R]."""
        assert (adapters_M is not None) == bool(self.adapters), "each row names its adapter where there are several"
        return [] if adapters_M is None else [owners_R == adapters_M[:, None] for owners_R in self._owners]

    def _low(
        self, number: int, name: str, x_MK: torch.Tensor, masks: Sequence[torch.Tensor]
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the inner activation [M, R] of a layer's LoRA, and its second matrix; None if it has none."""
        if name not in self._loras[number]:
            return None, None
        a_RK, b_NR, place = self._loras[number][name]
        low_MR = x_MK @ a_RK.T
        return low_MR.mul_(masks[place]) if masks else low_MR, b_NR

    def _adapted(
        self, number: int, name: str, out_MN: torch.Tensor, x_MK: torch.Tensor, masks: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Add a layer's LoRA, if it has one, to its frozen part's product with x, in place."""
        low_MR, b_NR = self._low(number, name, x_MK, masks)
        return out_MN if low_MR is None or b_NR is None else out_MN.addmm_(low_MR, b_NR.T)
