"""The command line: one table of commands. Whatever is heavy is imported by the command that needs it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from falconer import __version__
from falconer.bench.commands import bench_app
from falconer.errors import FalconerError
from falconer.launcher import speaker

app = typer.Typer(
    name="falconer", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Fine-tune Falcon-7B (or any causal language model) into a persona-grounded conversation partner.",
)  # fmt: skip
data_app = typer.Typer(no_args_is_help=True, help="Look at dialogues, count them, convert them.")
app.add_typer(data_app, name="data")
app.add_typer(bench_app, name="bench")

Overrides = Annotated[
    list[str] | None, typer.Argument(help="section.key=value ..., e.g. train.epochs=2", show_default=False)
]
Changes = Annotated[
    list[str] | None,
    typer.Argument(help="section.key=value ..., e.g. evaluate.max_replies=100", show_default=False),
]
Run = Annotated[Path, typer.Option("--run", help="The run's folder.")]
Preset = Annotated[str | None, typer.Option("--preset", help="A preset's name, or a YAML file.")]
Format = Annotated[str, typer.Option("--format", help="Input format; auto looks at the file.")]
Split = Annotated[str, typer.Option("--split", help="train, validation or test, where the source has several.")]
Resamples = Annotated[int, typer.Option("--resamples", min=100, help="Bootstrap resamples of the dialogues.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Fixes the resamples.")]
Reference = Annotated[
    list[Path] | None,
    typer.Option("--reference", help="File of gold replies, where FILE has none; repeat for more gold replies a row."),
]
Lang = Annotated[str, typer.Option("--language", help="Of the replies: auto, or a code such as en, zh, ja.")]
OnBadRow = Annotated[str, typer.Option("--on-bad-row", help="stop, or skip and list them.")]


def main() -> None:
    """Run the command line; a user's mistake ends in one line and exit code 2, under a launcher too."""
    try:
        app()
    except FalconerError as error:
        _stop(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("falconer"):
            raise
        _stop(f"The package '{error.name}' is not installed. Run: pip install -r requirements.txt.")
    finally:
        if ranks := sys.modules.get("falconer.train.ranks"):  # heavy, and here only if this process has trained
            ranks.close()


def _stop(message: str) -> NoReturn:
    print(f"falconer: {speaker(' '.join(message.split()))}", file=sys.stderr)
    sys.exit(2)


def _version(show: bool) -> None:
    if show:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True)] = False) -> None:
    pass


@app.command()
def quickstart(
    size: Annotated[
        str, typer.Argument(help="'full': all dialogues, all linear layers, some 20 CPU minutes.")
    ] = "short",
    run: Run = Path("runs/quickstart"),
) -> None:
    """The whole job on what is embedded, in minutes.

    Trains on two CPU cores, talks, evaluates the base model and the tuned one, and writes a report.
    """
    _quiet()
    from falconer.quickstart import run_quickstart

    run_quickstart(run, size, _console())


@app.command()
def doctor() -> None:
    """Hardware, versions, and which path runs and why."""
    _quiet()
    from falconer.doctor import examine

    raise typer.Exit(0 if examine(_stdout()) else 1)


@app.command()
def plan(overrides: Overrides = None, preset: Preset = None) -> None:
    """Memory and time that a run will take, predicted."""
    from falconer.config import load

    config = load(preset, overrides or [])
    _quiet()
    from falconer.train import forecast, plan_table

    _stdout().print(plan_table.plan_table(forecast.plan_run(config)))


@app.command()
def train(
    overrides: Overrides = None,
    preset: Preset = None,
    run: Annotated[Path | None, typer.Option("--run", help="The run's folder; default: runs/PRESET.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint.")] = False,
    keys: Annotated[bool, typer.Option("--keys", help="List every key with its default, and stop.")] = False,
) -> None:
    """Train an adapter. Ctrl-C saves; --resume goes on, on a CPU bit for bit."""
    from falconer.config import load

    if keys:
        _print_keys()
        return
    run = run or Path("runs") / Path(preset or "train").stem
    # Read before the seconds that torch takes to load, and again upon what a run was started with.
    config = load(preset, overrides or [])
    _quiet()
    from falconer.run_folder import read_config
    from falconer.train.loop import train as train_run

    if resume:
        config = load(preset, overrides or [], base=read_config(run))
    console = _console()
    result = train_run(config, run, resume=resume, console=console)
    progress = result.progress
    if result.ended == "interrupted":
        done = f"Interrupted after step {progress.step} of {result.num_steps}"
        console.print(f"{done}; everything is saved in '{run}'.", soft_wrap=True)
        console.print(f"Go on with:  falconer train --run {run} --resume", soft_wrap=True)
        raise typer.Exit(130)
    console.print(result.ending)
    for what in (f"falconer evaluate --run {run}", f"falconer chat --run {run}"):
        console.print(f"Next:  {what}", soft_wrap=True)


