"""A record is read as one JSON object; whatever else a file holds is told in one line with the file and the place."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.errors import FalconerError
from falconer.files.json_record import is_missing, read_object, value_in

HINT = "Restore the file."


def error_of(path: Path) -> str:
    with pytest.raises(FalconerError) as caught:
        read_object(path, HINT)
    assert caught.value.hint == HINT and str(path) in caught.value.message
    return caught.value.message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1, column 1: not JSON"),
        (b'{"a": 1,\n "b": }', "line 2, column 7: not JSON"),
        (b"[" * 100_000, "nested hundreds of levels deep"),
        (b'{"a": ' * 100_000, "nested hundreds of levels deep"),
        (b'{"step": ' + b"1" * 5000 + b"}", "a number with hundreds of digits"),
        (b"[1]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"\xff\xfe", "can't decode byte"),
        (b'{"a": {"b": ["x", "\\ud83d"]}}', "a.b[1] contains half of a surrogate pair"),
        (b'{"a": {"\\ud83d": 1}}', "a key in 'a' contains half of a surrogate pair"),
        (b'{"name": "x\\u0000y"}', "name contains a zero byte"),
        (b'{"a": 1} {"a": 2}', "a second value follows the first"),
    ],
)
def test_what_is_no_record(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "run.json"
    path.write_bytes(content)
    assert said in error_of(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    assert "No such file" in error_of(tmp_path / "none.json")
    assert "Is a directory" in error_of(tmp_path)
    os.mkfifo(tmp_path / "pipe.json")
    assert "it is not a file" in error_of(tmp_path / "pipe.json")
    assert "File name too long" in error_of(tmp_path / ("x" * 300))
    assert "null" in error_of(Path("a\0b"))


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    with path.open("wb") as file:
        file.truncate(2 << 30)
    assert "larger than 1 GiB" in error_of(path)


def test_only_a_file_that_is_not_there_is_missing(tmp_path: Path) -> None:
    assert is_missing(tmp_path / "none") and not is_missing(tmp_path) and not is_missing(Path("a\0b"))


@given(st.dictionaries(st.text(), st.integers() | st.text() | st.lists(st.text(), max_size=2), max_size=4))
def test_what_json_writes_is_read_back_equal(tree: dict[str, object]) -> None:
    bad = any(character == "\0" for character in json.dumps(tree, ensure_ascii=False).encode().decode())
    text = json.dumps(tree)
    if bad or "\\u0000" in text or "\\ud" in json.dumps(tree, ensure_ascii=False):
        return
    assert value_in(text, Path("x"), HINT) == tree
