"""What a run will need, predicted before any weight is loaded: memory, and time on this device."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import torch
from rich.table import Table
from rich.text import Text
from transformers import AutoConfig, FalconConfig, PreTrainedConfig

from falconer import runtime
from falconer.config import Config, ModelConfig
from falconer.data.batch import micro_batches
from falconer.errors import FalconerError
from falconer.model.limits import context_of
from falconer.model.load import LoadedModel, cost_of_nf4
from falconer.model.random_falcon import FALCON_7B
from falconer.model.tokenizer import EMBEDDED_MODEL, LoadedTokenizer, explain_missing, open_tokenizer, resolve
from falconer.train import setup
from falconer.train.cost import (
    Memory,
    Shape,
    flop_per_token,
    measure_flops,
    measure_shape,
    tokens_per_s,
    training_memory,
)
from falconer.train.falcon_cost import falcon_memory, falcon_tokens_per_s
from falconer.train.mode import MOST_MEMORY

GIB = 2**30
# Beside the tensors: the CUDA context and its libraries; on the CPU the interpreter and the libraries.
GPU_OVERHEAD_GIB = 0.8
CPU_OVERHEAD_GIB = 0.8
# An H200's measured bf16 rate: what a reader without a GPU can compare with.
H200_FLOPS = 770e12
# Targets among the tokens where the data are not known; Persona-Chat has 0.3 to 0.4.
TARGET_SHARE = 0.4
KNOWN_SHAPES = {"tiiuae/falcon-7b": FALCON_7B, "tiiuae/falcon-7b-instruct": FALCON_7B}


@dataclass(frozen=True, slots=True)
class Work:
    """What a run's data ask for.

    Args:
        num_steps, num_micro: optimiser steps, and the micro-batches in them.
        positions: tokens with pads, of all steps and of one epoch; `validation_positions` of all validations together.
        longest, largest_micro: positions of the longest example and of the largest micro-batch.
        note: how the tokens were counted, if not with the model's own tokenizer.
    """

    tokens_per_epoch: int
    num_steps: int
    num_micro: int
    positions: int
    epoch_positions: int
    validation_positions: int
    longest: int
    largest_micro: int
    target_share: float
    note: str


@dataclass(frozen=True, slots=True)
class Way:
    """How a run would go: `path`, `lean` and `holds` as in `train.mode.Mode`, and whether products are in FP8."""

    path: str
    fp8: bool
    lean: bool
    holds: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """The prediction of a run on this device.

    Args:
        model, source: name, and where its shape came from.
        flops: measured rate of matrix products on this device, in FLOP/s.
        tokens_per_s: predicted.
        micro: positions of the largest micro-batch and of its longest row, for which `memory` is.
        way: the fastest that fits, as training would find it by trying.
        overhead_gib, free_gib, total_gib: memory beside the tensors; free and built into this device.
        on_h200: (GiB, tokens/s) there, for whoever plans a large model without a GPU.
        work: None where the data could not be reached; `unknown` then says why.
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
    way: Way
    overhead_gib: float
    free_gib: float
    total_gib: float
    flops: float
    tokens_per_s: float
    on_h200: tuple[float, float] | None
    epochs: float
    work: Work | None
    unknown: str
    advice: str

    @property
    def needed_gib(self) -> float:
        return self.memory.total / GIB + self.overhead_gib


