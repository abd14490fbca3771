"""The model card: README.md with the hub's metadata, written from a run's own record."""

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from falconer import __version__
from falconer.consoles import visible
from falconer.data.language import NAMES
from falconer.data.prompt import CHAT_TEMPLATE, PromptFormat, render, template_sha256
from falconer.evaluate.report.page import escape_markdown
from falconer.evaluate.report.score_table import ARROWS, METRICS, Metric, format_value
from falconer.evaluate.text.baselines import BASELINES
from falconer.records import Dialogue, Score, Turn
from falconer.run.metrics import Metrics
from falconer.share.certificate import Certificate
from falconer.share.certificate_table import HEAD as PROOF_HEAD
from falconer.share.certificate_table import drift_rows
from falconer.share.certificate_table import facts as certificate_facts
from falconer.share.facts import Facts, leaked, public
from falconer.share.loading import Shared, snippets
from falconer.share.memorised import LONG_WORDS, Memorised
from falconer.talk import decoding

# The figures of the table, and what the hub calls them in `model-index`; the others are in the run's report.
_SHOWN = MappingProxyType({
    "word_ppl": "perplexity", "hits_1": "accuracy", "bleu": "bleu", "chrf": "chrf", "rouge_l": "rouge", "f1": "f1",
    "distinct_2": "", "persona_use": "", "repetition": "", "ended_share": "", "mean_words": "",
})  # fmt: skip
_HUMAN = "people"
_WORDS = ("decoding", "replies", "history", "language of the replies", "generation", "arithmetic", "quantisation")


class Row(NamedTuple):
    """A row of a table in Markdown."""

    label: str
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Power:
    """What the hardware drew, as its user says.

    Args:
        watts: of the whole machine, on average while it trained.
        grams_per_kwh: of CO2, by the electricity's producer; None if that is unknown.
    """

    watts: float
    grams_per_kwh: float | None = None


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A benchmark of the hub, and which figure of a run it is about.

    Args:
        dataset: its data set's name on the hub; `task` is the id of its task there.
        metric: the field of `Score`.
    """

    dataset: str
    task: str
    metric: str


def render_card(
    facts: Facts, shared: Shared, certificates: Sequence[Certificate] = (), *, has_curve: bool = False,
    power: Power | None = None,
) -> str:  # fmt: skip
    """Return the content of README.md.

    Args:
        certificates: of the exports.
        has_curve: whether the picture of the losses lies beside it.
        power: for the estimate of the energy; without it there is none.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("falconer.share"), autoescape=False, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["md"] = lambda text: escape_markdown(visible(public(str(text))))
    environment.filters["in_prose"] = format_value
    body = environment.get_template("card.md.j2").render(
        facts=facts, shared=shared, has_curve=has_curve,
        proofs=[(certificate_facts(one), [Row(row[0], row[1:]) for row in drift_rows(one)]) for one in certificates],
        proof_columns=PROOF_HEAD[1:],
        config=facts.config, origin=facts.origin, training=facts.training, metrics=facts.metrics,
        language=NAMES.get(facts.language, facts.language), version=__version__,
        columns=_columns(facts.metrics), rows=_rows(facts.metrics), baselines=BASELINES,
        settings=_settings(facts.metrics), memorised=_memorised(facts.memorised), long_words=LONG_WORDS,
        why_not=facts.memorised if isinstance(facts.memorised, str) else "", snippets=snippets(shared),
        template=CHAT_TEMPLATE, template_hash=template_sha256()[:16], example=_example(facts.format),
        leaked=leaked(facts.metrics), duration=_duration(facts.training.seconds), energy=_energy(facts, power),
        chat=decoding, is_small=facts.training.num_dialogues < 1000,
    )  # fmt: skip
    return str(ModelCard(f"---\n{_metadata(facts, shared).to_yaml()}\n---\n\n{body}"))


def eval_results(facts: Facts, shared: Shared, benchmarks: Sequence[Benchmark]) -> list[dict[str, Any]]:
    """Return the rows of .eval_results/falconer.yaml, which the hub shows on the pages of model and benchmark.

    The hub accepts results for data sets that are registered as benchmarks, so the user names them.
    """
    metrics = facts.metrics
    if metrics is None:
        return []
    entries = []
    for one in benchmarks:
        value = getattr(metrics.tuned, one.metric)
        if value is not None:
            note = f"{_metric(one.metric).label}; {_interval(metrics, 'tuned', _metric(one.metric))}".rstrip("; ")
            url = f"https://huggingface.co/{shared.repository}"
            entries.append(
                EvalResultEntry(
                    dataset_id=one.dataset,
                    task_id=one.task,
                    value=_rounded(value, one.metric),
                    source_url=url,
                    source_name="Model card",
                    notes=f"{note}; {public(metrics.settings.get('decoding', ''))}",
                )  # fmt: skip
            )
    return eval_result_entries_to_yaml(entries)


