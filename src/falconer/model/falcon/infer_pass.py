"""The fast path's forward pass for inference; its caller supplies the attention function.

It uses the blocks and parameters of `train_pass.FastPath`. A prompt, the next token of a reply and a candidate only
differ in the keys that attention reads and where keys are stored.

Shapes: M tokens, D hidden, N outputs, Q query heads, H head size, R LoRA rank, V vocabulary, L layers.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from falconer.kernels.formats import Want
from falconer.model.falcon.adapters import adapter_of
from falconer.model.falcon.layout import DENSE, DOWN, QKV, UP
from falconer.model.falcon.train_pass import FastPath

# Takes the index of the block and its rotated projection [M, (Q + 2) * H]; returns attention's output [M, Q * H].
Attend = Callable[[int, torch.Tensor], torch.Tensor]


class Forward:
    """The forward pass with the adapters as they are now, dropout off.

    Args:
        path: not in FP8, which is not exact enough for choosing tokens.
        head: the model's last layer, which computes the logits.
    """

    def __init__(self, path: FastPath, head: Any) -> None:
        assert not path.fp8, "replies are generated in the weights' own format"
        self.path, self.ops, self.head = path, path.ops, head
        self.num_layers, self.head_size = len(path.blocks), path.head_size
        self._adapters: list[dict[str, tuple[torch.Tensor, torch.Tensor]]] = []
        for block in path.blocks:
            found = {name: adapter_of(module) for name, module in block.modules.items()}
            cast = {name: adapter.cast(path.dtype) for name, adapter in found.items() if adapter is not None}
            self._adapters.append({name: (adapter.a, adapter.b) for name, adapter in cast.items()})

    def hidden_states(
        self, ids_M: torch.Tensor, positions_M: torch.Tensor, attend: Attend, rows: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the last norm's output, [M or len(rows), D].

        Args:
            ids_M, positions_M: int64.
            rows: int64 positions whose output is needed; None: all. What they attend to is always computed.
        """
        path, ops = self.path, self.ops
        hidden_MD = torch.nn.functional.embedding(ids_M, path.transformer.word_embeddings.weight)
        branches: Sequence[torch.Tensor] = ()
        for number, block in enumerate(path.blocks):
            normed, x_MD = ops.add_layer_norm(hidden_MD, branches, block.norm, Want.PLAIN)
            hidden_MD = normed.hidden
            qkv_MN = block.frozen[QKV].product(x_MD)
            low_MR, b_NR = None, None
            if QKV in self._adapters[number]:
                a_RD, b_NR = self._adapters[number][QKV]
                low_MR = x_MD @ a_RD.T
            ops.rotate_(qkv_MN, low_MR, b_NR, path.shared.cos, path.shared.sin, positions_M, self.head_size)
            mixed_MD = attend(number, qkv_MN)
            if rows is not None and number == self.num_layers - 1:
                hidden_MD, x_MD, mixed_MD = hidden_MD[rows], x_MD[rows], mixed_MD[rows]
            branch_MD = self._linear(number, DENSE, mixed_MD)
            inner_MF = ops.gelu(self._linear(number, UP, x_MD), Want.PLAIN)
            branches = (branch_MD, self._linear(number, DOWN, inner_MF))
            del normed, x_MD, qkv_MN, mixed_MD, inner_MF
        return ops.add_layer_norm(hidden_MD, branches, path.final_norm, Want.PLAIN)[1]

    def logits(self, hidden_MD: torch.Tensor) -> torch.Tensor:
        """Return logits [M, V] in fp32, or fp64 for fp64 weights."""
        logits_MV = self.head(hidden_MD)
        return logits_MV if logits_MV.dtype == torch.float64 else logits_MV.float()

    def new_cache(self, num_tokens: int) -> torch.Tensor:
        """Return an empty cache for keys and values of this many tokens, [L, tokens, 2, H]."""
        shape = (self.num_layers, num_tokens, 2, self.head_size)
        return torch.zeros(shape, dtype=self.path.dtype, device=self.path.device)

    def key_values(self, qkv_MN: torch.Tensor) -> torch.Tensor:
        """Return a view of keys and values [M, 2, H] in a projection."""
        return qkv_MN.view(len(qkv_MN), -1, self.head_size)[:, -2:]

    @property
    def token_bytes(self) -> int:
        """Bytes per token in a cache; 8 KiB for the 7B in bf16."""
        return self.num_layers * 2 * self.head_size * self.path.dtype.itemsize

    @property
    def pass_token_bytes(self) -> int:
        """Approximate bytes per token at the peak of a pass: the MLP's activations twice, and some others."""
        config = self.path.transformer.config
        return (2 * config.ffn_hidden_size + 8 * config.hidden_size) * self.path.dtype.itemsize

    def _linear(self, number: int, name: str, x_MK: torch.Tensor) -> torch.Tensor:
        out_MN = self.path.blocks[number].frozen[name].product(x_MK)
        if name in self._adapters[number]:
            a_RK, b_NR = self._adapters[number][name]
            out_MN.addmm_(x_MK @ a_RK.T, b_NR.T)
        return out_MN
