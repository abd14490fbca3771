"""The report of an evaluation: one offline HTML page, and the same as Markdown."""

import base64
import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from falconer import __version__, style
from falconer.data.language import has_spaces
from falconer.evaluate.report import data as report_data
from falconer.evaluate.report.published import AS_PUBLISHED, RESCORED, Published, is_convai2_valid
from falconer.evaluate.report.score_table import ARROWS, METRICS, Metric, format_value, reasons, tabulate
from falconer.evaluate.report.tables import (
    ablation_table,
    decoding_table,
    legacy_table,
    p_text,
    place_differences,
    share_text,
    slice_tables,
)  # fmt: skip
from falconer.evaluate.text.baselines import BASELINES
from falconer.evaluate.text.bootstrap import MIN_DIALOGUES
from falconer.evaluate.text.failures import failure_rates
from falconer.evaluate.text.pairs import word_f1
from falconer.files.replace import replace_file
from falconer.records import Prediction, Score, StepRow, Turn
from falconer.run.folder import CURVE, REPORT_HTML, REPORT_MD
from falconer.run.metrics import Decoded, Difference, Interval, Intervals, Ranking, Slice

if TYPE_CHECKING:
    from jinja2 import Environment

# In this order they become the page's one script; none of them loads another.
_SCRIPTS = ("dom.js", "words.js", "charts.js", "plots.js", "reply.js", "browse.js", "vote.js", "main.js")
# The settings that stand open in the header; all of them are listed below these.
_HEADINGS = ("base model", "adapter", "test data", "shared with training", "decoding", "precision", "prompt template")
_HEADLINES = ("word_ppl", "bleu", "rouge_l", "f1", "ended_share")
_WITHOUT_SPACES = ("bits_per_char", *_HEADLINES[1:])
_MARKDOWN = re.compile(r"([\\`*_\[\]<>#|~&$])")


