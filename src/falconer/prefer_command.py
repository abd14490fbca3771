"""`falconer prefer`: preference training of a tuned model, on pairs of replies of which one is better."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from falconer import consoles
from falconer.errors import FalconerError
from falconer.setting_options import Overrides, WithSettings

if TYPE_CHECKING:
    from rich.console import Console

    from falconer.train.loop import TrainResult

prefer_app = typer.Typer()


@prefer_app.command(cls=WithSettings)
def prefer(
    overrides: Overrides = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", metavar="FOLDER", help="The finished run whose tuned model is trained further."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="The new run's folder; the default is RUN-prefer.")
    ] = None,
    pairs: Annotated[
        str,
        typer.Option(
            "--pairs",
            metavar="SOURCE,...",
            help="Where pairs are from, separated by commas. A gold reply is better than: distractors (others), "
            "repetitions (the model's own that repeat themselves), contradictions (those that contradict the persona; "
            "needs evaluate.nli_model=FOLDER). samples: of several of the model's own, the one most like "
            "the others and gold is better. votes:FILE: what people voted for.",
        ),
    ] = "distractors,repetitions",
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out from its last checkpoint.")
    ] = False,
) -> None:
    """Train a tuned model further, on pairs of replies (DPO).

    A pair has a better and a worse reply to the same turn. The pairs are built from the run's dialogues and the model's
    own replies, or read from a file of votes. The run stays as it is; the result is a new run, which can be evaluated,
    chatted with and shared as any other, and compared with the first one by falconer compare. docs/preference.md says
    which pairs and settings to choose.
    """
    console = consoles.stderr()
    if resume:
        if out is None:
            raise FalconerError("--resume needs the folder of the run to continue.", "Give it: --out FOLDER.")
        result = _resume(out, overrides or [], console)
    else:
        if run is None:
            raise FalconerError("No run to train further was given.", "Give its folder: --run FOLDER.")
        out = out or run.with_name(f"{run.name}-prefer")
        result = _begin(run, out, pairs, overrides or [], console)
    if result.ended == "interrupted":
        done = f"Interrupted after step {result.progress.step} of {result.num_steps}"
        console.print(f"{done}; the state of the run is saved in '{out}'.", soft_wrap=True)
        console.print(f"Continue with:  falconer prefer --out {out} --resume", soft_wrap=True)
        raise typer.Exit(130)
    console.print(result.ending)
    for what in (f"falconer evaluate --run {out}", f"falconer compare {run} {out}" if run else ""):
        if what:
            console.print(f"Next:  {what}", soft_wrap=True)


def _resume(out: Path, overrides: list[str], console: "Console") -> "TrainResult":
    from falconer.config import load
    from falconer.run.folder import read_config
    from falconer.runtime import quiet_libraries

    config = load(None, overrides, base=read_config(out))
    quiet_libraries()
    from falconer.train.loop import train

    return train(config, out, resume=True, console=console)


def _begin(run: Path, out: Path, pairs: str, overrides: list[str], console: "Console") -> "TrainResult":
    from falconer.run.folder import read_config
    from falconer.runtime import quiet_libraries

    read_config(run)  # a wrong folder is told before the libraries are loaded
    quiet_libraries()
    from falconer import preference

    return preference.prefer(run, out, preference.config_for(run, pairs, overrides), console)
