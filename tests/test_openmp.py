"""How OpenMP's threads wait, and that those of a thread that has ended are gone."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from falconer import openmp
from falconer.errors import FalconerError


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, str(openmp.SPINS)), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "passive"}, None)],
)
def test_threads_wait_briefly_unless_the_user_says_otherwise(monkeypatch, given, spins):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        # Set first, so that whatever is set meanwhile is undone.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    openmp.wait_briefly()
    assert os.environ.get("GOMP_SPINCOUNT") == spins


def test_work_is_done_in_a_thread_that_has_ended():
    assert openmp.in_thread(threading.current_thread) is not threading.main_thread()
    assert not openmp.in_thread(threading.current_thread).is_alive()


def test_an_error_of_the_work_is_raised():
    def fail():
        raise FalconerError("There is no file.", "Give another one.")

    with pytest.raises(FalconerError, match="There is no file"):
        openmp.in_thread(fail)


def test_ctrl_c_ends_the_work_too():
    ended = []

    def work():
        try:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            for _ in range(2000):
                time.sleep(0.01)
        except KeyboardInterrupt:
            ended.append("by Ctrl-C")
            raise

    with pytest.raises(KeyboardInterrupt):
        openmp.in_thread(work)
    assert ended == ["by Ctrl-C"]


SOURCE = Path(__file__).parents[1] / "src"
TEAMS = """
import os, time
from falconer import openmp
openmp.wait_briefly()
import torch

def compute():
    torch.ones(2**22).add_(1)

def num_threads():
    return len(os.listdir("/proc/self/task"))

before = num_threads()
openmp.in_thread(compute)
end = time.monotonic() + 10
while num_threads() > before and time.monotonic() < end:
    time.sleep(0.01)
assert num_threads() == before, "the team has ended with its thread"
compute()
assert num_threads() > before, "this thread has a team now"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_a_team_ends_with_its_thread():
    made = subprocess.run(
        [sys.executable, "-c", TEAMS], capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "3"},
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
