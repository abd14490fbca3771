"""`falconer certify`: the adapter itself, loaded by PEFT and transformers, compared with falconer's own use of it."""

from pathlib import Path
from typing import Annotated

import typer

from falconer import consoles
from falconer.export_options import (
    AdapterFolder,
    AsJson,
    Conversations,
    Device,
    Force,
    Model,
    NoMeasure,
    Replies,
    Revision,
    Run,
    accept,
    certifying,
    show,
    tuned_of,
)

certify_app = typer.Typer()


@certify_app.command()
def certify(
    run: Run = None,
    adapter: AdapterFolder = None,
    model: Model = None,
    revision: Revision = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write the certificate; else it is only shown."),
    ] = None,
    device: Device = "auto",
    conversations: Conversations = 50,
    replies: Replies = 200,
    no_measure: NoMeasure = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Certify the adapter itself.

    PEFT and transformers load the adapter's folder, as other programs do, and the result is compared with falconer's
    own. The merged weights and GGUF files of falconer merge and falconer gguf come with their certificates.
    """
    from falconer.runtime import quiet_libraries

    quiet_libraries()
    from falconer.share.certificate import write_certificate
    from falconer.share.certificate_making import Effort

    tuned = tuned_of(run, adapter, model, revision, device)
    effort = Effort(conversations, replies, is_measured=not no_measure)
    with certifying(tuned, effort, "bf16") as certifier:
        certificate = accept(certifier.adapter(), force=force)
    if out is not None:
        write_certificate(out, certificate)
    show(certificate, as_json=as_json)
    if out is not None and not as_json:
        consoles.stdout().print(f"Certificate: {out}", soft_wrap=True)
