"""The `falconer bench` commands: train, generate and serve."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from falconer import consoles
from falconer.errors import FalconerError, one_of

if TYPE_CHECKING:
    from falconer.bench.train import Row

bench_app = typer.Typer(no_args_is_help=True, help="Measure the README's figures on this machine.")
SHAPES = ("falcon-7b", "falcon-11b", "falcon-40b", "tiny")
Shape = Annotated[
    str,
    typer.Option(
        "--shape", metavar="NAME", help="falcon-7b, falcon-11b or falcon-40b; or tiny, to try the command out."
    ),
]
Layers = Annotated[
    int | None,
    typer.Option("--layers", min=1, metavar="N", help="Blocks of the model; the default is as many as it has."),
]
Out = Annotated[Path, typer.Option("--out", metavar="FILE.json", help="The file to write the figures to.")]


@bench_app.command("train")
def bench_train(
    shape: Shape = "falcon-7b",
    out: Out = Path("bench-train.json"),
    runs: Annotated[int, typer.Option(min=1, metavar="N", help="Number of timed steps per median.")] = 5,
    layers: Layers = None,
    peers: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="NAME,...", help="Measure the same work with trl or unsloth, too."),
    ] = None,
    peer_python: Annotated[
        Path | None,
        typer.Option("--peer-python", metavar="FILE", help="The Python that has them; the default is falconer's."),
    ] = None,
) -> None:
    """Measure training speed and memory, compared with PEFT.

    Uses the shape of a Falcon with random weights, in bf16 and FP8, and measures the linear layers alone, PEFT, PEFT's
    usual recipe, and falconer. Nothing is downloaded. The whole table of the 7B needs a GPU with 24 GB or more.
    The ceiling does not count the head, which is more of the whole with few --layers. --with measures other programs
    if they are installed, each in a process of its own, which loads a checkpoint with random weights.
    """
    _prepare(shape)
    if peer_python and not peers:
        raise FalconerError(
            "--peer-python is given without --with.", "Add --with trl or --with unsloth, or leave it out."
        )
    from falconer.bench.peers import find_peers, measure_peers, named_peers
    from falconer.bench.result import train_table, write_result
    from falconer.bench.train import WARMUP, WHAT, measure, sizes_of

    with_peers = find_peers(named_peers(peers or []), peer_python)
    rows: list[dict[str, Any]] = []
    ceilings: dict[int, float] = {}

    def add(row: "Row") -> None:
        rows.append(row.flat())
        _show_row(rows[-1])
        # After each one, so that nothing is lost if the benchmark is interrupted, or a peer fails.
        others = {"peers": {one.name: one.described() for one in with_peers}} if with_peers else {}
        write_result(out, f"{WHAT}; {_named(shape, layers)}", rows, ceiling_tok_s=ceilings, **others)

    for kind, found in measure(shape, runs, num_layers=layers):
        if kind == "ceiling":
            ceilings = found
        else:
            add(found)
    log = out.with_suffix(".peers.log")
    for row in measure_peers(with_peers, shape, sizes_of(shape, layers), runs, WARMUP, log):
        add(row)
    _show(train_table(rows, ceilings))
    for one in with_peers:
        _show(one.sentence())
    _show(f"Figures: {out}")


@bench_app.command("generate")
def bench_generate(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="Dialogues: a file, a data set on the hub, or persona-chat-sample."),
    ] = "persona-chat-sample",
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="train, validation or test.")] = "test",
    tokenizer: Annotated[
        str,
        typer.Option("--tokenizer", metavar="NAME", help="The model whose tokenizer is used: a folder or a hub name."),
    ] = "falcon-mini",
    shape: Shape = "falcon-7b",
    replies: Annotated[
        int | None,
        typer.Option("--replies", min=1, metavar="N", help="Generate only the first N replies; the default is all."),
    ] = None,
    hf_replies: Annotated[
        int, typer.Option("--hf-replies", min=1, metavar="N", help="Number of replies that transformers generates.")
    ] = 1024,
    ranked: Annotated[
        int | None,
        typer.Option("--ranked", min=0, metavar="N", help="Rank the candidates of N turns; the default is all."),
    ] = None,
    layers: Layers = None,
    out: Out = Path("bench-generate.json"),
) -> None:
    """Measure generation speed, compared with transformers.

    Uses the shape of a Falcon with random weights, and measures all replies of a data set, hits@1, and a single stream.
    Needs a GPU with 24 GB or more for the 7B. Started with torchrun --nproc-per-node N -m -- falconer bench generate,
    replies and candidates are divided among the GPUs.
    """
    _prepare(shape)
    from falconer.bench.generate import WHAT, measure
    from falconer.bench.result import generate_table, write_result
    from falconer.data.encode import Encoder
    from falconer.data.sources import load_dialogues
    from falconer.model.tokenizer import load_tokenizer
    from falconer.runtime import pick_device
    from falconer.train.ranks import Ranks

    ranks = Ranks(pick_device("auto"))

    dialogues = load_dialogues(source, split=split).dialogues
    loaded, end_id = load_tokenizer(tokenizer)
    encoder = Encoder(loaded.backend_tokenizer.to_str(), end_id, max_tokens=1024)

    rows: list[dict[str, Any]] = []
    for row in measure(
        shape, encoder, dialogues, num_replies=replies, hf_replies=hf_replies, num_ranked=ranked, num_layers=layers,
        ranks=ranks,
    ):  # fmt: skip
        rows.append(row.flat())
        if ranks.is_first:
            _show_row(rows[-1])
    if not ranks.is_first:
        return
    _show(generate_table(rows))
    write_result(out, f"{WHAT}; {_named(shape, layers)}", rows, dialogues=source, tokenizer=tokenizer)
    _show(f"Figures: {out}")


@bench_app.command("serve")
def bench_serve(
    source: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="Dialogues: a file, a data set on the hub, or persona-chat-sample."),
    ] = "persona-chat-sample",
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="train, validation or test.")] = "train",
    shape: Shape = "falcon-7b",
    model: Annotated[
        str | None, typer.Option("--model", metavar="NAME", help="Serve this base model instead of a random one.")
    ] = None,
    run: Annotated[
        Path | None, typer.Option("--run", metavar="FOLDER", help="Serve this run's model instead of a random one.")
    ] = None,
    quantization: Annotated[str, typer.Option("--quantization", metavar="KIND", help="nf4 or none.")] = "nf4",
    streams: Annotated[
        str, typer.Option("--streams", metavar="N,...", help="Numbers of conversations at the same time.")
    ] = "1,16,64,256",
    adapters: Annotated[
        str, typer.Option("--adapters", metavar="N,...", help="Numbers of adapters at the same time.")
    ] = "1,8",
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, metavar="S", help="Length of each measurement.")
    ] = 20.0,
    http_processes: Annotated[
        int, typer.Option("--http-processes", min=1, max=64, metavar="N", help="As of falconer serve.")
    ] = 1,
    out: Out = Path("bench-serve.json"),
) -> None:  # fmt: skip
    """Measure the server under many conversations at once.

    Starts the server in a process of its own, with one adapter and with several, and has conversations with it from
    other processes. Uses the shape of a Falcon with random weights, which needs a GPU with 24 GB or more for the 7B;
    on a laptop, try --model falcon-mini.
    """
    _prepare(shape)
    one_of("--quantization", quantization, ("nf4", "none"))
    if model and run:
        raise FalconerError("--model and --run are both given.", "Use one of them.")
    num_streams, num_adapters = _numbers("--streams", streams), _numbers("--adapters", adapters)
    from falconer.bench.result import serve_table, write_result
    from falconer.bench.serve import WHAT, Found, measure, num_clients, talks_of
    from falconer.bench.serve_process import Setting
    from falconer.data.sources import load_dialogues

    talks = talks_of(load_dialogues(source, split=split).dialogues)
    setting = Setting(
        None if model or run else shape, model, run, quantization, num_slots=max(num_streams), num_http=http_processes
    )
    rows: list[dict[str, Any]] = []
    rates: dict[str, float] = {}
    found = measure(
        setting, talks, adapters=num_adapters, streams=num_streams, seconds=seconds, clients=num_clients()
    )  # fmt: skip
    for one in found:
        if isinstance(one, Found):
            rates[one.what] = round(one.tok_s, 1)
            consoles.stderr().print(f"{one.what}: {one.tok_s:,.0f} tok/s", soft_wrap=True)
        else:
            rows.append(one.flat())
            _show_row(rows[-1])
        # After each one, so that nothing is lost if the benchmark is interrupted.
        write_result(
            out, WHAT, rows, served=setting.system, dialogues=source, rates=rates, http_processes=http_processes
        )
    _show(serve_table(rows))
    _show(f"Figures: {out}")


def _numbers(option: str, given: str) -> list[int]:
    """Read numbers separated by commas."""
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() and 0 < int(part) <= 4096 for part in parts):
        raise FalconerError(
            f"{option} {given} is not a list of numbers from 1 to 4,096.", f"For example: {option} 1,16."
        )
    return [int(part) for part in parts]


def _prepare(shape: str) -> None:
    one_of("--shape", shape, SHAPES)
    from falconer.runtime import quiet_libraries

    quiet_libraries()


def _named(shape: str, layers: int | None) -> str:
    return shape if layers is None else f"{shape} with {layers} layers"


def _show_row(row: dict[str, Any]) -> None:
    text = " ".join(f"{key}={value}" for key, value in row.items())
    consoles.stderr().print(text, soft_wrap=True)


def _show(what: Any) -> None:
    consoles.stdout().print(what, soft_wrap=isinstance(what, str))
