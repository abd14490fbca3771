"""The report's tables beside the table of scores: tests, ablations, decodings, slices, older definitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from falconer.evaluate.report.score_table import ARROWS, METRICS, NOT_MEASURED, Metric, format_value
from falconer.records import Score
from falconer.run.metrics import Bounded, Decoded, Difference, Intervals, Slice

_LEGACY = MappingProxyType(
    {"parlai_bleu_4": "ParlAI's bleu-4", "nltk_sentence_bleu": "NLTK's sentence BLEU, unsmoothed"}
)

_SHARE = Metric("share", "", "", 1, "")


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


def place_differences(tests: Sequence[Difference]) -> list[dict[str, Any]]:
    """Return tests with their places, in per cent, on a line whose middle is 0, and a verdict."""
    rows = []
    for row in tests:
        metric = _metric(row.metric)
        reach = max(abs(row.low), abs(row.high), abs(row.difference), 1e-9)
        sign = {"higher": 1, "lower": -1, "": 0}[metric.better]
        verdict = "unclear"
        if row.is_significant:
            verdict = "differs" if not sign else "better" if sign * row.difference > 0 else "worse"
        ends = {"low": row.low, "middle": row.difference, "high": row.high}
        at = {name: 50 + 46 * value / reach for name, value in ends.items()}
        rows.append({"row": row, "metric": metric, "verdict": verdict, "at": at})
    return rows


def ablation_table(systems: Mapping[str, Score], intervals: Mapping[str, Intervals]) -> FigureTable:
    """Lay out the model as it is (the first of `systems`) beside itself with something taken from its prompt."""
    rows = []
    for metric in METRICS:
        values = [getattr(score, metric.key) for score in systems.values()]
        # A figure that nothing was measured for, or that no ablation can move, says nothing here.
        if metric.key in ("num_replies", "num_empty") or all(value is None for value in values):
            continue
        figures = [
            Figure(format_value(value, metric.digits), _range(intervals.get(name, {}).get(metric.key), metric))
            for name, value in zip(systems, values, strict=True)
        ]
        rows.append((f"{metric.label} {ARROWS[metric.better]}".strip(), tuple(figures)))
    note = (
        "Ablations: the same model and turns, with a part of the prompt removed or exchanged. If the figures stay the "
        "same, the model does not use that part."
    )
    return FigureTable("Does the model use persona and history?", note, tuple(systems), tuple(rows))


def decoding_table(decodings: Mapping[str, Decoded]) -> FigureTable:
    """Lay out the model's replies under several decodings, a row each; the first is the evaluation's own."""
    columns = [_metric(key) for key in ("repetition", "distinct_2", "bleu", "rouge_l", "f1", "mean_words")]
    rows = []
    for name, one in decodings.items():
        shares = [
            Figure(share_text(one.failures.get(key)) + _mark(one.tests, key), _range(one.intervals.get(key), _SHARE))
            for key in ("phrase", "stock")
        ]
        figures = [
            Figure(
                format_value(getattr(one.score, metric.key), metric.digits) + _mark(one.tests, metric.key),
                _range(one.intervals.get(metric.key), metric),
            )
            for metric in columns
        ]
        rows.append((name, (*shares, *figures)))
    note = (
        "The tuned model's replies to the same turns with other decodings; the first row is the decoding of all other "
        "figures. * differs from it by more than chance (paired test, p < 0.05 after Holm's correction). The more a "
        "decoding is kept from repeating, or samples, the fewer words its replies share with the one gold reply."
    )
    names = ("repeats a phrase (%)", "stock reply (%)", *(metric.label for metric in columns))
    return FigureTable("Other decodings", note, names, tuple(rows))


def slice_tables(slices: Sequence[Slice], system: str) -> list[FigureTable]:
    """Lay out a table for each kind of slice: its groups, how many replies each has, and the figures that any has.

    Args:
        system: whose figures.
    """
    tables = []
    for kind in dict.fromkeys(one.kind for one in slices):
        groups = [one for one in slices if one.kind == kind]
        found = {one.name: one.systems.get(system, {}) for one in groups}
        given = {key for figures in found.values() for key in figures}
        metrics = [metric for metric in METRICS if metric.key in given]
        metrics += [_metric(key) for key in sorted(given - {metric.key for metric in METRICS})]
        rows = []
        for one in groups:
            number = Figure(format_value(one.num_replies, 0))
            rows.append((one.name, (number, *(_figure(found[one.name].get(metric.key), metric) for metric in metrics))))
        tables.append(FigureTable(kind, "", ("replies", *(metric.label for metric in metrics)), tuple(rows)))
    return tables


def legacy_table(legacy: Mapping[str, Mapping[str, float]]) -> FigureTable:
    """Lay out figures under definitions that this project does not use, a column for each system."""
    names = dict.fromkeys(name for figures in legacy.values() for name in figures)
    rows = [
        (_LEGACY.get(name, name), tuple(Figure(format_value(figures.get(name), 2)) for figures in legacy.values()))
        for name in names
    ]
    note = (
        "Papers print these as BLEU-4, too. The same replies score between 1.6 and 6.9 under five definitions of "
        "BLEU-4, so compare only figures of the same definition."
    )
    return FigureTable("Older definitions of BLEU-4", note, tuple(legacy), tuple(rows))


def share_text(share: float | None) -> str:
    """Return a share (0-100) with one digit, and never 0.0 for what did occur."""
    return "< 0.1" if share and share < 0.05 else format_value(share, 1)


def p_text(p: float | None) -> str:
    """Return p as a table prints it; a bootstrap's p has no more than three digits to give."""
    return NOT_MEASURED if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _mark(tests: Sequence[Difference], key: str) -> str:
    return " *" if any(test.is_significant for test in tests if test.metric == key) else ""


def _metric(key: str) -> Metric:
    return next((metric for metric in METRICS if metric.key == key), Metric(key, key, "", 2, ""))


def _figure(figure: Bounded | None, metric: Metric) -> Figure:
    if figure is None:
        return Figure(NOT_MEASURED)
    return Figure(format_value(figure.value, metric.digits), _range((figure.low, figure.high), metric))


def _range(bounds: tuple[float | None, float | None] | None, metric: Metric) -> str:
    # A slice of few dialogues has no bounds.
    if not bounds or bounds[0] == bounds[1]:
        return ""
    return f"{format_value(bounds[0], metric.digits)} to {format_value(bounds[1], metric.digits)}"
