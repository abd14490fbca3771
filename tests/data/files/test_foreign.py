"""Files of other kinds are named for what they are, with the way out."""

import io
import pickle
import sqlite3
import zipfile
from pathlib import Path

import numpy
import pandas
import pyarrow
import pyarrow.feather
import pytest

from falconer.data.sources import load_dialogues
from falconer.errors import FalconerError

ROWS = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}]


def error_of(path: Path) -> str:
    with pytest.raises(FalconerError) as caught:
        load_dialogues(str(path))
    assert caught.value.hint and "\n" not in str(caught.value)
    return str(caught.value)


def zip_of(*names: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return file.getvalue()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [ROWS, ROWS[0], tuple(ROWS), pandas.DataFrame(ROWS), io.StringIO])
def test_pickles_of_every_protocol(tmp_path: Path, protocol: int, value: object) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(value, protocol))
    assert "is a pickle. A pickle can run code, so it is never loaded." in error_of(path)


@pytest.mark.parametrize(
    ("data", "what", "way_out"),
    [
        (zip_of("[Content_Types].xml", "xl/workbook.xml"), "an Excel file", "CSV UTF-8"),
        (zip_of("[Content_Types].xml", "word/document.xml"), "a Word or PowerPoint file", "plain text"),
        (zip_of("mimetype", "content.xml"), "an OpenDocument file", "CSV UTF-8"),
        (zip_of("archive/data.pkl", "archive/data/0"), "a PyTorch file, which holds a pickle", "parquet"),
        (zip_of("a.npy", "b.npy"), "a numpy archive", "parquet"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "an old Excel or Word file", "CSV UTF-8"),
        (b"\x89HDF\r\n\x1a\n" + bytes(90), "an HDF5 file", "parquet"),
        (b"%PDF-1.7\n%\xe2\xe3\n", "a PDF", "JSON lines"),
        (b"{\\rtf1\\ansi hello}", "a Rich Text (RTF) document", "plain text"),
        (b"<!DOCTYPE html>\n<html><body>404</body></html>", "an HTML page, not data", "/resolve/"),
        (b"\xef\xbb\xbf\n<!-- saved -->\n<HTML lang=en>", "an HTML page, not data", "/resolve/"),
        (b'<?xml version="1.0"?><dialogs/>', "XML", "JSON lines"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "a Git LFS pointer", "git lfs pull"),
        (b"7z\xbc\xaf\x27\x1c\0\4", "a 7-Zip archive", "Unpack"),
        (b"Rar!\x1a\x07\x01\0", "a RAR archive", "Unpack"),
        (b"\x89PNG\r\n\x1a\n", "a picture", "JSON lines"),
        (bytes(range(1, 32)) + bytes(4000), "not text: it contains many zero bytes", "parquet"),
    ],
)
def test_by_their_first_bytes(tmp_path: Path, data: bytes, what: str, way_out: str) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(data)
    message = error_of(path)
    assert f"'{path}' is {what}" in message and way_out in message


def test_as_their_own_libraries_write_them(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.feather.write_feather(table, str(tmp_path / "x.feather"))
    with pyarrow.ipc.new_stream(str(tmp_path / "x.arrow"), table.schema) as stream:
        stream.write_table(table)
    for name in ("x.feather", "x.arrow"):
        assert "is an Arrow (Feather) file" in error_of(tmp_path / name)
    numpy.save(tmp_path / "x.npy", numpy.zeros(3))
    assert "is a numpy array" in error_of(tmp_path / "x.npy")
    connection = sqlite3.connect(tmp_path / "x.db")
    connection.execute("create table dialogues (chat text)")
    connection.commit()
    connection.close()
    assert "is an SQLite database" in error_of(tmp_path / "x.db")


def test_a_folder_of_save_to_disk_says_how_to_get_a_file(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train"]}', encoding="utf-8")
    assert "written by datasets.save_to_disk" in error_of(tmp_path) and "to_parquet" in error_of(tmp_path)


@pytest.mark.parametrize("text", ["ccopy_reg is a module\n1 hi", "(lp hello\n", "<3 is a heart\tyes", "}q", "%PD\tx"])
def test_text_that_only_begins_alike_is_not_taken_for_them(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.txt").write_text(f"{text}\n", encoding="utf-8")
    assert "is not in a known format" in error_of(tmp_path / "x.txt")
