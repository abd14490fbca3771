"""Do the benchmark's commands run from the command line, and refuse what they do not know?"""

import json

import pytest

from command_line import falconer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("command", ["train", "generate"])
def test_an_unknown_shape_is_refused_at_once(command: str) -> None:
    found = falconer("bench", command, "--shape", "falcon-8b")
    assert found.code == 2
    assert found.err == "falconer: --shape falcon-8b is not allowed. Allowed: falcon-7b, tiny.\n"


def test_the_tiny_shape_gives_a_table_and_a_file(tmp_path) -> None:
    out = tmp_path / "figures.json"
    found = falconer("bench", "train", "--shape", "tiny", "--runs", "1", "--out", str(out))
    assert found.code == 0 and f"Figures: {out}" in found.out.replace("\n", "")
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert {row["system"] for row in rows} == {"falconer", "peft", "peft-reference"}
    assert all(row["system"] in found.err for row in rows)
