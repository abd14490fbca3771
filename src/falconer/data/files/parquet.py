"""Parquet, read without threads."""

from typing import Any

from falconer.data.files.row import Row
from falconer.errors import FalconerError


def is_parquet(data: bytes) -> bool:
    """Tell whether a file's bytes are parquet, by the first of them."""
    return data.startswith(b"PAR1")


def parquet_rows(data: bytes, path: str) -> list[Row]:
    """Return the rows of a parquet file as dicts.

    Raises:
        FalconerError: pyarrow is missing, or the file is broken.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise FalconerError(
            f"Reading '{path}' needs pyarrow.", "pip install pyarrow, or save the file as JSON lines."
        ) from None
    try:
        # Threads that still run when the program ends abort it ("terminate called without an active exception"), most
        # often where a bad row ends it early. BufferReader keeps them from calling back into Python, too.
        file = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(data), pre_buffer=False)
        rows: list[Any] = file.read(use_threads=False).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FalconerError(f"'{path}' is a broken parquet file: {reason}", "Download or write it again.") from None
    return list(enumerate(rows, start=1))
