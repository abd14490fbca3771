"""Do the benchmark's commands run from the command line, and refuse what they do not know?"""

import json

import pytest

from command_line import falconer
from documented import ROOT, check_parses, falconer_commands
from falconer.bench import commands, train

PAGE = ROOT / "docs" / "performance.md"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("command", ["train", "generate"])
def test_an_unknown_shape_is_refused_at_once(command: str) -> None:
    found = falconer("bench", command, "--shape", "falcon-8b")
    assert found.code == 2
    assert (
        found.err == "falconer: --shape falcon-8b is not allowed. Allowed: falcon-7b, falcon-11b, falcon-40b, tiny.\n"
    )


def test_the_commands_know_the_shapes_that_the_benchmarks_do() -> None:
    assert tuple(train.SHAPES) == commands.SHAPES


def test_the_tiny_shape_gives_a_table_and_a_file(tmp_path) -> None:
    out = tmp_path / "figures.json"
    found = falconer("bench", "train", "--shape", "tiny", "--layers", "1", "--runs", "1", "--out", str(out))
    assert found.code == 0 and f"Figures: {out}" in found.out.replace("\n", "")
    result = json.loads(out.read_text(encoding="utf-8"))
    rows = result["rows"]
    assert result["what"].endswith("; tiny with 1 layers")
    assert {row["system"] for row in rows} == {"falconer", "peft", "peft-reference"}
    assert all(row["system"] in found.err for row in rows)


@pytest.mark.parametrize("command", falconer_commands(PAGE.read_text(encoding="utf-8")))
def test_the_commands_that_the_documents_show_exist(command: str) -> None:
    check_parses(command)
