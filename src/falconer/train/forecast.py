"""The prediction of a run's memory and time on this device, before any weight is loaded."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from transformers import PreTrainedConfig

from falconer import runtime
from falconer.config import Config
from falconer.model.limits import context_of
from falconer.train.cards import Card, roofline_tokens_per_s
from falconer.train.cost import (
    Memory,
    Shape,
    flop_per_token,
    measure_flops,
    measure_shape,
    own_layers_memory,
    tokens_per_s,
    training_memory,
)
from falconer.train.fast_path_cost import fast_path_memory, fast_path_tokens_per_s
from falconer.train.mode import MOST_MEMORY
from falconer.train.padded_batch import MOST_PADDING
from falconer.train.timed_step import MOST_PARAMETERS, timed_tokens_per_s
from falconer.train.ways import Asked, Facts, Mode, ways
from falconer.train.work import Work, architecture_of, work_of

GIB = 2**30
# Memory besides the tensors: the CUDA context and its libraries; on the CPU the interpreter and the libraries.
GPU_OVERHEAD_GIB = 0.8
CPU_OVERHEAD_GIB = 0.8
# The measured bf16 matmul rate and the memory of an H200, for comparison on machines without a GPU.
H200_FLOPS, H200_GIB = 770e12, 139.8
H200_PEAK = 989.4e12
# Share of a card's memory that programs can use; the driver keeps the rest.
USABLE = 0.97
# Share of target tokens if the data is not available; Persona-Chat has 0.3 to 0.4.
TARGET_SHARE = 0.4


SpeedFrom = Literal["predicted", "timed", "guessed", "data sheet"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The prediction of a run on this device, or on a card that is not here.

    Args:
        model, source: its name, and where its shape is from.
        flops: matmul rate in FLOP/s, measured on this device or from a card's data sheet.
        tokens_per_s: of a training step; `speed_from` says what that rests on: "predicted" from the matmul rate of a
            GPU, "timed" on this CPU, "guessed" from the matmul rate of a CPU, which tells little, or a card's
            "data sheet".
        micro: positions of the largest micro-batch and of its longest row, to which `memory` refers.
        mode: the fastest mode that fits, as training would find it by trying.
        overhead_gib, free_gib, total_gib: memory besides the tensors; free and total memory of the device.
        on_h200: (GiB, tokens/s) on an H200, if a large model is planned without a GPU.
        work: None if the data could not be loaded; `unknown` then says why.
        advice: what to change if it does not fit; "" if it does.
    """

    model: str
    source: str
    device: str
    precision: str
    quantization: str
    shape: Shape
    memory: Memory
    micro: tuple[int, int]
    mode: Mode
    overhead_gib: float
    free_gib: float
    total_gib: float
    flops: float
    tokens_per_s: float
    speed_from: SpeedFrom
    on_h200: tuple[float, float] | None
    epochs: float
    work: Work | None
    unknown: str
    advice: str

    @property
    def needed_gib(self) -> float:
        """The peak memory of the run."""
        return self.memory.total / GIB + self.overhead_gib

    @property
    def work_positions(self) -> float:
        """The work of the whole run, in positions of training steps; a million if the data is unknown."""
        return self.work.positions + self.validation_positions if self.work else 1e6

    @property
    def validation_positions(self) -> float:
        """The work of all validations, in positions of training steps."""
        # Only a forward pass: 2 FLOP per parameter, while a training step has 4 to 6.
        share = 2 / (5 if self.mode.memory == "lean" else 4)
        return self.work.validation_positions * share if self.work else 0.0


def plan_run(config: Config) -> Plan:
    """Predict memory and time of a run on this device, within seconds and without loading weights.

    Raises:
        FalconerError: the model can't be found (except those in `KNOWN_SHAPES`), or a setting does not fit it.
    """
    device = runtime.pick_device(config.model.device)
    precision = runtime.pick_precision(config.model.dtype, device)
    run = _Run.of(config, precision, device.type == "cuda")
    here = _Place(device.type == "cuda", precision, measure_flops(device, precision.dtype))
    free, total = runtime.memory_gib(device)
    mode = _mode(run, here, runtime.has_fp8(device), free)
    speed, speed_from = _speed_here(run, mode, here)
    on_h200 = None
    if not here.on_gpu and run.load.shape.linear > 1e9:
        h200 = _Place(True, runtime.Precision(torch.bfloat16, ""), H200_FLOPS)
        there = _mode(run, h200, True, H200_GIB)
        on_h200 = _needed_gib(run.load, there, h200), _speed(run.load, there, h200)
    name = runtime.environment(device)["device"]
    return _plan(run, here, mode, name, (free, total), (speed, speed_from), on_h200)


