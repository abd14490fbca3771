"""Plain text pairs are read as they stand, or refused with file and line."""

import bz2
import csv
import gzip
import json
import lzma
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from falconer.errors import FalconerError
from falconer.evaluate.text.history import written
from falconer.evaluate.text.predictions import read_predictions
from falconer.records import Prediction, Turn

PAIRS = [Prediction("1", 0, "hi .", "hello !"), Prediction("2", 0, "", "é \u2028 x"), Prediction("3", 0, " a ", "b")]


def write(path: Path, text: str) -> Path:
    content = text.encode("utf-8")
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.tsv.gz", "pairs.txt", "pairs"])
def test_tsv(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, "hi .\thello !\n\té \u2028 x\r\n a \tb\n")
    assert read_predictions(path) == PAIRS


def test_a_header_and_blank_lines_are_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.tsv", "\ufeffprediction\treference\n\nhi\thello\n")
    assert read_predictions(path) == [Prediction("3", 0, "hi", "hello")]


@pytest.mark.parametrize("end", ["", "\n"])
def test_two_text_files(tmp_path: Path, end: str) -> None:
    replies = write(tmp_path / "pred.txt", f"hi .\n\n a {end}")
    golds = write(tmp_path / "gold.txt.gz", f"hello !\né \u2028 x\nb{end}")
    assert read_predictions(replies, golds) == PAIRS


def test_an_empty_last_reply_is_kept(tmp_path: Path) -> None:
    replies, golds = write(tmp_path / "pred.txt", "hi\n\n"), write(tmp_path / "gold.txt", "a\nb\n")
    assert [row.prediction for row in read_predictions(replies, golds)] == ["hi", ""]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hi\thello\nno tab\n", "line 2: 1 column instead of 2"),
        ("hi\thello\tthere\n", "line 1: 3 columns without known names instead of 2"),
        ("hi\t \n", "line 1: the reference is empty"),
        ("prediction\treference\n", "contains no predictions"),
        ("", "contains no predictions"),
    ],
)
def test_a_bad_tsv_names_its_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FalconerError, match=message):
        read_predictions(write(tmp_path / "pairs.tsv", text))


def test_unequal_lengths_are_counted(tmp_path: Path) -> None:
    replies, golds = write(tmp_path / "pred.txt", "a\nb\n"), write(tmp_path / "gold.txt", "a\nb\nc\n")
    with pytest.raises(FalconerError, match=r"pred\.txt' has 2 lines, but .*gold\.txt' has 3\. Write one reply a line"):
        read_predictions(replies, golds)


def test_an_empty_gold_line_is_named(tmp_path: Path) -> None:
    replies, golds = write(tmp_path / "pred.txt", "a\nb\n"), write(tmp_path / "gold.txt", "a\n\n")
    with pytest.raises(FalconerError, match=r"gold\.txt, line 2: the reference is empty"):
        read_predictions(replies, golds)


@pytest.mark.parametrize("pack", ["plain", "bz2", "xz", "zip"])
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_every_kind_of_file_is_read_however_it_is_packed(tmp_path: Path, kind: str, pack: str) -> None:
    history = (Turn("partner", "hi ,\nyou"), Turn("partner", "there ?"))
    rows = [Prediction("d1", 3, "a , b", 'say "c"', ("i ski .",), history), Prediction("d1", 5, "", "d")]
    table = [
        {"dialogue_id": row.dialogue_id, "turn": row.turn, "prediction": row.prediction, "reference": row.reference,
         "persona": list(row.persona), "history": written(row.history)}
        for row in rows
    ]  # fmt: skip
    path = tmp_path / f"b.{kind}"
    if kind == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in table), encoding="utf-8")
    elif kind == "csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(table[0]))
            writer.writeheader()
            writer.writerows(table)
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)
    if pack == "zip":
        with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
            archive.write(path, path.name)
    elif pack != "plain":
        packer = {"bz2": bz2.compress, "xz": lzma.compress}[pack]
        (tmp_path / f"b.{kind}.{pack}").write_bytes(packer(path.read_bytes()))
    packed = {"plain": path, "zip": tmp_path / "b.zip"}.get(pack, tmp_path / f"b.{kind}.{pack}")
    assert read_predictions(packed) == rows


def test_another_encoding_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes("hi\thé\n".encode("latin-1"))
    with pytest.raises(FalconerError, match="line 1: byte 0xe9 is not UTF-8. It may be WINDOWS-1252"):
        read_predictions(path)


def test_replies_without_gold_ask_for_it(tmp_path: Path) -> None:
    with pytest.raises(FalconerError, match="neither JSON Lines nor tab-separated.*--reference"):
        read_predictions(write(tmp_path / "pred.txt", "hi\nhello\n"))


@pytest.mark.parametrize("missing", ["pred.txt", "gold.txt"])
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    for name in {"pred.txt", "gold.txt"} - {missing}:
        write(tmp_path / name, "a\n")
    with pytest.raises(FalconerError, match=f"There is no file '.*{missing}'"):
        read_predictions(tmp_path / "pred.txt", tmp_path / "gold.txt")
