"""`falconer merge`: the adapter merged into its base, as a plain Hugging Face folder with its certificate."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from falconer import consoles
from falconer.errors import one_of
from falconer.export_options import (
    AdapterFolder,
    AsJson,
    Base,
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
    form_of,
    show,
    tuned_of,
)

merge_app = typer.Typer()


@merge_app.command()
def merge(
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="The folder to write; an earlier export is replaced.")
    ],
    run: Run = None,
    adapter: AdapterFolder = None,
    model: Model = None,
    revision: Revision = None,
    base: Base = "auto",
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            metavar="FORMAT",
            help="Format of the written weights: bf16, fp32; auto: as in training.",
        ),
    ] = "auto",
    device: Device = "auto",
    conversations: Conversations = 50,
    replies: Replies = 200,
    no_measure: NoMeasure = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Merge the adapter into its base model.

    Writes a plain Hugging Face folder, which transformers, vLLM and others load without falconer and PEFT, and
    certificate.json: what was compared with the adapter as trained. By default, the adapter of a run that was trained
    in 4 bits is merged into the base's 4-bit weights, which it has learned to correct.
    """
    form_name = one_of("--dtype", dtype, ("auto", "bf16", "fp32"))
    from falconer.runtime import quiet_libraries

    quiet_libraries()
    import torch

    from falconer.files.replace import replace_folder
    from falconer.model.export.folder import check_out
    from falconer.model.export.merge import prepare_merge
    from falconer.share.certificate import NAME, write_certificate
    from falconer.share.certificate_making import Effort

    tuned = tuned_of(run, adapter, model, revision, device)
    form = form_of(base, tuned)
    check_out(out)
    chosen = {"bf16": torch.bfloat16, "fp32": torch.float32}.get(form_name, tuned.precision if form == "nf4" else None)
    effort = Effort(conversations, replies, is_measured=not no_measure)
    with replace_folder(out) as aside, certifying(tuned, effort, form) as certifier:
        with tuned.same_base():
            merge = prepare_merge(
                tuned.model, tuned.adapter, base=form, dtype=chosen, revision=tuned.revision, format=tuned.format,
                device=tuned.device,
            )  # fmt: skip
            merge.write(aside, partial(certifier.on_progress, "merged tensors"))
        certificate = accept(certifier.merged(aside, form), force=force)
        write_certificate(aside / NAME, certificate)
    show(certificate, as_json=as_json)
    if not as_json:
        size = f"{certificate.num_bytes / 2**30:.2f} GiB"
        consoles.stdout().print(f"Merged: {out} ({size}); what was measured is in {out / NAME}", soft_wrap=True)
