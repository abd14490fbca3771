"""Showing what a model sees: a dialogue token by token with its loss mask, and the lengths of all dialogues."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.table import Table
from rich.text import Text

from falconer.consoles import counted
from falconer.curves import FAINT, new_figure
from falconer.data.batch import padding_share
from falconer.data.encode import Truncation
from falconer.errors import FalconerError
from falconer.records import Dialogue, Example

# Two styles of each kind take turns, so that every border between tokens is seen, on dark and on light terminals.
TARGET_STYLES = ("black on #9fd39f", "black on #74bd74")
END_STYLE = "bold white on #c2410c"
CONTEXT_STYLES = ("#8a8780", "#8a8780 underline")

_BARS, _MARK = "#2f6f9f", "#c2410c"


class Decoder(Protocol):
    """The part of a Hugging Face tokenizer that is used here."""

    def decode(self, token_ids: Any, *, skip_special_tokens: bool, clean_up_tokenization_spaces: bool) -> Any: ...


@dataclass(frozen=True, slots=True)
class LengthStats:
    """Lengths in tokens; `target_share` and `padding_share` in 0-100, of all tokens and of all positions."""

    num_examples: int
    num_replies: int
    num_tokens: int
    mean_tokens: float
    median_tokens: float
    p95_tokens: float
    max_tokens: int
    target_share: float
    padding_share: float
    num_truncated: int
    num_dropped_turns: int
    num_dropped_replies: int
    num_left_out: int


def render(dialogue: Dialogue, example: Example, tokenizer: Decoder, *, in_colour: bool) -> Text:
    """Return an encoded dialogue as text that shows targets, the end token of each reply, and everything else.

    Args:
        dialogue: what was encoded; tells how many replies did not fit.
        example: its ids [T] and mask [T].
        tokenizer: turns ids into text.
        in_colour: mark targets by colour; else, for a pipe or a terminal without colours, by brackets.
    """
    num_replies = len(dialogue.replies)
    text = Text(f"{dialogue.id}: ")
    text.append(
        f"{counted(len(example.ids), 'token')}, {example.num_targets:,} of them targets in "
        f"{counted(len(example.reply_starts), 'reply', 'replies')}"
    )
    if dropped := num_replies - len(example.reply_starts):
        text.append(f"; {counted(dropped, 'older reply was', 'older replies were')} dropped to fit")
    text.append("\n")
    if in_colour:
        for label, style in (
            (" target ", TARGET_STYLES[0]),
            (" end token (a target) ", END_STYLE),
            (" context, no loss ", CONTEXT_STYLES[1]),
        ):
            text.append(label, style=style).append(" ")
    else:
        text.append(
            "Targets, end tokens included, are in [[double brackets]]; all other tokens are context without a loss."
        )
    text.append("\n\n")
    # Known by its place, as in training, not by its id.
    starts, end_tokens = set(example.reply_starts), {end - 1 for end in example.reply_ends}
    for position, piece in enumerate(pieces(example.ids.tolist(), tokenizer)):
        if not in_colour:
            text.append("[[" if position in starts else "").append(piece).append("]]" if position in end_tokens else "")
            continue
        if position in end_tokens:
            style = END_STYLE
        else:
            style = (TARGET_STYLES if example.is_target[position] else CONTEXT_STYLES)[position % 2]
        # The line break itself carries no colour, or the rest of the line would.
        for number, part in enumerate(piece.split("\n")):
            text.append("\n" if number else "").append(part, style=style)
    return text


def pieces(ids: Sequence[int], tokenizer: Decoder) -> list[str]:
    """Return the text that each token adds. A character cut across tokens stands at the last; the others are "·"."""
    found: list[str] = []
    pending = 0  # tokens before this one that are only a part of a character
    for position in range(len(ids)):
        # A few tokens of context: some tokenizers write a token's space only behind another token.
        start = max(0, position - pending - 3)
        before = _decode(ids[start : position - pending], tokenizer)
        piece = _decode(ids[start : position + 1], tokenizer)[len(before) :]
        if piece.endswith("\ufffd") and pending < 3:
            pending += 1
            found.append("·")
        else:
            pending = 0
            found.append(piece)
    return found


def length_stats(
    examples: Sequence[Example], batches: Sequence[Sequence[int]], truncation: Truncation | None = None
) -> LengthStats:
    """Return what there is to know about the lengths of encoded dialogues.

    Args:
        examples: the encoded dialogues.
        batches: indices of the examples that are padded to one length, e.g. from `batch.plan_epoch`.
        truncation: what the encoder left out.

    Raises:
        FalconerError: there is no example.
    """
    if not examples:
        raise FalconerError("There are no dialogues to measure.", "Check the file with: falconer data show FILE.")
    truncation = truncation or Truncation()
    lengths = np.array([len(example.ids) for example in examples])
    num_tokens = int(lengths.sum())
    return LengthStats(
        num_examples=len(examples),
        num_replies=sum(len(example.reply_starts) for example in examples),
        num_tokens=num_tokens,
        mean_tokens=float(lengths.mean()),
        median_tokens=float(np.median(lengths)),
        p95_tokens=float(np.percentile(lengths, 95)),
        max_tokens=int(lengths.max()),
        target_share=100 * sum(example.num_targets for example in examples) / num_tokens,
        padding_share=100 * padding_share(lengths.tolist(), batches),
        num_truncated=truncation.num_dialogues,
        num_dropped_turns=truncation.num_turns,
        num_dropped_replies=truncation.num_replies,
        num_left_out=truncation.num_left_out,
    )


def stats_table(stats: LengthStats) -> Table:
    """Return the statistics as a table of two columns."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    rows = [
        ("dialogues", f"{stats.num_examples:,}", ""),
        ("replies to learn", f"{stats.num_replies:,}", ""),
        ("tokens", f"{stats.num_tokens:,}", ""),
        ("tokens per dialogue", f"{stats.mean_tokens:.1f}", "mean"),
        ("", f"{stats.median_tokens:.0f}", "median"),
        ("", f"{stats.p95_tokens:.0f}", "95th percentile"),
        ("", f"{stats.max_tokens:,}", "longest"),
        ("target tokens", f"{stats.target_share:.1f} %", "of all tokens"),
        ("padding", f"{stats.padding_share:.1f} %", "of all positions in a batch"),
        ("truncated", f"{stats.num_truncated:,}", "dialogues"),
        ("", f"{stats.num_dropped_turns:,}", "oldest turns dropped"),
        ("", f"{stats.num_dropped_replies:,}", "replies among them"),
        ("left out", f"{stats.num_left_out:,}", "dialogues whose persona and last reply do not fit"),
    ]
    for row in rows:
        table.add_row(*row)
    return table


