"""Are pairs read as they were written, and is whatever else refused?"""

import json

import pytest

from falconer.errors import FalconerError
from falconer.records import PreferencePair, Turn
from falconer.run.manifest import hashes_of, replace_manifest
from falconer.run.pairs import read_pairs, write_pairs

PAIRS = [
    PreferencePair("distractors", "d1", 3, ("i ski .",), (Turn("partner", "hi\n\u2028!"),), "hello !", "no .", False),
    PreferencePair("votes:a.jsonl", "d2", 0, (), (), "ja, gern é", "…", True),
]


def test_they_are_read_as_they_were_written(tmp_path):
    write_pairs(tmp_path, PAIRS)
    assert read_pairs(tmp_path) == PAIRS
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text(encoding="utf-8").split("\n")[:-1]]
    assert rows[0]["split"] == "train" and rows[1]["split"] == "valid"
    assert rows[0]["history"] == [{"speaker": "partner", "text": "hi\n\u2028!"}]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [("chosen", 3, "line 2, 'chosen'"), ("split", "test", "line 2, 'split'"), ("more", 1, "line 2, 'more'")],
)
def test_a_wrong_row_is_named(tmp_path, field, value, message):
    write_pairs(tmp_path, PAIRS)
    path = tmp_path / "pairs.jsonl"
    first, second = path.read_text(encoding="utf-8").split("\n")[:-1]
    path.write_text(f"{first}\n{json.dumps(json.loads(second) | {field: value})}\n", encoding="utf-8")
    with pytest.raises(FalconerError, match=message):
        read_pairs(tmp_path)


def test_a_file_that_differs_from_the_manifest_or_is_missing_is_refused(tmp_path):
    with pytest.raises(FalconerError, match=r"contains no pairs of replies \(pairs.jsonl is missing\)"):
        read_pairs(tmp_path)
    write_pairs(tmp_path, PAIRS)
    replace_manifest(tmp_path, hashes_of({"pairs.jsonl": "something else\n"}))
    with pytest.raises(FalconerError, match=r"the hash of pairs\.jsonl differs"):
        read_pairs(tmp_path)
