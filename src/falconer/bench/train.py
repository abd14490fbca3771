"""`falconer bench train`: training speed and memory at the shape of a Falcon, of PEFT and of falconer.

The weights are random, since speed and memory do not depend on their values. Every system computes the same loss, on
half of the positions, with LoRA on query_key_value and dropout, and takes an AdamW step.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from falconer import runtime
from falconer.bench.ceilings import linear_ceiling
from falconer.errors import FalconerError
from falconer.model.falcon.attach import disable
from falconer.model.likelihood import target_nll
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.model.output_head import head_of
from falconer.model.random_falcon import FALCON_7B, FALCON_11B, FALCON_40B, as_reference_recipe, untrained_falcon
from falconer.records import Batch
from falconer.train.mode import choose_mode, free_memory
from falconer.train.ways import Asked

TINY = MappingProxyType(
    FALCON_7B | {"vocab_size": 512, "hidden_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
)
SHAPES: Mapping[str, MappingProxyType[str, Any]] = MappingProxyType({
    "falcon-7b": FALCON_7B, "falcon-11b": FALCON_11B, "falcon-40b": FALCON_40B, "tiny": TINY,
})  # fmt: skip
WHAT = (
    "training with LoRA r=16 on query_key_value of an NF4 base, dropout 0.05, loss on half of the positions, AdamW; "
    "random weights and tokens; median of the timed steps; ceiling: all linear layers but the head in bf16, forward "
    "and input gradient, nothing else"
)
DTYPE = torch.bfloat16
# The reference project's adapter.
RANK, ALPHA, DROPOUT, TARGET = 16, 32, 0.05, "query_key_value"
# Steps before the timed ones.
WARMUP = 3
CEILING_TOKENS = (2048, 4096, 8192, 16384)


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement: system, precision, memory mode, `batch` rows of `tokens`, and a limit on the device's memory."""

    system: str
    compute: str
    memory: str
    batch: int
    tokens: int
    cap_gib: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """The result of a case; speed and peak are None if it ran out of memory.

    Args:
        caches_weights: dequantised weights were cached.
        peak_gib: peak memory of tensors.
    """

    case: Case
    tok_s: float | None
    peak_gib: float | None
    caches_weights: bool = False

    def flat(self) -> dict[str, Any]:
        """Return the row as stored in benchmarks/results."""
        return {
            **asdict(self.case), "holds_weights": self.caches_weights,
            "tok_s": self.tok_s and round(self.tok_s, 1), "peak_gib": self.peak_gib and round(self.peak_gib, 2),
        }  # fmt: skip


def cases(shape: str, fp8: bool) -> list[Case]:
    """Return the cases of the README's table."""
    if shape == "tiny":
        ours = [Case("falconer", "bf16", memory, 2, 32) for memory in ("fast", "lean")]
        return [*ours, Case("peft", "bf16", "fast", 2, 32), Case("peft-reference", "bf16", "lean", 2, 32)]
    found = []
    for compute in ("bf16", "fp8") if fp8 else ("bf16",):
        found += [Case("falconer", compute, "fast", *size) for size in ((8, 512), (32, 256), (64, 256))]
        found += [Case("falconer", compute, "lean", *size) for size in ((8, 512), (64, 256))]
        # The step of the falcon-7b preset, on the whole device and on a consumer GPU of 24 GiB.
        found += [Case("falconer", compute, "auto", 16, 512), Case("falconer", compute, "auto", 16, 512, cap_gib=24)]
    found += [Case("peft", "bf16", "fast", *size) for size in ((8, 512), (32, 256))]
    return [*found, Case("peft-reference", "bf16", "lean", 8, 512)]


def sizes_of(shape: str, num_layers: int | None) -> dict[str, Any]:
    """Return the arguments of `FalconConfig` for a shape, with another number of blocks if one is given."""
    return dict(SHAPES[shape]) | ({} if num_layers is None else {"num_hidden_layers": num_layers})


