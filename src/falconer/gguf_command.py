"""`falconer gguf`: the tuned model as a GGUF file for llama.cpp and Ollama, with its Modelfile and certificate."""

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from falconer import consoles
from falconer.errors import FalconerError
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

if TYPE_CHECKING:
    from falconer.model.export.gguf import About, Written
    from falconer.share.certificate import Certificate
    from falconer.share.certificate_making import Certifier
    from falconer.share.certificate_tuned import Form, Tuned

gguf_app = typer.Typer()


@gguf_app.command()
def gguf(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write; an earlier one is replaced.")],
    run: Run = None,
    adapter: AdapterFolder = None,
    model: Model = None,
    revision: Revision = None,
    type: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="Format of the weights: f32, f16, bf16 or q8_0.")
    ] = "q8_0",
    lora: Annotated[
        bool, typer.Option("--lora", help="The adapter alone, which llama.cpp adds to a GGUF file of its base.")
    ] = False,
    base: Base = "auto",
    merged: Annotated[
        Path | None,
        typer.Option("--merged", metavar="FOLDER", help="A folder of falconer merge, so that nothing is merged again."),
    ] = None,
    persona: Annotated[
        list[str] | None,
        typer.Option("--persona", metavar="SENTENCE", help="A sentence of the persona; repeat it for more."),
    ] = None,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="NAME", help="With --lora: the base model that the Modelfile names."),
    ] = None,
    device: Device = "auto",
    conversations: Conversations = 50,
    replies: Replies = 200,
    no_measure: NoMeasure = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Write the tuned model as a GGUF file.

    llama.cpp, Ollama and programs based on them load it. Beside it are written its Modelfile for Ollama, and its
    certificate: what was compared with the adapter as trained.
    """
    _check(out, lora=lora, merged=merged, from_=from_)
    from falconer.runtime import quiet_libraries

    quiet_libraries()
    from falconer.files.replace import folder_beside
    from falconer.model.export.gguf import check_gguf
    from falconer.share.certificate_making import Effort

    tuned = tuned_of(run, adapter, model, revision, device)
    form = _form(base, tuned, lora=lora, merged=merged)
    check_gguf(tuned.model, type, tuned.revision)
    effort = Effort(conversations, replies, is_measured=not no_measure)
    with folder_beside(out) as room, certifying(tuned, effort, form) as certifier:
        target = room / out.name
        if lora:
            written, certificate = _write_adapter(tuned, type, target, certifier)
        else:
            folder = merged or _merge(tuned, form, room / "merged", certifier)
            written, certificate = _write_model(tuned, folder, form, type, target, certifier)
        certificate = accept(replace(certificate, notes=certificate.notes + written.notes), force=force)
        text = _modelfile(tuned, out, persona or (), from_, lora=lora)
        _publish(target, out, text, certificate)
    show(certificate, as_json=as_json)
    if not as_json:
        _say(out, written.num_bytes, has_modelfile=text is not None)


def _check(out: Path, *, lora: bool, merged: Path | None, from_: str | None) -> None:
    """Refuse options that contradict each other, and names that are taken, before anything is loaded."""
    from falconer.share.certificate import certificate_beside

    if out.suffix != ".gguf":
        raise FalconerError(f"--out {out} is not the name of a GGUF file.", "Give a name that ends in .gguf.")
    if lora and merged is not None:
        raise FalconerError("--lora writes the adapter alone, --merged names a merged model.", "Leave one of them out.")
    for path in (out, out.with_suffix(".Modelfile"), certificate_beside(out)):
        if os.path.exists(path) and not os.path.isfile(path):
            raise FalconerError(f"'{path}' can't be written: it exists and is not a file.", "Choose another name.")
    if from_ is not None and not lora:
        raise FalconerError(
            "--from names the base model of an adapter, and this file holds the whole model.", "Leave it out."
        )


def _form(base: str, tuned: "Tuned", *, lora: bool, merged: Path | None) -> "Form":
    """Return the form of the base in the exported weights.

    Raises:
        FalconerError: `merged` is no merged folder, or one of another adapter or form.
    """
    if lora:
        # llama.cpp adds it to a GGUF file of the base as stored.
        if base == "nf4":
            raise FalconerError("--lora writes the adapter alone, without a base.", "Leave --base out.")
        return "bf16"
    form = form_of(base, tuned)
    if merged is None:
        return form
    from falconer.files.replace import sha256
    from falconer.model.export.folder import export_record
    from falconer.model.lora import WEIGHTS

    record = export_record(merged)
    if record.get("adapter_sha256") != sha256(tuned.adapter / WEIGHTS):
        raise FalconerError(f"'{merged}' was made of another adapter than '{tuned.adapter}'.", "Merge it again.")
    found: Form = "nf4" if record.get("base_form") == "nf4" else "bf16"
    if base != "auto" and found != form:
        raise FalconerError(f"The adapter in '{merged}' was merged into {found}, not {form}.", "Leave --base out.")
    return found


def _merge(tuned: "Tuned", form: "Form", folder: Path, certifier: "Certifier") -> Path:
    from falconer.model.export.merge import prepare_merge

    with tuned.same_base():
        merge = prepare_merge(
            tuned.model, tuned.adapter, base=form, dtype=tuned.precision if form == "nf4" else None,
            revision=tuned.revision, format=tuned.format, device=tuned.device,
        )  # fmt: skip
        merge.write(folder, partial(certifier.on_progress, "merged tensors"))
    return folder


def _write_model(
    tuned: "Tuned", folder: Path, form: "Form", type: str, target: Path, certifier: "Certifier"
) -> "tuple[Written, Certificate]":
    from falconer.model.export.gguf import write_gguf

    tell = partial(certifier.on_progress, "GGUF tensors")
    written = write_gguf(folder, target, type, _about(tuned), tell)
    return written, certifier.gguf(target, folder, form, type)


def _write_adapter(tuned: "Tuned", type: str, target: Path, certifier: "Certifier") -> "tuple[Written, Certificate]":
    from falconer.model.export.gguf import write_gguf_adapter

    written = write_gguf_adapter(tuned.model, tuned.adapter, target, type, _about(tuned), tuned.revision)
    return written, certifier.gguf_adapter(target, type)


def _about(tuned: "Tuned") -> "About":
    """Return what the file says of its model: nothing of this machine's folders."""
    from falconer.model.export.base import open_base
    from falconer.model.export.folder import stated_license
    from falconer.model.export.gguf import About

    return About(
        name=f"{Path(tuned.model).name}, tuned for persona dialogue",
        license=stated_license(open_base(tuned.model, tuned.revision).folder),
        base_model=None if os.path.isdir(tuned.model) or "/" not in tuned.model else tuned.model,
        language=tuned.format.language if tuned.format else None,
        description="A LoRA adapter for persona dialogue, trained with falconer.",
    )  # fmt: skip