@dataclass(frozen=True, slots=True)
class Sample:
    """One context with its replies. `history` is oldest first."""

    dialogue_id: str
    turn: int
    persona: Sequence[str]
    history: Sequence[Turn]
    gold: str
    base: str | None = None
    tuned: str | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the report says.

    Args:
        title: heading of the page.
        base: scores of the model before tuning, None if it was not evaluated; `tuned` likewise.
        baselines: scores of the replies of `baselines.BASELINES`, by the same names.
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
        predictions_base, predictions_tuned: all replies, to the same contexts in the same order; from them come the
            plots, the failure rates, the worst and best replies, the search and the voting.
        steps: rows of the run's steps.jsonl.
        intervals: for a system, baseline or ablation and a metric's key: its 95 % interval.
        tests: tuned against base, metric by metric.
        baseline_tests: each baseline against tuned, by its name.
        ablations: scores of the tuned model with something taken from its prompt, by what was taken.
        decodings: of the tuned model's replies under several decodings.
        slices: figures of some of the turns.
        legacy: for a system: figures under definitions that this project does not use, by name.
        ranking: hits@1 of what ranks candidates without a model; None where nothing was ranked.
        not_measured: why a figure is not measured, by its key.
        language: the code of the replies' language, by whose rules words are counted.
        num_dialogues: how many the intervals rest on, None where that is not known.
        counts: how many replies the figures rest on, in words.
    """

    title: str
    base: Score | None
    tuned: Score | None
    baselines: Mapping[str, Score]
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
    predictions_base: Sequence[Prediction] = ()
    predictions_tuned: Sequence[Prediction] = ()
    steps: Sequence[StepRow] = ()
    intervals: Mapping[str, Intervals] = field(default_factory=dict)
    tests: Sequence[Difference] = ()
    baseline_tests: Mapping[str, Sequence[Difference]] = field(default_factory=dict)
    ablations: Mapping[str, Score] = field(default_factory=dict)
    decodings: Mapping[str, Decoded] = field(default_factory=dict)
    slices: Sequence[Slice] = ()
    legacy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ranking: Ranking | None = None
    not_measured: Mapping[str, str] = field(default_factory=dict)
    language: str = "en"
    num_dialogues: int | None = None
    counts: str = ""

    @property
    def are_sure(self) -> bool:
        """Whether the intervals rest on enough dialogues to be trusted."""
        return self.num_dialogues is None or self.num_dialogues >= MIN_DIALOGUES

    @property
    def systems(self) -> dict[str, Score]:
        return {name: score for name, score in (("base", self.base), ("tuned", self.tuned)) if score}

    @property
    def predictions(self) -> dict[str, Sequence[Prediction]]:
        named = (("base", self.predictions_base), ("tuned", self.predictions_tuned))
        return {name: rows for name, rows in named if rows}


@dataclass(frozen=True, slots=True)
class Mark:
    """A value's place on a headline's line, in per cent of its length."""

    kind: Literal["baseline", "base", "main"]
    percent: float


@dataclass(frozen=True, slots=True)
class Headline:
    """One figure in large type, and lines that compare it with base and baselines."""

    metric: Metric
    text: str
    verdict: tuple[str, ...]
    marks: tuple[Mark, ...]
    interval: Interval | None = None  # as it is printed
    span: tuple[float, float] | None = None  # the interval's ends, in per cent of the line


def write_report(folder: Path, report: Report, run: Path | None = None) -> None:
    """Write `folder`/report.html (one file: styles, script and data inside, no network) and `folder`/report.md.

    Every text of a dialogue is escaped in both. The Markdown shows the loss curve, a file beside it, if the report has
    its picture.

    Args:
        run: the folder where both will be beside the curve; None: `folder`.

    Raises:
        FalconerError: no space, or the folder can't be written to.
    """
    has_curve = bool(report.curve_png) and ((run or folder) / CURVE).is_file()
    pages = {REPORT_HTML: render_html(report), REPORT_MD: render_markdown(report, has_curve)}
    for name, text in pages.items():
        with replace_file(folder / name) as aside:
            aside.write_text(text, encoding="utf-8")


def render_html(report: Report) -> str:
    """Return the report as one HTML page."""
    environment = _environment(escape=True)
    script = "\n".join(_source(environment, name) for name in _SCRIPTS)
    theme = style.text("theme.js")
    systems = report.predictions
    has_f1 = "f1" not in report.not_measured
    data = {
        "curve": report_data.curve(report.steps),
        "has_f1": has_f1,
        "turns": report_data.by_turn(systems, report.language) if has_f1 else {},
        "lengths": report_data.lengths(systems, report.language),
        "replies": report_data.pack(systems, report.language),
        "title": report.title,
        "language": report.language,
        "has_spaces": has_spaces(report.language),
    }
    return _render(
        environment,
        "report.html.j2",
        report,
        curve=base64.b64encode(report.curve_png).decode("ascii") if report.curve_png else "",
        style=style.text("base.css") + _source(environment, "report.css"),
        theme=theme,
        script=script,
        script_hashes=[_csp_hash(theme), _csp_hash(script)],
        data=data,
        data_json=report_data.wire_json(data),
        can_vote=len(systems) == 2,
    )


def render_markdown(report: Report, has_curve_file: bool) -> str:
    """Return the report as Markdown; `has_curve_file` says that the curve's picture lies beside it."""
    return _render(
        _environment(escape=False), "report.md.j2", report, curve=CURVE if has_curve_file else "",
        loss_note=report_data.preference_note(report.steps),
    )  # fmt: skip


def headlines(report: Report) -> list[Headline]:
    """Return the figures that stand in large type: those of the tuned model, of base where nothing was tuned."""
    main, base = (report.tuned, report.base) if report.tuned else (report.base, None)
    if main is None:
        return []
    found = []
    keys = _HEADLINES if has_spaces(report.language) else _WITHOUT_SPACES
    for metric in (metric for key in keys for metric in METRICS if metric.key == key):
        value: float | None = getattr(main, metric.key)
        if value is None:
            continue
        before = getattr(base, metric.key) if base else None
        values = {name: getattr(score, metric.key) for name, score in report.baselines.items()}
        known = {name: found for name, found in values.items() if found is not None}
        tests = {
            name: test for name, some in report.baseline_tests.items() for test in some if test.metric == metric.key
        }
        marks: list[tuple[Literal["baseline", "base", "main"], float]] = [("baseline", one) for one in known.values()]
        marks += [("base", before)] if before is not None else []
        bounds = report.intervals.get("tuned" if report.tuned else "base", {}) if report.are_sure else {}
        interval = bounds.get(metric.key)
        largest = max(value, *(interval or ()), *(mark for _, mark in marks), 1e-9)
        largest = 100.0 if metric.key == "ended_share" else largest
        marks += [("main", value)]
        placed = tuple(Mark(kind, 100 * mark / largest) for kind, mark in marks) if math.isfinite(largest) else ()
        text = format_value(value, metric.digits)
        span = (100 * interval[0] / largest, 100 * interval[1] / largest) if interval and placed else None
        found.append(
            Headline(
                metric,
                text,
                _verdict(metric, value, known, tests, _against_base(report, metric, value, before)),
                placed,
                interval,
                span,
            )
        )
    return found