def plan_cards(config: Config, cards: Sequence[Card]) -> list[Plan]:
    """Predict memory and time of a run on cards that need not be here.

    Raises:
        FalconerError: see `plan_run`.
    """
    run = _Run.of(config, runtime.Precision(torch.bfloat16, ""), on_gpu=True)
    plans = []
    for card in cards:
        precision, flops = _card_precision(config.model.dtype, card)
        there, free = _Place(True, precision, flops, card), USABLE * card.memory_gib
        mode = _mode(run, there, card.fp8 is not None, free)
        speed: tuple[float, SpeedFrom] = (_speed(run.load, mode, there), "data sheet")
        plans.append(_plan(run, there, mode, card.title, (free, card.memory_gib), speed, None))
    return plans


def _card_precision(asked: str, card: Card) -> tuple[runtime.Precision, float]:
    """Return the precision of a run on a card, and the matmul rate in it; in bf16, the share that an H200 reaches."""
    if card.bf16 is None or asked == "fp32":
        why = "as configured" if asked == "fp32" else "the card does not support bf16"
        return runtime.Precision(torch.float32, why), card.fp32
    return runtime.Precision(torch.bfloat16, "the card supports it"), H200_FLOPS / H200_PEAK * card.bf16


@dataclass(frozen=True, slots=True)
class _Run:
    """What is planned, whatever the device."""

    config: Config
    architecture: PreTrainedConfig
    source: str
    work: "Work | None"
    unknown: str
    load: "_Load"

    @classmethod
    def of(cls, config: Config, precision: runtime.Precision, on_gpu: bool) -> "_Run":
        architecture, source = architecture_of(config.model)
        shape = measure_shape(architecture, config.lora, config.model.path)
        work, unknown = work_of(config, architecture, precision, on_gpu)
        return cls(config, architecture, source, work, unknown, _load(config, architecture, shape, work))


def _mode(run: _Run, place: "_Place", has_fp8: bool, free_gib: float) -> Mode:
    """Return the fastest mode that should fit, or else the one that needs the least memory."""
    modes = [
        mode for mode in ways(_asked(run.config), _facts(run.load, place, has_fp8, free_gib))
        if not mode.own_layers or run.load.shape.kept_bytes is not None
    ]  # fmt: skip
    return next((mode for mode in modes if _needed_gib(run.load, mode, place) < MOST_MEMORY * free_gib), modes[-1])