def write_histogram(lengths: Sequence[int], path: Path) -> None:
    """Plot a histogram of the lengths as a PNG of 1350 x 675 pixels, with median and 95th percentile marked.

    Args:
        lengths: tokens of each example.
        path: the PNG; replaced only when the new one is complete.

    Raises:
        FalconerError: there is no length, or the file can't be written.
    """
    from matplotlib.ticker import MaxNLocator

    if not lengths:
        raise FalconerError("There are no lengths to plot.", "Check the file with: falconer data show FILE.")
    with new_figure(path, 9, 4.5) as figure:
        axes = figure.subplots()
        axes.hist(lengths, bins=_bin_edges(lengths), color=_BARS, edgecolor="white", linewidth=0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("tokens per dialogue")
        axes.set_ylabel("dialogues")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(f"{len(lengths):,} dialogues, {sum(lengths):,} tokens", loc="left", fontsize=11)
        top = 1.12 * axes.get_ylim()[1]
        axes.set_ylim(0, top)
        median, p95 = np.median(lengths), np.percentile(lengths, 95)
        for value, text, side in ((median, f"median {median:.0f} ", "right"), (p95, f" 95 % up to {p95:.0f}", "left")):
            axes.axvline(float(value), color=_MARK, linewidth=1.2, linestyle=(0, (4, 3)))
            axes.text(float(value), top, text, color=_MARK, horizontalalignment=side, verticalalignment="top")
        # An outlier's bar is hardly a pixel high.
        axes.plot([max(lengths)], [0], marker="^", markersize=7, color=_MARK, linestyle="none", clip_on=False)
        axes.annotate(
            f"longest {max(lengths):,}", (max(lengths), 0), xytext=(0, 9), textcoords="offset points", color=_MARK,
            horizontalalignment="right",
        )  # fmt: skip
        axes.grid(axis="y", color=FAINT, linewidth=0.6, alpha=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(length=0)


def _bin_edges(lengths: Sequence[int]) -> Sequence[float]:
    """Return edges at round numbers: about 40 bins for all but the outliers, 400 at most with them."""
    low, high = np.percentile(lengths, (1, 99))
    spread = max((high - low) / 40, (max(lengths) - min(lengths)) / 400)
    width = next(size for size in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if spread <= size)
    return np.arange(min(lengths) // width * width, max(lengths) + width + 1, width).tolist()


def _decode(ids: Sequence[int], tokenizer: Decoder) -> str:
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
