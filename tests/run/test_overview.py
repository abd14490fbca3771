"""`falconer runs`: each run of a folder, in a wide, a narrow and no terminal, whatever is damaged."""

import io
import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from command_line import falconer
from falconer.config import load
from falconer.errors import FalconerError
from falconer.files.locks import lock_run
from falconer.records import StepRow
from falconer.run.folder import METRICS, metrics_text, write_run, write_steps
from falconer.run.metrics import Metrics
from falconer.run.overview import find_runs, read_run, show_runs
from falconer.run.state import write_training

STORED = Path(__file__).parent / "fixtures" / "metrics.json"
ROWS: list[StepRow] = [{"step": 1, "loss": 4.0}, {"step": 2, "loss": 3.5}, {"step": 2, "valid_loss": 3.25}]


def make(run: Path, *overrides: str, rows: list[StepRow] = ROWS) -> Path:
    run.mkdir(parents=True)
    write_run(run, load("quickstart", list(overrides)), {"num_steps": 4})
    write_steps(run, rows)
    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with six runs, one of them deeper, one damaged, and two folders that are none."""
    runs = tmp_path / "runs"
    done = make(runs / "a-done", "model.name=/models/falcon-7b", "data.train=/data/mine.jsonl")
    write_training(done, "finished", 4, 4, 3.25, 2)
    metrics = Metrics.from_json(STORED.read_text(encoding="utf-8"), STORED, "")
    (done / METRICS).write_text(metrics_text(metrics), encoding="utf-8")
    write_training(make(runs / "b-killed"), "running", 2, 4, 3.25, 2)
    write_training(make(runs / "c-failed"), "failed", 2, 4, 3.25, 2, why="NonFiniteLoss: the loss is nan")
    os.utime(make(runs / "d-old") / "steps.jsonl", (0, 0))
    (make(runs / "e-damaged") / "config.yaml").write_text("model: [")
    write_training(make(runs / "seeds" / "one", rows=[]), "interrupted", 0, 4, float("inf"), 0)
    (runs / "notes").mkdir()
    (runs / ".hidden").mkdir()
    (runs / "file.txt").write_text("no folder")
    return runs


def shown(folder: Path, width: int, terminal: bool = True) -> str:
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=terminal, color_system=None, highlight=False, markup=False)
    show_runs(find_runs(folder), console)
    return text.getvalue()


def test_each_run_with_its_figures_and_what_its_state_rests_on(folder: Path) -> None:
    with lock_run(make(folder / "f-running")):
        lines = {Path(line.path).name: line for line in find_runs(folder).runs}
    assert list(lines) == ["a-done", "b-killed", "c-failed", "d-old", "e-damaged", "f-running", "one"]
    done = lines["a-done"]
    assert (done.model, done.data) == ("/models/falcon-7b", "/data/mine.jsonl")
    assert (done.step, done.num_steps, done.best_loss) == (2, 4, 3.25)
    assert done.bleu == pytest.approx(2.0146, abs=1e-4) and done.f1 == pytest.approx(15.4473, abs=1e-4)
    assert {name: line.label for name, line in lines.items()} == {
        "a-done": "finished, evaluated", "b-killed": "killed", "c-failed": "failed", "d-old": "interrupted",
        "e-damaged": "damaged", "f-running": "running", "one": "interrupted",
    }  # fmt: skip
    assert lines["one"].best_loss is None and lines["one"].step == 0
    assert "in use by process" in lines["f-running"].known_by and str(os.getpid()) in lines["f-running"].known_by
    assert "config.yaml' is damaged" in lines["e-damaged"].damage


def test_what_is_no_run_is_named(folder: Path) -> None:
    assert find_runs(folder).others == ("notes",)
    assert shown(folder, 200).splitlines()[-1] == "Folders without a run: notes"


def test_a_wide_terminal_and_a_pipe_have_a_line_for_each_run(folder: Path) -> None:
    for width, terminal in ((200, True), (40, False)):
        lines = shown(folder, width, terminal).splitlines()
        assert lines[0].split() == ["run", "model", "data", "steps", "best", "loss", "BLEU", "F1", "state"]
        cells = lines[1].split()
        assert cells[0] == str(folder / "a-done") and cells[1:3] == ["falcon-7b", "mine.jsonl"]
        assert cells[3:] == ["2/4", "3.2500", "2.01", "15.45", "finished,", "evaluated"]
        assert len(lines[1:7]) == 6 and all(str(folder) in line for line in lines[1:7])
        text = "\n".join(lines[7:])
        assert "b-killed: killed: training.json says that it is running, but no running process holds .lock" in text
        assert "c-failed: failed: NonFiniteLoss: the loss is nan" in text
        assert (
            "d-old: interrupted: according to steps.jsonl, since the run's version did not write training.json" in text
        )
        assert "e-damaged: '" in text and "a-done:" not in text and "one:" not in text


def test_a_narrow_terminal_has_some_short_lines_for_each_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    text = shown(Path("runs"), 40)
    block = text[: text.index("runs/b-killed")].splitlines()
    assert block == [
        "runs/a-done", "  finished, evaluated", "  falcon-7b on mine.jsonl", "  steps 2/4, best loss 3.2500",
        "  BLEU 2.01, F1 15.45",
    ]  # fmt: skip


def test_the_command_line_prints_table_or_json(folder: Path, tmp_path: Path) -> None:
    result = falconer("runs", folder, "--json")
    tree = json.loads(result.out)
    assert result.code == 0 and tree["others"] == ["notes"] and len(tree["runs"]) == 6
    assert tree["runs"][0]["state"] == "finished" and tree["runs"][0]["is_evaluated"] is True
    result = falconer("runs", folder / "a-done")
    assert result.code == 0 and "finished, evaluated" in result.out
    (tmp_path / "empty").mkdir()
    result = falconer("runs", tmp_path / "empty")
    assert result.code == 0 and "contains no run. Create a first one: falconer quickstart" in result.out
    result = falconer("runs", tmp_path / "nowhere")
    assert result.code == 2 and f"There is no folder '{tmp_path / 'nowhere'}'" in result.err


@pytest.mark.parametrize("name", ["metrics.json", "training.json", "run.json", "steps.jsonl"])
def test_any_damaged_file_is_named_and_the_others_are_listed(folder: Path, name: str) -> None:
    (folder / "a-done" / name).write_text("[1,\n2")
    lines = find_runs(folder).runs
    assert lines[0].state == "damaged" and name in lines[0].damage and len(lines) == 6


def test_a_folder_that_may_not_be_read_does_not_stop_the_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "run")

    def refuse(run: Path) -> None:
        raise PermissionError(13, "Permission denied", str(run))

    monkeypatch.setattr("falconer.run.overview.read_config", refuse)
    assert "Permission denied" in read_run(tmp_path / "run").damage


@pytest.mark.parametrize("planned", ["x", None, [], {}])
def test_a_number_of_steps_that_is_none_does_not_stop_the_list(tmp_path: Path, planned: object) -> None:
    run = make(tmp_path / "run")
    (run / "training.json").unlink(missing_ok=True)
    (run / "run.json").write_text(json.dumps({"num_steps": planned}))
    (run / "manifest.json").unlink()
    (found,) = find_runs(tmp_path).runs
    assert found.num_steps is None and not found.damage


def test_a_folder_that_may_not_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path / "run")
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "config.yaml").touch()
    monkeypatch.setattr("falconer.run.overview._is_open", lambda path: path.name != "closed")
    monkeypatch.setattr("falconer.run.overview.is_run", lambda path: path.name == "run")
    found = find_runs(tmp_path)
    assert [Path(line.path).name for line in found.runs] == ["run"] and found.others == ("closed (can't be read)",)


def test_no_folder_is_no_list(tmp_path: Path) -> None:
    with pytest.raises(FalconerError, match="There is no folder"):
        find_runs(tmp_path / "none")
