"""A predictions file comes back as it was written; anybody's is read, or refused with file, line and field."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from falconer.errors import FalconerError
from falconer.evaluate.text.metrics import score_predictions
from falconer.evaluate.text.predictions import read_predictions, write_predictions
from falconer.records import Likelihood, Prediction, Ranks, Turn

FULL = Prediction(
    "d1", 3, "  so\nwhat ? ", "ich weiß 🙂", ("a", "b"), (Turn("self", "hi"), Turn("self", "")), True,
    likelihood=Likelihood(9.5, 8.25, 4, 2, 11), ranks=Ranks(1, 3, 20),
)  # fmt: skip
MEASURED = (
    '{"prediction": "p", "reference": "r", "likelihood": '
    '{"nll": %s, "nll_text": 1, "num_tokens": 2, "num_words": 1, "num_chars": 1}}'
)


@pytest.mark.parametrize("name", ["predictions.jsonl", "new/predictions.jsonl.gz"])
def test_written_predictions_come_back(tmp_path: Path, name: str) -> None:
    rows = [FULL, Prediction("d1", 4, "", "r"), replace(FULL, ended=False)]
    write_predictions(rows, tmp_path / name)
    assert read_predictions(tmp_path / name) == rows
    first = (tmp_path / name).read_bytes()
    write_predictions(rows, tmp_path / name)
    assert (tmp_path / name).read_bytes() == first
    assert [path.name for path in (tmp_path / name).parent.iterdir()] == [Path(name).name]


def test_further_references_are_kept_and_no_row_has_the_key_without_them(tmp_path: Path) -> None:
    rows = [FULL, replace(FULL, turn=5, other_references=("or so", "ß"))]
    write_predictions(rows, tmp_path / "a.jsonl")
    first, second = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert "other_references" not in first and '"other_references": ["or so", "ß"]}' in second
    assert read_predictions(tmp_path / "a.jsonl") == rows


@pytest.mark.parametrize(
    ("fields", "references"),
    [
        ({"references": ["a", "b"]}, ("a", "b")),
        ({"references": ["a"]}, ("a",)),
        ({"reference": "a", "references": ["b", "a"]}, ("a", "b")),
        ({"labels": "a", "label": 3}, ("a",)),
        ({"gold": "a", "Reference": "a"}, ("a",)),
        ({"reference_2": "b", "reference_10": "c", "reference_1": "a"}, ("a", "b", "c")),
        ({"ref": "a", "ref2": "b", "ref3": "", "ref4": None}, ("a", "b")),
        ({"answers": ["", "a"]}, ("a",)),
        ({"groundTruth": "a"}, ("a",)),
    ],
)
@pytest.mark.parametrize(
    "reply", [{"prediction": "p"}, {"Hypothesis": "p", "output": "p"}, {"pred": ["p"]}, {"response": "p", "hyp": None}]
)
def test_names_of_the_two_texts(
    tmp_path: Path, fields: dict[str, object], references: tuple[str, ...], reply: dict[str, object]
) -> None:
    (tmp_path / "a.jsonl").write_text(2 * (json.dumps(fields | reply) + "\n"), encoding="utf-8")
    row = read_predictions(tmp_path / "a.jsonl")[1]
    assert (row.prediction, row.reference, *row.other_references) == ("p", *references)


def test_other_peoples_names_and_extras(tmp_path: Path) -> None:
    path = tmp_path / "theirs.jsonl"
    first = '{"hypothesis": "a", "gold": "b", "model": "x"}'
    second = '{"dialogue_id": 7, "turn": 2, "response": "", "target": "d"}'
    path.write_text(f"\ufeff{first}\r\n\r\n{second}", encoding="utf-8")
    assert read_predictions(path) == [Prediction("1", 0, "a", "b"), Prediction("7", 2, "", "d")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (MEASURED % "NaN", "field 'likelihood.nll' is nan, which is not a finite number. .* model.dtype=fp32"),
        (MEASURED % "Infinity", "'likelihood.nll' is inf"),
        (MEASURED % '"1"', "'likelihood.nll' is text"),
        ('{"prediction": "p", "reference": "r", "likelihood": 3}', "'likelihood' is not an object with nll, nll_text"),
        (
            '{"prediction": "p", "reference": "r", "ranks": {"by_mean": 1}}',
            "'ranks' is not an object with by_mean, by_sum",
        ),
        ("{", r"is not JSON: it ends too early, so the file was cut off \(column 2\)"),
        ("[1]", "is a list"),
        ('"x"', "is text"),
        (
            '{"reference": "r"}',
            r"field 'prediction' is missing; the row has 'reference'. Name it prediction \(or hypothesis, generated,",
        ),
        ("{}", r"the row has no field"),
        ('{"prediction": "p"}', "field 'reference' is missing"),
        ('{"prediction": null, "reference": "r"}', "field 'prediction' is null"),
        (
            '{"prediction": "p", "output": "q", "reference": "r"}',
            "more than one field may be the reply: 'prediction' holds 'p' and",
        ),
        (
            '{"Prediction": "p", "prediction": "q", "reference": "r"}',
            "'Prediction' holds 'p' and 'prediction' holds 'q'",
        ),
        ('{"prediction": ["p", "q"], "reference": "r"}', "field 'prediction' is a list of 2"),
        ('{"prediction": [], "reference": "r"}', "field 'prediction' is a list of 0"),
        ('{"prediction": {"text": "p"}, "reference": "r"}', "field 'prediction' is an object"),
        (
            '{"prediction": "p", "reference": "r", "gold": "\\u001b[2J"}',
            r"more than one field may be the gold .*'gold' holds '\\x1b\[2J",
        ),
        ('{"prediction": "p", "reference": "r", "references": ["s"]}', "more than one field may be the gold reply"),
        ('{"prediction": "p", "references": []}', "field 'references' is an empty list"),
        ('{"prediction": "p", "references": ["", " "]}', "the reference is empty"),
        ('{"prediction": "p", "references": ["a", 3]}', "field 'references' is a list"),
        ('{"prediction": "p", "label": 3}', "field 'label' is a number"),
        ('{"prediction": "p", "reference": "r", "reference_2": 3}', "field 'reference_2' is a number"),
        ('{"prediction": "p\\ud83d", "reference": "r"}', "field 'prediction' contains half of a surrogate pair"),
        (
            '{"prediction": "p", "reference": "r", "persona": ["\\ud83d"]}',
            "field 'persona' contains half of a surrogate",
        ),
        (
            '{"prediction": "p", "reference": "r", "dialogue_id": "\\ud83d"}',
            "'dialogue_id' contains half of a surrogate",
        ),
        (MEASURED % ("1" * 400), "a number with hundreds of digits"),
        ('{"prediction": "p", "\\u001b[2J": "r"}', r"the row has 'prediction', '\\x1b\[2J'"),
        ('{"output": 3, "reference": "r"}', "field 'output' is a number"),
        ('{"prediction": "p", "reference": " "}', "reference is empty"),
        ('{"prediction": "p", "reference": "r", "dialogue_id": 1.5}', "'dialogue_id' is a number"),
        ('{"prediction": "p", "reference": "r", "dialogue_id": true}', "'dialogue_id' is true or false"),
        ('{"prediction": "p", "reference": "r", "turn": "2"}', "'turn' is text"),
        ('{"prediction": "p", "reference": "r", "ended": 1}', "'ended' is a number"),
        ('{"prediction": "p", "reference": "r", "persona": "one"}', "'persona' is not a list"),
        ('{"prediction": "p", "reference": "r", "history": [1]}', "'history.0.' is a number"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prediction": "p", "reference": "r"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(FalconerError, match=message) as caught:
        read_predictions(path)
    assert caught.value.message.startswith(f"{path}, line 2: ")
    assert caught.value.hint


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"\n \n", "contains no predictions"),
        ("latin.jsonl", '{"prediction": "é", "reference": "r"}'.encode("latin-1"), "line 1: byte 0xe9 is not UTF-8"),
        (
            "cut.jsonl.gz",
            gzip.compress(b'{"prediction": "p", "reference": "r"}', mtime=0)[:-12],
            "is a broken gzip file",
        ),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FalconerError, match=message):
        read_predictions(tmp_path / name)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FalconerError, match="There is no file"):
        read_predictions(tmp_path / "none.jsonl")
    with pytest.raises(FalconerError, match="is a folder"):
        read_predictions(tmp_path)


def test_whole_numbers_as_pandas_writes_them(tmp_path: Path) -> None:
    row = '{"prediction": "p", "reference": "r", "dialogue_id": 7.0, "turn": 2.0}'
    (tmp_path / "a.jsonl").write_text(row, encoding="utf-8")
    assert read_predictions(tmp_path / "a.jsonl") == [Prediction("7", 2, "p", "r")]


def test_ended_share_needs_every_row() -> None:
    rows = [
        replace(FULL, ended=True),
        replace(FULL, ended=True),
        replace(FULL, ended=False),
        replace(FULL, ended=False),
    ]
    assert score_predictions(rows).ended_share == 50
    assert score_predictions([*rows, replace(FULL, ended=None)]).ended_share is None
