"""Reading pairs of reply and gold reply that stand as plain text: one tab-separated file, or two files line by line."""

import gzip
from pathlib import Path

from falconer.errors import FalconerError
from falconer.records import Prediction

TSV_HEADER = ("prediction", "reference")


def read_tsv(path: Path) -> list[Prediction]:
    """Read `prediction<TAB>reference` lines, UTF-8, also .gz; blank lines and a header of these words are passed over.

    Raises:
        FalconerError: the file can't be read, a line has not two columns or no reference; names file and line.
    """
    hint = "Write prediction<TAB>reference; an empty reply is nothing before the tab."
    rows: list[Prediction] = []
    for number, line in enumerate(read_lines(path), start=1):
        columns = tuple(line.split("\t"))
        if not line.strip() or (not rows and tuple(column.strip() for column in columns) == TSV_HEADER):
            continue
        if len(columns) != 2:
            raise bad_line(path, number, f"has {len(columns)} column{'s' * (len(columns) > 1)} in place of 2", hint)
        rows.append(_pair(columns[0], columns[1], number, path))
    return rows


def read_texts(path: Path, reference: Path) -> list[Prediction]:
    """Read two text files, UTF-8, also .gz: line n of one is the reply to which line n of the other is gold.

    Raises:
        FalconerError: a file can't be read, they have not the same number of lines, or a reference is empty.
    """
    replies, golds = read_lines(path), read_lines(reference)
    if len(replies) != len(golds):
        raise FalconerError(
            f"'{path}' has {len(replies):,} lines, '{reference}' has {len(golds):,}.",
            "Give one reply a line for each reference; an empty reply is an empty line.",
        )
    pairs = enumerate(zip(replies, golds, strict=True), start=1)
    return [_pair(reply, gold, number, reference) for number, (reply, gold) in pairs]


def read_lines(path: Path) -> list[str]:
    """Return the lines of a UTF-8 text file, decompressed if its name ends in .gz, without their line ends.

    Raises:
        FalconerError: no such file, not to be read, not a whole gzip file, or a line that is not UTF-8.
    """
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except FileNotFoundError:
        raise FalconerError(f"There is no file '{path}'.", "Give a predictions file (.jsonl, .tsv or .txt).") from None
    except IsADirectoryError:
        raise FalconerError(f"'{path}' is a folder.", "Give the predictions file in it.") from None
    except (gzip.BadGzipFile, EOFError):
        raise FalconerError(f"'{path}' is not a whole gzip file.", "Compress it again.") from None
    except OSError as error:
        raise FalconerError(f"'{path}' can't be read: {error.strerror}.", "Give a file that you may read.") from None
    # Only line feeds end a line (and a return before one): a reply may hold other characters that Python splits at.
    lines = content.removesuffix(b"\n").split(b"\n") if content else []
    found = []
    for number, line in enumerate(lines, start=1):
        try:
            # utf-8-sig: some editors put a byte order mark in front.
            found.append(line.removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8"))
        except UnicodeDecodeError as error:
            problem = f"is not UTF-8 (byte {error.start + 1})"
            raise bad_line(path, number, problem, "Save the file as UTF-8.") from None
    return found


def bad_line(path: Path, number: int, problem: str, hint: str) -> FalconerError:
    """Return the error for one line of a file."""
    return FalconerError(f"{path}, line {number}: {problem}.", hint)


def _pair(reply: str, gold: str, number: int, path: Path) -> Prediction:
    if not gold.strip():
        raise bad_line(path, number, "has an empty reference", "Leave out rows that have no gold reply.")
    # Nothing tells which replies belong together, so each is a dialogue of its own.
    return Prediction(str(number), 0, reply, gold)
