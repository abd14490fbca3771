"""The table of a certificate, for the terminal and for the model card."""

from collections.abc import Mapping
from types import MappingProxyType

from rich.table import Table

from falconer.consoles import counted
from falconer.share.certificate import Certificate, Drift, Figure, Measured

HEAD = ("", "KL, nats per token", "word perplexity", "change in %")
_KINDS: Mapping[str, str] = MappingProxyType({
    "adapter": "adapter", "merged": "merged weights", "gguf": "GGUF", "gguf-adapter": "GGUF adapter",
})  # fmt: skip
# The names of `Measured.others`.
_OTHERS: Mapping[str, str] = MappingProxyType({"bf16": "adapter on the base as stored"})


def drift_rows(certificate: Certificate) -> list[tuple[str, str, str, str]]:
    """Return the rows of the table under `HEAD`; none if nothing was measured."""
    measured = certificate.measured
    if measured is None:
        return []
    rows = [("adapter as trained (reference)", "0", _two(measured.reference_word_ppl, 2), "0")]
    rows.append(_row(f"this export: {_KINDS[certificate.kind]}, {certificate.origin.format}", measured.export))
    rows += [_row(_OTHERS.get(name, name), other) for name, other in measured.others.items()]
    rows.append(_row("base without the adapter", measured.base))
    return rows


def facts(certificate: Certificate) -> list[str]:
    """Return what the certificate says beside the table, a sentence each."""
    found = []
    if tokens := certificate.tokens:
        found.append(
            f"Token ids: {tokens.num_equal} of {counted(tokens.num_conversations, 'conversation')} have the same as in "
            "training, with the exported template and tokenizer."
        )
    if measured := certificate.measured:
        found += _measured(measured)
    else:
        found.append("Drift and replies: not measured (--no-measure).")
    found += [f"Note: {note}." for note in certificate.notes]
    if certificate.is_forced:
        found.append(f"Written with --force, although {certificate.refusal()}.")
    return found


def certificate_table(certificate: Certificate) -> Table:
    """Return the table for the terminal."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column(HEAD[0])
    for title in HEAD[1:]:
        shown.add_column(title, justify="right")
    for row in drift_rows(certificate):
        shown.add_row(*row)
    return shown


def _measured(measured: Measured) -> list[str]:
    found = []
    if replies := measured.replies:
        found.append(
            f"Greedy replies: {_two(replies.identical, 1)} % of {replies.num_replies:,} are identical to the "
            f"reference's; {_two(replies.before_difference, 1)} % of their tokens stand before the first "
            f"difference ({replies.decoding})."
        )
    bounds = " In brackets: 95 % intervals, bootstrap over dialogues." if measured.export.kl.low is not None else ""
    found.append(
        f"Reference: {measured.reference}. Measured on {counted(measured.num_dialogues, 'dialogue')} "
        f"({measured.data}): {measured.num_replies:,} gold replies, {measured.num_tokens:,} tokens; by "
        f"{measured.how}.{bounds}"
    )
    return found


def _row(name: str, drift: Drift) -> tuple[str, str, str, str]:
    return (
        name, _bounded(drift.kl, ".2e"), _two(drift.word_ppl, 2), _bounded(drift.word_ppl_change, "+.2f")
    )  # fmt: skip


def _two(figure: Figure, digits: int) -> str:
    return _bounded(figure, f".{digits}f")


def _bounded(figure: Figure, form: str) -> str:
    if figure.low is None or figure.high is None:
        return f"{figure.value:{form}}"
    return f"{figure.value:{form}} [{figure.low:{form}}, {figure.high:{form}}]"
