"""Room for the files that a command will write: reserved for a moment, and every limit counts."""

import errno
import os
import resource
from pathlib import Path

import pytest

from falconer.errors import FalconerError
from falconer.files.room import check_room


def test_where_there_is_room_nothing_is_left(tmp_path: Path) -> None:
    check_room(tmp_path, [2**20, 2**20, 0], "A checkpoint")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "No space left"), (errno.EDQUOT, "quota is used up"), (errno.EROFS, "can't be")]
)
def test_what_the_system_refuses_is_said_with_what_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    def refuse(descriptor: int, start: int, size: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(FalconerError, match=f"{said}.*A checkpoint needs 3 MiB in"):
        check_room(tmp_path, [2**20, 2**21], "A checkpoint")
    assert not list(tmp_path.iterdir())


def test_the_limit_on_the_size_of_a_file_is_that_of_each(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * 2**20, before[1]))
    try:
        check_room(tmp_path, [2 * 2**20, 2 * 2**20], "A checkpoint")
        with pytest.raises(FalconerError, match="maximum file size"):
            check_room(tmp_path, [4 * 2**20], "A checkpoint")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_file_system_that_reserves_nothing_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unable(*_: int) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unable)
    check_room(tmp_path, [2**60], "A checkpoint")
