"""A file's text is what its first bytes say, whatever its name; what is no text is called by its name."""

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from falconer.data.files import packed
from falconer.data.files.text import lines_of, read_file, text_of
from falconer.errors import FalconerError


def read_text(path: Path) -> str:
    return text_of(read_file(path))


TEXT = "hi\té\r\n\u2028 x\n"


@pytest.mark.parametrize("name", ["a.tsv", "a.gz", "a.zst"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_compression_and_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    content = TEXT.encode(encoding)
    packer = zstandard.ZstdCompressor()
    for data in (content, gzip.compress(content), packer.compress(content[:5]) + packer.compress(content[5:])):
        (tmp_path / name).write_bytes(data)
        assert read_text(tmp_path / name) == TEXT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04rest", "is a broken zip archive"),
        (b"\x80\x04rest", "is a pickle.*can run code"),
        (gzip.compress(b"hello", mtime=0)[:-9], "is a broken gzip file: .*truncated"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03Kdbroken", "is a broken gzip file"),
        (zstandard.ZstdCompressor().compress(b"hello" * 99)[:-3], "is a broken zstd file: it ends too early"),
        (b"\x28\xb5\x2f\xfdrest", "is a broken zstd file"),
        ("hé".encode("utf-16-le"), "is UTF-16LE text without a byte order mark. Convert it: iconv"),
        (b"\xff\xfea", "is UTF-16 text that is broken at byte"),
        ("a\nbé".encode("latin-1"), r"line 2.* in the middle of a character"),
        ("\ufeffé\n".encode() + b"\xe9x", "line 2: byte 0xe9 is not UTF-8"),
        (b"one\ntwo" + b"." * 200 + b"\0 three", "line 2: contains a zero byte, which is not a text character"),
    ],
)
def test_what_is_no_text_is_called_by_its_name(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(FalconerError, match=message):
        read_text(tmp_path / "a.txt")


def test_lines_end_in_line_feeds_or_in_returns_alone(tmp_path: Path) -> None:
    assert lines_of("a\r\n\n \u2028\x85b\n") == ["a", "", " \u2028\x85b"]
    assert lines_of("") == [] and lines_of("\n") == [""]
    (tmp_path / "a").write_bytes(b"a\rb\r")
    assert lines_of(read_text(tmp_path / "a")) == ["a", "b"]


@pytest.mark.parametrize("packer", [bz2.compress, lzma.compress, gzip.compress])
def test_a_file_that_unpacks_to_more_than_the_limit_is_refused(
    tmp_path: Path, packer: Callable[[bytes], bytes]
) -> None:
    (tmp_path / "fits").write_bytes(packer(b" " * (1 << 20)))
    (found,) = packed.read_files(tmp_path / "fits", max_gib=2**-10)
    assert len(found.data) == 1 << 20
    (tmp_path / "bomb").write_bytes(packer(b" " * ((1 << 20) + 1)))
    with pytest.raises(FalconerError, match="bomb' unpacks to more than .* which is the limit"):
        packed.read_files(tmp_path / "bomb", max_gib=2**-10)


def test_an_archive_of_one_file_is_that_file_and_of_several_none(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("folder/test.tsv", "one")
    assert read_text(tmp_path / "a.zip") == "one"
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("folder/valid.tsv", "two")
    with pytest.raises(FalconerError, match=r"contains 2 data files: folder/test.tsv, folder/valid.tsv. Unpack it"):
        read_text(tmp_path / "a.zip")


def test_a_file_that_is_not_there_has_a_name_like_it(tmp_path: Path) -> None:
    (tmp_path / "replies.jsonl").write_text("{}", encoding="utf-8")
    with pytest.raises(FalconerError, match=r"There is no file '.*reply.jsonl'. Did you mean '.*replies.jsonl'"):
        read_file(tmp_path / "reply.jsonl")
    with pytest.raises(FalconerError) as caught:
        read_file(tmp_path / "nothere.jsonl")
    assert "Did you" not in str(caught.value)
    with pytest.raises(FalconerError, match=r"is a folder. Give one of its files: replies.jsonl\.$"):
        read_file(tmp_path)
