"""The `falconer bench` commands; what they measure with is imported by the one that needs it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from falconer.errors import FalconerError

bench_app = typer.Typer(no_args_is_help=True, help="The README's figures, measured on this machine.")
Shape = Annotated[str, typer.Option("--shape", help="falcon-7b, or tiny to try the command.")]


@bench_app.command("train")
def bench_train(
    shape: Shape = "falcon-7b",
    out: Annotated[Path, typer.Option("--out", help="Where the figures go, as JSON.")] = Path("bench-train.json"),
    runs: Annotated[int, typer.Option(min=1, help="Timed steps of each row; the median counts.")] = 5,
) -> None:
    """Training: the bf16 ceiling, PEFT, its usual recipe, and falconer, side by side.

    Falcon-7B's shape with random weights; nothing is downloaded. Needs a GPU of 24 GB or more for the whole table.
    """
    _prepare(shape)
    from falconer.bench.result import train_table, write_result
    from falconer.bench.train import WHAT, measure

    rows: list[dict[str, Any]] = []
    ceilings: dict[int, float] = {}
    for kind, found in measure(shape, runs):
        if kind == "ceiling":
            ceilings = found
            continue
        rows.append(found.flat())
        _show_row(rows[-1])
    _show(train_table(rows, ceilings))
    write_result(out, f"{WHAT}; {shape}", rows, ceiling_tok_s=ceilings)
    _show(f"Figures: {out}")


@bench_app.command("generate")
def bench_generate(
    source: Annotated[str, typer.Argument(help="Dialogues: file, hub data set, or persona-chat-sample.")] = (
        "persona-chat-sample"
    ),
    split: Annotated[str, typer.Option("--split", help="train, valid or test.")] = "test",
    tokenizer: Annotated[str, typer.Option("--tokenizer", help="A model's name, or a folder.")] = "falcon-mini",
    shape: Shape = "falcon-7b",
    replies: Annotated[int | None, typer.Option("--replies", min=1, help="The first so many; default: all.")] = None,
    hf_replies: Annotated[int, typer.Option("--hf-replies", min=1, help="So many of them by transformers.")] = 1024,
    ranked: Annotated[
        int | None, typer.Option("--ranked", min=0, help="Turns whose candidates are ranked; default: all.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="Where the figures go, as JSON.")] = Path("bench-generate.json"),
) -> None:
    """Generation: transformers and falconer, all replies of a data set, hits@1, and a single stream.

    Falcon-7B's shape with random weights. Needs a GPU of 24 GB or more.
    """
    _prepare(shape)
    from falconer.bench.generate import WHAT, measure
    from falconer.bench.result import generate_table, write_result
    from falconer.data.encode import Encoder
    from falconer.data.sources import load_dialogues
    from falconer.model.tokenizer import load_tokenizer

    dialogues = load_dialogues(source, split=split).dialogues
    loaded, end_id = load_tokenizer(tokenizer)
    encoder = Encoder(loaded.backend_tokenizer.to_str(), end_id, max_tokens=1024)

    rows: list[dict[str, Any]] = []
    for row in measure(shape, encoder, dialogues, num_replies=replies, hf_replies=hf_replies, num_ranked=ranked):
        rows.append(row.flat())
        _show_row(rows[-1])
    _show(generate_table(rows))
    write_result(out, f"{WHAT}; {shape}", rows, dialogues=source, tokenizer=tokenizer)
    _show(f"Figures: {out}")


def _prepare(shape: str) -> None:
    if shape not in ("falcon-7b", "tiny"):
        raise FalconerError(f"--shape {shape} is not allowed.", "Allowed: falcon-7b, tiny.")
    from falconer.runtime import quiet_libraries

    quiet_libraries()


def _show_row(row: dict[str, Any]) -> None:
    from rich.console import Console

    text = " ".join(f"{key}={value}" for key, value in row.items())
    Console(stderr=True, highlight=False).print(text, soft_wrap=True)


def _show(what: Any) -> None:
    from rich.console import Console

    Console(highlight=False).print(what, soft_wrap=isinstance(what, str))