def measure(
    shape: str, runs: int = 5, warmup: int = WARMUP, *, num_layers: int | None = None
) -> Iterator[tuple[str, Any]]:  # fmt: skip
    """Measure all cases; yield ("ceiling", {tokens: tokens/s}) and then ("row", Row) for each case.

    Args:
        num_layers: blocks; None: as many as the model has. With few of them, the head is more of the whole.
    """
    device, sizes = runtime.pick_device("auto"), sizes_of(shape, num_layers)
    if device.type == "cuda":
        yield "ceiling", {tokens: linear_ceiling(sizes, tokens, device, DTYPE) for tokens in CEILING_TOKENS}
    model = adapt(untrained_falcon(sizes, device, DTYPE, nf4=True))
    for case in cases(shape, fp8=runtime.has_fp8(device)):
        if case.system == "peft-reference":
            disable(model)
            model = adapt(as_reference_recipe(model.unload()))
        yield "row", measure_case(model, case, device, runs, warmup)


def measure_case(model: Any, case: Case, device: torch.device, runs: int, warmup: int) -> Row:
    """Time one case on a model with its adapter; running out of memory is a result, too."""
    disable(model)
    reset_memory(device)
    if case.cap_gib is not None:
        torch.cuda.set_per_process_memory_fraction(case.cap_gib / runtime.memory_gib(device)[1], device)
    try:
        step, caches = training_step(model, case, device), False
        if case.system == "falconer":
            num_tokens = case.batch * case.tokens
            mode = choose_mode(
                model, runtime.Precision(DTYPE, "the benchmark's"), device,
                Asked("auto", case.compute, case.memory), try_batch=step, num_tokens=lambda: num_tokens,
            )  # fmt: skip
            assert mode.path == "fast", mode.why_path
            case, caches = replace(case, memory=mode.memory), mode.caches_weights
            reset_memory(device)
        seconds = runtime.median_s(step, device, runs, warmup)
        return Row(case, case.batch * case.tokens / seconds, runtime.peak_memory_gib(device), caches)
    except (torch.OutOfMemoryError, FalconerError):
        return Row(case, None, None)
    finally:
        disable(model)
        if case.cap_gib is not None:
            torch.cuda.set_per_process_memory_fraction(1.0, device)


def reset_memory(device: torch.device) -> None:
    """Free the memory of earlier cases, and reset the peak."""
    free_memory(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def adapt(model: Any) -> Any:
    """Put the reference project's adapter on a model."""
    return add_adapter(model, r=RANK, alpha=ALPHA, dropout=DROPOUT, targets=TARGET, seed=0).train()


def random_rows(batch: int, tokens: int, vocab_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the token ids [batch, tokens] that every system is trained on, and which are targets.

    Half of the positions are targets, in stretches of eight, as in a dialogue.
    """
    ids = np.random.default_rng(0).integers(0, vocab_size, (batch, tokens))
    is_target = np.zeros(ids.shape, dtype=bool)
    is_target[:, np.arange(tokens) // 8 % 2 == 1] = True
    return ids, is_target


def training_step(model: Any, case: Case, device: torch.device) -> Callable[[], None]:
    """Return a function that does one optimiser step of a case."""
    ids, is_target = random_rows(case.batch, case.tokens, model.config.vocab_size)
    batch = Batch(ids, is_target, np.full(case.batch, case.tokens), ("random",) * case.batch)
    parameters = list(trainable_tensors(model).values())
    optimizer = torch.optim.AdamW(parameters, lr=2e-4)

    head = head_of(model)

    def falconer_loss() -> torch.Tensor:
        return target_nll(model, batch, head_on_targets=head).sum() / batch.num_targets

    inputs = torch.from_numpy(ids).to(device)
    labels = torch.from_numpy(np.where(is_target, ids, -100)).to(device)

    def peft_loss() -> torch.Tensor:
        with runtime.autocast(device.type, DTYPE):
            return model(input_ids=inputs, attention_mask=torch.ones_like(inputs), labels=labels).loss

    loss = falconer_loss if case.system == "falconer" else peft_loss

    def step() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step
