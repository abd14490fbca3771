"""Training speed and memory of Falcon-7B's shape: the ceiling, PEFT, PEFT's usual recipe and falconer, in one process.

Random weights: speed and memory do not depend on their values. Every system computes the same loss, on half of the
positions, with LoRA on query_key_value and dropout, and takes an AdamW step.
"""

import gc
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from falconer import runtime
from falconer.bench.ceilings import GIB, linear_ceiling, median_s
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.model.path import disable, enable, why_generic
from falconer.model.score import target_nll
from falconer.model.untrained import FALCON_7B, as_reference_recipe, untrained_falcon
from falconer.records import Batch

TINY = FALCON_7B | {"vocab_size": 512, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPES = {"falcon-7b": FALCON_7B, "tiny": TINY}
# The reference project's adapter.
LORA = {"r": 16, "alpha": 32, "dropout": 0.05, "targets": "query_key_value"}


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: whose, in which numbers and memory, on `batch` rows of `tokens`; `cap_gib` limits the device."""

    system: str
    compute: str
    memory: str
    batch: int
    tokens: int
    cap_gib: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What came out; speed and peak are None where memory did not suffice."""

    case: Case
    tok_s: float | None
    peak_gib: float | None

    def flat(self) -> dict[str, Any]:
        return {**asdict(self.case), "tok_s": self.tok_s, "peak_gib": self.peak_gib}


def cases(shape: str, fp8: bool) -> list[Case]:
    """Return what is measured: the README's table."""
    if shape == "tiny":
        sizes = [(2, 32)]
        return [Case("falconer", "bf16", memory, *size) for size in sizes for memory in ("fast", "lean")] + [
            Case("peft", "bf16", "fast", *sizes[0]), Case("peft-reference", "bf16", "lean", *sizes[0])
        ]  # fmt: skip
    found = []
    for compute in ("bf16", "fp8") if fp8 else ("bf16",):
        found += [Case("falconer", compute, "fast", *size) for size in ((8, 512), (32, 256), (64, 256))]
        found += [Case("falconer", compute, "lean", *size) for size in ((8, 512), (64, 256))]
        found += [Case("falconer", compute, "fast", 16, 512), Case("falconer", compute, "fast", 16, 512, cap_gib=24)]
    found += [Case("peft", "bf16", "fast", *size) for size in ((8, 512), (32, 256))]
    return [*found, Case("peft-reference", "bf16", "lean", 8, 512)]


def measure(shape: str, runs: int = 5, warmup: int = 3) -> Iterator[tuple[str, Any]]:
    """Measure everything of `cases`, yielding ("ceiling", {tokens: tokens/s}) and then ("row", Row) as they come."""
    device, dtype = runtime.pick_device("auto"), torch.bfloat16
    if device.type == "cuda":
        yield "ceiling", {n: linear_ceiling(SHAPES[shape], n, device, dtype) for n in (2048, 4096, 8192, 16384)}
    model = untrained_falcon(SHAPES[shape], device, dtype, nf4=True)
    adapted = _adapt(model)
    for case in cases(shape, fp8=runtime.has_fp8(device)):
        if case.system == "peft-reference":
            disable(adapted)
            adapted = _adapt(as_reference_recipe(adapted.unload()))
        yield "row", measure_case(adapted, case, device, runs, warmup)


def measure_case(adapted: Any, case: Case, device: torch.device, runs: int, warmup: int) -> Row:
    """Time one case on a model that has its adapter; an out-of-memory error is a result."""
    reset_memory(device)
    if case.cap_gib is not None:
        total = runtime.memory_gib(device)[1]
        torch.cuda.set_per_process_memory_fraction(case.cap_gib / total, device)
    try:
        if case.system == "falconer":
            assert not why_generic(adapted), why_generic(adapted)
            enable(adapted, fp8=case.compute == "fp8", memory="fast" if case.memory == "fast" else "lean")
        else:
            disable(adapted)
        seconds = median_s(_step(adapted, case, device), device, runs, warmup)
        return Row(case, case.batch * case.tokens / seconds, runtime.peak_memory_gib(device))
    except torch.OutOfMemoryError:
        return Row(case, None, None)
    finally:
        if case.cap_gib is not None:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        disable(adapted)


def reset_memory(device: torch.device) -> None:
    """Give back what earlier cases left, and count peaks from here."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _adapt(model: Any) -> Any:
    return add_adapter(model, **LORA, seed=0).train()


def _step(model: Any, case: Case, device: torch.device) -> Any:
    rng = np.random.default_rng(0)
    vocab = model.config.vocab_size
    ids = rng.integers(0, vocab, (case.batch, case.tokens))
    is_target = np.zeros(ids.shape, dtype=bool)
    # Dialogues alternate: half of the positions in stretches of eight.
    is_target[:, np.arange(case.tokens) // 8 % 2 == 1] = True
    batch = Batch(ids, is_target, np.full(case.batch, case.tokens), ("random",) * case.batch)
    parameters = list(trainable_tensors(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=2e-4)

    def falconer_loss() -> torch.Tensor:
        return target_nll(model, batch, head_on_targets=True).sum() / batch.num_targets

    inputs = torch.from_numpy(ids).to(device)
    labels = torch.from_numpy(np.where(is_target, ids, -100)).to(device)

    def peft_loss() -> torch.Tensor:
        with runtime.arithmetic(device.type, torch.bfloat16):
            return model(input_ids=inputs, attention_mask=torch.ones_like(inputs), labels=labels).loss

    loss = falconer_loss if case.system == "falconer" else peft_loss

    def step() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
