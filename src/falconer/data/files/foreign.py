"""Files that people hand in by mistake: what each one is, known by its first bytes, and the way out."""

import re

from falconer.errors import FalconerError

_PICKLE = ("a pickle", "A pickle can run code, so it is never loaded. Save it as JSON lines or parquet.")
_SHEET = "Save the sheet as CSV UTF-8 (in Excel: File, Save As, CSV UTF-8), and give that file."
_UNPACK = "Unpack it and give the file inside, or pack it as gzip, zstd, zip or tar."
_COLUMNS = "Save it as parquet or JSON lines, e.g. with pandas: frame.to_parquet('data.parquet')."
_ARROW = (
    "an Arrow (Feather) file",
    "Save it as parquet or JSON lines, e.g. datasets.load_from_disk(FOLDER).to_parquet('data.parquet').",
)

# First bytes, what they say, and what to do about it.
_MAGIC = (
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Excel or Word file (.xls, .doc)", _SHEET),
    (b"SQLite format 3\0", "an SQLite database", "Export the table: sqlite3 -csv -header FILE 'select * from TABLE'."),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", _COLUMNS),
    (b"\x93NUMPY", "a numpy array", _COLUMNS),
    (b"%PDF", "a PDF", "Give the data as text, JSON lines or CSV."),
    (b"{\\rtf", "a Rich Text (RTF) document", "Save it as plain text, UTF-8."),
    (b"ARROW1", *_ARROW),
    (b"FEA1", *_ARROW),
    (b"\xff\xff\xff\xff", *_ARROW),
    (b"Obj\x01", "an Avro file", _COLUMNS),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x04\x22\x4d\x18", "compressed with LZ4", _UNPACK),
    (b"\x1f\x9d", "compressed with compress (.Z)", _UNPACK),
    (b"\x89PNG", "a picture", "Give the data as text, JSON lines or CSV."),
    (b"\xff\xd8\xff", "a picture", "Give the data as text, JSON lines or CSV."),
    (b"GGUF", "a model (GGUF)", "Give a file of texts; models are named by model.name."),
    (
        b"version https://git-lfs.github.com/spec/",
        "a Git LFS pointer: the place of a file, not the file",
        "Fetch the file itself: git lfs install, then git lfs pull in the folder that was cloned.",
    ),
)

# Protocols 0 and 1 begin like text: a list, a dict or a class, then the number under which it is kept.
_OLD_PICKLE = re.compile(rb"\(+(?:[ldt]p?\d*\n|[\]})]q\x00)|[\]})]q\x00|c[\w.]+\n\w+\n|\(c[\w.]+\n\w+\n|ccopy_reg\n")
_PAGE = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<!--.*?-->\s*)?<(?:!doctype\s+html|html|head)\b", re.IGNORECASE | re.DOTALL
)
_XML = re.compile(rb"(?:\xef\xbb\xbf)?\s*<\?xml\b")


def refuse_foreign(data: bytes, path: str) -> None:
    """Raise a FalconerError if the bytes are a file of another kind, which holds no texts that could be read."""
    for magic, what, fix in _MAGIC:
        if data.startswith(magic):
            raise FalconerError(f"'{path}' is {what}.", fix)
    is_new_pickle = data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    if is_new_pickle or (_OLD_PICKLE.match(data) and data.rstrip().endswith(b".")):
        raise FalconerError(f"'{path}' is {_PICKLE[0]}.", _PICKLE[1])
    if _PAGE.match(data[:4096]):
        raise FalconerError(
            f"'{path}' is an HTML page, not data.",
            "The link led to a page about the file. Download the file itself: 'Raw' on GitHub, 'download' on the hub "
            "(an address with /resolve/ in place of /blob/).",
        )
    if _XML.match(data[:4096]):
        raise FalconerError(f"'{path}' is XML.", 'Convert it to JSON lines: one {"messages": [...]} per line.')


def refuse_zip_of(names: list[str], path: str) -> None:
    """Raise a FalconerError if the members of a zip archive say that it is a document or weights, not packed data."""
    if "[Content_Types].xml" in names:
        if any(name.startswith("xl/") for name in names):
            raise FalconerError(f"'{path}' is an Excel file.", _SHEET)
        raise FalconerError(
            f"'{path}' is a Word or PowerPoint file.", "Save its text as plain text (UTF-8), JSON lines or CSV."
        )
    if "mimetype" in names and "content.xml" in names:
        raise FalconerError(f"'{path}' is an OpenDocument file (.ods, .odt).", _SHEET)
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        raise FalconerError(f"'{path}' is a PyTorch file, which holds {_PICKLE[0]}.", _PICKLE[1])
    if names and all(name.endswith(".npy") for name in names):
        raise FalconerError(f"'{path}' is a numpy archive (.npz).", _COLUMNS)
