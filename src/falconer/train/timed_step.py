"""The speed of training a small model on a CPU, timed with random weights of the model's shape.

The matmul rate of a CPU does not tell it: where a CPU has bf16 matrix units, the rest of a step takes most of the time.
"""

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from falconer import runtime
from falconer.config import LoraConfig
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.model.output_head import head_of
from falconer.records import Batch
from falconer.train.mode import choose_mode
from falconer.train.step import nll_sum
from falconer.train.ways import Asked

# A step of a larger model takes too long for a plan, and its weights too much memory.
MOST_PARAMETERS = 200_000_000
# A timed step has as many rows of the run's micro-batch as need so many FLOP: about half a second on two cores.
FLOP = 1e11
RUNS = 4


def timed_tokens_per_s(
    architecture: PreTrainedConfig, lora: LoraConfig, precision: runtime.Precision, asked: Asked,
    micro_batch: tuple[int, int], target_share: float,
) -> float:  # fmt: skip
    """Return the tokens/s of a training step on the CPU: forward, backward and AdamW.

    The weights are not quantised: the fast path caches them dequantised, and so computes the same.

    Args:
        architecture: of at most `MOST_PARAMETERS`.
        micro_batch: number of rows, and the tokens of the longest one.
        target_share: share of the positions that are targets.
    """
    model = AutoModelForCausalLM.from_config(architecture, dtype=precision.dtype, trust_remote_code=False)
    model.requires_grad_(False)
    flop_per_row = 6 * sum(p.numel() for p in model.parameters()) * micro_batch[1]
    num_rows = max(1, min(micro_batch[0], round(FLOP / flop_per_row)))
    adapted = add_adapter(model, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, seed=0).train()
    device, batch = torch.device("cpu"), _random_batch(num_rows, micro_batch[1], architecture, target_share)
    choose_mode(adapted, precision, device, asked, try_batch=lambda: None, num_tokens=lambda: batch.ids.size)
    optimizer = torch.optim.AdamW(trainable_tensors(adapted).values())
    on_targets = head_of(adapted)

    def step() -> None:
        nll = nll_sum(adapted, batch, head_on_targets=on_targets, autocast=precision.autocast)
        (nll / batch.num_targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    # The fastest, in case other programs are running; the first step also builds the optimiser's state.
    return batch.ids.size / min(runtime.median_s(step, device, runs=1, warmup=0) for _ in range(RUNS))


def _random_batch(num_rows: int, length: int, architecture: PreTrainedConfig, target_share: float) -> Batch:
    vocab = architecture.get_text_config(decoder=True).vocab_size
    ids = np.random.default_rng(0).integers(0, vocab, (num_rows, length))
    is_target = np.zeros(ids.shape, dtype=bool)
    # Nothing stands before the first token, so it is no target.
    is_target[:, 1 : 1 + max(1, round(target_share * length))] = True
    return Batch(ids, is_target, np.full(num_rows, length), ("random",) * num_rows)
