"""Does one process work in a run's folder, and does a dead one keep nobody out?"""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.errors import FalconerError
from falconer.files import locks
from falconer.files.locks import RUN_LOCK, Holder, holder_of, is_held, lock_run, process_start, release, try_lock

SOURCE = Path(__file__).parents[2] / "src"
HOLDS = "import sys; from pathlib import Path; from falconer.files import locks\n"
# Where a file system has no locks of the operating system: what the lock file says decides.
NO_LOCKS = "locks._lock = lambda descriptor, kind: None\n"
HOLDS_RUN = """
with locks.lock_run(Path(sys.argv[1])):
    print("holds", flush=True)
    sys.stdin.read()
"""
CONTENDS = """
sys.stdin.readline()
try:
    with locks.lock_run(Path(sys.argv[1])):
        print("holds", flush=True)
        sys.stdin.read()
except locks.FalconerError as error:
    print(error)
"""
both = pytest.mark.parametrize("has_locks", [True, False], ids=["flock", "no flock"])


@pytest.fixture(autouse=True)
def _without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "has_locks" in request.fixturenames and not request.getfixturevalue("has_locks"):
        monkeypatch.setattr(locks, "_lock", lambda descriptor, kind: None)


def start(code: str, run: Path, has_locks: bool) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", HOLDS + ("" if has_locks else NO_LOCKS) + code, str(run), "train", "\x1b[2J"],
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )  # fmt: skip


@contextmanager
def holder(run: Path, has_locks: bool) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds a run's lock."""
    process = start(HOLDS_RUN, run, has_locks)
    try:
        assert process.stdout and process.stdout.readline() == "holds\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def refused(run: Path) -> str:
    with pytest.raises(FalconerError, match="is in use") as caught, lock_run(run):
        pytest.fail("two at once")
    return str(caught.value)


@both
def test_a_second_one_is_told_who_holds_it(tmp_path: Path, has_locks: bool) -> None:
    run = tmp_path / "run"
    with holder(run, has_locks) as process:
        assert is_held(run)
        said = refused(run)
        about = holder_of(run)
        assert about and about.process == process.pid and about.is_here and about.may_live
        for part in (str(run), str(process.pid), os.uname().nodename, about.since, "train", "kill -INT", "--run"):
            assert part in said
        assert said.isprintable(), "what was typed there must not steer this terminal"
        assert is_held(run), "a refusal takes nothing away"
    assert not is_held(run)


@both
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_ones_lock_is_taken_over(tmp_path: Path, has_locks: bool, number: int) -> None:
    run = tmp_path / "run"
    with holder(run, has_locks) as process:
        process.send_signal(number)
        process.wait(timeout=30)
        assert (run / RUN_LOCK).exists() and not is_held(run)
        with lock_run(run):
            mine = holder_of(run)
            assert is_held(run) and mine and mine.process == os.getpid()
        assert not (run / RUN_LOCK).exists() and not is_held(run)


@both
def test_a_stopped_one_still_holds_it(tmp_path: Path, has_locks: bool) -> None:
    with holder(tmp_path, has_locks) as process:
        process.send_signal(signal.SIGSTOP)
        refused(tmp_path)
        process.send_signal(signal.SIGCONT)


@both
def test_within_one_process_too(tmp_path: Path, has_locks: bool) -> None:
    with lock_run(tmp_path):
        assert str(os.getpid()) in refused(tmp_path)
        assert is_held(tmp_path)
    with lock_run(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@both
def test_of_many_at_once_one_goes_on(tmp_path: Path, has_locks: bool) -> None:
    """They find a dead one's lock, which each would take over."""
    if has_locks:
        (tmp_path / RUN_LOCK).write_text("of a dead one")
    everybody = [start(CONTENDS, tmp_path, has_locks) for _ in range(6)]
    for process in everybody:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.stdout.readline() for process in everybody if process.stdout]
    assert sorted(line == "holds\n" for line in said) == [False] * 5 + [True], said
    assert sum("is in use" in line for line in said) == 5
    for process in everybody:
        process.communicate()
    assert os.listdir(tmp_path) == []


