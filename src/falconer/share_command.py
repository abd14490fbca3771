"""`falconer share`: a run's model for the hub, with its card and checks, shown, written, or uploaded."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from falconer import consoles
from falconer.errors import FalconerError, one_of
from falconer.setting_options import Run

if TYPE_CHECKING:
    from rich.console import Console

    from falconer.share.card import Benchmark
    from falconer.share.checks import Check
    from falconer.share.plan import Plan

share_app = typer.Typer()


@share_app.command()
def share(
    repository: Annotated[
        str, typer.Option("--repo", metavar="OWNER/NAME", help="The repository on the hub; it is created if needed.")
    ],
    run: Run = Path("runs/quickstart"),
    what: Annotated[str, typer.Option("--what", metavar="KIND", help="adapter, merged or gguf.")] = "adapter",
    export: Annotated[
        list[Path] | None,
        typer.Option(
            "--export",
            metavar="PATH",
            help="The folder that falconer merge wrote, or a file of falconer gguf; repeat it for several files.",
        ),
    ] = None,
    adapter: Annotated[
        str, typer.Option("--adapter", metavar="FOLDER", help="The adapter's folder, inside the run's folder.")
    ] = "adapter",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show files, sizes and the card; write and send nothing.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Write the folder and check it; send nothing. This is the default.")
    ] = False,
    push: Annotated[bool, typer.Option("--push", help="Write the folder, check it, and upload it.")] = False,
    public: Annotated[
        bool, typer.Option("--public", help="Let everybody see the repository; by default it is private.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Upload although a check says no.")] = False,
    license: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="Licence of the weights, e.g. apache-2.0.")
    ] = None,
    data_license: Annotated[
        str | None, typer.Option("--data-license", metavar="ID", help="Licence of the training data.")
    ] = None,
    base_license: Annotated[
        str | None, typer.Option("--base-license", metavar="ID", help="Licence of the base model, if not found.")
    ] = None,
    base_model: Annotated[
        str | None,
        typer.Option("--base-model", metavar="OWNER/NAME", help="The base model on the hub, if the run has a folder."),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", metavar="OWNER/NAME", help="The training data on the hub, if the run has a file."),
    ] = None,
    benchmark: Annotated[
        list[str] | None,
        typer.Option(
            "--benchmark",
            metavar="OWNER/NAME:TASK=FIGURE",
            help="A benchmark of the hub and the figure for it, e.g. f1; repeat it for more.",
        ),
    ] = None,
    power: Annotated[
        float | None,
        typer.Option("--power", min=1, metavar="WATTS", help="Mean power of the machine in training, for the card."),
    ] = None,
    carbon: Annotated[
        float | None,
        typer.Option("--carbon", min=0, metavar="GRAMS", help="Grams of CO2 per kWh; together with --power."),
    ] = None,
) -> None:
    """Share a run's model on the Hugging Face hub.

    Writes a folder with the weights and a model card into the run's folder, and checks it: memorised replies, personal
    data, special files, traces of this machine. Only --push sends anything; the repository is private unless --public
    is given.
    """
    kind = one_of("--what", what, ("adapter", "merged", "gguf"))
    _check_options(dry_run, check, push, public, force)
    if carbon is not None and power is None:
        raise FalconerError("--carbon alone says nothing.", "Add --power WATTS.")
    from falconer.runtime import quiet_libraries

    quiet_libraries()
    from falconer.run.folder import read_config
    from falconer.share.card import Power
    from falconer.share.origin import find_origin
    from falconer.share.plan import check_folder, make_folder, plan_share
    from falconer.share.upload import check_name, check_ready
    from falconer.share.upload import push as upload

    check_name(repository)
    if push:
        check_ready()
    origin = find_origin(
        read_config(run), base_model=base_model, dataset=dataset, license=license, data_license=data_license,
        base_license=base_license,
    )  # fmt: skip
    plan = plan_share(
        run, repository, origin, what=kind, exports=export or (), adapter=adapter,
        benchmarks=tuple(_benchmark(text) for text in benchmark or ()),
        power=Power(power, carbon) if power is not None else None,
    )  # fmt: skip
    console = consoles.stdout()
    _show_files(plan, repository, public, console)
    if dry_run:
        console.print(f"\nThe card (README.md):\n\n{plan.card}", soft_wrap=True)
        return
    make_folder(plan)
    checks = check_folder(plan)
    _show_checks(checks, console)
    is_stopped = any(one.verdict == "stop" for one in checks)
    if not push:
        console.print(f"\nThe folder: {plan.folder}", soft_wrap=True)
        console.print("Nothing has left this machine; --push uploads it.", soft_wrap=True)
        raise typer.Exit(1 if is_stopped else 0)
    if is_stopped and not force:
        raise FalconerError(
            "A check says no, so nothing was uploaded.", "Correct what it names, or upload all the same with --force."
        )
    size = _size(sum(plan.contents.sizes.values()))
    consoles.stderr().print(f"Uploading {size}; what the hub has already is not sent again.", soft_wrap=True)
    pushed = upload(plan.folder, repository, public=public)
    who = "private" if pushed.is_private else "public"
    done = "Uploaded to" if pushed.is_new else "The hub already has these files:"
    console.print(f"\n{done} {pushed.url} ({who}), commit {pushed.commit[:12]}", soft_wrap=True)
    for note in pushed.notes:
        console.print(f"note    the hub says of the card: {note}", soft_wrap=True)
    if kind == "adapter":
        console.print(f"Anybody who may see it can now type:  falconer chat --adapter {repository}", soft_wrap=True)


def _check_options(dry_run: bool, check: bool, push: bool, public: bool, force: bool) -> None:
    named = [name for name, given in (("--dry-run", dry_run), ("--check", check), ("--push", push)) if given]
    if len(named) > 1:
        raise FalconerError(f"{' and '.join(named)} can't be combined.", "--push checks the folder before it uploads.")
    for name, given in (("--public", public), ("--force", force)):
        if given and not (push or dry_run):
            raise FalconerError(f"{name} is about an upload.", "Add --push.")


def _benchmark(text: str) -> "Benchmark":
    from falconer.evaluate.report.score_table import METRICS
    from falconer.model.hub import is_repository
    from falconer.share.card import Benchmark

    match = re.fullmatch(r"([^:=]+):([\w.-]+)=(\w+)", text)
    if match is None or not is_repository(match[1]):
        raise FalconerError(
            f"--benchmark {text} is not OWNER/NAME:TASK=FIGURE.",
            "Write e.g. --benchmark alice/persona-test:default=f1.",
        )
    figures = tuple(metric.key for metric in METRICS)
    return Benchmark(match[1], match[2], one_of(f"--benchmark {match[1]}:{match[2]}=", match[3], figures))


def _show_files(plan: "Plan", repository: str, public: bool, console: "Console") -> None:
    sizes = plan.contents.sizes
    console.print(f"{repository} ({'public' if public else 'private'}) will have these files:", soft_wrap=True)
    width = max(map(len, sizes))
    for name, size in sizes.items():
        console.print(f"  {name:<{width}}  {_size(size):>9}", soft_wrap=True)
    console.print(f"  {'together':<{width}}  {_size(sum(sizes.values())):>9}", soft_wrap=True)
    for note in plan.notes:
        console.print(f"note    {note}", soft_wrap=True)


def _show_checks(checks: "list[Check]", console: "Console") -> None:
    words = {"good": "ok", "note": "note", "stop": "STOP"}
    console.print("\nChecks:")
    for one in checks:
        console.print(f"  {words[one.verdict]:<6}{one.name}: {one.said}", soft_wrap=True)
        for line in one.details:
            console.print(f"          {line}", soft_wrap=True)


def _size(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"