def _modelfile(tuned: "Tuned", out: Path, persona: Sequence[str], from_: str | None, *, lora: bool) -> str | None:
    """Return the text of the Modelfile; None for an adapter whose base's name at Ollama is not known."""
    if lora and from_ is None:
        return None
    from falconer.data.prompt import PromptFormat
    from falconer.model.export.modelfile import end_and_lead, modelfile
    from falconer.model.tokenizer import open_tokenizer

    opened = open_tokenizer(tuned.model, tuned.revision)
    format = tuned.format or PromptFormat(bos=opened.bos, multi_line=True)
    end, lead = end_and_lead(opened, format)
    name = f"./{out.name}"
    return modelfile(
        from_ or name, end=end, format=format, persona=persona,
        adapter=name if lora else None, lead=lead, license=_about(tuned).license,
    )  # fmt: skip


def _publish(made: Path, out: Path, modelfile: str | None, certificate: "Certificate") -> None:
    """Put the files into place together; a Modelfile of an earlier export does not stay beside another file."""
    from falconer.files.together import replace_together
    from falconer.share.certificate import certificate_beside, write_certificate

    file = out.with_suffix(".Modelfile").name
    with replace_together(out.parent, out.name, () if modelfile is not None else (file,)) as aside:
        os.replace(made, aside / out.name)
        if modelfile is not None:
            (aside / file).write_text(modelfile, encoding="utf-8")
        write_certificate(aside / certificate_beside(out).name, certificate)


def _say(out: Path, num_bytes: int, *, has_modelfile: bool) -> None:
    from falconer.share.certificate import certificate_beside

    console = consoles.stdout()
    size = f"{num_bytes / 2**20:,.1f} MiB"
    console.print(f"GGUF: {out} ({size}); what was measured is in {certificate_beside(out)}", soft_wrap=True)
    if has_modelfile:
        file = out.with_suffix(".Modelfile")
        console.print(f"For Ollama:  cd {out.parent} && ollama create NAME -f {file.name}", soft_wrap=True)