def _against_base(report: Report, metric: Metric, value: float, before: float | None) -> str:
    """Return how a figure stands to base's, and what its test said of that."""
    if before is None:
        return ""
    side = "above" if value > before else "below" if value < before else "equal to"
    test = next((one for one in report.tests if one.metric == metric.key), None)
    return f"{side} base ({format_value(before, metric.digits)}; {_said(test)})"


def _said(test: Difference | None) -> str:
    return "not tested" if test is None else "significant" if test.is_significant else "not significant"


def _verdict(
    metric: Metric, value: float, baselines: Mapping[str, float], tests: Mapping[str, Difference], against_base: str
) -> tuple[str, ...]:
    """Return the lines under a figure.

    Args:
        baselines: the figure of each.
        tests: of the figure, by baseline.
    """
    lines = [against_base] if against_base else []
    if baselines:
        best = max(baselines, key=lambda name: baselines[name])
        figure = f"{format_value(baselines[best], metric.digits)}; {_said(tests.get(best))}"
        beats = value > baselines[best]
        lines.append(f"above every baseline (best {figure})" if beats else f"not above baseline “{best}” ({figure})")
    return tuple(lines)


def _environment(escape: bool) -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("falconer.evaluate.report"),
        autoescape=escape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["md"] = escape_markdown
    environment.filters["value"] = format_value
    environment.filters["p"] = p_text
    environment.filters["share"] = share_text
    return environment


def _source(environment: "Environment", name: str) -> str:
    # Not a template: a brace in a style or script stays a brace.
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _csp_hash(script: str) -> str:
    # The page runs these scripts and no other, even if a text slipped through as markup.
    return "'sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii") + "'"


def _render(environment: "Environment", template: str, report: Report, **more: object) -> str:
    score = report.tuned or report.base
    main_name = "tuned" if report.tuned or report.predictions_tuned else "base"
    ablations = {**({main_name: score} if score else {}), **report.ablations}
    main = report.predictions_tuned or report.predictions_base
    has_f1 = "f1" not in report.not_measured
    worst, best = report_data.extremes(main, language=report.language) if has_f1 else ([], [])
    rates = failure_rates(report.predictions, report.language)
    # Only on the same replies do our figures stand in one column with those of others.
    is_same = is_convai2_valid(row.reference for row in main)
    ours = [Published(name, "this report", row.bleu, row.rouge_l, row.f1) for name, row in report.systems.items()]
    ours = ours if is_same else []
    return environment.get_template(template).render(
        report=report,
        table=tabulate(report.systems, report.baselines, report.gold),
        headings=_HEADINGS,
        main_name=main_name,
        headlines=headlines(report),
        num_replies=score.num_replies if score else 0,
        baseline_meanings={name: BASELINES[name] for name in report.baselines if name in BASELINES},
        arrows=ARROWS,
        differences=place_differences(report.tests),
        ablations=ablation_table(ablations, report.intervals) if report.ablations else None,
        decodings=decoding_table(report.decodings) if report.decodings else None,
        slices=slice_tables(report.slices, main_name),
        legacy=legacy_table(report.legacy) if report.legacy else None,
        rankers=_rankers(report.ranking),
        ours=ours,
        rescored=sorted((*RESCORED, *ours), key=lambda row: -(row.f1 or 0)),
        as_published=AS_PUBLISHED,
        is_convai2_valid=is_same,
        rates=rates,
        largest_rate=max((share for rate in rates for share in rate.shares.values() if share), default=100.0),
        worst=_samples_at(report, worst),
        best=_samples_at(report, best),
        f1=partial(word_f1, language=report.language) if has_f1 else None,
        not_measured=reasons(report.not_measured),
        are_sure=report.are_sure,
        version=__version__,
        **more,
    )


def _rankers(ranking: Ranking | None) -> dict[str, float]:
    return {"chance": ranking.chance, "IDF-weighted word overlap": ranking.idf_overlap} if ranking else {}


def _samples_at(report: Report, positions: Sequence[int]) -> list[Sample]:
    samples = []
    for position in positions:
        rows = {name: each[position] for name, each in report.predictions.items()}
        row = next(iter(rows.values()))
        said = {name: row.prediction for name, row in rows.items()}
        samples.append(Sample(row.dialogue_id, row.turn, row.persona, row.history, row.reference, **said))
    return samples


def escape_markdown(text: str) -> str:
    """Escape a text so that Markdown shows it as it is, on one line."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(text).split()))
