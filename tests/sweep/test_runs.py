"""Processes of runs: their last words, and that nothing is done twice."""

import sys

import pytest

from falconer.config import Config
from falconer.sweep import runs
from falconer.sweep.folder import log_file
from falconer.sweep.runs import bring_to_end
from small_runs import silent


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Put a program in the place of Python; it gets what Python would get."""

    def put(text):
        path = tmp_path / "program"
        path.write_text(f"#!{sys.executable}\nimport sys\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setattr(runs.sys, "executable", str(path))

    return put


def test_the_last_line_of_a_failure_is_kept(tmp_path, program):
    program("print('one'); print('falconer: no room left.\\n\\n'); sys.exit(2)")
    done = bring_to_end(tmp_path, "setting-01-seed-17", Config(), silent())
    assert done.failed == "falconer: no room left."
    assert log_file(tmp_path, done.name).read_text().startswith("one\n")


def test_a_silent_failure_has_its_code(tmp_path, program):
    program("sys.exit(9)")
    assert bring_to_end(tmp_path, "a", Config(), silent()).failed == "the process ended with code 9"


def test_an_interrupted_run_interrupts_the_sweep(tmp_path, program):
    program("sys.exit(130)")
    with pytest.raises(KeyboardInterrupt):
        bring_to_end(tmp_path, "a", Config(), silent())


def test_a_new_run_gets_its_settings_and_an_old_one_has_them(tmp_path, program):
    program("print(sys.argv[1:])")
    config = Config.model_validate({"lora": {"r": 4}})
    assert bring_to_end(tmp_path, "a", config, silent()).failed == ""
    run = tmp_path / "runs" / "a"
    run.mkdir(parents=True)
    (run / "config.yaml").touch()
    bring_to_end(tmp_path, "a", config, silent())
    common = ["-m", "falconer", "sweep-run", str(tmp_path), str(run)]
    assert log_file(tmp_path, "a").read_text().splitlines() == [str([*common, "lora.r=4"]), str(common)]
