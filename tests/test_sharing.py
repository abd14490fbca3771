"""docs/sharing.md: the figures of its tables are those of the results files that it names."""

import json
import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "sharing.md").read_text(encoding="utf-8")
# What the tables call an export, and its name in the results.
NAMES = MappingProxyType({
    "merged, `--base nf4` (default), bf16": "merged nf4",
    "the same, `--dtype fp32`": "merged nf4 fp32",
    "merged, `--base bf16`": "merged bf16",
    "GGUF f16 (of the nf4 merge)": "gguf f16",
    "GGUF f16 in llama.cpp": "gguf f16 in llama.cpp",
    "GGUF q8_0 (of the nf4 merge)": "gguf q8_0",
    "GGUF q8_0 in llama.cpp": "gguf q8_0 in llama.cpp",
    "GGUF adapter f16, on the base as stored": "gguf adapter f16",
    "GGUF adapter f16 in llama.cpp": "gguf adapter f16 in llama.cpp",
    "the adapter in PEFT and transformers": "adapter",
})  # fmt: skip


def table(results: str) -> dict[str, list[str]]:
    """Return the rows of the table below the sentence that names a results file."""
    rows = re.search(rf"{re.escape(results)}\).*?\n\n(\|.*?)\n\n", PAGE, re.DOTALL)[1].splitlines()
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]
    return {label.strip("*"): rest for label, *rest in cells}


def interval(figure: dict[str, float], form: str) -> str:
    value, low, high = (format(figure[key], form) for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def divergence(figure: dict[str, float]) -> str:
    if abs(figure["value"]) >= 1e-8:
        return interval(figure, ".1e")
    return "below 1e-8" if figure["value"] else "0"


def change(figure: dict[str, float], form: str) -> str:
    shown = interval(figure, form)
    return "0.00" if not re.search("[1-9]", shown) else shown


def share(figure: dict[str, float]) -> str:
    return "100" if figure["low"] == 100 else interval(figure, ".1f")


def cells(found: dict[str, Any]) -> list[str]:
    """Return what a row says of an export."""
    size = f"{found['bytes'] / 2**20:.1f} MiB" if "bytes" in found else ""
    drift, replies = found["export"], found["replies"]
    return [
        size, divergence(drift["kl"]), change(drift["word_ppl_change"], "+.2f"), share(replies["identical"]),
        share(replies["before_difference"]),
    ]  # fmt: skip


@pytest.mark.parametrize("results", ["export.json", "export-tiny-llama.json"])
def test_each_row_has_the_measured_figures(results):
    exports = json.loads((ROOT / "benchmarks" / "results" / results).read_text(encoding="utf-8"))["exports"]
    rows = table(f"benchmarks/results/{results}")
    base = exports["merged nf4"]["base"]
    own_effect = ["", divergence(base["kl"]), change(base["word_ppl_change"], "+.0f"), "", ""]
    assert rows.pop("base without the adapter") == own_effect
    named = {NAMES[re.sub(r" \(\d+ replies\)", "", label)]: shown for label, shown in rows.items()}
    assert named == {name: cells(found) for name, found in exports.items()}
