"""The command line: every command with its options. Heavy packages are imported by the commands that need them."""

import json
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from falconer import __version__, consoles, uncaught
from falconer.adapter_options import Adapter, Data, choose_run
from falconer.bench.commands import bench_app
from falconer.certify_command import certify_app
from falconer.chat_command import chat_app
from falconer.data_commands import data_app
from falconer.gguf_command import gguf_app
from falconer.launcher import is_first_on_node, speaker
from falconer.merge_command import merge_app
from falconer.plan_command import plan_app
from falconer.prefer_command import prefer_app
from falconer.score_command import score_app
from falconer.serve_command import serve_app
from falconer.setting_options import AsJson, Changes, Overrides, Preset, Run, WithSettings
from falconer.share_command import share_app
from falconer.sweep_command import sweep_app


class _Commands(typer.core.TyperGroup):
    """The commands; a signal that ends one is told here, before typer ends the process without a word."""

    def invoke(self, ctx: Any) -> Any:
        with uncaught.ended_by_signals():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    name="falconer", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Fine-tune Falcon-7B (or any causal language model) into a persona-grounded conversation partner.",
)  # fmt: skip
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")
app.add_typer(plan_app)
app.add_typer(chat_app)
app.add_typer(prefer_app)
app.add_typer(score_app)
app.add_typer(sweep_app)
app.add_typer(serve_app)
app.add_typer(share_app)
app.add_typer(merge_app)
app.add_typer(gguf_app)
app.add_typer(certify_app)


def main() -> None:
    """Run the command line. A user's mistake prints one line and exits with code 2, also under a launcher.

    A command that a signal ends prints one line and exits with 128 + the signal's number, 130 for Ctrl-C.
    """
    uncaught.open_missing_streams()
    try:
        try:
            app()
        finally:
            uncaught.flush()
    except uncaught.Ended as ended:
        if ended.said and is_first_on_node():
            consoles.say(f"falconer: {ended.said}", is_note=True)
        raise
    except Exception as error:
        known = uncaught.explained(error)
        if known is None:
            raise
        consoles.say(f"falconer: {speaker(' '.join(str(known).split()))}", is_note=True)
        sys.exit(2)
    finally:
        if ranks := sys.modules.get("falconer.train.ranks"):  # slow to import; it is loaded if this process has trained
            ranks.close()


def _version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def quickstart(
    size: Annotated[
        str,
        typer.Argument(metavar="SIZE", help="short; or full: two epochs, about 20 minutes on two cores."),
    ] = "short",
    run: Run = Path("runs/quickstart"),
) -> None:
    """Train, chat, evaluate and report in a few minutes.

    Uses a small Falcon and real dialogues that are part of falconer; no GPU and no download are needed.
    """
    _quiet()
    from falconer.quickstart import run_quickstart

    run_quickstart(run, size, consoles.stderr())


@app.command()
def doctor() -> None:
    """Check hardware, versions, kernels and the hub."""
    _quiet()
    from falconer.doctor import examine

    raise typer.Exit(0 if examine(consoles.stdout()) else 1)


@app.command(cls=WithSettings)
def train(
    overrides: Overrides = None,
    preset: Preset = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="FOLDER", help="The run's folder; the default is runs/PRESET.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    keys: Annotated[
        bool, typer.Option("--keys", help="List every configuration key with its default and meaning, and exit.")
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Together with --keys: print Markdown, as in docs/keys.md.")
    ] = False,
) -> None:
    """Train a LoRA adapter.

    You can interrupt it with Ctrl-C at any time: its state is saved, and --resume continues where it stopped.
    """
    from falconer.config import load

    if keys:
        from falconer.keys import as_markdown, as_text

        # Some terminals wrap a line that is exactly as wide as they are.
        width = min(shutil.get_terminal_size().columns, 120) - 1
        print(as_markdown() if markdown else as_text(width), end="" if markdown else "\n")
        return
    run = run or Path("runs") / Path(preset or "train").stem
    # Checked before torch is loaded, which takes seconds; merged again below with the configuration of a resumed run.
    config = load(preset, overrides or [])
    _quiet()
    from falconer.run.folder import read_config
    from falconer.train.loop import train as train_run

    if resume:
        config = load(preset, overrides or [], base=read_config(run))
    console = consoles.stderr()
    result = train_run(config, run, resume=resume, console=console)
    progress = result.progress
    if result.ended == "interrupted":
        done = f"Interrupted after step {progress.step} of {result.num_steps}"
        console.print(f"{done}; the state of the run is saved in '{run}'.", soft_wrap=True)
        console.print(f"Continue with:  falconer train --run {run} --resume", soft_wrap=True)
        raise typer.Exit(130)
    console.print(result.ending)
    for what in (f"falconer evaluate --run {run}", f"falconer chat --run {run}"):
        console.print(f"Next:  {what}", soft_wrap=True)


