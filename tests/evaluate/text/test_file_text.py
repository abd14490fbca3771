"""A file's text is what its first bytes say, whatever its name; what is no text is called by its name."""

import gzip
from pathlib import Path

import pytest
import zstandard

from falconer.errors import FalconerError
from falconer.evaluate.text.file_text import field_name, lines_of, read_text, row_of, shown

TEXT = "hi\té\r\n\u2028 x\n"


@pytest.mark.parametrize("name", ["a.tsv", "a.gz", "a.zst"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_compression_and_encoding(tmp_path: Path, name: str, encoding: str) -> None:
    content = TEXT.encode(encoding)
    packer = zstandard.ZstdCompressor()
    for packed in (content, gzip.compress(content), packer.compress(content[:5]) + packer.compress(content[5:])):
        (tmp_path / name).write_bytes(packed)
        assert read_text(tmp_path / name) == TEXT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04rest", "is a zip archive, or an Excel file, not text.*CSV"),
        (b"PAR1rest", r"is a parquet file.*to_json"),
        (b"\x80\x04rest", "is a pickle.*can run code"),
        (gzip.compress(b"hello")[:-9], "is not a whole gzip file"),
        (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03Kdbroken", "is not a whole gzip file"),
        (zstandard.ZstdCompressor().compress(b"hello" * 99)[:-3], "is not a whole zstd file"),
        (b"\x28\xb5\x2f\xfdrest", "is not a whole zstd file"),
        (
            "hé".encode("utf-16-le"),
            "holds NUL bytes: it is no text, or UTF-16 without a byte order mark. Save the file",
        ),
        (b"\xff\xfea", "begins as UTF-16 and is not"),
        ("a\nbé".encode("latin-1"), r"line 2: is not UTF-8 \(byte 2\)\. Save the file as UTF-8\.$"),
        ("\ufeffé\n".encode() + b"\xe9", r"line 2: is not UTF-8 \(byte 1\)"),
        ("你好".encode("gbk"), r"line 1: is not UTF-8 \(byte \d\)\. Save the file as UTF-8\.$"),
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


def test_names_of_fields_are_one_in_every_spelling() -> None:
    for written in ("Ground truth", "groundTruth", "GROUND_TRUTH", " ground-Truth "):
        assert field_name(written) == "ground_truth"
    row = row_of(Path("a"), "line 1", 1, {"Reference": "x", "reference": "y", "n": 1})
    assert row.named(("reference",)) == [("Reference", "x"), ("reference", "y")]


def test_a_message_shows_control_characters_and_stays_short() -> None:
    assert shown("\x1b[2J\u202e") == r"'\x1b[2J\u202e'"
    assert len(shown("a" * 1000)) == 62