@app.command()
def evaluate(
    overrides: Changes = None,
    run: Run = Path("runs/quickstart"),
    adapter: Annotated[
        str, typer.Option("--adapter", help="A folder in the run: adapter (the best), or checkpoints/last.")
    ] = "adapter",
    controls: Annotated[
        bool, typer.Option("--controls", help="Also without persona, with a shuffled one, without history.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print metrics.json instead of the table.")] = False,
) -> None:
    """Base against tuned on the test split.

    Perplexity, hits@1, BLEU, ROUGE-L, F1 with intervals, and the trivial floors; writes predictions, metrics.json,
    report.html and report.md.
    """
    from falconer.config import for_evaluation
    from falconer.run_folder import read_config

    config = for_evaluation(read_config(run), overrides or [])
    _quiet()
    from falconer import jobs
    from falconer.evaluate.report.terminal import show_evaluation
    from falconer.train.setup import evaluation_data

    # Before the model, which takes longer to load.
    data = evaluation_data(run, config)
    opened = jobs.open_run(run, adapter, config)
    metrics = jobs.evaluate_run(opened, config, _console(), data=data, controls=controls)
    if as_json:
        print(json.dumps(metrics, indent=2, allow_nan=False))
        return
    console = _stdout()
    show_evaluation(metrics, console)
    console.print(f"Report: {run / 'report.html'}", soft_wrap=True)


