"""Are a benchmark's figures kept whole, and shown with the ratios that the documents quote?"""

import io
import json

from rich.console import Console

from falconer.bench.result import VERSIONS, generate_table, write_result


def test_the_file_has_card_versions_and_rows(tmp_path) -> None:
    rows = [{"system": "falconer", "tok_s": 1.5}]
    write_result(tmp_path / "figures.json", "what", rows, dialogues="a file")
    found = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert found["rows"] == rows and found["dialogues"] == "a file" and found["what"] == "what"
    assert set(found["versions"]) == set(VERSIONS) and found["gpu"]


def test_a_row_without_a_rate_has_an_empty_cell() -> None:
    row = {"system": "falconer, bf16", "what": "ranks", "batch": None, "seconds": 57.9, "replies_per_s": 134.7,
           "tok_s": None, "peak_gib": 20.0}  # fmt: skip
    shown = io.StringIO()
    Console(file=shown, width=120).print(generate_table([row, row | {"tok_s": 1234.0, "batch": 256}]))
    first, second = (line.split() for line in shown.getvalue().splitlines()[1:3])
    assert first[-4:] == ["auto", "57.90", "134.7", "20.0"]
    assert second[-5:] == ["256", "57.90", "134.7", "1,234", "20.0"]
