"""What merge, gguf and certify have in common: which adapter, how much is measured, and what is said."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from falconer import consoles
from falconer.errors import FalconerError, one_of

if TYPE_CHECKING:
    from falconer.share.certificate import Certificate
    from falconer.share.certificate_making import Certifier, Effort
    from falconer.share.certificate_tuned import Form, Tuned

DEFAULT_RUN = Path("runs/quickstart")
_DEVICES = ("auto", "cpu", "cuda")

Run = Annotated[
    Path | None, typer.Option("--run", metavar="FOLDER", help="The run's folder; the default is runs/quickstart.")
]
AdapterFolder = Annotated[
    str | None,
    typer.Option(
        "--adapter",
        metavar="FOLDER",
        help="With --run: a folder inside it. Without: any adapter's folder, as PEFT saves it.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="The base model of --adapter, if its files do not name it."),
]
Revision = Annotated[
    str | None, typer.Option("--revision", metavar="NAME", help="Branch, tag or commit of the base model of --adapter.")
]
Base = Annotated[
    str,
    typer.Option(
        "--base",
        metavar="FORM",
        help="The base's weights that the adapter is added to: bf16, as they are stored; nf4, as 4 bits held them in "
        "training; auto: as in training.",
    ),
]
Device = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda.")]
Conversations = Annotated[
    int, typer.Option("--conversations", min=1, metavar="N", help="Dialogues that the export is measured on.")
]
Replies = Annotated[int, typer.Option("--replies", min=0, metavar="N", help="Greedy replies that are compared.")]
NoMeasure = Annotated[
    bool, typer.Option("--no-measure", help="Compare token ids alone; neither predictions nor replies.")
]
Force = Annotated[bool, typer.Option("--force", help="Write it even if the certificate speaks against it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the certificate as JSON instead of the table.")]


def tuned_of(run: Path | None, adapter: str | None, model: str | None, revision: str | None, device: str) -> "Tuned":
    """Return what the options name: a run's adapter, or one that no run is known of.

    Raises:
        FalconerError: they contradict each other, or there is no such adapter.
    """
    from falconer.run.folder import ADAPTER, read_config
    from falconer.share.certificate_tuned import tuned_of_adapter, tuned_of_run

    device = one_of("--device", device, _DEVICES)
    if run is None and adapter is not None:
        return tuned_of_adapter(Path(adapter), model, revision, device)
    if model is not None or revision is not None:
        option = "--model" if model is not None else "--revision"
        raise FalconerError(
            f"{option} is for the adapter of another program, which --adapter FOLDER names.",
            "A run knows its base model: leave the option out, or leave --run out and give --adapter.",
        )
    run = run or DEFAULT_RUN
    config = read_config(run)
    config = config.model_copy(update={"model": config.model.model_copy(update={"device": device})})
    return tuned_of_run(run, config, adapter or ADAPTER)


def form_of(base: str, tuned: "Tuned") -> "Form":
    """Return the form of the base that `--base` names.

    Raises:
        FalconerError: it names none.
    """
    chosen = one_of("--base", base, ("auto", "bf16", "nf4"))
    if chosen == "auto":
        return tuned.reference_form
    return "nf4" if chosen == "nf4" else "bf16"


@contextmanager
def certifying(tuned: "Tuned", effort: "Effort", form: "Form") -> Iterator["Certifier"]:
    """Yield what certifies exports, with a progress bar on stderr."""
    from falconer.evaluate.progress import show_progress
    from falconer.share.certificate_making import Certifier

    with show_progress(consoles.stderr()) as on_progress:
        yield Certifier(tuned, effort, on_progress, compares_forms=form == "nf4")


def accept(certificate: "Certificate", *, force: bool) -> "Certificate":
    """Return the certificate of an export that may be written.

    Raises:
        FalconerError: it may not, and is not forced.
    """
    from dataclasses import replace

    reason = certificate.refusal()
    if reason and not force:
        raise FalconerError(
            f"Nothing was written: {reason}.",
            "Try the other form of the base (--base) or a wider format; --force writes it nevertheless.",
        )
    return replace(certificate, is_forced=bool(reason))


def show(certificate: "Certificate", *, as_json: bool) -> None:
    """Print a certificate on stdout."""
    if as_json:
        from falconer.share.certificate import certificate_text

        print(certificate_text(certificate), end="")
        return
    from falconer.share.certificate_table import certificate_table, facts

    console = consoles.stdout()
    if certificate.measured:
        console.print(certificate_table(certificate))
    for line in facts(certificate):
        console.print(line, soft_wrap=True)
