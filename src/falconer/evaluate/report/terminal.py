"""What the terminal prints of scores, comparisons and evaluations."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from falconer.consoles import counted
from falconer.evaluate.report.score_table import METRICS, format_value, reasons, score_table
from falconer.evaluate.report.tables import decoding_table, p_text
from falconer.evaluate.text.bootstrap import MIN_DIALOGUES
from falconer.evaluate.text.compare import Comparison
from falconer.evaluate.text.score import FileScore
from falconer.evaluate.text.votes import Duel
from falconer.records import Score
from falconer.run.metrics import Bootstrap, Decoded, Difference, Metrics, SacreBleuTest


def show_score(result: FileScore, console: Console) -> None:
    """Print the scores of a predictions file: the table, the paired test, and the signatures of what was measured."""
    name = Path(result.file).name
    intervals = {name: result.intervals}
    console.print(
        score_table({name: result.score}, result.baselines, result.gold, intervals, _are_sure(result.bootstrap))
    )
    if result.against:
        if result.against.tests:
            console.print(tests_table(result.against.file, {name: result.against.tests}))
        _show_sacrebleu(result.against.sacrebleu, console)
    if result.score.word_ppl is not None or result.score.bits_per_char is not None:
        gold = counted(result.bootstrap.num_replies, "gold reply", "gold replies")
        console.print(
            f"These perplexities cover only the {gold} in this file. falconer evaluate computes them over all "
            "gold replies of the test dialogues, with or without a generated reply.",
            soft_wrap=True,
        )
    _show_variants(result, {name: result.legacy}, [result.score], console)


def show_comparison(result: Comparison, console: Console) -> None:
    """Print how systems compare with the first of them."""
    scores = {name: one.score for name, one in result.systems.items()}
    intervals = {name: one.intervals for name, one in result.systems.items()}
    console.print(score_table(scores, {}, intervals=intervals, are_sure=_are_sure(result.bootstrap)))
    if any(result.tests.values()):
        console.print(tests_table(result.baseline, result.tests))
    _show_sacrebleu(result.sacrebleu, console)
    _show_variants(result, {name: one.legacy for name, one in result.systems.items()}, list(scores.values()), console)


def show_evaluation(metrics: Metrics, console: Console) -> None:
    """Print the results of an evaluation; the slices are in the report alone."""
    systems = {"base": metrics.base, "tuned": metrics.tuned}
    intervals = {name: metrics.intervals[name] for name in systems if name in metrics.intervals}
    console.print(score_table(systems, metrics.baselines, intervals=intervals, are_sure=_are_sure(metrics.bootstrap)))
    if metrics.settings.get("replies"):
        console.print(
            "Perplexities are computed over all gold replies, all other figures over the generated replies: "
            f"{metrics.settings['replies']}.",
            soft_wrap=True,
        )
    if ranking := metrics.ranking:
        text = f"{ranking.chance:.1f} by chance, {ranking.idf_overlap:.1f} by IDF-weighted word overlap"
        console.print(f"hits@1 without a model: {text}", soft_wrap=True)
    if metrics.tests:
        console.print(tests_table("base", {"tuned": metrics.tests}))
    if any(metrics.baseline_tests.values()):
        console.print(tests_table("tuned", metrics.baseline_tests))
    if any(one.tests for one in metrics.ablations.values()):
        console.print(tests_table("tuned", {name: one.tests for name, one in metrics.ablations.items()}))
    elif metrics.ablations:
        ablations = {name: one.score for name, one in metrics.ablations.items()}
        console.print(score_table({"tuned": metrics.tuned} | ablations, {}))
    if metrics.decodings:
        console.print(_decodings(metrics.decodings))
    console.print(f"Shared with the training data: {metrics.settings.get('shared with training', '')}", soft_wrap=True)
    _show_limits(metrics, console)


def tests_table(baseline: str, tests: Mapping[str, Sequence[Difference]]) -> Table:
    """Return paired tests for the terminal; what is significant at 5 % after Holm's correction is bold.

    "low" and "high" are the bounds of the change's 95 % interval.

    Args:
        baseline: the system that the others are tested against.
        tests: by the system that was tested.
    """
    metrics = {metric.key: metric for metric in METRICS}
    heading = Text(f"\nPaired tests against {baseline}", style="bold")
    shown = Table(box=None, pad_edge=False, header_style="bold", title=heading, title_justify="left")
    shown.add_column("")
    for title in ("baseline", "system", "change", "low", "high", "p", "p (Holm)"):
        shown.add_column(title, justify="right")
    for name, rows in tests.items():
        if len(tests) > 1:
            shown.add_row(Text(name, style="bold"))
        for row in rows:
            metric = metrics[row.metric]
            figures = [format_value(value, metric.digits) for value in (row.baseline, row.system)]
            changes = [_signed(value, metric.digits) for value in (row.difference, row.low, row.high)]
            p_holm = row.p if row.p_holm is None else row.p_holm
            style = "bold" if p_holm < 0.05 else ""
            shown.add_row(metric.label, *figures, *changes, f"{row.p:.3f}", f"{p_holm:.3f}", style=style)
    return shown


def _decodings(decodings: Mapping[str, Decoded]) -> Table:
    """Return the replies under several decodings for the terminal; the report has the intervals, too."""
    table = decoding_table(decodings)
    heading = Text(f"\n{table.title}; * differs from the first", style="bold")
    shown = Table(box=None, pad_edge=False, header_style="bold", title=heading, title_justify="left")
    shown.add_column("")
    for title in table.columns:
        shown.add_column(title, justify="right")
    for name, figures in table.rows:
        shown.add_row(Text(name), *(figure.text for figure in figures))
    return shown


def votes_table(duels: Sequence[Duel]) -> Table:
    """Return what blind votes say of each pair of systems, for the terminal; what is significant at 5 % is bold.

    The share is of the votes for one of the two; "low" and "high" are the bounds of its 95 % interval.
    """
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("system", "against"):
        shown.add_column(title)
    for title in ("wins", "losses", "ties", "share", "low", "high", "p"):
        shown.add_column(title, justify="right")
    for duel in duels:
        shares = (duel.share, *(duel.interval or (None, None)))
        style = "bold" if duel.p is not None and duel.p < 0.05 else ""
        counts = map(str, (*duel.wins, duel.ties))
        figures = [format_value(share, 1) for share in shares]
        shown.add_row(*map(Text, duel.systems), *counts, *figures, p_text(duel.p), style=style)
    return shown


def _are_sure(bootstrap: Bootstrap | None) -> bool:
    return bootstrap is None or bootstrap.num_dialogues >= MIN_DIALOGUES


def _signed(value: float, digits: int) -> str:
    return ("+" if value >= 0 else "") + format_value(value, digits)


def _show_sacrebleu(test: SacreBleuTest, console: Console) -> None:
    for name, p in test.p.items():
        said = "no difference" if p is None else f"p = {p:.4f}"
        text = f"sacreBLEU's own paired bootstrap test (resamples replies), {name}: {said}"
        console.print(text, markup=False, soft_wrap=True)
    if test.skipped:
        console.print(f"sacreBLEU's paired bootstrap test was skipped: {test.skipped}.", soft_wrap=True)


def _show_variants(
    result: FileScore | Comparison, legacy: Mapping[str, Mapping[str, float]], scores: Sequence[Score], console: Console
) -> None:
    facts = result.bootstrap
    lines = [
        f"95 % intervals: bootstrap with {facts.resamples:,} resamples of {facts.num_dialogues:,} dialogues, "
        f"seed {facts.seed}"
    ]
    for name, values in legacy.items():
        if not values:
            continue
        text = ", ".join(f"{key} {value:.2f}" for key, value in values.items())
        lines.append(f"older definitions of BLEU-4, not comparable with BLEU ({name}): {text}")
    unmeasured = set.intersection(*(set(score.unmeasured) for score in scores))
    lines += [f"{name:<11} {text}" for name, text in result.signatures.items() if name not in unmeasured]
    console.print("\n".join(lines), markup=False, soft_wrap=True)
    _show_limits(result, console)


def _show_limits(result: FileScore | Comparison | Metrics, console: Console) -> None:
    """Print the language, which figures are not measured and why, and the caveats."""
    bleu, f1 = (result.signatures[name] for name in ("bleu", "f1"))
    words = "ParlAI; ROUGE-L: rouge-score" if f1.startswith("parlai|") else _part(f1, "words:")
    lines = [f"Language: {result.language}. Tokens: BLEU: {_part(bleu, 'tok:')}; F1: {words}."]
    lines += [f"{label} is not measured: {reason}" for label, reason in reasons(result.not_measured).items()]
    console.print("\n".join([*lines, *result.notes]), markup=False, soft_wrap=True)


def _part(signature: str, key: str) -> str:
    return next(part.removeprefix(key) for part in signature.split("|") if part.startswith(key))
