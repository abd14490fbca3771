"""A short torture campaign with new cases each time, and whether the campaign would see what it looks for."""

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from torture.damages import COMMANDS, DAMAGES, READERS, cases
from torture.parts import AIMS, PARTS
from torture.power import MODELS, Disks
from torture.results import added, as_markdown, with_tables
from torture.worlds import Ended, difference

ROOT = Path(__file__).parents[2]
CAMPAIGN = Path(__file__).with_name("campaign.py")


def test_a_short_campaign_loses_nothing(tmp_path: Path) -> None:
    """`make torture` runs a long one. The seed is printed; in CI it is the same each time."""
    seed = 17 if "CI" in os.environ else random.SystemRandom().randrange(10**6)
    file = tmp_path / "found.json"
    parts = [
        "kill:train", "kill:share", "operation:evaluate", "power:train", "disk:merge", "limit:merge", "damage",
        "input:data", "input:predictions", "input:presets", "input:settings", "input:records", "input:adapters",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(CAMPAIGN), "--seconds", "500", "--cases", "1", "--seed", str(seed), "--json", str(file),
         "--failures", str(tmp_path / "failures"), *(f"--only={part}" for part in parts)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    found = json.loads(file.read_text())
    assert [call["seed"] for call in found["calls"]] == [seed] and set(found["parts"]) <= set(parts)
    # One of each, unless the machine is very busy.
    assert all(part["cases"] <= 1 and not part["wrong"] for part in found["parts"].values())
    assert sum(part["cases"] for part in found["parts"].values()) > 5


def test_every_part_has_a_name_of_its_own() -> None:
    assert len(set(PARTS)) == len(PARTS) and set(AIMS) < set(PARTS)


def test_results_of_calls_are_added_up() -> None:
    def call(seed: int, first: int, last: int, wrong: int) -> dict[str, Any]:
        part = {
            "cases": last - first + 1, "covered": last - first + 1, "of": 10, "stopped": 2, "wrong": wrong,
            "worker_s": 3, "slowest_s": 0.5 + seed, "failures": [{"seed": seed, "number": first}] * wrong,
            "done": {str(seed): [[first, last]]},
        }  # fmt: skip
        return {"calls": [{"seed": seed}], "versions": {}, "parts": {"damage": part}}

    both = added([call(1, 0, 3, 1), call(1, 4, 5, 0), call(2, 0, 6, 0)])["parts"]["damage"]
    assert both["cases"] == 13 and both["covered"] == 7 and both["stopped"] == 6 and both["wrong"] == 1
    assert both["done"] == {"1": [[0, 5]], "2": [[0, 6]]} and both["slowest_s"] == 2.5
    with pytest.raises(SystemExit, match="two calls have run case 3 of seed 1"):
        added([call(1, 0, 3, 0), call(1, 3, 5, 0)])


def test_a_wrong_case_that_was_run_again_counts_as_it_is_now() -> None:
    def call(first: int, last: int, wrong: int) -> dict[str, Any]:
        part = {
            "cases": last - first + 1, "covered": last - first + 1, "of": 10, "stopped": 0, "wrong": wrong,
            "read": last - first + 1 - wrong, "worker_s": 3, "slowest_s": 0.5,
            "failures": [{"seed": 1, "number": first + index, "wrong": "lost"} for index in range(wrong)],
            "done": {"1": [[first, last]]},
        }  # fmt: skip
        return {"calls": [{"seed": 1}], "versions": {}, "parts": {"input:data": part}}

    before = call(0, 9, 2)
    found = added([before, call(0, 0, 0)])["parts"]["input:data"]
    assert (found["cases"], found["covered"], found["wrong"], found["read"]) == (10, 10, 1, 9)
    assert [case["number"] for case in found["run_again"]] == [0] and found["failures"][0]["number"] == 1
    found = added([before, call(0, 0, 0), call(1, 1, 0)])["parts"]["input:data"]
    assert (found["cases"], found["wrong"], found["done"]) == (10, 0, {"1": [[0, 9]]})
    assert [case["number"] for case in found["run_again"]] == [0, 1] and not found["failures"]
    # Still wrong, and one that was not wrong.
    assert added([before, call(0, 0, 1)])["parts"]["input:data"]["wrong"] == 2
    with pytest.raises(SystemExit, match="two calls have run case 3 of seed 1"):
        added([before, call(3, 3, 0)])


def test_the_tables_of_the_documentation_are_those_of_the_results() -> None:
    results = json.loads((ROOT / "benchmarks" / "results" / "torture.json").read_text(encoding="utf-8"))
    documented = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert with_tables(documented, results) == documented and as_markdown(results) in documented
    assert not any(part["wrong"] for part in results["parts"].values())


def test_a_cell_says_how_many_cases_there_are_and_how_many_stopped_the_command() -> None:
    part = {"cases": 1200, "covered": 300, "of": 300, "stopped": 1100, "wrong": 0, "slowest_s": 0}
    less = part | {"cases": 7, "covered": 7, "stopped": 0}
    table = as_markdown({"parts": {"kill:train": part, "operation:gguf": part, "power:merge": less, "damage": less}})
    assert "| killed at a random moment | 1,200 (1,100) |" in table and "| 7 of 300 |" in table
    assert "| damaged files of a run x damages x commands | 7 of 300 |" in table and "first table: 0." in table


def disk_after(tmp_path: Path, model: str, number: int) -> dict[str, str]:
    """Return what a disk holds whose power fails before a sync or rename of a number."""
    top = tmp_path / "top"
    top.mkdir()
    child = os.fork()
    if child == 0:
        Disks(top, model, number, tmp_path / "disk").install()
        (top / "synced").write_text("all")
        descriptor = os.open(top / "synced", os.O_RDONLY)
        os.fsync(descriptor)
        (top / "unsynced").write_text("all")
        folder = os.open(top, os.O_RDONLY)
        os.fsync(folder)
        os.replace(top / "unsynced", top / "renamed")
        os.fsync(descriptor)
        os._exit(0)
    os.waitpid(child, 0)
    return {path.name: path.read_text() for path in (tmp_path / "disk").iterdir()}


@pytest.mark.parametrize(
    ("model", "number", "found"),
    [
        (MODELS[0], 0, {}),
        (MODELS[0], 1, {}),  # the file is synced, its name is not
        (MODELS[0], 2, {"synced": "all", "unsynced": ""}),
        (MODELS[0], 3, {"synced": "all", "unsynced": ""}),  # the rename is not synced
        (MODELS[1], 1, {"synced": "all", "unsynced": ""}),
        (MODELS[1], 3, {"synced": "all", "renamed": ""}),
    ],
)
def test_a_disk_holds_what_was_synced(tmp_path: Path, model: str, number: int, found: dict[str, str]) -> None:
    assert disk_after(tmp_path, model, number) == found


def test_any_difference_of_two_runs_is_seen_and_times_are_none(tmp_path: Path) -> None:
    one = tmp_path / "one"
    (one / "adapter").mkdir(parents=True)
    (one / "steps.jsonl").write_text('{"step": 1, "loss": 2.0, "time_s": 1.5}\n')
    (one / "training.json").write_text('{"how": "finished", "at": "now"}')
    (one / "adapter" / "weights").write_bytes(b"1")
    other = Path(shutil.copytree(one, tmp_path / "other"))
    (other / "steps.jsonl").write_text('{"step": 1, "loss": 2.0, "time_s": 9}\n')
    (other / "training.json").write_text('{"how": "finished", "at": "then"}')
    assert difference(one, other) == ""
    for name, content in (
        ("steps.jsonl", '{"step": 1, "loss": 2.5}\n'), ("training.json", '{"how": "early"}'), ("adapter/weights", "2"),
        (".litter.partial", ""),
    ):  # fmt: skip
        kept = (other / name).read_bytes() if (other / name).exists() else None
        (other / name).write_text(content)
        assert name in difference(one, other)
        (other / name).unlink()
        assert name in difference(one, other) or kept is None
        if kept is not None:
            (other / name).write_bytes(kept)


def test_a_traceback_is_not_one_line() -> None:
    assert Ended(2, "data 3\nfalconer: it is damaged.\n", 1).is_one_line
    assert not Ended(2, "Traceback (most recent call last):\nfalconer: x\n", 1).is_one_line
    assert not Ended(1, "falconer: x\n", 1).is_one_line and not Ended(2, "", 1).is_one_line


def test_every_file_every_damage_and_every_command_has_a_case() -> None:
    found = cases(3)
    assert len(found) == len(set(found)) == len(READERS) * len(DAMAGES) * len(COMMANDS)
    assert {command for commands in READERS.values() for command in commands} == set(COMMANDS)