@app.command(cls=WithSettings)
def evaluate(
    context: typer.Context,
    overrides: Changes = None,
    run: Run = Path("runs/quickstart"),
    adapter: Adapter = "adapter",
    data: Data = None,
    controls: Annotated[
        bool,
        typer.Option(
            "--controls", help="Also evaluate ablations: without persona, with shuffled personas, and without history."
        ),
    ] = False,
    decodings: Annotated[
        bool, typer.Option("--decodings", help="Also compare the tuned model's replies under other decodings.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON instead of the table.")] = False,
) -> None:
    """Evaluate the base and the tuned model of a run.

    Measures perplexity, hits@1, BLEU, ROUGE-L and F1 on the test split, with 95 % intervals and trivial baselines.
    Writes predictions, metrics.json, report.html and report.md into the run's folder. By default, the adapter with the
    best validation loss is evaluated; use --adapter checkpoints/last for that of the last checkpoint. An adapter that
    was trained elsewhere is evaluated with --data FILE, in the folder --run or runs/NAME. On several GPUs, start it
    with torchrun --nproc-per-node N -m -- falconer evaluate: each GPU measures some of the dialogues.
    """
    run, adapter, config = choose_run(context, run, adapter, data, overrides or [])
    _quiet()
    from falconer.evaluate.needs import check_needs

    check_needs(run, adapter, config.evaluate.nli_model, config.evaluate.language)
    from falconer import jobs
    from falconer.evaluate.dealing import Dealing
    from falconer.evaluate.report.terminal import show_evaluation
    from falconer.files.locks import lock_run
    from falconer.run.folder import REPORT_HTML
    from falconer.runtime import pick_device
    from falconer.train.ranks import Ranks
    from falconer.train.setup import evaluation_data

    ranks = Ranks(pick_device(config.model.device))
    console = consoles.stderr()
    console.quiet = not ranks.is_first
    with lock_run(run) if ranks.is_first else nullcontext():
        # Loaded before the model, which takes longer, so that mistakes are found early.
        found = evaluation_data(run, config)
        opened = jobs.open_run(run, adapter, config, found.format)
        dealing = Dealing(ranks.number, ranks.count, ranks.texts)
        metrics = jobs.evaluate_run(
            opened, config, console, data=found, ablations=controls, decodings=decodings, dealing=dealing
        )
    ranks.wait()
    if not ranks.is_first:
        return
    if as_json:
        print(json.dumps(metrics.to_json(), indent=2, allow_nan=False))
        return
    console = consoles.stdout()
    show_evaluation(metrics, console)
    console.print(f"Report: {run / REPORT_HTML}", soft_wrap=True)


@app.command()
def report(run: Run = Path("runs/quickstart")) -> None:
    """Write a run's report again, from the files in its folder.

    Writes report.html and report.md of the last evaluation; no model and no GPU are needed.
    """
    from falconer.evaluate.report.from_folder import make_report
    from falconer.run.folder import REPORT_HTML, REPORT_MD

    for line in make_report(run):
        consoles.stderr().print(line, soft_wrap=True)
    consoles.say(f"Report: {run / REPORT_HTML} and {REPORT_MD}")


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of runs, or one run.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """List runs with their progress and results.

    Shows the model, data, steps, best validation loss, BLEU and F1 of each run, and its state, such as running,
    interrupted or finished.
    """
    from falconer.run.overview import find_runs, show_runs

    found = find_runs(folder)
    if as_json:
        print(json.dumps(found.to_json(), indent=2, allow_nan=False))
        return
    show_runs(found, consoles.stdout())


def _quiet() -> None:
    from falconer.runtime import quiet_libraries

    quiet_libraries()
