"""Workers that die, hang or fail: their case is known, and all other cases are run."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from torture.pool import HUNG_S, News, Pool

FINE = {"wrong": ""}


class Fake:
    """A worker whose cases of some numbers end its process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder

    def number_of(self, part: str) -> int:
        if part == "broken":
            raise ValueError("it has no cases")
        return 10

    def run(self, part: str, number: int, seed: int, failures: Path) -> dict[str, Any]:
        if part == "killed" and number == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        if part == "killed" and number == 5:
            # Its own child, which holds the pipe, outlives it.
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], close_fds=False)
            os._exit(7)
        if part == "killed" and number == 6:
            raise ValueError("a bug in a case")
        if part == "hangs" and number == 2:
            threading.Event().wait()
        return {"number": number, "part": part, **FINE}


def never(folder: Path) -> Fake:
    raise OSError("no room for a world")


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    made = Pool(1, tmp_path / "work", 9, tmp_path / "failures", make=Fake, hung_s=3)
    yield made
    made.close()


def ran(pool: Pool, part: str, numbers: list[int]) -> list[News]:
    """Run cases, those that a dead process left undone, too."""
    found: list[News] = []
    until = time.monotonic() + 60
    left = numbers
    while time.monotonic() < until:
        if left and pool.idle:
            pool.give(pool.idle[0], part, left, time.time() + 60)
            left = []
        for news in pool.news():
            found.append(news)
            left = left + news.lost
        if not (left or pool.is_busy):
            return found
    raise AssertionError(f"not all cases were run: {found}")


def test_each_case_is_reported_and_counted(pool: Pool) -> None:
    assert pool.count(["a", "b"]) == {"a": 10, "b": 10}
    found = ran(pool, "a", [4, 1, 7])
    assert [one.case["number"] for one in found if one.case] == [4, 1, 7]
    assert found[-1].case is None and not found[-1].lost and not any(one.is_death for one in found)


def test_the_case_that_kills_a_worker_is_known_and_all_others_are_run(pool: Pool) -> None:
    found = {one.case["number"]: one for one in ran(pool, "killed", list(range(10))) if one.case}
    assert sorted(found) == list(range(10))
    wrong = {number: one.case["wrong"] for number, one in found.items() if one.case and one.case["wrong"]}
    assert wrong[3] == "the process died with signal 9 (SIGKILL)"
    assert wrong[5].startswith("the process ended with exit code 7")
    assert wrong[6].startswith("the process ended with exit code 1") and "ValueError: a bug in a case" in wrong[6]
    assert set(wrong) == {3, 5, 6} == {number for number, one in found.items() if one.is_death}
    assert all(found[number].case["seed"] == 9 and found[number].case["part"] == "killed" for number in wrong)


def test_a_case_that_hangs_is_ended(pool: Pool) -> None:
    found = {one.case["number"]: one.case["wrong"] for one in ran(pool, "hangs", [1, 2, 3]) if one.case}
    assert found == {1: "", 2: "it hangs: no result after 3 s", 3: ""}


def test_no_case_is_begun_after_the_end(pool: Pool) -> None:
    pool.count([])
    while not pool.idle:
        list(pool.news())
    pool.give(pool.idle[0], "a", [1, 2], time.time() - 1)
    found: list[News] = []
    while pool.is_busy:
        found += pool.news()
    assert [(one.case, one.lost) for one in found] == [(None, [1, 2])]


def test_what_can_not_be_prepared_ends_the_campaign(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="(?s)can't be prepared: .*it has no cases"):
        pool.count(["broken"])
    unable = Pool(1, tmp_path / "other", 9, tmp_path / "failures", make=never)
    with pytest.raises(RuntimeError, match="(?s)before their first case: .*no room for a world"):
        for _ in range(600):
            list(unable.news())
    unable.close()


def test_a_command_that_may_take_two_minutes_does_not_hang() -> None:
    from torture.worlds import MOST_S

    assert HUNG_S > 4 * MOST_S
