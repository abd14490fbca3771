"""The plot of a run's training loss, validation loss and learning rate (loss_curve.png)."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from falconer.errors import FalconerError
from falconer.files.replace import replace_file
from falconer.records import StepRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, FAINT = "#3c3a37", "#d9d5cc"
_TRAIN, _VALID, _RATE = "#2f6f9f", "#c2410c", "#5b7f5b"
_STYLE: Mapping[Any, Any] = MappingProxyType(
    {
        "font.size": 10,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
    }
)


def write_loss_curve(steps: Sequence[StepRow], path: Path) -> None:
    """Plot the rows of a run's `steps.jsonl` as a PNG of 1350 x 810 pixels.

    Above: the training loss of each step (light) and its moving median, validation losses as points, the best one
    marked, in nats per target token, or per pair in a preference training. Below: the learning rate. Faint vertical
    lines are the ends of epochs.

    Args:
        steps: training rows with `step`, `loss`, `lr`, `epoch`, and validation rows with `step`, `valid_loss`. Where a
            step occurs twice (a resumed run repeats some), the later row is used. A non-finite loss leaves a gap.
        path: the PNG; replaced only when the new one is complete.

    Raises:
        FalconerError: there is no training row, or the file can't be written.
    """
    from matplotlib.ticker import MaxNLocator

    train = sorted({int(row["step"]): row for row in steps if "loss" in row}.items())
    valid = sorted({int(row["step"]): float(row["valid_loss"]) for row in steps if "valid_loss" in row}.items())
    if not train:
        raise FalconerError("There is no training step to plot.", "Train for at least one step.")
    with new_figure(path, 9, 5.4) as figure:
        above, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        _draw_losses(above, train, valid)
        above.set_ylabel(f"loss (nats per {'pair' if 'pairs' in train[-1][1] else 'target token'})")
        rates = [float(row["lr"]) for _, row in train]
        marker = "o" if len(train) == 1 else ""
        below.plot([step for step, _ in train], rates, color=_RATE, linewidth=1.4, marker=marker)
        below.set_ylim(bottom=0)
        below.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
        below.set_ylabel("learning rate")
        below.set_xlabel("optimiser step")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        below.set_xlim(-0.02 * train[-1][0], 1.02 * train[-1][0])
        for axes in (above, below):
            axes.grid(axis="y", color=FAINT, linewidth=0.6, alpha=0.7)
            axes.tick_params(length=0)
        figure.align_ylabels((above, below))


@contextmanager
def new_figure(path: Path, width: float, height: float) -> Iterator["Figure"]:
    """Yield an empty figure in the style of all falconer plots, and write it as a PNG afterwards.

    Args:
        path: the PNG; replaced only when the new one is complete.
        width, height: in units of 150 pixels.

    Raises:
        FalconerError: the file can't be written.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(dict(_STYLE)):
        # A Figure without pyplot uses Agg: it needs no display and leaves no global state.
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        with replace_file(path) as aside:
            # Without matplotlib's version in the metadata, equal figures have equal bytes.
            figure.savefig(aside, format="png", dpi=150, facecolor="white", metadata={"Software": None})


def moving_median(values: np.ndarray, width: int) -> np.ndarray:
    """Return the centred median over `width` (odd) values, [N] -> [N]: fewer at both ends, gaps (NaN) left out."""
    half = width // 2
    windows = (values[max(0, i - half) : i + half + 1] for i in range(len(values)))
    known = (window[np.isfinite(window)] for window in windows)
    return np.array([np.median(window) if window.size else np.nan for window in known])


def _draw_losses(axes: "Axes", train: list[tuple[int, StepRow]], valid: list[tuple[int, float]]) -> None:
    steps = [step for step, _ in train]
    losses = np.array([float(row["loss"]) for _, row in train])
    losses[~np.isfinite(losses)] = np.nan
    # About a twentieth of the run. A median, because a single outlier would distort a mean over the whole window.
    width = min(2 * (len(losses) // 40) + 1, 101)
    smooth = moving_median(losses, width)
    if width > 1:
        axes.plot(steps, losses, color=_TRAIN, alpha=0.25, linewidth=1)
        axes.plot(steps, smooth, color=_TRAIN, linewidth=1.8, label=f"training (median of {width} steps)")
    else:
        axes.plot(steps, losses, color=_TRAIN, linewidth=1.6, marker="o", markersize=3, label="training")
    finite = [(step, loss) for step, loss in valid if math.isfinite(loss)]
    if finite:
        axes.plot(*zip(*finite, strict=True), color=_VALID, linewidth=1, marker="o", markersize=5, label="validation")
        _mark_best(axes, *min(finite, key=lambda point: (point[1], point[0])), last=steps[-1])
    _limit(axes, np.array([*smooth, *(loss for _, loss in finite)]), losses)
    _mark_epochs(axes, train)
    axes.legend(loc="upper right", frameon=True, framealpha=1, edgecolor="none", facecolor="white")


def _mark_best(axes: "Axes", step: int, loss: float, last: int) -> None:
    from matplotlib.patheffects import withStroke

    axes.plot([step], [loss], linestyle="none", marker="o", markersize=12, markerfacecolor="none", color=_VALID)
    side = "right" if step > 0.85 * last else "left" if step < 0.15 * last else "center"
    axes.annotate(
        f"best {loss:.3f} at step {step:,}",
        (step, loss),
        xytext=({"right": 8, "left": -8, "center": 0}[side], 30),
        textcoords="offset points",
        horizontalalignment=side,
        color=_VALID,
        fontweight="bold",
        path_effects=[withStroke(linewidth=4, foreground="white")],
    )


def _limit(axes: "Axes", shown: np.ndarray, losses: np.ndarray) -> None:
    # The upper limit follows the smoothed curve: a single outlier would flatten everything else.
    if np.isfinite(losses).any():
        low, high = float(np.nanmin([np.nanmin(shown), np.nanmin(losses)])), float(np.nanmax(shown))
        margin = 0.06 * max(high - low, 0.05)
        axes.set_ylim(low - margin, high + 2 * margin)


def _mark_epochs(axes: "Axes", train: list[tuple[int, StepRow]]) -> None:
    ends = [
        (step, int(row["epoch"]))
        for (_, before), (step, row) in zip(train, train[1:], strict=False)
        if int(row["epoch"]) > int(before["epoch"])
    ]
    if len(ends) > 12:
        return
    for step, epoch in ends:
        axes.axvline(step, color=FAINT, linewidth=1, zorder=0)
        axes.annotate(
            f"epoch {epoch}",
            (step, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            horizontalalignment="center",
            fontsize=8,
            alpha=0.7,
        )
