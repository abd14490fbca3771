"""The text of a file that holds one text, and its lines."""

from pathlib import Path

from falconer.data.files.encodings import decode
from falconer.data.files.packed import DataFile, read_files
from falconer.errors import FalconerError


def read_file(path: Path) -> DataFile:
    """Return a file's content, or that of the only data file in an archive.

    Raises:
        FalconerError: see `read_files`; or the archive holds several data files.
    """
    found = read_files(path)
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise FalconerError(f"'{path}' contains {len(found)} data files: {names}.", "Unpack it and give one of them.")
    return found[0]


def text_of(file: DataFile) -> str:
    """Return a file's text; where lines end in carriage returns alone, they end in line feeds instead.

    Raises:
        FalconerError: see `decode`; or there are zero bytes among the letters.
    """
    text = decode(file.data, file.path)
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise FalconerError(
            f"'{file.path}', line {line}: contains a zero byte, which is not a text character.",
            "Download or write it again, or drop such bytes: tr -d '\\000' < FILE > NEW.",
        )
    return text.replace("\r", "\n") if "\n" not in text else text


def lines_of(text: str) -> list[str]:
    """Return the lines without their ends. Only line feeds end one (and a return before it): a text may hold other
    characters that Python splits at."""
    lines = text.removesuffix("\n").split("\n") if text else []
    return [line.removesuffix("\r") for line in lines]
