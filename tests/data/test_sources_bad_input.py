"""Every mistake in a file gives one clear error, and `skip` leaves out exactly the bad rows."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from falconer.data.sources import BadRow, load_dialogues
from falconer.errors import FalconerError

FIXTURES = Path(__file__).parent / "fixtures"
GOOD = {"id": "good", "persona": ["i ski ."], "turns": [{"speaker": "self", "text": "hi ."}]}


def error_of(path: Path | str, **options: str) -> str:
    with pytest.raises(FalconerError) as caught:
        load_dialogues(str(path), **options)
    assert caught.value.hint, "an error says what to do next"
    assert "\n" not in str(caught.value), "an error is one line"
    return str(caught.value)


def write(tmp_path: Path, content: str | bytes, name: str = "x.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


class TestFiles:
    def test_missing_file_names_the_nearest(self, tmp_path: Path) -> None:
        write(tmp_path, "x", "train.jsonl")
        assert "train.jsonl'?" in error_of(tmp_path / "trian.jsonl")

    def test_missing_file_in_a_folder_is_not_asked_of_the_hub(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "data").mkdir()
        write(tmp_path / "data", "x", "training.jsonl")
        assert error_of("data/training") == "There is no file 'data/training'. Did you mean 'data/training.jsonl'?"

    def test_missing_sample_name(self) -> None:
        assert "There is no file 'persona-chat-simple'" in error_of("persona-chat-simple")

    @pytest.mark.parametrize(
        "address", ["https://example.org/train.jsonl", "HTTP://x.y/z", "hf://datasets/a/b", "s3://a/b.csv"]
    )
    def test_an_address_is_to_be_downloaded_first(self, address: str) -> None:
        message = error_of(address)
        assert f"'{address}' is a URL, but falconer reads local files" in message and "Download it (curl" in message

    @pytest.mark.parametrize("name", ["a" * 300 + ".jsonl", "x/" + "a" * 300 + ".csv", "a\0b.jsonl"])
    def test_names_that_no_file_can_have(self, name: str) -> None:
        assert "There is no file" in error_of(name)

    def test_a_folder_shows_its_data_first(self, tmp_path: Path) -> None:
        for name in ("aaa.py", "b.zip", "c.md", "d.tsv"):
            write(tmp_path, "x", name)
        assert "Give one of its files, e.g. b.zip, d.tsv." in error_of(tmp_path)

    def test_folder(self, tmp_path: Path) -> None:
        write(tmp_path, "x", "train.jsonl")
        message = error_of(tmp_path)
        assert "is a folder" in message and "train.jsonl" in message

    @pytest.mark.parametrize("content", [b"", b" \n\n", gzip.compress(b"", mtime=0)])
    def test_empty(self, tmp_path: Path, content: bytes) -> None:
        assert "is empty" in error_of(write(tmp_path, content))

    def test_broken_gzip(self, tmp_path: Path) -> None:
        whole = gzip.compress(json.dumps(GOOD).encode() * 50)
        assert "broken gzip" in error_of(write(tmp_path, whole[:-20]))
        assert "broken gzip" in error_of(write(tmp_path, b"\x1f\x8b broken"))

    def test_broken_zstd(self, tmp_path: Path) -> None:
        whole = zstandard.ZstdCompressor().compress(json.dumps(GOOD).encode() * 50)
        assert "broken zstd" in error_of(write(tmp_path, whole[:-10]))
        assert "broken zstd" in error_of(write(tmp_path, whole[:4] + b"\xff" * 30))

    def test_broken_parquet(self, tmp_path: Path) -> None:
        assert "broken parquet" in error_of(write(tmp_path, b"PAR1 and no more"))

    def test_not_utf8_names_the_line(self, tmp_path: Path) -> None:
        message = error_of(write(tmp_path, "1 hi\thello\n2 café\tyes\n".encode("latin-1")))
        assert "line 2" in message and "0xe9 is not UTF-8" in message and "iconv" in message

    @pytest.mark.parametrize(
        ("content", "what"),
        [
            (b"PK\x03\x04..", "zip"),
            ("1 a\tb\n".encode("utf-16-le"), "UTF-16LE text without a byte order mark"),
            (b"\x80\x04K\x01.", "pickle"),
            (b"BZh9", "broken bzip2"),
        ],
    )
    def test_other_kinds_of_file(self, tmp_path: Path, content: bytes, what: str) -> None:
        assert what in error_of(write(tmp_path, content))

    def test_truncated_json(self, tmp_path: Path) -> None:
        content = (FIXTURES / "transfertransfo.json").read_text(encoding="utf-8")
        message = error_of(write(tmp_path, content[:-300]))
        assert "not JSON" in message and "cut off" in message and "line" in message

    def test_json_that_holds_no_rows(self, tmp_path: Path) -> None:
        assert "keys 'version', 'n'" in error_of(write(tmp_path, '{"version": 1, "n": [1]}'))
        assert "not in a known format" in error_of(write(tmp_path, "[1, 2]"))
        assert "has no rows" in error_of(write(tmp_path, "[]"))
        assert "has no rows in the split 'train'" in error_of(write(tmp_path, '{"train": [], "valid": [1]}'))

    def test_csv_without_known_columns(self, tmp_path: Path) -> None:
        message = error_of(write(tmp_path, "question,answer\nhi,hello\n"))
        assert "'question', 'answer'" in message and "docs/data.md" in message and "--format" in message
        assert len(message) < 400, "it can be read in a terminal"

    def test_some_other_text(self, tmp_path: Path) -> None:
        assert "not in a known format" in error_of(write(tmp_path, "Dear Sir,\nthis is a letter.\n"))

    def test_unknown_names(self, tmp_path: Path) -> None:
        path = write(tmp_path, json.dumps(GOOD))
        assert "Did you mean 'convai2'?" in error_of(path, format="convai")
        assert "Did you mean 'skip'?" in error_of(path, on_bad_row="skipp")
        assert "no split 'valid'" in error_of(path, split="valid")
        assert "Did you mean 'valid'?" in error_of("persona-chat-sample", split="vald")

    def test_the_wrong_format(self, tmp_path: Path) -> None:
        message = error_of(FIXTURES / "kaggle.csv", format="messages")
        assert "line 2" in message and "messages is missing" in message and "'chat'" in message
        assert "line number is missing" in error_of(FIXTURES / "kaggle.csv", format="convai2")
        assert "turns is missing" in error_of(FIXTURES / "sharegpt.json", format="falconer")


# A bad row of our format, the field that is named, and a word of the explanation.
BAD_ROWS = [
    ('{"persona": [], "turns": [{"speaker": "self"', "row", "not JSON"),
    ("[1]", "row", "a list; expected an object"),
    ({"turns": GOOD["turns"]}, "persona", "is missing"),
    ({"personna": [], "turns": GOOD["turns"]}, "persona", "Rename 'personna' to 'persona'."),
    (GOOD | {"persona": "i ski ."}, "persona", "is text; expected a list"),
    (GOOD | {"persona": [1]}, "persona[0]", "a number; expected a sentence"),
    (GOOD | {"turns": None}, "turns", "is null"),
    (GOOD | {"turns": []}, "turns", "no reply to learn"),
    (GOOD | {"turns": [{"speaker": "partner", "text": "hi ."}]}, "turns", "no reply to learn"),
    (GOOD | {"turns": ["hi ."]}, "turns[0]", "is text; expected an object"),
    (GOOD | {"turns": [{"speaker": "self", "text": "  "}]}, "turns[0].text", "is empty"),
    (GOOD | {"turns": [{"speaker": "self", "text": 3}]}, "turns[0].text", "a number; expected text"),
    (GOOD | {"turns": [{"speaker": "self", "text": "\ud83d"}]}, "turns[0].text", "surrogate"),
    (GOOD | {"turns": [{"speaker": "me", "text": "hi ."}]}, "turns[0].speaker", "'me', an unknown role"),
    (GOOD | {"turns": [{"text": "hi ."}]}, "turns[0].speaker", "is missing"),
    (
        GOOD | {"turns": [{"speaker": "self", "text": "hi .", "candidates": ["yo ."]}]},
        "turns[0].candidates",
        "do not include the reply 'hi .'",
    ),
]


@pytest.mark.parametrize(("row", "field", "message"), BAD_ROWS)
def test_bad_rows_stop_or_are_skipped_and_listed(tmp_path: Path, row: object, field: str, message: str) -> None:
    bad = row if isinstance(row, str) else json.dumps(row)
    path = write(tmp_path, "\n".join([json.dumps(GOOD), "", bad, json.dumps(GOOD | {"id": "2"}), ""]))
    error = error_of(path)
    assert f"'{path}', line 3: {field} " in error and message in error and "--on-bad-row skip" in error
    loaded = load_dialogues(str(path), on_bad_row="skip")
    assert [dialogue.id for dialogue in loaded.dialogues] == ["good", "2"]
    (found,) = loaded.bad_rows
    assert (found.path, found.line, found.field) == (str(path), 3, field)
    assert message in found.message


def test_nothing_is_left(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({"turns": []}) + "\n" + json.dumps({"turns": [1]}))
    assert "no dialogue. 2 rows can't be read; the first is line 1: persona is missing" in error_of(
        path, on_bad_row="skip"
    )


def test_a_bad_first_line_does_not_hide_the_format(tmp_path: Path) -> None:
    path = write(tmp_path, '{"broken": \n' + json.dumps(GOOD) + "\n")
    loaded = load_dialogues(str(path), on_bad_row="skip")
    assert (loaded.format, len(loaded.dialogues), loaded.bad_rows[0].line) == ("falconer", 1, 1)


@pytest.mark.parametrize(
    ("lines", "field", "line"),
    [
        ("1 hi\thello\n2 what", "", 0),
        ("1 hi\t \n", "reply", 3),
        ("1  \thello\n", "message", 3),
        ("hi\thello\n", "line number", 3),
        ("1\n", "message", 3),
        ("1 hi\thello\t\ta|b\n", "candidates", 3),
        ("1 your persona: i ski.\n", "turns", 3),
    ],
)
def test_convai2_leaves_out_the_whole_dialogue(tmp_path: Path, lines: str, field: str, line: int) -> None:
    path = write(tmp_path, f"1 a\tb\n2 c\td\n{lines}\n3 more\tof it\n1 e\tf\n", "x.txt")
    if not field:
        assert len(load_dialogues(str(path)).dialogues) == 3
        return
    if field == "turns":
        path = write(tmp_path, f"1 a\tb\n2 c\td\n{lines}\n1 e\tf\n", "x.txt")
    assert f"line {line}: {field} " in error_of(path)
    loaded = load_dialogues(str(path), on_bad_row="skip")
    expected = ["e"] if field == "line number" else ["a", "e"]
    assert [dialogue.turns[0].text for dialogue in loaded.dialogues] == expected
    assert [(row.line, row.field) for row in loaded.bad_rows] == [(line, field)]


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ({"role": "tool", "content": "x"}, "messages[0].role"),
        ({"role": "assistant", "content": None}, "messages[0].content"),
        ({"role": "assistant"}, "messages[0].content"),
        ({"role": "user", "content": "hi"}, "messages"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "messages[0].content[0]"),
    ],
)
def test_chat_logs(tmp_path: Path, message: dict[str, object], field: str) -> None:
    assert f"row 1: {field} " in error_of(write(tmp_path, json.dumps([{"messages": [message]}])))


def test_csv_rows(tmp_path: Path) -> None:
    path = write(tmp_path, ',Persona,chat\n0,i ski.,"a\nb"\n1,i cook.\n2,i sing.,alone\n3,i "run,"a\nb', "x.csv")
    loaded = load_dialogues(str(path), on_bad_row="skip")
    assert len(loaded.dialogues) == 1
    assert [(row.line, row.field) for row in loaded.bad_rows] == [(4, "row"), (5, "chat"), (6, "row")]
    assert "never ends: a closing quote is missing, or the file was cut off" in loaded.bad_rows[-1].message


def test_tables_of_turns(tmp_path: Path) -> None:
    row = {"personality": ["i ski ."], "history": ["hi"], "candidates": ["yo"], "conv_id": 0, "utterance_idx": 0}
    rows = [
        row,
        row | {"conv_id": 1},
        row | {"conv_id": 1},
        row | {"conv_id": 2, "utterance_idx": "first"},
        row | {"conv_id": 2, "utterance_idx": 1},
        row | {"conv_id": 3},
        row | {"conv_id": 3, "utterance_idx": 1, "personality": ["i cook ."]},
        row | {"conv_id": 4, "candidates": []},
    ]
    path = write(tmp_path, json.dumps(rows))
    loaded = load_dialogues(str(path), on_bad_row="skip")
    assert [dialogue.id for dialogue in loaded.dialogues] == ["x-0"]
    assert sorted((row.line, row.field) for row in loaded.bad_rows) == [
        (3, "utterance_idx"),
        (4, "utterance_idx"),
        (6, "personality"),
        (8, "candidates"),
    ]


def test_objects_in_a_cell_that_python_did_not_write(tmp_path: Path) -> None:
    """numpy leaves the comma between two of them out."""
    cell = "[{'history': ['hi']}\n {'history': ['ho']}]"
    path = write(tmp_path, f'personality,utterances\n"[\'i ski .\']","{cell}"\n', "x.csv")
    assert "utterances is text that isn't a list of strings" in error_of(path)


def test_bad_row_is_a_plain_record() -> None:
    assert BadRow("x", 1, "turns", "is missing") == BadRow("x", 1, "turns", "is missing")
