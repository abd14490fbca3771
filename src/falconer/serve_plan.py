"""`falconer plan --serve`: the memory that serving a model takes, and how many replies fit on a card at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.table import Table

from falconer import runtime
from falconer.config import Config
from falconer.consoles import counted
from falconer.model.falcon.four_bit import fits_dequantised
from falconer.model.kept import MOST_OF_FREE, conversations_within, slots_and_rows
from falconer.model.limits import context_of
from falconer.train.cost import NF4_BYTES, Shape, measure_shape
from falconer.train.forecast import GIB, GPU_OVERHEAD_GIB
from falconer.train.work import architecture_of

# Memory of the cards that people have, in GiB.
CARDS = (8, 12, 16, 24, 40, 80)
# Serving is planned for GPUs, where the fast path computes in bf16.
BYTES_EACH = 2
# PEFT keeps an adapter in fp32; the fast path has a copy in bf16.
ADAPTER_BYTES = 4 + BYTES_EACH
QUANTIZATIONS = ("nf4", "none")


@dataclass(frozen=True, slots=True)
class Fit:
    """What fits on a card.

    Args:
        card_gib: its memory.
        quantization: nf4 or none.
        weights_gib: weights and adapters.
        dequantised_gib: dequantised weights, if they are cached; else 0.
        slots: replies at the same time, as asked for or fewer; 0 if the weights alone don't fit.
        most_slots: as many would fit.
        conversations: of the longest kind, that are cached.
        cache_gib: what these take.
    """

    card_gib: float
    quantization: str
    weights_gib: float
    dequantised_gib: float = 0.0
    slots: int = 0
    most_slots: int = 0
    conversations: int = 0
    cache_gib: float = 0.0

    @property
    def needed_gib(self) -> float:
        return GPU_OVERHEAD_GIB + self.weights_gib + self.dequantised_gib + self.cache_gib


@dataclass(frozen=True, slots=True)
class ServePlan:
    """The sizes of a model in serving, and what fits on each card.

    Args:
        tokens: of the longest conversation, including its last reply.
        token_bytes: of a token in the cache.
        adapter_gib: of each adapter.
        why_generic: why the fast path does not run it; "" if it does.
    """

    model: str
    source: str
    tokens: int
    token_bytes: int
    adapter_gib: float
    why_generic: str
    fits: tuple[Fit, ...]


def plan_serving(config: Config, *, slots: int, adapters: int) -> ServePlan:
    """Predict the memory of serving a run of this configuration, as engines allocate it.

    Args:
        slots: replies at the same time, as asked for.
        adapters: number of adapters on the base.
    """
    architecture, source = architecture_of(config.model)
    shape = measure_shape(architecture, config.lora)
    tokens = min(config.data.max_tokens, context_of(architecture) or config.data.max_tokens)
    each = token_bytes(architecture)
    adapter_gib = shape.adapter * ADAPTER_BYTES / GIB
    fits = tuple(
        fit(shape, card, quantization, tokens * each, slots=slots, adapters_gib=adapters * adapter_gib)
        for quantization in QUANTIZATIONS for card in (*CARDS, *this_card())
    )  # fmt: skip
    return ServePlan(config.model.name, source, tokens, each, adapter_gib, shape.why_generic, fits)


def fit(
    shape: Shape, card_gib: float, quantization: str, conversation_bytes: int, *, slots: int, adapters_gib: float
) -> Fit:
    """Compute what fits on a card, in the order of an engine: weights, dequantised weights, caches."""
    is_nf4 = quantization == "nf4"
    linear = shape.linear * (NF4_BYTES if is_nf4 else BYTES_EACH)
    weights_gib = (linear + (shape.embedding + shape.other) * BYTES_EACH) / GIB + adapters_gib
    free = card_gib - GPU_OVERHEAD_GIB - weights_gib
    if free <= 0:
        return Fit(card_gib, quantization, weights_gib)
    dequantised = shape.linear * BYTES_EACH / GIB
    is_cached = is_nf4 and not shape.why_generic and fits_dequantised(dequantised, free, "cuda")
    dequantised = dequantised if is_cached else 0.0
    room = conversations_within(free - dequantised, conversation_bytes)
    num_slots, conversations = slots_and_rows(slots, room)
    cache_gib = conversations * conversation_bytes / GIB
    if cache_gib > free - dequantised:
        return Fit(card_gib, quantization, weights_gib)
    return Fit(card_gib, quantization, weights_gib, dequantised, num_slots, room, conversations, cache_gib)


def token_bytes(architecture: Any) -> int:
    """Return the bytes of a token in the cache: keys and values of every layer."""
    text = architecture.get_text_config(decoder=True)
    if text.model_type == "falcon" and not text.new_decoder_architecture:
        num_heads = 1 if text.multi_query else text.num_attention_heads
    else:
        num_heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_kv_heads", None)
        num_heads = num_heads or text.num_attention_heads
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(text.num_hidden_layers * 2 * num_heads * head_size * BYTES_EACH)


def this_card() -> tuple[float, ...]:
    """Return the memory of this machine's GPU in GiB, unless it is about that of one in the table."""
    if not torch.cuda.is_available():
        return ()
    total = runtime.memory_gib(runtime.pick_device("auto"))[1]
    return () if any(abs(total - card) < 0.05 * card for card in CARDS) else (round(total, 1),)


