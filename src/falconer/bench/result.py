"""Writing a benchmark's results as JSON and showing them as a table."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.table import Table

from falconer import runtime
from falconer.files.replace import replace_file

TITLES = MappingProxyType({"peft": "PEFT", "peft-reference": "recipe", "trl": "TRL", "unsloth": "Unsloth"})
VERSIONS = ("torch", "triton", "transformers", "peft", "bitsandbytes", "accelerate")


def shown_command(arguments: Sequence[str]) -> str:
    """Return the command of a benchmark as its results state it: of a path of this machine, the last part alone.

    Args:
        arguments: the program, as `sys.argv` has it.
    """
    parts = (Path(part).name if Path(part).is_absolute() else part for part in arguments)
    return shlex.join(["python", *parts])


def write_result(path: Path, what: str, rows: Sequence[dict[str, Any]], **others: Any) -> None:
    """Write the rows, with the GPU, driver and library versions that they were measured with."""
    environment = runtime.environment(runtime.pick_device("auto"))
    content = {
        "what": what, "gpu": environment["device"], "driver": runtime.nvidia_driver(),
        "versions": {name: environment[name] for name in VERSIONS}, **others, "rows": list(rows),
    }  # fmt: skip
    with replace_file(path) as aside:
        aside.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def train_table(rows: Sequence[dict[str, Any]], ceilings: dict[int, float]) -> Table:
    """Return the table of the training benchmark.

    It has the speed, the peak memory, and the speed relative to the bf16 ceiling, to PEFT's fastest row and to PEFT's
    usual recipe. "cached" means that dequantised weights were cached.

    Args:
        rows: as `bench.train.Row.flat` gives them.
        ceilings: tokens/s of the linear layers alone in bf16, by tokens; empty without a GPU.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("system", "precision", "memory"):
        table.add_column(name)
    for name in ("batch", "tok/s", "GiB", "/bf16", "/PEFT", "/recipe"):
        table.add_column(name, justify="right", no_wrap=True)
    ceiling = ceilings.get(max(ceilings, default=0))
    rates = [row["tok_s"] for row in rows if row["system"] == "peft" and row["tok_s"]]
    peft = max(rates, default=None)
    recipe = next((row["tok_s"] for row in rows if row["system"] == "peft-reference"), None)
    for row in rows:
        rate = row["tok_s"]
        memory = row["memory"] + (", cached" if row["holds_weights"] else "")
        memory += f", {row['cap_gib']:g} GiB" if row["cap_gib"] else ""
        system = TITLES.get(row["system"], row["system"])
        shown = [system, row["compute"], memory, f"{row['batch']} x {row['tokens']}"]
        if rate is None:
            table.add_row(*shown, "out of memory", "", "", "", "")
            continue
        ratios = [f"{rate / base:.2f}" if base else "–" for base in (ceiling, peft, recipe)]
        table.add_row(*shown, f"{rate:,.0f}", f"{row['peak_gib']:.2f}", *ratios)
    return table


def generate_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table of the generation benchmark.

    Args:
        rows: as `bench.generate.Row.flat` gives them.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("system", "what"):
        table.add_column(name)
    for name in ("batch", "seconds", "/s", "tok/s", "GiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        rate = "" if row["tok_s"] is None else f"{row['tok_s']:,.0f}"
        table.add_row(
            row["system"], row["what"], str(row["batch"] or "auto"), f"{row['seconds']:,.2f}",
            f"{row['replies_per_s']:,.1f}", rate, f"{row['peak_gib']:.1f}",
        )  # fmt: skip
    return table


def serve_table(rows: Sequence[dict[str, Any]]) -> Table:
    """Return the table of the server's benchmark.

    Args:
        rows: as `bench.serve.Row.flat` gives them.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("adapters", justify="right")
    for name in (
        "streams", "tok/s", "of engine", "first ms", "90 %", "99 %", "ms/token", "cached", "lost", "GiB",
    ):  # fmt: skip
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        share = "" if row["of_offline"] is None else f"{100 * row['of_offline']:.0f} %"
        memory = row["rss_gib"] if row["gpu_gib"] is None else row["gpu_gib"]
        table.add_row(
            str(row["adapters"]), str(row["streams"]), f"{row['tok_s']:,.0f}", share, f"{row['first_ms']:,.0f}",
            f"{row['first_ms_p90']:,.0f}", f"{row['first_ms_p99']:,.0f}", f"{row['token_ms']:.1f}",
            f"{100 * row['cached']:.0f} %", str(row["lost"]), f"{memory:.1f}",
        )  # fmt: skip
    return table
