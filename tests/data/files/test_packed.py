"""Packed files and archives: what is in them is read as if it lay there alone, and nothing is written to disk."""

import bz2
import gzip
import io
import lzma
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from command_line import falconer
from falconer.data.files import packed
from falconer.data.sources import load_dialogues, open_source
from falconer.errors import FalconerError

FIXTURES = Path(__file__).parents[1] / "fixtures"
CONVAI2 = (FIXTURES / "convai2_self_original.txt").read_bytes()
CHATS = (FIXTURES / "messages.jsonl").read_bytes()
TABLE = (FIXTURES / "kaggle.csv").read_bytes()

Members = dict[str, bytes]


def zipped(members: Members) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(members: Members, format: int = tarfile.PAX_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def error_of(path: Path, data: bytes, split: str = "train") -> str:
    path.write_bytes(data)
    with pytest.raises(FalconerError) as caught:
        load_dialogues(str(path), split=split)
    assert caught.value.hint and "\n" not in str(caught.value)
    return str(caught.value)


PACKERS: dict[str, Callable[[Members], bytes]] = {
    "x.zip": zipped,
    "x.tar": tarred,
    "x.old.tar": lambda members: tarred(members, tarfile.USTAR_FORMAT),
    "x.tgz": lambda members: gzip.compress(tarred(members)),
    "x.tar.zst": lambda members: zstandard.ZstdCompressor().compress(tarred(members)),
    "x.tar.bz2": lambda members: bz2.compress(tarred(members)),
    "x.tar.xz": lambda members: lzma.compress(tarred(members)),
    # By its first bytes, whatever its name.
    "x.jsonl": zipped,
}


@pytest.mark.parametrize("name", PACKERS)
def test_the_one_data_file_of_an_archive_is_read(tmp_path: Path, name: str) -> None:
    about = {
        "set/README.md": b"1 read\tme",
        "set/LICENSE.txt": b"CC BY 4.0",
        "__MACOSX/._data.csv": b"\0",
        "set/.DS_Store": b"x",
    }
    (tmp_path / name).write_bytes(PACKERS[name](about | {"set/convai2_self_original.txt": CONVAI2}))
    loaded = load_dialogues(str(tmp_path / name))
    alone = load_dialogues(str(FIXTURES / "convai2_self_original.txt"))
    assert (loaded.dialogues, loaded.sha256, loaded.format) == (alone.dialogues, alone.sha256, "convai2")
    assert loaded.paths == (f"{tmp_path / name}!set/convai2_self_original.txt",)
    assert open_source(str(tmp_path / name)).splits == ("train",)


@pytest.mark.parametrize("name", PACKERS)
def test_files_named_after_splits_are_splits(tmp_path: Path, name: str) -> None:
    members = {
        "d/test/part.jsonl": CHATS,
        "d/train_self_original.txt": CONVAI2,
        "d/my-Validation.csv.gz": gzip.compress(TABLE),
    }
    (tmp_path / name).write_bytes(PACKERS[name](members))
    assert open_source(str(tmp_path / name)).splits == ("train", "valid", "test")
    found = [load_dialogues(str(tmp_path / name), split=split) for split in ("train", "valid", "test")]
    assert [loaded.format for loaded in found] == ["convai2", "kaggle", "messages"]
    assert [loaded.num_replies for loaded in found] == [5, 5, 5]
    assert "no split 'other'" in error_of(tmp_path / name, PACKERS[name](members), "other")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train.csv", "dev.csv"], ["train", "valid"]),
        (["a/train/1.json", "a/val/1.json", "a/testing.json"], ["train", "valid", "test"]),
        (["personaTrain.csv", "TEST_data.csv", "validationset2.csv"], ["train", "test", "valid"]),
        (["trainer.csv", "test.csv"], None),
        (["train.csv", "latest.csv"], None),
        (["train_test.csv", "valid.csv"], None),
        (["train_self.txt", "train_both.txt"], None),
    ],
)
def test_split_names(names: list[str], splits: list[str] | None) -> None:
    assert packed.split_names(names) == splits


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ({"a.csv": TABLE, "b.jsonl": CHATS}, ("contains 2 data files: a.csv, b.jsonl", "Unpack it")),
        ({"train_a.txt": CONVAI2, "train_b.txt": CONVAI2}, ("contains 2 data files", "train, valid and test")),
        ({"x.zip": zipped({"a.csv": TABLE})}, ("!x.zip' is an archive within an archive", "Unpack")),
        ({"a.csv": b" \n"}, ("!a.csv' is empty", "Check")),
        ({"a.csv": TABLE + "é\n".encode("latin-1")}, ("!a.csv', line", "not UTF-8")),
        ({".hidden": b"x"}, ("an archive without a data file", "Check")),
        ({}, ("an archive without a data file", "Check")),
    ],
)
def test_what_an_archive_holds_is_named(tmp_path: Path, members: Members, expected: tuple[str, str]) -> None:
    message = error_of(tmp_path / "x.zip", zipped(members))
    assert all(part in message for part in expected), message