def about(plan: ServePlan) -> list[str]:
    """Return what the table does not say."""
    sizes = {one.quantization: one.weights_gib for one in plan.fits}
    conversation = f"{plan.tokens * plan.token_bytes / 2**20:.1f} MiB for a conversation of {plan.tokens:,} tokens"
    lines = [
        f"{plan.model} ({plan.source}): weights {_gib(sizes['nf4'])} GiB in NF4, {_gib(sizes['none'])} GiB in bf16; "
        f"of it {1024 * plan.adapter_gib:.0f} MiB for each adapter.",
        f"Cache: {plan.token_bytes / 1024:.0f} KiB for a token, {conversation}. Caches get at most "
        f"{100 * MOST_OF_FREE:.0f} % of what is free; the rest is for passes over prompts.",
        f"In use includes {GPU_OVERHEAD_GIB} GiB for the libraries.",
    ]
    if plan.why_generic:
        lines.append(f"Generic path ({plan.why_generic}): weights are dequantised for each pass, and caches may grow.")
    return lines


def serve_plan_table(plan: ServePlan) -> Table:
    """Return the plan as a table for the terminal."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(HEAD):
        table.add_column(name, justify="left" if number in (1, 3) else "right", no_wrap=True)
    for row in cells(plan.fits):
        table.add_row(*row)
    return table


HEAD = ("card", "weights", "GiB", "dequantised", "slots", "at most", "cached conversations", "in use")


def cells(fits: Sequence[Fit]) -> list[tuple[str, ...]]:
    """Return the cells of the table."""
    found: list[tuple[str, ...]] = []
    for one in fits:
        kind = "NF4" if one.quantization == "nf4" else "bf16"
        start = (f"{one.card_gib:g} GiB", kind, _gib(one.weights_gib))
        if not one.slots:
            found.append((*start, "does not fit", "", "", "", ""))
            continue
        cached = f"cached, {_gib(one.dequantised_gib)} GiB" if one.dequantised_gib else "each time"
        numbers = (f"{number:,}" for number in (one.slots, one.most_slots, one.conversations))
        found.append((*start, cached if kind == "NF4" else "", *numbers, f"{_gib(one.needed_gib)} GiB"))
    return found


def _gib(size: float) -> str:
    return f"{size:.{1 if size >= 1 else 2}f}"


def as_markdown(plan: ServePlan) -> str:
    """Return the table as in docs/serving.md."""
    lines = [" | ".join(HEAD), " | ".join("---" if number in (1, 3) else "---:" for number in range(len(HEAD)))]
    lines += [" | ".join(row) for row in cells(plan.fits)]
    return "\n".join(f"| {line} |" for line in lines)


def title(slots: int, adapters: int) -> str:
    """Return what was asked for, in words."""
    return f"{counted(slots, 'reply', 'replies')} at the same time, {counted(adapters, 'adapter')}:"
