"""The `falconer data` commands: show, stats and convert."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from falconer import consoles
from falconer.consoles import counted
from falconer.errors import FalconerError, one_of

if TYPE_CHECKING:
    from falconer.data.sources import Loaded

data_app = typer.Typer(no_args_is_help=True, help="Show dialogues, compute statistics, convert formats.")

SAMPLE = "persona-chat-sample"
STYLES: tuple[Literal["raw", "natural"], ...] = ("raw", "natural")
Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A file, a data set on the hub, or persona-chat-sample (embedded).")
]
Model = Annotated[
    str, typer.Option("--model", metavar="NAME", help="The model whose tokenizer is used: a folder or a hub name.")
]
Style = Annotated[
    str, typer.Option("--text", metavar="STYLE", help="raw: the text as it is; natural: case and punctuation restored.")
]
Split = Annotated[
    str, typer.Option("--split", metavar="NAME", help="train, validation or test, if the source has several splits.")
]
Format = Annotated[
    str,
    typer.Option(
        "--format",
        metavar="NAME",
        help="auto: recognised from the content; or one of convai2, falconer, messages, sharegpt, alpaca, completion, "
        "parlai, dailydialog, xpersona, transfertransfo, truecased, cynaptics, kaggle, synthetic, msc, blended, "
        "conv_ai_2, dulemon, focus, soda, locomo, votes (docs/data.md shows a row of each).",
    ),
]
OnBadRow = Annotated[
    str,
    typer.Option(
        "--on-bad-row", metavar="ACTION", help="stop: stop with an error; skip: continue, and list the skipped rows."
    ),
]


@data_app.command("show")
def data_show(
    source: Source = SAMPLE,
    index: Annotated[int, typer.Option("--index", metavar="N", help="The number of the dialogue, from 0.")] = 0,
    model: Model = "falcon-mini",
    text: Style = "raw",
    split: Split = "train",
    format: Format = "auto",
    on_bad_row: OnBadRow = "stop",
) -> None:
    """Show the tokens of a dialogue, and which are target tokens.

    Target tokens (those with a loss) are shown in colour or, without colours, in [[double brackets]].
    """
    from falconer.data.language import language_of
    from falconer.data.show import render
    from falconer.data.text import restyle

    dialogues = _load(source, split, format, on_bad_row).dialogues
    if not 0 <= index < len(dialogues):
        raise FalconerError(f"There is no dialogue {index}.", f"Choose --index from 0 to {len(dialogues) - 1}.")
    tokenizer, encoder = _encoder(model)
    style = one_of("--text", text, STYLES)
    dialogue = restyle(dialogues[index], style, language_of(dialogues) if style == "natural" else None)
    console = consoles.stdout()
    in_colour = console.color_system is not None and not console.no_color
    example = encoder.encode([dialogue])[0][0]
    console.print(render(dialogue, example, tokenizer, in_colour=in_colour), soft_wrap=False)


@data_app.command("stats")
def data_stats(
    source: Source = SAMPLE,
    model: Model = "falcon-mini",
    max_tokens: Annotated[
        int, typer.Option(min=32, metavar="N", help="Longest example in tokens, as data.max_tokens.")
    ] = 1024,
    step_tokens: Annotated[
        int, typer.Option(min=1, metavar="N", help="Tokens in one optimiser step, as train.step_tokens.")
    ] = 8192,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Write a histogram of the lengths to this file.")
    ] = None,
    split: Split = "train",
    format: Format = "auto",
    on_bad_row: OnBadRow = "stop",
) -> None:
    """Count dialogues, tokens, padding and truncations."""
    from falconer.data.batch import plan_epoch
    from falconer.data.show import length_stats, stats_table, write_histogram

    loaded = _load(source, split, format, on_bad_row)
    _, encoder = _encoder(model, max_tokens)
    examples, truncation = encoder.encode(loaded.dialogues, leave_out=on_bad_row == "skip")
    lengths = [len(example.ids) for example in examples]
    stats = length_stats(examples, plan_epoch(lengths, step_tokens, seed=17, epoch=0), truncation)
    if plot:
        write_histogram(lengths, plot)
    consoles.stdout().print(stats_table(stats))
    consoles.say(f"Format: {loaded.format}")
    _print_handled(loaded)
    if loaded.bad_rows:
        consoles.say(f"Skipped: {counted(len(loaded.bad_rows), 'bad row')}")
    if plot:
        consoles.say(f"Histogram: {plot}")


@data_app.command("convert")
def data_convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A file, a data set on the hub, or persona-chat-sample.")
    ],
    target: Annotated[
        Path, typer.Argument(metavar="TARGET", help="The file to write: .jsonl, .jsonl.gz or .jsonl.zst.")
    ],
    text: Style = "raw",
    split: Split = "train",
    format: Format = "auto",
    on_bad_row: OnBadRow = "stop",
) -> None:
    """Convert dialogues from any supported format to falconer's."""
    from falconer.data.language import NAMES, language_of
    from falconer.data.sources import write_dialogues
    from falconer.data.text import restyle

    style = one_of("--text", text, STYLES)
    if os.path.exists(target) and os.path.exists(source) and target.samefile(source):
        raise FalconerError(f"'{target}' is both the source and the target.", "Name another file to write to.")
    loaded = _load(source, split, format, on_bad_row)
    language = language_of(loaded.dialogues) if style == "natural" else None
    write_dialogues([restyle(dialogue, style, language) for dialogue in loaded.dialogues], target)
    consoles.say(f"{counted(len(loaded.dialogues), 'dialogue')} written to {target}")
    _print_handled(loaded)
    if language and language != "en":
        consoles.say(f"The language is {NAMES.get(language, language)}, so English rules of case were not applied.")


def _print_handled(loaded: "Loaded") -> None:
    for quirk, number in loaded.quirks.items():
        consoles.say(f"Handled: {quirk} ({number:,})")
    if loaded.other_splits:
        consoles.say(f"Not read: the splits {', '.join(loaded.other_splits)} (choose one with --split)")


def _load(source: str, split: str, format: str, on_bad_row: str) -> "Loaded":
    from falconer.data.sources import load_dialogues

    action = one_of("--on-bad-row", on_bad_row, ("stop", "skip"))
    loaded = load_dialogues(source, split=split, format=format, on_bad_row=action)
    for row in loaded.bad_rows:
        consoles.say(f"skipped {row.path}:{row.line}: {row.field} {row.message}", is_note=True)
    return loaded


def _encoder(model: str, max_tokens: int = 2048) -> tuple[Any, Any]:
    from falconer.runtime import quiet_libraries

    quiet_libraries()
    from falconer.data.encode import Encoder
    from falconer.model.tokenizer import load_tokenizer

    tokenizer, end_id = load_tokenizer(model)
    return tokenizer, Encoder(tokenizer.backend_tokenizer.to_str(), end_id, max_tokens)
