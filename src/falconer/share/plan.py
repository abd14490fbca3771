"""What will be shared of a run: the folder for the hub and its card, made from the run; and what the checks say."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from falconer.errors import FalconerError
from falconer.evaluate.needs import check_adapter
from falconer.files.locks import lock_run
from falconer.model.export.modelfile import end_and_lead
from falconer.model.tokenizer import open_tokenizer
from falconer.run.folder import ADAPTER, read_config
from falconer.run.state import state_of
from falconer.share.card import Benchmark, Power, eval_results, render_card
from falconer.share.checks import Check, run_checks
from falconer.share.facts import check_adapter_record, read_facts
from falconer.share.folder import (
    SHARED,
    Contents,
    adapter_contents,
    export_contents,
    has_curve,
    with_card,
    write_folder,
)
from falconer.share.loading import Shared
from falconer.share.memorised import Memorised
from falconer.share.origin import Origin

# Models of Falcon's own architecture; Falcon3 and Falcon-H1 have others.
_FALCON = re.compile(r"falcon-(?:rw|7b|40b|180b|11b|mini)")


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be shared.

    Args:
        folder: that for the hub, in the run's folder; it need not exist yet.
        memorised: the card's table, or why it has none.
        sources: the folders that it is made from, by what they are called.
        notes: what the user should know.
    """

    run: Path
    folder: Path
    contents: Contents
    card: str
    memorised: Memorised | str
    sources: dict[str, Path]
    notes: tuple[str, ...]


def plan_share(
    run: Path, repository: str, origin: Origin, *, what: str = "adapter", exports: Sequence[Path] = (),
    adapter: str = ADAPTER, benchmarks: Sequence[Benchmark] = (), power: Power | None = None,
) -> Plan:  # fmt: skip
    """Return what would be shared; nothing is written.

    Args:
        repository: OWNER/NAME.
        exports: the folder of a merged model, or GGUF files.
        adapter: the adapter's folder inside the run.

    Raises:
        FalconerError: the run, its adapter or the export is incomplete or damaged.
    """
    config = read_config(run)
    check_adapter(run, adapter)
    check_adapter_record(run / adapter)
    sources = {"the adapter's folder": run / adapter}
    if what == "adapter":
        base = {"quantization": config.model.quantization, "max_tokens": config.data.max_tokens}
        contents = adapter_contents(run / adapter, origin, base)
    else:
        if not exports:
            command, place = ("gguf", "FILE.gguf") if what == "gguf" else ("merge", "FOLDER")
            raise FalconerError(
                f"--what {what} needs an export.",
                f"Write it with falconer {command} --run {run} --out {place}, then add --export {place}.",
            )
        contents, sources = export_contents(exports, what, run / adapter), {}
        if what == "merged":
            sources = {"the merged folder": exports[0]}
    facts = read_facts(run, origin, adapter)
    end, lead = ("", "") if what != "gguf" else end_and_lead(open_tokenizer(str(run / adapter)), facts.format)
    shared = Shared(
        repository, what, origin, facts.format, end=end, lead=lead,
        gguf_files=_gguf_files(contents, "gguf"), gguf_adapters=_gguf_files(contents, "gguf-adapter"),
        modelfiles=tuple(name for name in contents.copied if name.endswith(".Modelfile")),
        is_falcon=facts.training.path == "fast" or _FALCON.search(origin.base_name.lower()) is not None,
    )  # fmt: skip
    card = render_card(facts, shared, contents.certificates, has_curve=has_curve(run), power=power)
    contents = with_card(contents, run, card, eval_results(facts, shared, benchmarks))
    notes = [f"unknown: {missing}" for missing in origin.missing]
    if facts.metrics is None:
        notes.append(f"the run has not been evaluated, so the card has no figures: falconer evaluate --run {run}")
    if benchmarks == ():
        notes.append("no .eval_results file: the hub takes figures for its benchmarks alone (--benchmark)")
    if (state := state_of(run).stage) not in ("finished", "stopped early"):
        notes.append(f"the state of the run's training is '{state}'")
    return Plan(run, run / SHARED / what, contents, card, facts.memorised, sources, tuple(notes))


def _gguf_files(contents: Contents, kind: str) -> tuple[str, ...]:
    return tuple(file.name for one in contents.certificates if one.kind == kind for file in one.files)


def make_folder(plan: Plan) -> None:
    """Write the folder for the hub, holding the run's lock.

    Raises:
        FalconerError: another process works in the run's folder, or the disk is full (an earlier folder stays).
    """
    with lock_run(plan.run):
        write_folder(plan.folder, plan.contents)


def check_folder(plan: Plan) -> list[Check]:
    """Return what the checks say of a folder that `make_folder` has written."""
    return run_checks(plan.run, plan.folder, plan.memorised, plan.sources)
