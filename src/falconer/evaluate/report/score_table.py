"""The table of scores: which metrics it has, in which order, with how many digits, and which value is the best.

The terminal, `report.html` and `report.md` all show the one table that is made here.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from falconer.evaluate.report.people import people_note
from falconer.records import Score

if TYPE_CHECKING:
    from rich.table import Table as RichTable

Better = Literal["higher", "lower", ""]
Kind = Literal["system", "baseline", "gold"]
ARROWS: Mapping[Better, str] = MappingProxyType({"higher": "↑", "lower": "↓", "": ""})
NOT_MEASURED = "–"


@dataclass(frozen=True, slots=True)
class Metric:
    """A row: the field of `Score`, its name, which way is better ("" where neither), its digits, what it is."""

    key: str
    label: str
    better: Better
    digits: int
    meaning: str

    @property
    def explained(self) -> str:
        """What it is, and how well it agrees with people, where that has been measured."""
        return "; ".join(filter(None, (self.meaning, people_note(self.key))))


@dataclass(frozen=True, slots=True)
class Column:
    """A system, a baseline, or the gold replies scored against themselves."""

    name: str
    kind: Kind
    score: Score


@dataclass(frozen=True, slots=True)
class Cell:
    """A value as it is printed; "–" means "not measured"."""

    text: str
    is_best: bool
    kind: Kind


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of metrics under columns of systems; a metric that no column has is left out."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Metric, tuple[Cell, ...]], ...]


METRICS = (
    Metric(
        "word_ppl",
        "word perplexity",
        "lower",
        2,
        "exponential of the gold replies' mean negative log-likelihood per whitespace-separated word of the original "
        "text, end tokens excluded; comparable across tokenizers on the same text",
    ),
    Metric(
        "token_ppl",
        "token perplexity",
        "lower",
        2,
        "exponential of the gold replies' mean negative log-likelihood per token, end tokens included; comparable only "
        "between models with the same tokenizer",
    ),
    Metric(
        "bits_per_char",
        "bits per character",
        "lower",
        3,
        "negative log-likelihood of the gold replies in bits per character, end tokens excluded",
    ),
    Metric("bleu", "BLEU", "higher", 2, "sacreBLEU's corpus BLEU, lower-cased"),
    Metric("bleu_2", "BLEU-2", "higher", 2, "sacreBLEU's corpus BLEU with n-grams up to 2, lower-cased"),
    Metric(
        "brevity_penalty",
        "brevity penalty",
        "",
        3,
        "the factor that lowers BLEU where the replies are shorter than the gold replies",
    ),
    Metric(
        "length_ratio",
        "length ratio",
        "",
        3,
        "number of BLEU's tokens in the replies, divided by that in the gold replies",
    ),
    Metric("chrf", "chrF", "higher", 2, "sacreBLEU's chrF2: F-score of the character n-grams up to 6, lower-cased"),
    Metric(
        "rouge_l",
        "ROUGE-L",
        "higher",
        2,
        "F-measure of the longest common subsequence with the gold reply, mean over replies x 100; English is stemmed",
    ),
    Metric(
        "f1",
        "F1",
        "higher",
        2,
        "F1 of the words shared with the gold reply, mean over replies x 100; ParlAI's definition in English",
    ),
    Metric(
        "distinct_1", "distinct-1 (%)", "", 2, "different words over all words of the whole set; falls as the set grows"
    ),
    Metric(
        "distinct_2",
        "distinct-2 (%)",
        "",
        2,
        "distinct bigrams as a share of all bigrams in the whole set; falls as the set grows",
    ),
    Metric(
        "hits_1",
        "hits@1 (%)",
        "higher",
        1,
        "share of turns where the gold reply has the highest mean token log-probability of all candidates; ties count "
        "as losses",
    ),
    Metric("hits_1_sum", "hits@1, sum (%)", "higher", 1, "the same with the sum of the token log-probabilities"),
    Metric(
        "persona_use",
        "uses persona (%)",
        "",
        1,
        "share of replies that have a content word in common with their persona; higher than gold is not better",
    ),
    Metric(
        "c_score",
        "C-score",
        "",
        3,
        "persona sentences that a reply entails minus those it contradicts, mean over replies; judged by an NLI model",
    ),
    Metric(
        "repetition",
        "repeats itself (%)",
        "",
        1,
        "share of the replies' bigrams that occur in an earlier turn of the same speaker; compare with gold",
    ),
    Metric("mean_words", "words per reply", "", 2, "whitespace-separated words, mean over replies"),
    Metric(
        "ended_share",
        "EOS rate (%)",
        "higher",
        1,
        "share of replies that the model ended itself with its end token, before the limit of new tokens",
    ),
    Metric("num_empty", "empty replies", "", 0, "replies without any text; they score 0 and are not left out"),
    Metric("num_replies", "replies", "", 0, "number of replies that were scored against their gold replies"),
)


def tabulate(systems: Mapping[str, Score], baselines: Mapping[str, Score], gold: Score | None = None) -> Table:
    """Lay out scores: systems first, then baselines, then gold's own figures where they are given.

    The best value of a row is marked among systems and baselines alike, so that a baseline that wins is seen to win;
    gold does not compete. Values that print alike are equally good. A row is marked only where two values compete.
    """
    columns = [Column(name, "system", score) for name, score in systems.items()]
    columns += [Column(name, "baseline", score) for name, score in baselines.items()]
    columns += [Column("gold", "gold", gold)] if gold else []
    rows = [(metric, _cells(metric, columns)) for metric in METRICS]
    measured = [(metric, cells) for metric, cells in rows if any(cell.text != NOT_MEASURED for cell in cells)]
    return Table(tuple(columns), tuple(measured))


def score_table(
    systems: Mapping[str, Score], baselines: Mapping[str, Score], gold: Score | None = None,
    intervals: Mapping[str, Mapping[str, Sequence[float]]] | None = None, are_sure: bool = True,
) -> "RichTable":  # fmt: skip
    """Return the table of `tabulate` for the terminal; the best values are bold and green.

    Args:
        intervals: by system, for each figure its 95 % interval as (low, high); half its width follows the figure.
        are_sure: False where they rest on too few dialogues; then they stand in brackets, or as "–" without width.
    """
    from rich.table import Table as RichTable
    from rich.text import Text

    table = tabulate(systems, baselines, gold)
    shown = RichTable(box=None, pad_edge=False, header_style="bold")
    shown.add_column("")
    for column in table.columns:
        # A column's name stands as text: rich would read brackets in it as markup.
        shown.add_column(Text(column.name), justify="right", style="" if column.kind == "system" else "dim")
        if column.name in (intervals or {}):
            shown.add_column("95 %" if are_sure else "(95 %)", justify="right", style="dim")
    for metric, cells in table.rows:
        label = f"{metric.label} {ARROWS[metric.better]}".strip()
        row = []
        for column, cell in zip(table.columns, cells, strict=True):
            row.append(Text(cell.text, style="not dim bold green" if cell.is_best else ""))
            if intervals and column.name in intervals:
                bounds = intervals[column.name].get(metric.key)
                row.append(Text(_half_width(bounds, metric.digits, are_sure)))
        shown.add_row(label, *row)
    return shown


def _half_width(bounds: Sequence[float] | None, digits: int, are_sure: bool) -> str:
    if not bounds:
        return ""
    # All resamples of a single dialogue are equal, which says nothing about how certain the figure is.
    if not are_sure and bounds[0] == bounds[1]:
        return NOT_MEASURED
    half = f"±{format_value((bounds[1] - bounds[0]) / 2, digits)}"
    return half if are_sure else f"({half})"


def reasons(not_measured: Mapping[str, str]) -> dict[str, str]:
    """Return why figures are not measured, by their labels, in the order of the table."""
    labels = {metric.key: metric.label.removesuffix(" (%)") for metric in METRICS} | {
        "legacy": "older definitions of BLEU-4"
    }
    return {label: not_measured[key] for key, label in labels.items() if key in not_measured}


def format_value(value: float | None, digits: int) -> str:
    """Return a figure as the table prints it: thousands separated, fewer digits from 1,000 on, "–" for None."""
    if value is None:
        return NOT_MEASURED
    return f"{value:,.{digits if abs(value) < 1000 else 0}f}"


def _cells(metric: Metric, columns: list[Column]) -> tuple[Cell, ...]:
    values = [getattr(column.score, metric.key) for column in columns]
    texts = [format_value(value, metric.digits) for value in values]
    compared = [
        (value, text)
        for value, text, column in zip(values, texts, columns, strict=True)
        if value is not None and not math.isnan(value) and column.kind != "gold"
    ]
    best = ""
    if metric.better and len(compared) > 1:
        best = (max if metric.better == "higher" else min)(compared)[1]
    return tuple(
        Cell(text, bool(best) and text == best and column.kind != "gold", column.kind)
        for text, column in zip(texts, columns, strict=True)
    )