@app.command()
def score(
    file: Annotated[Path, typer.Argument(help="JSON Lines, JSON, TSV, CSV, or one reply a line; also .gz, .zst.")],
    reference: Reference = None,
    against: Annotated[Path | None, typer.Option("--against", help="Another file, for a paired test.")] = None,
    resamples: Resamples = 1000,
    seed: Seed = 17,
    language: Lang = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """BLEU, ROUGE-L, F1 of anybody's predictions.

    With 95 % intervals; needs no model. FILE has the fields or columns prediction and reference, or is
    prediction<TAB>reference; or it has one reply a line beside --reference.
    """
    from falconer.evaluate.text.score import score_file

    result = score_file(file, reference, against, resamples=resamples, seed=seed, language=language)
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    from falconer.evaluate.report.terminal import show_score

    show_score(result, _stdout())


@app.command()
def compare(
    systems: Annotated[list[Path], typer.Argument(help="Runs, or predictions files; the first is the baseline.")],
    reference: Reference = None,
    resamples: Resamples = 1000,
    seed: Seed = 17,
    language: Lang = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Test runs or predictions files against the first.

    Paired bootstrap over dialogues with Holm's correction; all must be about the same turns.
    """
    from falconer.evaluate.text.compare import comparison, read_systems

    result = comparison(read_systems(systems, reference, language), resamples, seed)
    if as_json:
        print(json.dumps(result, allow_nan=False))
        return
    from falconer.evaluate.report.terminal import show_comparison

    show_comparison(result, _stdout())


@app.command()
def chat(
    run: Run = Path("runs/quickstart"),
    persona: Annotated[
        list[str] | None, typer.Option("--persona", help="A sentence about the model; repeat for more.")
    ] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 0.7,
    seed: Annotated[int, typer.Option(min=0, help="Fixes the choice of tokens.")] = 17,
    adapter: Annotated[str, typer.Option("--adapter", help="A folder in the run.")] = "adapter",
) -> None:
    """Talk with a tuned model in the terminal."""
    _quiet()
    from falconer import jobs
    from falconer.model.generate.replies import Decoding
    from falconer.talk.terminal import DEFAULT_PERSONA, talk

    opened = jobs.open_run(run, adapter)
    decoding = Decoding(max_new_tokens=64, temperature=temperature, repetition_penalty=1.1, seed=seed)
    for note in opened.notes:
        _console().print(f"note    {note}", soft_wrap=True)
    session = jobs.open_session(opened, persona or list(DEFAULT_PERSONA), decoding)
    talk(session, _stdout(), title=f"{opened.config.model.name}, tuned in {run}")


@data_app.command("show")
def data_show(
    source: Annotated[str, typer.Argument(help="File, hub data set, or persona-chat-sample.")] = "persona-chat-sample",
    index: Annotated[int, typer.Option("--index", help="Which dialogue, from 0.")] = 0,
    model: Annotated[str, typer.Option("--model", help="Whose tokenizer.")] = "falcon-mini",
    text: Annotated[str, typer.Option("--text", help="raw or natural.")] = "raw",
    split: Split = "train",
    format: Format = "auto",
    on_bad_row: OnBadRow = "stop",
) -> None:
    """Print a dialogue token by token with the loss mask in colour."""
    from falconer.data.language import language_of
    from falconer.data.show import render
    from falconer.data.text import restyle

    dialogues = _load(source, split, format, on_bad_row).dialogues
    if not 0 <= index < len(dialogues):
        raise FalconerError(f"There is no dialogue {index}.", f"Choose --index from 0 to {len(dialogues) - 1}.")
    tokenizer, encoder = _encoder(model)
    style = _one_of("--text", text, ("raw", "natural"))
    dialogue = restyle(dialogues[index], style, language_of(dialogues) if style == "natural" else None)
    _stdout().print(render(dialogue, encoder.encode([dialogue])[0][0], tokenizer), soft_wrap=False)


@data_app.command("stats")
def data_stats(
    source: Annotated[str, typer.Argument(help="File, hub data set, or persona-chat-sample.")] = "persona-chat-sample",
    model: Annotated[str, typer.Option("--model", help="Whose tokenizer.")] = "falcon-mini",
    max_tokens: Annotated[int, typer.Option(min=32, help="Longest example, as data.max_tokens.")] = 1024,
    step_tokens: Annotated[int, typer.Option(min=1, help="As train.step_tokens.")] = 8192,
    plot: Annotated[Path, typer.Option(help="Where the histogram goes.")] = Path("lengths.png"),
    split: Split = "train",
    format: Format = "auto",
    on_bad_row: OnBadRow = "stop",
) -> None:
    """Count lengths, padding and truncations; draw a histogram."""
    from falconer.data.batch import plan_epoch
    from falconer.data.show import length_stats, stats_table, write_histogram

    loaded = _load(source, split, format, on_bad_row)
    _, encoder = _encoder(model, max_tokens)
    examples, truncation = encoder.encode(loaded.dialogues, leave_out=on_bad_row == "skip")
    lengths = [len(example.ids) for example in examples]
    stats = length_stats(examples, plan_epoch(lengths, step_tokens, seed=17, epoch=0), truncation)
    write_histogram(lengths, plot)
    _stdout().print(stats_table(stats))
    print(f"Format: {loaded.format}")
    _print_handled(loaded)
    if loaded.bad_rows:
        print(f"Skipped: {len(loaded.bad_rows):,} bad rows")
    print(f"Histogram: {plot}")


@data_app.command("convert")
def data_convert(
    source: Annotated[str, typer.Argument(help="File, hub data set, or persona-chat-sample.")],
    target: Annotated[Path, typer.Argument(help="Where to write: .jsonl, .jsonl.gz or .jsonl.zst.")],
    text: Annotated[str, typer.Option("--text", help="raw or natural.")] = "raw",
    split: Split = "train",
    format: Format = "auto",
    on_bad_row: OnBadRow = "stop",
) -> None:
    """Convert any supported format to ours."""
    from falconer.data.language import NAMES, language_of
    from falconer.data.sources import write_dialogues
    from falconer.data.text import restyle

    style = _one_of("--text", text, ("raw", "natural"))
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise FalconerError(f"'{target}' is the file that would be read.", "Name another file to write to.")
    loaded = _load(source, split, format, on_bad_row)
    language = language_of(loaded.dialogues) if style == "natural" else None
    write_dialogues([restyle(dialogue, style, language) for dialogue in loaded.dialogues], target)
    print(f"{len(loaded.dialogues):,} dialogues written to {target}")
    _print_handled(loaded)
    if language and language != "en":
        print(f"Their language is {NAMES.get(language, language)}: English rules of case were not applied.")


def _print_handled(loaded: Any) -> None:
    for quirk, number in loaded.quirks.items():
        print(f"Handled: {quirk} ({number:,})")
    if loaded.other_splits:
        print(f"Left alone: the splits {', '.join(loaded.other_splits)} (--split)")


def _load(source: str, split: str, format: str, on_bad_row: str) -> Any:
    from falconer.data.sources import load_dialogues

    loaded = load_dialogues(
        source, split=split, format=format, on_bad_row=_one_of("--on-bad-row", on_bad_row, ("stop", "skip"))
    )
    for row in loaded.bad_rows:
        print(f"skipped {row.path}:{row.line}: {row.field}: {row.message}", file=sys.stderr)
    return loaded


def _encoder(model: str, max_tokens: int = 2048) -> tuple[Any, Any]:
    _quiet()
    from falconer.data.encode import Encoder
    from falconer.model.tokenizer import load_tokenizer

    tokenizer, end_id = load_tokenizer(model)
    return tokenizer, Encoder(tokenizer.backend_tokenizer.to_str(), end_id, max_tokens)


def _one_of(option: str, given: str, allowed: tuple[str, ...]) -> Any:
    if given not in allowed:
        raise FalconerError(f"{option} {given} is not allowed.", f"Allowed: {', '.join(allowed)}.")
    return given


def _quiet() -> None:
    from falconer.runtime import quiet_libraries

    quiet_libraries()


def _console() -> Any:
    from rich.console import Console

    # What is shown comes from people's files: "[CLS]" in it is no style.
    return Console(stderr=True, highlight=False, markup=False)


def _stdout() -> Any:
    from rich.console import Console

    return Console(highlight=False, markup=False)


def _print_keys() -> None:
    from falconer.config import Config

    for section, section_field in Config.model_fields.items():
        for key, field in section_field.annotation.model_fields.items():  # type: ignore[union-attr]
            default = "null" if field.default is None else field.default
            print(f"{f'{section}.{key}={default}':<36} {field.description or ''}".rstrip())