def test_one_file_of_any_name_is_read(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zipped({"dialogues": CHATS}))
    assert len(load_dialogues(str(tmp_path / "x.zip")).dialogues) == 2


@pytest.mark.parametrize("name", ["/etc/x.csv", "../../x.csv", "a\x1b[31m\udcff.csv"])
def test_nothing_leaves_an_archive(tmp_path: Path, name: str) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "x.tar").write_bytes(tarred({name: TABLE}))
    loaded = load_dialogues(str(inner / "x.tar"))
    assert len(loaded.dialogues) == 2
    assert loaded.paths[0].isprintable()
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "x.tar"]
    "".join(dialogue.id for dialogue in loaded.dialogues).encode()


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        link = tarfile.TarInfo("train.csv")
        link.type, link.linkname = tarfile.SYMTYPE, str(FIXTURES / "kaggle.csv")
        archive.addfile(link)
    assert "without a data file" in error_of(tmp_path / "x.tar", file.getvalue())


@pytest.mark.parametrize("name", PACKERS)
def test_a_damaged_archive_is_one_line(tmp_path: Path, name: str) -> None:
    whole = PACKERS[name]({"train.txt": CONVAI2 * 20, "test.jsonl": CHATS * 20})
    message = error_of(tmp_path / name, whole[: len(whole) // 2])
    assert any(word in message for word in ("broken", "can't be unpacked")), message


def test_an_encrypted_zip_is_named(tmp_path: Path) -> None:
    data = bytearray(zipped({"a.csv": TABLE}))
    central = data.index(b"PK\x01\x02")
    data[6] |= 1
    data[central + 8] |= 1
    assert "!a.csv' is encrypted" in error_of(tmp_path / "x.zip", bytes(data))


def test_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    blanks = b" " * 10**7
    bombs = {
        "x.gz": gzip.compress(blanks),
        "x.bz2": bz2.compress(blanks),
        "x.xz": lzma.compress(blanks),
        "x.zst": zstandard.ZstdCompressor().compress(blanks),
        "x.zip": zipped({"a.csv": blanks}),
        "x.tgz": gzip.compress(tarred({"a.csv": blanks})),
        "in.zip": zipped({"a.csv.gz": gzip.compress(blanks)}),
        "many.zip": zipped({"train.txt": b"1 a\tb\n" * 100_000, "test.txt": b"1 a\tb\n" * 100_000}),
    }
    for name, data in bombs.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FalconerError, match="which is the limit for compressed data.*data.max_gib=N"):
            packed.read_files(tmp_path / name, max_gib=0.001)


def test_what_packs_to_a_thousandth_is_no_dialogue(tmp_path: Path) -> None:
    """655 kB of zstd unpacked to 20 GiB; this bomb is stopped after 64 MiB, in a fraction of a second."""
    target = io.BytesIO()
    with zstandard.ZstdCompressor(level=1).stream_writer(target, closefd=False) as writer:
        for _ in range(64):
            writer.write(b" " * (1 << 24))
    tracemalloc.start()
    message = error_of(tmp_path / "x.zst", target.getvalue())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "unpacks to more than 1,000 times as many" in message and peak < 200 * 2**20


def test_packed_data_through_the_command_line(tmp_path: Path) -> None:
    members = {"train.txt": CONVAI2, "test.jsonl": CHATS}
    (tmp_path / "x.tgz").write_bytes(gzip.compress(tarred(members)))
    done = falconer("data", "convert", str(tmp_path / "x.tgz"), str(tmp_path / "o.jsonl"), "--split", "test")
    assert (done.code, done.err) == (0, "")
    assert load_dialogues(str(tmp_path / "o.jsonl")).num_replies == 5
    refused = falconer("data", "convert", str(tmp_path), str(tmp_path / "o.jsonl"))
    assert refused.code == 2 and "is a folder" in refused.err and "o.jsonl, x.tgz" in " ".join(refused.err.split())