def plan_run(config: Config) -> Plan:
    """Predict memory and time of a run on this device; takes seconds and loads no weights.

    Raises:
        FalconerError: the model can't be found (but for those in `KNOWN_SHAPES`), or a setting does not fit it.
    """
    device = runtime.pick_device(config.model.device)
    precision = runtime.pick_precision(config.model.dtype, device)
    architecture, source = _architecture(config.model)
    shape = measure_shape(architecture, config.lora)
    work, unknown = _work(config, architecture, precision)
    longest = work.longest if work else min(config.data.max_tokens, context_of(architecture) or config.data.max_tokens)
    micro_tokens = work.largest_micro if work else max(config.train.micro_tokens, longest)
    target_share = work.target_share if work else TARGET_SHARE
    quantized, on_gpu = config.model.quantization == "nf4", device.type == "cuda"
    mean_micro = work.positions / work.num_micro if work else config.train.micro_tokens

    def memory_of(way: Way, bytes_each: int, on_gpu: bool) -> Memory:
        num_logits = round(micro_tokens * target_share)
        if way.path == "falcon":
            return falcon_memory(
                shape, tokens=micro_tokens, num_logits=num_logits, lean=way.lean, holds=way.holds, fp8=way.fp8,
                quantized=quantized, bytes_each=bytes_each, on_gpu=on_gpu,
            )  # fmt: skip
        return training_memory(
            shape, tokens=micro_tokens, longest=longest, num_logits=num_logits, checkpointing=way.lean,
            quantized=quantized, bytes_each=bytes_each,
        )  # fmt: skip

    def speed_of(way: Way, flops: float, on_gpu: bool) -> float:
        if way.path == "falcon":
            return falcon_tokens_per_s(
                flops, shape, target_share=target_share, micro_tokens=mean_micro, lean=way.lean, holds=way.holds,
                fp8=way.fp8, quantized=quantized, on_gpu=on_gpu,
            )  # fmt: skip
        flop = flop_per_token(shape, checkpointing=way.lean, target_share=target_share)
        return tokens_per_s(flops, flop, micro_tokens=mean_micro, on_gpu=on_gpu, quantized=quantized)

    overhead = GPU_OVERHEAD_GIB if on_gpu else CPU_OVERHEAD_GIB
    free, total = runtime.memory_gib(device)
    bytes_each = torch.finfo(precision.dtype).bits // 8
    ways = _ways(config, shape.why_generic, on_gpu=on_gpu, fp8=runtime.has_fp8(device), precision=precision)
    needs = {way: memory_of(way, bytes_each, on_gpu).total / GIB + overhead for way in ways}
    way = next((way for way, needed in needs.items() if needed < MOST_MEMORY * free), ways[-1])
    memory = memory_of(way, bytes_each, on_gpu)
    flops = measure_flops(device, precision.dtype)
    there = _ways(config, shape.why_generic, on_gpu=True, fp8=True, precision=runtime.Precision(torch.bfloat16, ""))[0]
    return Plan(
        model=config.model.name, source=source, device=runtime.environment(device)["device"],
        precision=f"{precision.name}: {precision.reason}", quantization=config.model.quantization, shape=shape,
        memory=memory, micro=(micro_tokens, longest), way=way, overhead_gib=overhead,
        free_gib=free, total_gib=total, flops=flops, tokens_per_s=speed_of(way, flops, on_gpu),
        on_h200=(memory_of(there, 2, True).total / GIB + GPU_OVERHEAD_GIB, speed_of(there, H200_FLOPS, True))
        if not on_gpu and shape.linear > 1e9
        else None,
        epochs=config.train.epochs, work=work, unknown=unknown,
        advice=_advice(memory.total / GIB + overhead - free, config, longest),
    )  # fmt: skip