def _plan(
    run: _Run, place: "_Place", mode: Mode, device: str, memory_gib: tuple[float, float],
    speed: tuple[float, SpeedFrom], on_h200: tuple[float, float] | None,
) -> Plan:  # fmt: skip
    config, load, (free, total) = run.config, run.load, memory_gib
    return Plan(
        model=config.model.name, source=run.source, device=device,
        precision=f"{place.precision.name}: {place.precision.reason}", quantization=config.model.quantization,
        shape=load.shape, memory=_memory(load, mode, place), micro=(load.micro_tokens, load.longest), mode=mode,
        overhead_gib=place.overhead_gib, free_gib=free, total_gib=total, flops=place.flops,
        tokens_per_s=speed[0], speed_from=speed[1], on_h200=on_h200, epochs=config.train.epochs, work=run.work,
        unknown=run.unknown, advice=_advice(_needed_gib(load, mode, place) - free, config, load.longest),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Load:
    """The part of a step that does not depend on the device: the model's shape and the size of its micro-batches.

    Args:
        micro_tokens, longest: positions of the largest micro-batch and of the longest row.
        mean_micro: positions of a micro-batch on average.
    """

    shape: Shape
    quantized: bool
    micro_tokens: int
    longest: int
    mean_micro: float
    target_share: float


@dataclass(frozen=True, slots=True)
class _Place:
    """The device that a run is planned for; `flops` is its matmul rate in FLOP/s; `card`, if it need not be here."""

    on_gpu: bool
    precision: runtime.Precision
    flops: float
    card: Card | None = None

    @property
    def bytes_each(self) -> int:
        return torch.finfo(self.precision.dtype).bits // 8

    @property
    def overhead_gib(self) -> float:
        return GPU_OVERHEAD_GIB if self.on_gpu else CPU_OVERHEAD_GIB


def _load(config: Config, architecture: PreTrainedConfig, shape: Shape, work: Work | None) -> _Load:
    most = config.data.max_tokens
    longest = work.longest if work else min(most, context_of(architecture) or most)
    return _Load(
        shape, config.model.quantization == "nf4",
        micro_tokens=work.largest_micro if work else max(config.train.micro_tokens, longest), longest=longest,
        mean_micro=work.positions / work.num_micro if work else config.train.micro_tokens,
        target_share=work.target_share if work else TARGET_SHARE,
    )  # fmt: skip


def _asked(config: Config) -> Asked:
    return Asked(config.model.path, config.train.compute, config.train.memory)


def _facts(load: _Load, place: _Place, has_fp8: bool, free_gib: float) -> Facts:
    why_generic = load.shape.why_generic
    if not why_generic and place.on_gpu and place.precision.dtype != torch.bfloat16:
        why_generic = f"its kernels work in bf16, not {place.precision.name}"
    dequantised = load.shape.linear * place.bytes_each / GIB if load.quantized else 0.0
    return Facts(
        why_generic, load.shape.why_fast, place.precision, has_fp8, place.on_gpu, dequantised, free_gib,
        load.quantized,
    )  # fmt: skip


def _memory(load: _Load, mode: Mode, place: _Place) -> Memory:
    num_logits = round(load.micro_tokens * load.target_share)
    if mode.path == "fast":
        return fast_path_memory(
            load.shape, mode, tokens=load.micro_tokens, num_logits=num_logits, quantized=load.quantized,
            bytes_each=place.bytes_each, on_gpu=place.on_gpu,
        )  # fmt: skip
    if mode.own_layers:
        # Recorded micro-batches are padded into a few shapes, and their gradients added up in a tensor of their own.
        memory = own_layers_memory(
            load.shape, tokens=round(load.micro_tokens * (MOST_PADDING if mode.recorded else 1)), longest=load.longest,
            num_logits=num_logits, checkpointing=mode.memory == "lean", quantized=load.quantized,
            bytes_each=place.bytes_each,
        )  # fmt: skip
        return replace(memory, adapter=memory.adapter + (4 * load.shape.adapter if mode.recorded else 0))
    return training_memory(
        load.shape, tokens=load.micro_tokens, longest=load.longest, num_logits=num_logits,
        checkpointing=mode.memory == "lean", quantized=load.quantized, bytes_each=place.bytes_each,
    )  # fmt: skip


def _needed_gib(load: _Load, mode: Mode, place: _Place) -> float:
    memory = _memory(load, mode, place)
    # The first pass of a shape is computed beside the memory of those that are recorded already.
    first_pass = memory.kept + memory.passing if mode.recorded else 0.0
    return (memory.total + first_pass) / GIB + place.overhead_gib


def _speed_here(run: _Run, mode: Mode, here: _Place) -> tuple[float, SpeedFrom]:
    """Return the tokens/s of a training step on this device, and what they rest on, see `Plan`."""
    config, architecture, load, work = run.config, run.architecture, run.load, run.work
    if here.on_gpu:
        return _speed(load, mode, here), "predicted"
    if load.shape.linear + load.shape.embedding + load.shape.other > MOST_PARAMETERS:
        return _speed(load, mode, here), "guessed"
    usual = work.usual_micro if work else (max(1, load.micro_tokens // load.longest), load.longest)
    speed = timed_tokens_per_s(architecture, config.lora, here.precision, _asked(config), usual, load.target_share)
    return speed, "timed"


def _speed(load: _Load, mode: Mode, place: _Place) -> float:
    """Return the predicted tokens/s of a training step."""
    if mode.path == "fast" and place.card:
        return roofline_tokens_per_s(
            place.card, load.shape, mode, target_share=load.target_share, micro_tokens=load.mean_micro,
            quantized=load.quantized,
        )  # fmt: skip
    if mode.path == "fast":
        return fast_path_tokens_per_s(
            place.flops, load.shape, mode, target_share=load.target_share, micro_tokens=load.mean_micro,
            quantized=load.quantized, on_gpu=place.on_gpu,
        )  # fmt: skip
    flop = flop_per_token(load.shape, checkpointing=mode.memory == "lean", target_share=load.target_share)
    return tokens_per_s(place.flops, flop, micro_tokens=load.mean_micro, on_gpu=place.on_gpu, quantized=load.quantized)


def _advice(excess_gib: float, config: Config, longest: int) -> str:
    if excess_gib <= 0:
        return ""
    missing = f"{excess_gib:.1f} GiB too large: set "
    if config.model.quantization == "none":
        return f"{missing}model.quantization=nf4"
    if config.train.memory == "fast":
        return f"{missing}train.memory=auto"
    if config.train.micro_tokens > longest:
        return f"{missing}train.micro_tokens={max(longest, config.train.micro_tokens // 2)}"
    if longest > 256:
        return f"{missing}data.max_tokens={longest // 2}, or use a larger device"
    return f"{excess_gib:.1f} GiB too large: use a larger device or a smaller model"
