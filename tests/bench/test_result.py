"""Are a benchmark's figures kept whole, and shown with the ratios that the documents quote?"""

import io
import json
import re
from pathlib import Path

import pytest
from rich.console import Console

from falconer.bench.result import VERSIONS, generate_table, shown_command, write_result

RESULTS = sorted((Path(__file__).parents[2] / "benchmarks" / "results").glob("*.json"))


def test_the_file_has_card_versions_and_rows(tmp_path) -> None:
    rows = [{"system": "falconer", "tok_s": 1.5}]
    write_result(tmp_path / "figures.json", "what", rows, dialogues="a file")
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert found["rows"] == rows and found["dialogues"] == "a file" and found["what"] == "what"
    assert set(found["versions"]) == set(VERSIONS) and found["gpu"]


def test_a_command_is_shown_without_the_folders_of_this_machine() -> None:
    given = [
        "benchmarks/serve_cpu.py",
        "--run",
        "/home/ann/runs/quickstart",
        "--out",
        "runs/a b.json",
        "--seconds",
        "60",
    ]
    shown = "python benchmarks/serve_cpu.py --run quickstart --out 'runs/a b.json' --seconds 60"
    assert shown_command(given) == shown


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_no_result_names_a_folder_of_the_machine(path: Path) -> None:
    assert (
        re.findall(r"(?<![\w.:/-])/(?:home|root|tmp|work|usr|mnt|data|opt)/\S*", path.read_text(encoding="utf-8")) == []
    )


def test_a_row_without_a_rate_has_an_empty_cell() -> None:
    row = {"system": "falconer, bf16", "what": "ranks", "batch": None, "seconds": 57.9, "replies_per_s": 134.7,
           "tok_s": None, "peak_gib": 20.0}  # fmt: skip
    shown = io.StringIO()
    Console(file=shown, width=120).print(generate_table([row, row | {"tok_s": 1234.0, "batch": 256}]))
    first, second = (line.split() for line in shown.getvalue().splitlines()[1:3])
    assert first[-4:] == ["auto", "57.90", "134.7", "20.0"]
    assert second[-5:] == ["256", "57.90", "134.7", "1,234", "20.0"]
