"""Damaged files of every kind: read or refused in one line, never a traceback, and what is read can be written."""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import random
import tarfile
import zipfile
from itertools import pairwise
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from command_line import falconer
from falconer.data.sources import load_dialogues, open_source, write_dialogues
from falconer.errors import FalconerError
from torture.mutations import damaged

FIXTURES = sorted(path for path in (Path(__file__).parent / "fixtures").iterdir() if path.suffix != ".md")
PIECES = [
    b"{", b"}", b"[", b"]", b'"', b"'", b",", b";", b"\t", b"\n", b"\r", b"\\", b"\\u0000", b"\\ud800", b"\0", b"\xff",
    b"\xef\xbb\xbf", b"\xff\xfe", b"\x1b[2J", b"\xe2\x80\xa8", b"null", b"NaN", b"1e999", b"true", b"[]", b"{}", b'""',
    b"9" * 5000, b"[" * 3000, b'{"a":' * 300, b"role", b'"weight":0.5,', b"1 ", b"your persona: ", b"system",
]  # fmt: skip


def packed(path: Path) -> list[bytes]:
    """Return a fixture as it is, packed in every way, in UTF-16, and as parquet where its rows allow."""
    data = path.read_bytes()
    zipped, tarred, columns = io.BytesIO(), io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"train_{path.name}", data)
        archive.writestr(f"test_{path.name}", data)
    with tarfile.open(fileobj=tarred, mode="w") as tar:
        member = tarfile.TarInfo(path.name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    found = [data, data.decode().encode("utf-16"), zipped.getvalue(), tarred.getvalue()]
    found += [gzip.compress(data), zstandard.ZstdCompressor().compress(data), bz2.compress(data), lzma.compress(data)]
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in data.decode().splitlines()]
        with contextlib.suppress(pyarrow.ArrowInvalid):
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), columns)
            found.append(columns.getvalue())
    return found


@pytest.mark.parametrize("fixture", FIXTURES, ids=lambda path: path.name)
def test_damaged_files_are_read_or_refused(tmp_path: Path, fixture: Path) -> None:
    chance = random.Random(fixture.name)
    source, written = tmp_path / "x.dat", tmp_path / "y.jsonl"
    outcomes = set()
    for data in packed(fixture) * 5:
        source.write_bytes(damaged(data, chance, PIECES))
        for on_bad_row in ("stop", "skip"):
            try:
                split = open_source(str(source)).splits[0]
                dialogues = load_dialogues(str(source), split=split, on_bad_row=on_bad_row).dialogues
            except FalconerError as error:
                assert "\n" not in str(error) and error.hint and len(str(error)) < 2000
                outcomes.add("refused")
                continue
            outcomes.add("read")
            assert all(one.speaker != two.speaker for dialogue in dialogues for one, two in pairwise(dialogue.turns))
            assert all(dialogue.replies for dialogue in dialogues)
            write_dialogues(dialogues, written)
            assert load_dialogues(str(written)).dialogues == dialogues
    assert outcomes == {"read", "refused"}


def test_damaged_files_through_the_command_line(tmp_path: Path) -> None:
    chance = random.Random(17)
    codes = set()
    for fixture in FIXTURES:
        for data in packed(fixture)[::3]:
            (tmp_path / "x.dat").write_bytes(damaged(data, chance, PIECES))
            done = falconer("data", "convert", str(tmp_path / "x.dat"), str(tmp_path / "y.jsonl"))
            assert done.code in (0, 2) and "Traceback" not in done.err
            assert done.code == 0 or done.err.startswith("falconer: ")
            codes.add(done.code)
    assert codes == {0, 2}
