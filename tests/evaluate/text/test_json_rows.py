"""JSON in every layout that people have gives the same rows, or is refused for what it is."""

import json
from pathlib import Path

import pytest

from falconer.errors import FalconerError
from falconer.evaluate.text.json_rows import looks_like_json
from falconer.evaluate.text.predictions import read_predictions

ROWS = [
    {"prediction": "hi .", "reference": "hello !"},
    {"prediction": "", "reference": "é \u2028 { x"},
    {"prediction": "two\nlines", "reference": '"b"'},
]
COLUMNS = {key: [row[key] for row in ROWS] for key in ("prediction", "reference")}
INDEXED = {key: {str(i): row[key] for i, row in enumerate(ROWS)} for key in ("prediction", "reference")}

LAYOUTS = {
    "array": json.dumps(ROWS),
    "pretty array": json.dumps(ROWS, indent=1, ensure_ascii=False),
    "lines": "\n".join(map(json.dumps, ROWS)),
    "objects one after another, as jq prints them": "\n".join(json.dumps(row, indent=2) for row in ROWS),
    "wrapper": json.dumps({"model": "x", "predictions": ROWS}, indent=2),
    "parallel lists": json.dumps({**COLUMNS, "model": "x", "scores": [1]}),
    "pandas columns": json.dumps(INDEXED),
    "pandas index": json.dumps({str(i): row for i, row in enumerate(ROWS)}),
    "pandas split": json.dumps(
        {"columns": list(COLUMNS), "index": [0, 1, 2], "data": [list(row.values()) for row in ROWS]}
    ),
    "an array, a row a line": "[" + ",\n".join(map(json.dumps, ROWS)) + "]",
    "pandas table": json.dumps({"schema": {"fields": []}, "data": [{"index": 0, **row} for row in ROWS]}),
    "plural names": json.dumps({"predictions": COLUMNS["prediction"], "references": COLUMNS["reference"]}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["a.json", "a.jsonl", "a.ndjson", "a.txt", "a", "a.tsv"])
@pytest.mark.parametrize("mark", ["", "\ufeff", "\n \n"])
def test_every_layout(tmp_path: Path, layout: str, name: str, mark: str) -> None:
    (tmp_path / name).write_text(mark + LAYOUTS[layout] + "\n", encoding="utf-8", newline="")
    found = read_predictions(tmp_path / name)
    assert [{"prediction": row.prediction, "reference": row.reference} for row in found] == ROWS
    assert len({row.dialogue_id for row in found}) == 3


def test_one_object_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    for text in (
        '{"prediction": "a", "references": ["b", "c"]}',
        '{\n "prediction": "a",\n "references": ["b", "c"]\n}',
    ):
        path.write_text(text, encoding="utf-8")
        (row,) = read_predictions(path)
        assert (row.prediction, row.reference, row.other_references) == ("a", "b", ("c",))


@pytest.mark.parametrize("gap", ["null", '""', '" "'])
def test_a_gap_in_a_list_is_no_reference(tmp_path: Path, gap: str) -> None:
    path = tmp_path / "gaps.jsonl"
    path.write_text(f'{{"prediction": "a", "references": [{gap}, "b", {gap}]}}\n', encoding="utf-8")
    (row,) = read_predictions(path)
    assert (row.reference, row.other_references) == ("b", ())


def test_a_column_of_lists_is_several_references(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"predictions": ["p", "q"], "references": [["a", "b"], ["c"]]}), encoding="utf-8")
    assert [(row.reference, row.other_references) for row in read_predictions(path)] == [("a", ("b",)), ("c", ())]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"prediction": "a"}, ]', "a.json', line 1, column .*: not JSON: there is a comma before the closing"),
        ("{'prediction': 'a', 'reference': 'b'}", "line 1, column 2: not JSON: a string is in single quotes"),
        ('{"prediction": None, "reference": "b"}', "line 1, column 16: not JSON: None is Python; JSON has null"),
        ('[\n {"prediction": "a", "reference": "b"},\n {"prediction": "c"', "line 3, .*: not JSON: it ends too early"),
        ("hello", r"line 1: is not JSON: Expecting value \(column 1\)"),
        ('[["a", "b"]]', "line 1: this row is a list, not an object. Write one JSON object per line"),
        ('[{"prediction": "a", "reference": "b"}, 3]', "row 2: this row is a number"),
        ('["a", {"prediction": "b"}]', "row 2: this row is an object"),
        ('["a", "b"]', "row 1: the field 'prediction' is missing; the row has 'text'"),
        ('{"train": [{"prediction": "a"}], "test": [{"prediction": "b"}]}', "contains rows under 'train' and 'test'"),
        ('{"prediction": ["a", "b"], "reference": ["c"]}', "different lengths: 'prediction' has 2, 'reference' has 1"),
        ('{"prediction": {"0": "a"}, "reference": {"1": "b"}}', "'reference' and 'prediction' have different rows"),
        ('{"columns": ["prediction", "reference"], "data": [["a"]]}', "row 1 of 'data': not a list of 2 values"),
        ('{"prediction": "a", "turn": 1%s}' % ("0" * 5000), "not JSON: it contains a number with hundreds of digits"),
        ("[" * 100_000, "not JSON: it is nested hundreds of levels deep"),
        ('{"prediction": "a", "reference": "b", "x": %s}' % ("[" * 100_000), "it is nested hundreds of levels deep"),
        ("[1, 2]", "line 1: this row is a list"),
        ('{"prediction": "a",\n"reference": "b"}\n\n{"prediction": "c",\n"x": "d"}', "line 4: the field 'refe"),
        ("[]", "contains no predictions"),
        ("{}", "line 1: the field 'prediction' is missing; the row has no field"),
        ('{"prediction": NaN, "reference": "b"}', "field 'prediction' is NaN"),
        ('[{"prediction": "a", "reference": "b\\ud83d"}]', "row 1: field 'reference' contains half of a surrogate"),
    ],
)  # fmt: skip
def test_a_bad_file_is_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(FalconerError, match=message) as caught:
        read_predictions(tmp_path / "a.json")
    assert caught.value.hint


@pytest.mark.parametrize(
    "text", ["{laughs} hi", "[laughs] hi\nyes", "[1] a\n[2] b", "a\n{}", "{ ok ) fine", '"a"\nb', '"a"']
)
def test_replies_that_begin_with_a_bracket_are_text(text: str) -> None:
    assert not looks_like_json(text)


@pytest.mark.parametrize(
    "text",
    ['{"a": 1}', '{"a": 1', '[\n"a"\n]', "{\n", '["a", "b"]', '"a"\n"b \\" c"', 'oops\n{"a": 1}\n{"a": 2}\n{"a": 3}'],
)
def test_json_is_seen_also_where_it_is_damaged(text: str) -> None:
    assert looks_like_json(text)
