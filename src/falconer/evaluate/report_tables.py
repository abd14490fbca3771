"""Rows of the report's tables beside the table of scores: how tuned differs from base, and figures by slice."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from falconer.evaluate.table import METRICS, NOT_MEASURED, Metric, format_value

_METRICS = {metric.key: metric for metric in METRICS}


class Difference(NamedTuple):
    """Tuned minus base in one metric (its field in `Score`), with a 95 % interval and p before and after Holm."""

    metric: str
    difference: float
    low: float
    high: float
    p: float | None = None
    p_holm: float | None = None


def place_differences(comparison: Sequence[Difference]) -> list[dict[str, Any]]:
    """Return rows of a comparison with their places, in per cent, on a line whose middle is 0, and a verdict.

    The verdict is "unclear" unless the interval leaves out 0 and p after Holm's correction, where given, is below 0.05.
    """
    rows = []
    for row in comparison:
        metric = _METRICS.get(row.metric) or Metric(row.metric, row.metric, "", 2, "")
        reach = max(abs(row.low), abs(row.high), abs(row.difference), 1e-9)
        sign = {"higher": 1, "lower": -1, "": 0}[metric.better]
        verdict = "unclear"
        if (row.low > 0 or row.high < 0) and (row.p_holm is None or row.p_holm < 0.05):
            verdict = "differs" if not sign else "better" if sign * row.difference > 0 else "worse"
        at = {name: 50 + 46 * value / reach for name, value in (("low", row.low), ("high", row.high))}
        rows.append(
            {"row": row, "metric": metric, "verdict": verdict, "at": {**at, "middle": 50 + 46 * row.difference / reach}}
        )
    return rows


def slice_tables(slices: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, Any]]:
    """Return for each slice its columns (metrics in the table's order) and its groups."""
    tables = {}
    for name, groups in slices.items():
        given = {key for figures in groups.values() for key in figures} - {"n"}
        known = [metric for key, metric in _METRICS.items() if key in given]
        known += [Metric(key, key, "", 2, "") for key in sorted(given - set(_METRICS))]
        tables[name] = {"metrics": known, "groups": groups}
    return tables


def share_text(share: float | None) -> str:
    """Return a share (0-100) with one digit, and never 0.0 for what did occur."""
    return "< 0.1" if share and share < 0.05 else format_value(share, 1)


def p_text(p: float | None) -> str:
    """Return p as a table prints it; a bootstrap's p has no more than three digits to give."""
    return NOT_MEASURED if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
