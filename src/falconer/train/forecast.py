"""The prediction of a run's memory and time on this device, before any weight is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal

import torch
from transformers import AutoConfig, FalconConfig, PreTrainedConfig

from falconer import runtime
from falconer.config import Config, ModelConfig
from falconer.data.batch import micro_batches
from falconer.errors import FalconerError
from falconer.model.limits import context_of
from falconer.model.load import LoadedModel
from falconer.model.random_falcon import FALCON_7B, FALCON_11B, FALCON_40B
from falconer.model.tokenizer import EMBEDDED_MODEL, LoadedTokenizer, explain_missing, open_tokenizer, resolve
from falconer.train import setup
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
from falconer.train.steps import plan_steps, validation_interval
from falconer.train.timed_step import MOST_PARAMETERS, timed_tokens_per_s
from falconer.train.ways import Asked, Facts, Mode, ways

GIB = 2**30
# Memory besides the tensors: the CUDA context and its libraries; on the CPU the interpreter and the libraries.
GPU_OVERHEAD_GIB = 0.8
CPU_OVERHEAD_GIB = 0.8
# The measured bf16 matmul rate of an H200, for comparison on machines without a GPU.
H200_FLOPS = 770e12
# Share of target tokens if the data is not available; Persona-Chat has 0.3 to 0.4.
TARGET_SHARE = 0.4
KNOWN_SHAPES: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "tiiuae/falcon-7b": FALCON_7B, "tiiuae/falcon-7b-instruct": FALCON_7B, "tiiuae/falcon-11B": FALCON_11B,
    "tiiuae/falcon-40b": FALCON_40B, "tiiuae/falcon-40b-instruct": FALCON_40B,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Work:
    """The amount of work that a run's data require.

    Args:
        num_steps, num_micro: optimiser steps, and the micro-batches in them.
        positions: tokens including padding, of all steps and of one epoch; `validation_positions` of all validations.
        longest, largest_micro: positions of the longest example and of the largest micro-batch.
        usual_micro: rows of a micro-batch from the middle of the run, and the tokens of its longest one.
        note: how the tokens were counted, if not with the tokenizer of the model.
    """

    tokens_per_epoch: int
    num_steps: int
    num_micro: int
    positions: int
    epoch_positions: int
    validation_positions: int
    longest: int
    largest_micro: int
    usual_micro: tuple[int, int]
    target_share: float
    note: str


@dataclass(frozen=True, slots=True)
class Plan:
    """The prediction of a run on this device.

    Args:
        model, source: its name, and where its shape is from.
        flops: measured matmul rate of this device, in FLOP/s.
        tokens_per_s: of a training step; `speed_from` says what that rests on: "predicted" from the matmul rate of a
            GPU, "timed" on this CPU, or "guessed" from the matmul rate of a CPU, which tells little.
        micro: positions of the largest micro-batch and of its longest row, to which `memory` refers.
        mode: the fastest mode that fits, as training would find it by trying.
        overhead_gib, free_gib, total_gib: memory besides the tensors; free and total memory of this device.
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
    speed_from: Literal["predicted", "timed", "guessed"]
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
    architecture, source = architecture_of(config.model)
    shape = measure_shape(architecture, config.lora)
    work, unknown = _work(config, architecture, precision)
    load = _load(config, architecture, shape, work)
    here = _Place(device.type == "cuda", precision, measure_flops(device, precision.dtype))
    free, total = runtime.memory_gib(device)
    modes = [
        mode for mode in ways(_asked(config), _facts(load, here, runtime.has_fp8(device), free))
        if not mode.own_layers or shape.kept_bytes is not None
    ]  # fmt: skip
    mode = next((mode for mode in modes if _needed_gib(load, mode, here) < MOST_MEMORY * free), modes[-1])
    speed, speed_from = _speed_here(config, architecture, load, mode, here, work)
    on_h200 = None
    if not here.on_gpu and shape.linear > 1e9:
        h200 = _Place(True, runtime.Precision(torch.bfloat16, ""), H200_FLOPS)
        there = ways(_asked(config), _facts(load, h200, True, 0.0))[0]
        on_h200 = _needed_gib(load, there, h200), _speed(load, there, h200)
    return Plan(
        model=config.model.name, source=source, device=runtime.environment(device)["device"],
        precision=f"{precision.name}: {precision.reason}", quantization=config.model.quantization, shape=shape,
        memory=_memory(load, mode, here), micro=(load.micro_tokens, load.longest), mode=mode,
        overhead_gib=here.overhead_gib, free_gib=free, total_gib=total, flops=here.flops,
        tokens_per_s=speed, speed_from=speed_from, on_h200=on_h200, epochs=config.train.epochs, work=work,
        unknown=unknown, advice=_advice(_needed_gib(load, mode, here) - free, config, load.longest),
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
    """The device that a run is planned for; `flops` is its matmul rate, in FLOP/s."""

    on_gpu: bool
    precision: runtime.Precision
    flops: float

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
    return Facts(why_generic, load.shape.why_fast, place.precision, has_fp8, place.on_gpu, dequantised, free_gib)


def _memory(load: _Load, mode: Mode, place: _Place) -> Memory:
    num_logits = round(load.micro_tokens * load.target_share)
    if mode.path == "fast":
        return fast_path_memory(
            load.shape, mode, tokens=load.micro_tokens, num_logits=num_logits, quantized=load.quantized,
            bytes_each=place.bytes_each, on_gpu=place.on_gpu,
        )  # fmt: skip
    if mode.own_layers:
        return own_layers_memory(
            load.shape, tokens=load.micro_tokens, longest=load.longest, num_logits=num_logits,
            checkpointing=mode.memory == "lean", quantized=load.quantized, bytes_each=place.bytes_each,
        )  # fmt: skip
    return training_memory(
        load.shape, tokens=load.micro_tokens, longest=load.longest, num_logits=num_logits,
        checkpointing=mode.memory == "lean", quantized=load.quantized, bytes_each=place.bytes_each,
    )  # fmt: skip


def _needed_gib(load: _Load, mode: Mode, place: _Place) -> float:
    return _memory(load, mode, place).total / GIB + place.overhead_gib


def _speed_here(
    config: Config, architecture: PreTrainedConfig, load: _Load, mode: Mode, here: _Place, work: Work | None
) -> tuple[float, Literal["predicted", "timed", "guessed"]]:
    """Return the tokens/s of a training step on this device, and what they rest on, see `Plan`."""
    if here.on_gpu:
        return _speed(load, mode, here), "predicted"
    if load.shape.linear + load.shape.embedding + load.shape.other > MOST_PARAMETERS:
        return _speed(load, mode, here), "guessed"
    usual = work.usual_micro if work else (max(1, load.micro_tokens // load.longest), load.longest)
    speed = timed_tokens_per_s(architecture, config.lora, here.precision, _asked(config), usual, load.target_share)
    return speed, "timed"


def _speed(load: _Load, mode: Mode, place: _Place) -> float:
    """Return the predicted tokens/s of a training step."""
    if mode.path == "fast":
        return fast_path_tokens_per_s(
            place.flops, load.shape, mode, target_share=load.target_share, micro_tokens=load.mean_micro,
            quantized=load.quantized, on_gpu=place.on_gpu,
        )  # fmt: skip
    flop = flop_per_token(load.shape, checkpointing=mode.memory == "lean", target_share=load.target_share)
    return tokens_per_s(place.flops, flop, micro_tokens=load.mean_micro, on_gpu=place.on_gpu, quantized=load.quantized)


def _is_here(name: str) -> bool:
    # Anything that is not a path is a name on the hub.
    return Path(name).exists() or Path(name).parent.is_dir()


def _can_ask_hub() -> bool:
    # Without a network the hub's libraries retry for about 20 seconds per file, unless they are set to be offline.
    return runtime.is_offline() or runtime.hub_is_reachable()


def architecture_of(model: ModelConfig) -> tuple[PreTrainedConfig, str]:
    """Return a model's configuration, and where it is from; no weight is loaded.

    Raises:
        FalconerError: the model can't be found, and its shape is not known.
    """
    is_here = Path(resolve(model.name)).is_dir()
    from_cache = not is_here and not runtime.hub_is_reachable()
    try:
        with explain_missing(model.name, model.revision):
            found = AutoConfig.from_pretrained(
                resolve(model.name), revision=model.revision, trust_remote_code=False, local_files_only=from_cache
            )
    except FalconerError:
        if model.name not in KNOWN_SHAPES:
            raise
        return FalconConfig(**KNOWN_SHAPES[model.name]), "the hub can't be reached; planned from its known shape"
    return found, "local" if is_here else "from the hub's cache" if from_cache else "from the hub"


def _work(config: Config, architecture: PreTrainedConfig, precision: runtime.Precision) -> tuple[Work | None, str]:
    source, name = config.data.train, config.model.name
    unknown = f"the data set '{source}' can't be reached"
    if not _is_here(source) and not _can_ask_hub():
        return None, unknown
    try:
        splits = setup.load_dialogues(config)
    except FalconerError:
        if _is_here(source):
            raise
        return None, unknown
    opened, note = _tokenizer(name, config.model.revision)
    # Encoding needs only the configuration of the model.
    base = LoadedModel(SimpleNamespace(config=architecture), opened.tokenizer, opened.end_id, 0, precision, name)
    format = setup.continued_format(setup.prompt_format(splits, opened.bos), config.lora.init_adapter)
    examples = setup.encode_splits(splits, base, config, format)
    steps = plan_steps(examples.lengths, config.train)
    lengths, micro_tokens = examples.lengths, config.train.micro_tokens
    groups = [group for step in steps for group in micro_batches(step.dialogues, lengths, micro_tokens, 0, 1)]
    padded = [len(group) * max(lengths[index] for index in group) for group in groups]
    validate_every = validation_interval(steps, len(lengths), config.train)
    num_tokens, positions = sum(lengths), sum(padded)
    padding = positions / sum(lengths[index] for step in steps for index in step.dialogues)
    work = Work(
        tokens_per_epoch=num_tokens, num_steps=len(steps), num_micro=len(groups), positions=positions,
        epoch_positions=round(num_tokens * padding),
        validation_positions=sum(len(e.ids) for e in examples.valid) * -(-len(steps) // validate_every),
        longest=max(lengths), largest_micro=max(padded),
        usual_micro=_rows_and_length(groups[len(groups) // 2], lengths),
        target_share=sum(e.num_targets for e in examples.train) / num_tokens, note=note,
    )  # fmt: skip
    return work, ""


def _rows_and_length(group: Sequence[int], lengths: Sequence[int]) -> tuple[int, int]:
    return len(group), max(lengths[index] for index in group)


def _tokenizer(name: str, revision: str | None) -> tuple[LoadedTokenizer, str]:
    if Path(resolve(name)).is_dir() or _can_ask_hub():
        try:
            return open_tokenizer(name, revision), ""
        except FalconerError:
            if name not in KNOWN_SHAPES:
                raise
    return open_tokenizer(EMBEDDED_MODEL), f" (approximate, counted with the tokenizer of {EMBEDDED_MODEL})"


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