def _metadata(facts: Facts, shared: Shared) -> ModelCardData:
    origin = facts.origin
    adapter = shared.is_adapter
    results = _results(facts)
    return ModelCardData(
        # Of the embedded model, which has no page on the hub, nothing is named.
        base_model=origin.base,
        base_model_relation=("adapter" if adapter else {"merged": "finetune", "gguf": "quantized"}[shared.what])
        if origin.base
        else None,
        datasets=[origin.dataset] if origin.dataset else None,
        language=[facts.language],
        license=origin.license,
        library_name={"adapter": "peft", "merged": "transformers", "gguf": "gguf"}[shared.what],
        pipeline_tag="text-generation",
        tags=["persona", "dialogue", "conversational", "falconer", *(["lora"] if adapter else [])],
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=shared.name,
        eval_results=results or None,
    )


def _results(facts: Facts) -> list[EvalResult]:
    metrics, origin = facts.metrics, facts.origin
    if metrics is None:
        return []
    found = []
    for key, kind in _SHOWN.items():
        value = getattr(metrics.tuned, key)
        if not kind or value is None:
            continue
        metric = _metric(key)
        bounds = metrics.intervals.get("tuned", {}).get(key)
        arguments: dict[str, Any] = {"signature": metrics.signatures[key]} if key in metrics.signatures else {}
        if bounds:
            arguments["interval_95"] = [_rounded(bound, key) for bound in bounds]
        found.append(
            EvalResult(
                task_type="text-generation",
                task_name="persona dialogue",
                dataset_type=origin.dataset or origin.data,
                dataset_name=origin.data,
                dataset_split="test",
                metric_type=kind,
                metric_name=metric.label,
                metric_value=_rounded(value, key),
                metric_args=arguments or None,
            )  # fmt: skip
        )
    return found


def _columns(metrics: Metrics | None) -> tuple[str, ...]:
    if metrics is None:
        return ()
    return ("this model", "base model", *metrics.baselines, *([_HUMAN] if metrics.gold else []))


def _rows(metrics: Metrics | None) -> tuple[Row, ...]:
    if metrics is None:
        return ()
    systems: dict[str, Score] = {"tuned": metrics.tuned, "base": metrics.base, **metrics.baselines}
    systems |= {"gold": metrics.gold} if metrics.gold else {}
    rows = []
    for key in _SHOWN:
        metric = _metric(key)
        # Gold against itself scores 100, or nothing can be measured.
        values = [None if name == "gold" and metric.better else getattr(score, key) for name, score in systems.items()]
        if values[0] is None and values[1] is None:
            continue
        cells = tuple(
            f"{format_value(value, metric.digits)} {_interval(metrics, name, metric)}".rstrip()
            if name in ("tuned", "base")
            else format_value(value, metric.digits)
            for (name, _), value in zip(systems.items(), values, strict=True)
        )
        rows.append(Row(f"{metric.label} {ARROWS[metric.better]}".strip(), cells))
    return tuple(rows)


def _interval(metrics: Metrics, system: str, metric: Metric) -> str:
    bounds = metrics.intervals.get(system, {}).get(metric.key)
    if not bounds or bounds[0] == bounds[1]:
        return ""
    return f"({format_value(bounds[0], metric.digits)} to {format_value(bounds[1], metric.digits)})"


def _settings(metrics: Metrics | None) -> dict[str, str]:
    if metrics is None:
        return {}
    labels = {"arithmetic": "precision", "generation": "how replies were generated"}
    found = {labels.get(name, name): public(metrics.settings[name]) for name in _WORDS if name in metrics.settings}
    return found | {f"signature of {name}": text for name, text in metrics.signatures.items() if name in _SHOWN}


def _memorised(found: Memorised | str) -> tuple[Row, ...]:
    if isinstance(found, str):
        return ()
    labels = {"tuned": "this model", "base": "base model", "human": _HUMAN}
    rows = []
    for name, label in labels.items():
        if name not in found.every:
            continue
        cells = []
        for share in (found.every[name], found.long[name]):
            counts = f"{share.num_verbatim} of {share.num_replies}"
            figure = (
                f"{share.percent:.1f} % ({share.low:.1f} to {share.high:.1f}), {counts}" if share.num_replies else "–"
            )
            cells.append(figure)
        rows.append(Row(label, tuple(cells)))
    return tuple(rows)


def _example(format: PromptFormat) -> str:
    """Return what a prompt looks like."""
    if format.is_spaced:
        persona, said = ("i like to ski .", "i have two dogs ."), "hello , how are you ?"
    else:
        persona, said = ("I like to ski.", "I have two dogs."), "Hello, how are you?"
    spans = render(Dialogue("", persona, (Turn("partner", said),)))
    return format.bos + "".join(span.text for span in spans) + "\nAssistant:"


def _energy(facts: Facts, power: Power | None) -> str:
    """Return the estimate in words; "" if power or time are unknown."""
    seconds = facts.training.seconds
    if power is None or seconds is None:
        return ""
    kwh = power.watts * seconds / 3_600_000
    per_kwh = power.grams_per_kwh
    carbon = "" if per_kwh is None else f", {kwh * per_kwh:,.1f} g of CO2 at {per_kwh:g} g/kWh"
    return f"{kwh:.3g} kWh ({power.watts:g} W for {_duration(seconds)}){carbon}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "not recorded"
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _metric(key: str) -> Metric:
    return next(metric for metric in METRICS if metric.key == key)


def _rounded(value: float, key: str) -> float:
    return round(float(value), _metric(key).digits + 1)
