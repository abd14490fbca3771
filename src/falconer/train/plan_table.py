"""The table that `falconer plan` prints."""

from collections.abc import Sequence
from types import MappingProxyType

from rich.table import Table
from rich.text import Text

from falconer.model.load import cost_of_nf4
from falconer.train.cards import LARGEST_ERROR
from falconer.train.forecast import GIB, Plan
from falconer.train.work import Work

_SPEED_FROM = MappingProxyType({
    "data sheet": "predicted from the card's data sheet, not measured",
    "predicted": "predicted from the matmul rate",
    "timed": "measured now, with random weights of this shape",
    "guessed": "only a rough guess from the matmul rate: the true speed may be several times lower",
})  # fmt: skip
_FLOPS_BY_SHEET = "by the data sheet; in bf16, as much of its rate as an H200 reaches"
_GROWTH = (
    "for the first steps; on a CPU, a process grows during training, in the quickstart to more than three times this"
)


def plan_table(plan: Plan) -> Table:
    """Return the prediction as a table for the terminal."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right")
    table.add_column(style="dim")
    shape, memory, on_gpu = plan.shape, plan.memory, plan.speed_from in ("predicted", "data sheet")
    quantised = plan.quantization == "nf4"
    note = cost_of_nf4(shape.linear + shape.embedding + shape.other) if quantised else ""
    kind = "NF4, double quantisation" if quantised else "not quantised"
    tokens, longest = plan.micro
    how = (
        "lean mode: only block inputs are kept, the rest is recomputed"
        if plan.mode.memory == "lean"
        else "fast mode: all activations are kept"
    )
    beside = "CUDA" if on_gpu else "Python"
    flops_from = _FLOPS_BY_SHEET if plan.speed_from == "data sheet" else "measured on this device"
    precision, _, reason = plan.precision.partition(": ")
    rows: list[tuple[str, str, str]] = [
        ("model", plan.model, plan.source),
        ("device", plan.device, ""),
        ("precision", precision, reason),
        ("path", plan.mode.path, "base matmuls in FP8" if plan.mode.compute == "fp8" else ""),
        ("", "", ""),
        ("weights", _gib(memory.weights), f"{shape.linear / 1e6:,.0f} M in linear layers: {kind}"),
        ("", "", f"{shape.embedding / 1e6:,.1f} M in embedding and head, {shape.other / 1e6:,.2f} M elsewhere"),
        *([("", "", note)] if note else []),
        *([("", "", "including the cached dequantised weights, since they fit")] if plan.mode.caches_weights else []),
        ("adapter", _gib(memory.adapter), f"{shape.adapter:,} parameters with gradients and AdamW's moments"),
        ("activations", _gib(memory.kept), f"micro-batch of {tokens:,} tokens, rows of up to {longest:,}; {how}"),
        ("temporary", _gib(memory.passing), "logits at the target tokens, or one block's backward pass"),
        ("libraries", f"{plan.overhead_gib:.2f} GiB", f"{beside} and libraries, in addition to the tensors"),
        ("total", f"{plan.needed_gib:.2f} GiB", f"of {plan.free_gib:.1f} GiB free, {plan.total_gib:.1f} GiB in total"),
        *([] if on_gpu else [("", "", _GROWTH)]),
        ("", "does not fit" if plan.advice else "fits", plan.advice),
        ("", "", ""),
        ("matmuls", f"{_short(plan.flops)}FLOP/s", flops_from),
        ("speed", f"{_short(plan.tokens_per_s)}tokens/s", f"of a training step, {_SPEED_FROM[plan.speed_from]}"),
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
        what = "for the whole run" if plan.work else "for a million tokens"
        rows += [
            ("", "", ""),
            ("on an H200", f"{gib:.2f} GiB", "of GPU memory is needed (bf16)"),
            ("", _duration(plan.work_positions / rate), f"{what}, at {_short(rate)}tokens/s"),
        ]
    for name, value, note in rows:
        style = "bold red" if value == "does not fit" else "bold green" if value == "fits" else ""
        # As Text, since rich would read brackets in a path as markup.
        table.add_row(name, Text(value, style=style), Text(note))
    return table


def cards_table(plans: Sequence[Plan]) -> Table:
    """Return the predictions for several cards as a table for the terminal, one card a line."""
    table = Table(box=None, pad_edge=False)
    table.add_column("card", no_wrap=True)
    for title in ("has", "needs", "tokens/s", "time"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("path, precision, memory mode", style="dim")
    for plan in plans:
        how = plan.advice or f"{plan.mode.path}, {plan.mode.compute}, {plan.mode.memory}"
        time = "" if plan.advice else _duration(plan.work_positions / plan.tokens_per_s)
        cells = (
            plan.device, f"{plan.total_gib:.0f} GiB", f"{plan.needed_gib:.1f} GiB",
            "does not fit" if plan.advice else f"{plan.tokens_per_s:,.0f}", time, how,
        )  # fmt: skip
        table.add_row(*(Text(cell) for cell in cells))
    return table


def about_cards(plans: Sequence[Plan]) -> tuple[str, ...]:
    """Return what to know of such predictions, in sentences."""
    plan = plans[0]
    time = "the whole run with its validations" if plan.work else f"a million tokens ({plan.unknown})"
    return (
        f"Predicted from data sheets, not measured; the time is that of {time}.",
        f"Measured were an H100 and an H200 with Falcon-7B, and there the fast path's speed was at most "
        f"{LARGEST_ERROR:.0%} off. Other cards can be further off, since power limits and cooling slow some down.",
    )


def _time_rows(plan: Plan, work: Work) -> list[tuple[str, str, str]]:
    train, valid = work.positions / plan.tokens_per_s, plan.validation_positions / plan.tokens_per_s
    return [
        ("data", f"{work.tokens_per_epoch:,}", f"tokens per epoch{work.note}"),
        ("steps", f"{work.num_steps:,}", f"for {plan.epochs:g} epochs (fewer if training stops early)"),
        ("time", _duration(work.epoch_positions / plan.tokens_per_s), "per epoch"),
        ("", _duration(train + valid), "for the whole run, including validation"),
    ]


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
