"""What tests of recorded micro-batches have in common: tiny models, and passes that the host computes again."""

import torch
from transformers import Gemma3TextConfig, LlamaConfig

from falconer.train.padded_batch import Shape
from falconer.train.recorded import Pass, Recorded

IDS = {"vocab_size": 97, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
CONFIGS = {
    "llama": LlamaConfig(**IDS, **SIZES, num_key_value_heads=2),
    # Rows are longer than its window.
    "gemma3": Gemma3TextConfig(**IDS, **SIZES, head_dim=16, num_key_value_heads=1, sliding_window=6,
                               layer_types=["sliding_attention", "full_attention"]),
}  # fmt: skip


class OnTheHost(Recorded):
    """Computes again where a GPU would replay."""

    def _record(self, shape: Shape, given: torch.Tensor) -> Pass:
        held, nll = given.clone(), torch.zeros(shape.targets, dtype=self._parameters[0].dtype)
        grad, graph = torch.zeros_like(nll), []

        def forward() -> None:
            graph[:] = [self._compute(held, shape)]
            nll.copy_(graph[0].detach())

        def backward() -> None:
            torch._foreach_add_(*self._gradients(graph[0], grad))

        return Pass(forward, backward, held, nll, grad)
