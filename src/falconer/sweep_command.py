"""`falconer sweep`: settings times seeds, trained one after the other, and which of them are better than others."""

import json
from pathlib import Path
from typing import Annotated

import typer

from falconer import consoles
from falconer.errors import FalconerError
from falconer.setting_options import AsJson, Preset, Resamples, WithSettings

sweep_app = typer.Typer()


@sweep_app.command(cls=WithSettings)
def sweep(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE,...",
            help="Settings; a key with several values varies. A key of free text, such as lora.targets, is given once "
            "for each value. A range, such as lora.r=8..64:8 or train.learning_rate=1e-4..1e-2:log, is searched.",
            show_default=False,
        ),
    ] = None,
    preset: Preset = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="The sweep's folder.")] = Path("sweeps/sweep"),
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, max=100, metavar="N", help="Runs of each setting.")
    ] = 3,
    by: Annotated[
        str, typer.Option("--by", metavar="FIGURE", help="The figure to choose by: word_ppl, f1, ...")
    ] = "word_ppl",
    halving: Annotated[
        int | None,
        typer.Option(
            "--halving", min=2, max=10, metavar="N",
            help="Successive halving: train all settings briefly, keep the best of N, train those N times as long.",
        ),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            "--trials", min=1, max=1000, metavar="N",
            help="Search: try only so many settings, with one seed; with ranges, the default is 20.",
        ),
    ] = None,
    finalists: Annotated[
        int | None,
        typer.Option(
            "--finalists", min=1, max=100, metavar="N",
            help="Of a search: train the best N trials with all seeds, and compare them; the default is 3.",
        ),
    ] = None,
    resamples: Resamples = 1000,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Train settings with several seeds, and say which are better.

    Each run is an ordinary run in FOLDER/runs, trained in a process of its own and measured on the validation
    dialogues; test dialogues are not read. The answer is a table with paired tests, in FOLDER/sweep.md and
    FOLDER/results.json. A sweep that was interrupted or killed goes on with the same command, or with --out alone.
    With ranges of values, Optuna chooses what is tried next, and the best trials are compared.
    """
    from falconer.sweep.plan import make_plan

    plan = None
    if overrides or preset:
        plan = make_plan(
            preset, overrides or [], num_seeds=seeds, by=by, keep=halving, resamples=resamples, num_trials=trials,
            num_finalists=finalists,
        )  # fmt: skip
    from falconer.sweep.answer import as_markdown
    from falconer.sweep.work import sweep as carry_out

    try:
        found = carry_out(out, plan, consoles.stderr())
    except KeyboardInterrupt:
        consoles.say(f"Interrupted. Continue with:  falconer sweep --out {out}", is_note=True)
        raise typer.Exit(130) from None
    print(json.dumps(found.to_json(), allow_nan=False) if as_json else "\n".join(as_markdown(found)))
    if any(one.has_failed for one in found.outcomes):
        raise FalconerError(
            "Some runs failed; the table has their last message, and the folder logs all of it.",
            f"The same command tries them again: falconer sweep --out {out}",
        )


@sweep_app.command(name="sweep-run", hidden=True)
def sweep_run(folder: Path, run: Path, settings: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Train a run of a sweep and measure it on its validation dialogues; called by falconer sweep."""
    from falconer.config import load
    from falconer.runtime import quiet_libraries

    quiet_libraries()
    from falconer.sweep.measure import train_and_measure

    if not train_and_measure(folder, run, load(None, settings) if settings else None, consoles.stderr()):
        raise typer.Exit(130)
