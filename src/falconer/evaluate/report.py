"""What a reader is shown of an evaluation: one offline HTML page, and the same as Markdown."""

import base64
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from falconer import __version__
from falconer.curves import CURVE_FILE
from falconer.evaluate.floors import FLOORS
from falconer.evaluate.table import ARROWS, METRICS, Metric, format_value, score_table, tabulate
from falconer.files import replace_file
from falconer.records import Score

__all__ = ["Report", "Sample", "score_table", "write_report"]

_HEADLINES = ("word_ppl", "bleu", "rouge_l", "f1", "ended_share")
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~&$])")


@dataclass(frozen=True, slots=True)
class Sample:
    """One context with its replies. `history` is oldest first; speakers alternate and the partner spoke last."""

    dialogue_id: str
    turn: int
    persona: Sequence[str]
    history: Sequence[str]
    gold: str
    base: str | None = None
    tuned: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the report says.

    Args:
        title: heading of the page.
        base: scores of the model before tuning, None if it was not evaluated; `tuned` likewise.
        floors: scores of `floor_predictions`' replies, by the same names.
        signatures: from `metrics.signatures`.
        settings: what the figures depend on (model, data hash, prompt hash, decoding, seed, versions, hardware, path).
        samples: contexts chosen at random.
        curve_png: the picture of `curves.write_loss_curve`.
        sample_chat: (what the person said, what the tuned model answered), in order.
        command: what to type to get this report again.
        notes: what a reader should know before using the figures.
        gold: scores of the gold replies against themselves, for their distinct-n and length.
        sample_seed: seed that chose the samples.
        chat_persona: the persona that the model had in the sample chat.
    """

    title: str
    base: Score | None
    tuned: Score | None
    floors: Mapping[str, Score]
    signatures: Mapping[str, str]
    settings: Mapping[str, str]
    samples: Sequence[Sample]
    curve_png: bytes | None
    sample_chat: Sequence[tuple[str, str]]
    command: str
    notes: Sequence[str]
    gold: Score | None = None
    sample_seed: int | None = None
    chat_persona: Sequence[str] = ()

    @property
    def systems(self) -> dict[str, Score]:
        return {name: score for name, score in (("base", self.base), ("tuned", self.tuned)) if score}


@dataclass(frozen=True, slots=True)
class Mark:
    """A value's place on a headline's line, in per cent of its length."""

    kind: Literal["floor", "base", "main"]
    percent: float


@dataclass(frozen=True, slots=True)
class Headline:
    """One figure in large type, and lines that set it against base and floors."""

    metric: Metric
    text: str
    verdict: tuple[str, ...]
    marks: tuple[Mark, ...]


def write_report(run: Path, report: Report) -> None:
    """Write `run`/report.html (one file: styles and picture inside, no script, no network) and `run`/report.md.

    Every text of a dialogue is escaped in both. The Markdown shows the loss curve if `run` holds `curves.CURVE_FILE`.

    Raises:
        FalconerError: no space, or the folder can't be written to.
    """
    pages = {"report.html": render_html(report), "report.md": render_markdown(report, (run / CURVE_FILE).is_file())}
    for name, text in pages.items():
        with replace_file(run / name) as aside:
            aside.write_text(text, encoding="utf-8")


def render_html(report: Report) -> str:
    """Return the report as one HTML page."""
    curve = base64.b64encode(report.curve_png).decode("ascii") if report.curve_png else ""
    return _render("report.html.j2", report, escape=True, curve=curve)


def render_markdown(report: Report, has_curve_file: bool) -> str:
    """Return the report as Markdown; `has_curve_file` says that the curve's picture lies beside it."""
    return _render("report.md.j2", report, escape=False, curve=CURVE_FILE if has_curve_file else "")


def headlines(report: Report) -> list[Headline]:
    """Return the figures that stand in large type: those of the tuned model, of base where nothing was tuned."""
    main, base = (report.tuned, report.base) if report.tuned else (report.base, None)
    if main is None:
        return []
    found = []
    for metric in (metric for key in _HEADLINES for metric in METRICS if metric.key == key):
        value: float | None = getattr(main, metric.key)
        if value is None:
            continue
        before = getattr(base, metric.key) if base else None
        floors = {name: getattr(floor, metric.key) for name, floor in report.floors.items()}
        known = {name: floor for name, floor in floors.items() if floor is not None}
        marks: list[tuple[Literal["floor", "base", "main"], float]] = [("floor", floor) for floor in known.values()]
        marks += [("base", before)] if before is not None else []
        largest = max(value, *(mark for _, mark in marks), 1e-9) if metric.key != "ended_share" else 100.0
        marks += [("main", value)]
        placed = tuple(Mark(kind, 100 * mark / largest) for kind, mark in marks) if math.isfinite(largest) else ()
        text = format_value(value, metric.digits)
        found.append(Headline(metric, text, _verdict(metric, value, before, known), placed))
    return found


def _verdict(metric: Metric, value: float, before: float | None, floors: Mapping[str, float]) -> tuple[str, ...]:
    lines = []
    if before is not None:
        side = "above" if value > before else "below" if value < before else "equal to"
        lines.append(f"{side} base ({format_value(before, metric.digits)})")
    if floors:
        best = max(floors, key=lambda name: floors[name])
        figure = format_value(floors[best], metric.digits)
        beats = value > floors[best]
        lines.append(f"above every floor (best {figure})" if beats else f"not above the floor “{best}” ({figure})")
    return tuple(lines)


def _render(template: str, report: Report, escape: bool, curve: str) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("falconer.evaluate"),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = _markdown_text
    score = report.tuned or report.base
    return environment.get_template(template).render(
        report=report,
        table=tabulate(report.systems, report.floors, report.gold),
        headlines=headlines(report),
        num_replies=score.num_replies if score else 0,
        floor_meanings={name: FLOORS[name] for name in report.floors if name in FLOORS},
        arrows=ARROWS,
        version=__version__,
        curve=curve,
    )


def _markdown_text(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))
