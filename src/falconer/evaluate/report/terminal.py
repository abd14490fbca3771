"""What the terminal prints of scores, comparisons and evaluations."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from falconer.evaluate.report.score_table import METRICS, format_value, reasons, score_table
from falconer.evaluate.text.bootstrap import MIN_DIALOGUES
from falconer.records import Score


def show_score(result: Mapping[str, Any], console: Console) -> None:
    """Print what `score.score_file` found: the table, the paired test, the signatures of what was measured."""
    name = Path(result["file"]).name
    score = Score(**{key: result[key] for key in Score.__dataclass_fields__})
    floors = {floor: Score(**values) for floor, values in result["floors"].items()}
    gold = Score(**result["gold"])
    console.print(score_table({name: score}, floors, gold, {name: result["intervals"]}, _are_sure(result)))
    if "tests" in result:
        if result["tests"]:
            console.print(tests_table(result["baseline"]["file"], {name: result["tests"]}))
        _show_sacrebleu(result["sacrebleu"], console)
    _show_variants(result, {name: result["legacy"]}, [score], console)


def show_comparison(result: Mapping[str, Any], console: Console) -> None:
    """Print what `compare.comparison` found."""
    systems = result["systems"]
    scores = {name: Score(**one["score"]) for name, one in systems.items()}
    shown = {name: one["intervals"] for name, one in systems.items()}
    console.print(score_table(scores, {}, intervals=shown, are_sure=_are_sure(result)))
    if any(result["tests"].values()):
        console.print(tests_table(result["baseline"], result["tests"]))
    _show_sacrebleu(result["sacrebleu"], console)
    _show_variants(result, {name: one["legacy"] for name, one in systems.items()}, list(scores.values()), console)


def show_evaluation(metrics: Mapping[str, Any], console: Console) -> None:
    """Print what `summary.summarise` found, but the slices, for which there is the report."""
    systems = {name: Score(**metrics[name]) for name in ("base", "tuned")}
    floors = {name: Score(**floor) for name, floor in metrics["floors"].items()}
    shown = {name: metrics["intervals"][name] for name in systems}
    console.print(score_table(systems, floors, intervals=shown, are_sure=_are_sure(metrics)))
    if metrics["ranking"]:
        floor = metrics["ranking"]
        text = f"{floor['chance']:.1f} by chance, {floor['idf_overlap']:.1f} by idf overlap"
        console.print(f"hits@1 without a model: {text}", soft_wrap=True)
    if metrics["tests"]:
        console.print(tests_table("base", {"tuned": metrics["tests"]}))
    controls = metrics["controls"]
    if any(one["tests"] for one in controls.values()):
        console.print(tests_table("tuned", {name: one["tests"] for name, one in controls.items()}))
    elif controls:
        console.print(
            score_table({"tuned": systems["tuned"]} | {n: Score(**one["score"]) for n, one in controls.items()}, {})
        )
    console.print(f"shared with training: {metrics['settings']['shared with training']}", soft_wrap=True)
    _show_limits(metrics, console)


def tests_table(baseline: str, tests: Mapping[str, Sequence[Mapping[str, Any]]]) -> Table:
    """Return paired tests for the terminal; what is significant at 5 % after Holm's correction is bold.

    "low" and "high" are the bounds of the change's 95 % interval.

    Args:
        tests: rows of `describe` by the system that was tested.
    """
    metrics = {metric.key: metric for metric in METRICS}
    heading = Text(f"\nagainst {baseline}", style="bold")
    shown = Table(box=None, pad_edge=False, header_style="bold", title=heading, title_justify="left")
    shown.add_column("")
    for title in ("baseline", "system", "change", "low", "high", "p", "p (Holm)"):
        shown.add_column(title, justify="right")
    for name, rows in tests.items():
        if len(tests) > 1:
            shown.add_row(Text(name, style="bold"))
        for row in rows:
            metric = metrics[row["metric"]]
            figures = [format_value(row[side], metric.digits) for side in ("baseline", "system")]
            changes = [_signed(row[key], metric.digits) for key in ("difference", "low", "high")]
            style = "bold" if row["p_holm"] < 0.05 else ""
            p_values = [f"{row[key]:.3f}" for key in ("p", "p_holm")]
            shown.add_row(metric.label, *figures, *changes, *p_values, style=style)
    return shown


def _are_sure(result: Mapping[str, Any]) -> bool:
    return int(result["bootstrap"]["num_dialogues"]) >= MIN_DIALOGUES


def _signed(value: float, digits: int) -> str:
    return ("+" if value >= 0 else "") + format_value(value, digits)


def _show_sacrebleu(result: Mapping[str, Any], console: Console) -> None:
    for name, p in result.get("p", {}).items():
        said = "no difference" if p is None else f"p = {p:.4f}"
        text = f"sacreBLEU's own paired bootstrap (of replies), {name}: {said}"
        console.print(text, markup=False, soft_wrap=True)
    if "skipped" in result:
        console.print(f"Left out: {result['skipped']}.", soft_wrap=True)


def _show_variants(
    result: Mapping[str, Any], legacy: Mapping[str, Mapping[str, float]], scores: Sequence[Score], console: Console
) -> None:
    facts = result["bootstrap"]
    lines = [f"95 %: {facts['resamples']:,} resamples of {facts['num_dialogues']:,} dialogues, seed {facts['seed']}"]
    for name, values in legacy.items():
        if not values:
            continue
        text = ", ".join(f"{key} {value:.2f}" for key, value in values.items())
        lines.append(f"legacy, not to be compared with BLEU ({name}): {text}")
    unmeasured = set.intersection(*(set(score.unmeasured) for score in scores))
    lines += [f"{name:<11} {text}" for name, text in result["signatures"].items() if name not in unmeasured]
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    _show_limits(result, console)


def _show_limits(result: Mapping[str, Any], console: Console) -> None:
    """Print the language, what is not measured and why, and what is to be read with care."""
    bleu, f1 = (result["signatures"][name] for name in ("bleu", "f1"))
    words = "ParlAI's, and of ROUGE-L rouge-score's" if f1.startswith("parlai|") else _part(f1, "words:")
    lines = [f"language: {result['language']}; BLEU's tokens: {_part(bleu, 'tok:')}; words of F1: {words}"]
    lines += [f"{label}: not measured: {reason}" for label, reason in reasons(result["not_measured"]).items()]
    console.print("\n".join([*lines, *result["notes"]]), markup=False, soft_wrap=True)


def _part(signature: str, key: str) -> str:
    return next(part.removeprefix(key) for part in signature.split("|") if part.startswith(key))
