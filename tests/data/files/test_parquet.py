"""Parquet files: rows as of JSON, whatever the columns beside them, and never a thread left behind."""

import json
import threading
from pathlib import Path
from unittest import mock

import pyarrow
import pyarrow.parquet

from command_line import falconer_process
from falconer.data.sources import load_dialogues

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def test_it_is_read_without_threads(tmp_path: Path) -> None:
    # Threads of pyarrow that still run at exit abort the program, most often behind a bad row.
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([{"messages": CHAT}] * 500), path, row_group_size=50)
    read, opened = pyarrow.parquet.ParquetFile.read, pyarrow.parquet.ParquetFile
    with (
        mock.patch.object(pyarrow.parquet.ParquetFile, "read", autospec=True, side_effect=read) as reading,
        mock.patch.object(pyarrow.parquet, "ParquetFile", wraps=opened) as opening,
    ):
        before = threading.active_count()
        assert len(load_dialogues(str(path)).dialogues) == 500
    assert reading.call_args.kwargs == {"use_threads": False}
    assert opening.call_args.kwargs == {"pre_buffer": False} and threading.active_count() == before


def test_a_bad_row_ends_in_one_line(tmp_path: Path) -> None:
    rows = [{"messages": CHAT}, {"messages": [{"role": "nobody", "content": "hi"}]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "x.parquet")
    done = falconer_process("data", "convert", "x.parquet", "y.jsonl", cwd=tmp_path)
    assert done.code == 2 and done.err.count("\n") == 1
    assert "row 2: messages[0].role is 'nobody', an unknown role." in done.err


def test_other_columns_hide_nothing(tmp_path: Path) -> None:
    rows = [
        {"turns": 2, "conversations": None, "messages": CHAT, "chat": "", "utterances": []},
        {"turns": 4, "conversations": None, "messages": json.dumps(CHAT), "chat": None, "utterances": []},
    ]
    for number, row in enumerate(rows):
        path = tmp_path / f"{number}.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([row]), path)
        loaded = load_dialogues(str(path))
        assert (loaded.format, loaded.num_replies) == ("messages", 1)