def test_folders_made_for_a_lock_go_with_it_if_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bad"), lock_run(tmp_path / "runs" / "x"):
        raise ValueError("bad settings")
    assert os.listdir(tmp_path) == []
    with lock_run(tmp_path / "runs" / "x"):
        (tmp_path / "runs" / "x" / "config.yaml").write_text("x")
    assert os.listdir(tmp_path / "runs" / "x") == ["config.yaml"]
    (tmp_path / "empty").mkdir()
    with lock_run(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir(), "it was there before"


def test_a_folder_removed_meanwhile(tmp_path: Path) -> None:
    with pytest.raises(FalconerError, match="was removed or renamed"), lock_run(tmp_path / "run"):
        (tmp_path / "run" / RUN_LOCK).unlink()
        (tmp_path / "run").rmdir()
    assert os.listdir(tmp_path) == []


def test_a_lock_that_somebody_else_took_meanwhile_stays(tmp_path: Path) -> None:
    mine = try_lock(tmp_path / RUN_LOCK)
    (tmp_path / RUN_LOCK).unlink()  # by hand
    theirs = try_lock(tmp_path / RUN_LOCK)
    assert mine is not None and theirs is not None
    release(tmp_path / RUN_LOCK, mine)
    assert is_held(tmp_path)
    release(tmp_path / RUN_LOCK, theirs)
    assert not is_held(tmp_path)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / RUN_LOCK).symlink_to(tmp_path / "victim")
    with pytest.raises(FalconerError, match="can't be written.*symbolic links"), lock_run(tmp_path / "run"):
        pytest.fail("locked")
    assert (tmp_path / "victim").read_text() == "precious" and is_held(tmp_path / "run")


def test_a_folder_that_cannot_be_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FalconerError, match="Not a directory"), lock_run(tmp_path / "file" / "run"):
        pytest.fail("locked")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(path: Path, flags: int, mode: int = 0o777) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(FalconerError), lock_run(tmp_path):
        pytest.fail("locked")


def test_a_full_disk_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(FalconerError, match="No space left"), lock_run(tmp_path / "run"):
        pytest.fail("locked")
    assert os.listdir(tmp_path) == []


def test_asking_about_what_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "none", tmp_path / "file"):
        assert not is_held(path) and holder_of(path) is None


# What a lock file says, where the operating system does not


def write(run: Path, holder: Holder | None) -> None:
    (run / RUN_LOCK).write_bytes(locks._written(holder) if holder else b"")


def test_without_flock_another_machine_or_container_counts_as_living(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "_lock", lambda descriptor, kind: None)
    me = locks._myself()
    for other in (replace(me, host="elsewhere"), replace(me, namespace="pid:[1]")):
        write(tmp_path, other)
        assert is_held(tmp_path) and "if it no longer exists, delete" in refused(tmp_path)
    write(tmp_path, None)  # half written
    assert is_held(tmp_path) and "another process" in refused(tmp_path)
    # This machine, after a reboot or with another process of the same number.
    write(tmp_path, replace(me, start="another-boot/77"))
    assert not is_held(tmp_path)
    with lock_run(tmp_path):
        assert is_held(tmp_path)


def test_processes_are_told_from_later_ones_of_their_number() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert process_start(child.pid) not in (None, process_start(os.getpid()))
    assert process_start(child.pid) == process_start(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert process_start(child.pid) is None, "a zombie does no work"
    child.communicate()
    assert process_start(child.pid) is None and process_start(10**10) is None


@given(st.one_of(st.binary(max_size=300), st.text(max_size=300).map(lambda text: text.encode(errors="replace"))))
def test_a_damaged_lock_file_says_nothing_and_breaks_nothing(content: bytes) -> None:
    read, written = os.pipe()
    os.close(written)
    assert locks._read(read) is None  # nothing to seek in
    os.close(read)
    descriptor = os.memfd_create("lock") if hasattr(os, "memfd_create") else os.open("/dev/null", os.O_RDWR)
    os.write(descriptor, content)
    found = locks._read(descriptor)
    os.close(descriptor)
    assert found is None or json.dumps(found.command)


@given(st.text(max_size=2000), st.text(max_size=50))
def test_what_a_holder_writes_is_read_back(command: str, host: str) -> None:
    told = replace(locks._myself(), command=command, host=host)
    descriptor = os.memfd_create("lock")
    os.write(descriptor, locks._written(told))
    found = locks._read(descriptor)
    os.close(descriptor)
    assert found is None or (found.process, found.start) == (told.process, told.start)
    if command.isprintable() and host.isprintable() and len(command.encode(errors="replace")) < 2000:
        assert found == told