def plan_table(plan: Plan) -> Table:
    """Return the prediction as a table for the terminal."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right")
    table.add_column(style="dim")
    shape, memory = plan.shape, plan.memory
    quantised = plan.quantization == "nf4"
    note = cost_of_nf4(shape.linear + shape.embedding + shape.other) if quantised else ""
    kind = "NF4, double quantisation" if quantised else "not quantised"
    tokens, longest = plan.micro
    how = "lean: inputs of blocks alone, the rest is made again" if plan.way.lean else "fast: all kept"
    numbers, _, reason = plan.precision.partition(": ")
    rows: list[tuple[str, str, str]] = [
        ("model", plan.model, plan.source),
        ("device", plan.device, ""),
        ("numbers", numbers, reason),
        ("path", plan.way.path, "frozen products in FP8" if plan.way.fp8 else ""),
        ("", "", ""),
        ("weights", _gib(memory.weights), f"{shape.linear / 1e6:,.0f} M in linear layers: {kind}"),
        ("", "", f"{shape.embedding / 1e6:,.1f} M in embedding and head, {shape.other / 1e6:,.2f} M elsewhere: whole"),
        *([("", "", note)] if note else []),
        *([("", "", "and once more dequantised, as there is room")] if plan.way.holds else []),
        ("adapter", _gib(memory.adapter), f"{shape.adapter:,} parameters with gradient and AdamW's moments"),
        ("activations", _gib(memory.kept), f"{tokens:,} tokens at once, rows up to {longest:,}; {how}"),
        ("passing", _gib(memory.passing), "logits at the targets, or one block's backward pass"),
        ("libraries", f"{plan.overhead_gib:.2f} GiB", "beside the tensors"),
        ("total", f"{plan.needed_gib:.2f} GiB", f"of {plan.free_gib:.1f} GiB free, {plan.total_gib:.1f} GiB built in"),
        ("", "does not fit" if plan.advice else "fits", plan.advice),
        ("", "", ""),
        ("products", f"{_short(plan.flops)}FLOP/s", "matrix products alone, measured just now"),
        ("speed", f"{_short(plan.tokens_per_s)}tokens/s", "a training step's, predicted"),
    ]  # fmt: skip
    if plan.work:
        rows += _time_rows(plan, plan.work)
    else:
        rows += [
            ("data", "unknown", plan.unknown),
            ("time", _duration(1e6 / plan.tokens_per_s), "for a million tokens"),
        ]
    if plan.on_h200:
        gib, rate = plan.on_h200
        what = "the whole run" if plan.work else "for a million tokens"
        rows += [
            ("", "", ""),
            ("on an H200", f"{gib:.2f} GiB", "of a GPU's memory, in bf16"),
            ("", _duration(_total_positions(plan) / rate), f"{what}, at {_short(rate)}tokens/s"),
        ]
    for name, value, note in rows:
        style = "bold red" if value == "does not fit" else "bold green" if value == "fits" else ""
        # As text: rich would read brackets in a path as markup.
        table.add_row(name, Text(value, style=style), Text(note))
    return table


def _time_rows(plan: Plan, work: Work) -> list[tuple[str, str, str]]:
    train, valid = work.positions / plan.tokens_per_s, _validation_positions(plan, work) / plan.tokens_per_s
    return [
        ("data", f"{work.tokens_per_epoch:,}", f"tokens an epoch{work.note}"),
        ("steps", f"{work.num_steps:,}", f"in at most {plan.epochs:g} epochs"),
        ("time", _duration(work.epoch_positions / plan.tokens_per_s), "an epoch"),
        ("", _duration(train + valid), "the whole run, validation included"),
    ]


def _total_positions(plan: Plan) -> float:
    return plan.work.positions + _validation_positions(plan, plan.work) if plan.work else 1e6


def _validation_positions(plan: Plan, work: Work) -> float:
    # A forward pass alone: 2 FLOP a parameter where a training step has 4, or up to 6.
    return work.validation_positions * 2 / (5 if plan.way.lean else 4)


def _ways(config: Config, why_generic: str, *, on_gpu: bool, fp8: bool, precision: runtime.Precision) -> list[Way]:
    """Return the ways that training would try, the fastest first, as `train.mode.choose_mode` orders them."""
    generic = config.model.path == "generic" or why_generic
    path = "generic" if generic or (on_gpu and precision.dtype != torch.bfloat16) else "falcon"
    in_fp8 = fp8 and path == "falcon" and config.train.compute != "bf16"
    # Whole weights have nothing to be unpacked from.
    can_hold = path == "falcon" and config.model.quantization == "nf4"
    ways = [Way(path, in_fp8, lean=False, holds=True)] if can_hold else []
    ways.append(Way(path, in_fp8, lean=False, holds=False))
    if config.train.memory == "lean":
        return [Way(path, in_fp8, lean=True, holds=False)]
    return [*ways, Way(path, in_fp8, lean=True, holds=False)] if config.train.memory == "auto" and on_gpu else ways


def _is_here(name: str) -> bool:
    # A path; whatever else is the name of something on the hub.
    return Path(name).exists() or Path(name).parent.is_dir()


def _can_ask_hub() -> bool:
    # Without a network the hub's libraries retry for some 20 seconds a file, unless they are told to stay offline.
    return runtime.is_offline() or runtime.hub_is_reachable()


def _architecture(model: ModelConfig) -> tuple[PreTrainedConfig, str]:
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
        return FalconConfig(**KNOWN_SHAPES[model.name]), "not reached; planned from its known shape"
    return found, "here" if is_here else "from the hub's cache" if from_cache else "from the hub"


def _work(config: Config, architecture: PreTrainedConfig, precision: runtime.Precision) -> tuple[Work | None, str]:
    source, name = config.data.train, config.model.name
    unknown = f"data set '{source}' not reachable"
    if not _is_here(source) and not _can_ask_hub():
        return None, unknown
    try:
        splits = setup.load_dialogues(config)
    except FalconerError:
        if _is_here(source):
            raise
        return None, unknown
    opened, note = _tokenizer(name, config.model.revision)
    # Encoding asks a model for nothing but its configuration.
    base = LoadedModel(SimpleNamespace(config=architecture), opened.tokenizer, opened.end_id, 0, precision, name)
    format = setup.continued_format(setup.prompt_format(splits, opened.bos), config.lora.init_adapter)
    examples = setup.encode_splits(splits, base, config, format)
    steps = setup.plan_steps(examples.lengths, config)
    lengths, micro_tokens = examples.lengths, config.train.micro_tokens
    groups = [group for _, _, step in steps for group in micro_batches(step, lengths, micro_tokens, 0, 1)]
    padded = [len(group) * max(lengths[index] for index in group) for group in groups]
    validate_every = setup.validation_interval(steps, len(lengths), config)
    num_tokens, positions = sum(lengths), sum(padded)
    padding = positions / sum(lengths[index] for _, _, step in steps for index in step)
    work = Work(
        tokens_per_epoch=num_tokens, num_steps=len(steps), num_micro=len(groups), positions=positions,
        epoch_positions=round(num_tokens * padding),
        validation_positions=sum(len(e.ids) for e in examples.valid) * -(-len(steps) // validate_every),
        longest=max(lengths), largest_micro=max(padded),
        target_share=sum(e.num_targets for e in examples.train) / num_tokens, note=note,
    )  # fmt: skip
    return work, ""


def _tokenizer(name: str, revision: str | None) -> tuple[LoadedTokenizer, str]:
    if Path(resolve(name)).is_dir() or _can_ask_hub():
        try:
            return open_tokenizer(name, revision), ""
        except FalconerError:
            if name not in KNOWN_SHAPES:
                raise
    return open_tokenizer(EMBEDDED_MODEL), f"; about, counted with {EMBEDDED_MODEL}'s tokenizer"


def _advice(excess_gib: float, config: Config, longest: int) -> str:
    if excess_gib <= 0:
        return ""
    missing = f"{excess_gib:.1f} GiB too much: set "
    if config.model.quantization == "none":
        return f"{missing}model.quantization=nf4"
    if config.train.memory == "fast":
        return f"{missing}train.memory=auto"
    if config.train.micro_tokens > longest:
        return f"{missing}train.micro_tokens={max(longest, config.train.micro_tokens // 2)}"
    if longest > 256:
        return f"{missing}data.max_tokens={longest // 2}, or use a larger device"
    return f"{excess_gib:.1f} GiB too much: use a larger device, or a smaller model"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f} GiB"


def _short(value: float) -> str:
    for prefix, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if value >= size:
            return f"{value / size:,.{0 if value >= 100 * size else 1}f} {prefix}"
    return f"{value:,.{0 if value >= 10 else 1}f} "


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} seconds"
