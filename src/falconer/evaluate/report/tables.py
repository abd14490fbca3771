"""The report's tables beside the table of scores: tuned against base, controls, slices, older definitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from falconer.evaluate.report.score_table import ARROWS, METRICS, NOT_MEASURED, Metric, format_value
from falconer.records import Score

Bounds = Sequence[float]
Slices = Mapping[str, Mapping[str, Mapping[str, float | Bounds]]]
_METRICS = {metric.key: metric for metric in METRICS}
_LEGACY = {"parlai_bleu_4": "ParlAI's bleu-4", "nltk_sentence_bleu": "NLTK's sentence BLEU, not smoothed"}


class Difference(NamedTuple):
    """Tuned minus base in one metric (its field in `Score`), with a 95 % interval and p before and after Holm."""

    metric: str
    difference: float
    low: float
    high: float
    p: float | None = None
    p_holm: float | None = None


class Figure(NamedTuple):
    """A figure as it is printed, and its 95 % interval; "" where none is known."""

    text: str
    range: str = ""


@dataclass(frozen=True, slots=True)
class FigureTable:
    """A table of figures: `rows` are a label and one figure for each of `columns`."""

    title: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Figure, ...]], ...]


def optional_parts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return those fields of a `report.Report` that a metrics.json may hold beyond the scores, by the fields' names.

    Read are `intervals`, `tests` (tuned against base), `legacy`, `ranking`, `slices` (tuned's), `controls`,
    `not_measured` and `bootstrap`; what is missing gives an empty field.
    """
    tests = [{field: test.get(field) for field in Difference._fields} for test in metrics.get("tests") or []]
    controls = {name.replace("_", " "): one for name, one in (metrics.get("controls") or {}).items()}
    slices: dict[str, dict[str, dict[str, float | Bounds]]] = {}
    for row in metrics.get("slices") or []:
        slices.setdefault(row["kind"], {})[row["name"]] = {"n": row["num_replies"], **row["systems"].get("tuned", {})}
    bounds = {**(metrics.get("intervals") or {}), **{name: one["intervals"] for name, one in controls.items()}}
    return {
        "intervals": bounds,
        "comparison": [Difference(**test) for test in tests],
        "controls": {name: Score(**one["score"]) for name, one in controls.items()},
        "slices": slices,
        "legacy": metrics.get("legacy") or {},
        "ranking": metrics.get("ranking") or {},
        "not_measured": metrics.get("not_measured") or {},
        "num_dialogues": (metrics.get("bootstrap") or {}).get("num_dialogues"),
    }


def place_differences(comparison: Sequence[Difference]) -> list[dict[str, Any]]:
    """Return rows of a comparison with their places, in per cent, on a line whose middle is 0, and a verdict.

    The verdict is "unclear" unless the interval leaves out 0 and p after Holm's correction, where given, is below 0.05.
    """
    rows = []
    for row in comparison:
        metric = _metric(row.metric)
        reach = max(abs(row.low), abs(row.high), abs(row.difference), 1e-9)
        sign = {"higher": 1, "lower": -1, "": 0}[metric.better]
        verdict = "unclear"
        if (row.low > 0 or row.high < 0) and (row.p_holm is None or row.p_holm < 0.05):
            verdict = "differs" if not sign else "better" if sign * row.difference > 0 else "worse"
        ends = {"low": row.low, "middle": row.difference, "high": row.high}
        at = {name: 50 + 46 * value / reach for name, value in ends.items()}
        rows.append({"row": row, "metric": metric, "verdict": verdict, "at": at})
    return rows


def control_table(systems: Mapping[str, Score], intervals: Mapping[str, Mapping[str, Bounds]]) -> FigureTable:
    """Lay out the model as it is (the first of `systems`) beside itself with something taken from its prompt."""
    rows = []
    for metric in METRICS:
        values = [getattr(score, metric.key) for score in systems.values()]
        # A figure that nothing was measured for, or that no control can move, says nothing here.
        if metric.key in ("num_replies", "num_empty") or all(value is None for value in values):
            continue
        figures = [
            Figure(format_value(value, metric.digits), _range(intervals.get(name, {}).get(metric.key), metric))
            for name, value in zip(systems, values, strict=True)
        ]
        rows.append((f"{metric.label} {ARROWS[metric.better]}".strip(), tuple(figures)))
    note = "The same model and gold replies, with something taken from the prompt; what does not change was not used."
    return FigureTable("Does it use its persona and the history?", note, tuple(systems), tuple(rows))


def slice_tables(slices: Slices) -> list[FigureTable]:
    """Lay out a table for each slice: its groups, how many replies each has, and the figures that any of them has.

    A figure is a number, or a number with the ends of its 95 % interval.
    """
    tables = []
    for name, groups in slices.items():
        given = {key for figures in groups.values() for key in figures} - {"n"}
        metrics = [metric for key, metric in _METRICS.items() if key in given]
        metrics += [_metric(key) for key in sorted(given - set(_METRICS))]
        rows = []
        for group, figures in groups.items():
            number = figures.get("n")
            cells = [_figure(number, _metric("num_replies")), *(_figure(figures.get(m.key), m) for m in metrics)]
            rows.append((group, tuple(cells)))
        tables.append(FigureTable(name, "", ("replies", *(metric.label for metric in metrics)), tuple(rows)))
    return tables


def legacy_table(legacy: Mapping[str, Mapping[str, float]]) -> FigureTable:
    """Lay out figures under definitions that this project does not use, a column for each system."""
    names = dict.fromkeys(name for figures in legacy.values() for name in figures)
    rows = [
        (_LEGACY.get(name, name), tuple(Figure(format_value(figures.get(name), 2)) for figures in legacy.values()))
        for name in names
    ]
    note = (
        "Others call these BLEU-4 too: the same replies score between 1.6 and 6.9 under the five things of that name."
    )
    return FigureTable("Older definitions", note, tuple(legacy), tuple(rows))


def share_text(share: float | None) -> str:
    """Return a share (0-100) with one digit, and never 0.0 for what did occur."""
    return "< 0.1" if share and share < 0.05 else format_value(share, 1)


def p_text(p: float | None) -> str:
    """Return p as a table prints it; a bootstrap's p has no more than three digits to give."""
    return NOT_MEASURED if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _metric(key: str) -> Metric:
    return _METRICS.get(key) or Metric(key, key, "", 2, "")


def _figure(value: float | Bounds | None, metric: Metric) -> Figure:
    if isinstance(value, Sequence):
        return Figure(format_value(value[0], metric.digits), _range(value[1:], metric))
    return Figure(format_value(value, metric.digits))


def _range(bounds: Sequence[float | None] | None, metric: Metric) -> str:
    # A slice of few dialogues has no bounds: [None, None].
    if not bounds or bounds[0] == bounds[1]:
        return ""
    return f"{format_value(bounds[0], metric.digits)} to {format_value(bounds[1], metric.digits)}"
