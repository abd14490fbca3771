"""Is every refusal that an operating system gives to a writer one line that says what to do?"""

import errno
import os
import resource
from pathlib import Path

import pytest

from falconer.errors import FalconerError
from falconer.files.disk_errors import explain_disk_errors
from falconer.files.replace import replace_file

SAID = [
    ("ENOSPC", "No space left on the disk", "Free some space"),
    ("EDQUOT", "No space left.*quota", "Free some space"),
    ("EFBIG", "exceeds the maximum file size", "ulimit -f"),
    ("ENAMETOOLONG", "File name too long", "Choose a shorter name"),
    ("EILSEQ", "can't be written", "Choose a shorter name"),
    ("EINVAL", "Invalid argument", "Choose a shorter name"),
    ("EACCES", "Permission denied", "permission to write to"),
    ("EPERM", "Operation not permitted", "permission to write to"),
    ("EROFS", "Read-only file system", "permission to write to"),
    ("ENOTDIR", "Not a directory", "permission to write to"),
    ("EISDIR", "Is a directory", "permission to write to"),
    ("ELOOP", "symbolic links", "permission to write to"),
    ("EMLINK", "Too many links", "permission to write to"),
    ("EBUSY", "busy", "mount point"),
    ("EXDEV", "can't be replaced", "container image"),
    ("ENOTSUP", "not supported", "another file system"),
    ("ENOSYS", "not implemented", "another file system"),
    ("ENOLCK", "No locks available", "another file system"),
    ("EIO", "The disk failed.*Input/output error", "Check the disk"),
    ("ESTALE", "The disk failed.*[Ss]tale", "network drive"),
    ("ETIMEDOUT", "The disk failed.*timed out", "network drive"),
    ("EUCLEAN", "The disk failed", "Check the disk"),
    ("EMFILE", "Too many open files", "ulimit -n"),
    ("ENOMEM", "Cannot allocate memory", "memory"),
]


@pytest.mark.parametrize(("name", "said", "hint"), SAID)
def test_one_line_for_each(tmp_path: Path, name: str, said: str, hint: str) -> None:
    number = getattr(errno, name)
    # safetensors puts a sentence of its own behind the number.
    with (
        pytest.raises(FalconerError, match=said) as caught,
        explain_disk_errors(tmp_path / "x"),
    ):
        raise OSError(number, f"Error while serializing: I/O error (os error {number})")
    assert str(tmp_path / "x") in caught.value.message and "serializing" not in str(caught.value)
    assert hint in caught.value.hint and "unchanged" in caught.value.hint and "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [FileNotFoundError(errno.ENOENT, "No such file"), OSError("no number"), ValueError()])
def test_others_stay_what_they_are(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explain_disk_errors(tmp_path):
        raise error
    assert caught.value is error


def test_a_limit_on_the_size_of_files(tmp_path: Path) -> None:
    """The system's own refusal, of `ulimit -f`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    (tmp_path / "x").write_text("old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        with pytest.raises(FalconerError, match="exceeds the maximum file size"), replace_file(tmp_path / "x") as aside:
            aside.write_bytes(bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "x").read_text() == "old" and os.listdir(tmp_path) == ["x"]


def test_a_limit_on_open_files(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(200, before[0]), before[1]))
    try:
        with pytest.raises(FalconerError, match="Too many open files.*ulimit -n"), explain_disk_errors(tmp_path):
            while True:
                opened.append(os.open(tmp_path, os.O_RDONLY))
    finally:
        for descriptor in opened:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert opened
