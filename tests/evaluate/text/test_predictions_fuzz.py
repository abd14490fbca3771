"""Whatever a predictions file holds, `falconer score` prints figures or one line that says what is wrong."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pytest

from command_line import falconer

ROWS = [
    {"id": 1, "dialogue_id": "d", "turn": 1, "persona": ["i ski ."], "history": ["hi", "yo"], "prediction": "hi ,\nyou"}
    | {"reference": 'he said "hi"', "ended": True, "ranks": {"by_mean": 1, "by_sum": 2, "num_candidates": 3}},
    {"id": 2, "dialogue_id": "e", "prediction": "", "references": ["é\t{", "[x]"], "likelihood": None},
    {"id": 3, "prediction": '"ok"', "gold": "3", "turn": 10**30}
    | {"likelihood": {"nll": 3.5, "nll_text": 3, "num_tokens": 4, "num_words": 2, "num_chars": 9}},
]
# What is put into a file: what other files hold, what parts and quotes, what numbers and texts must not be.
PIECES = [
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\x1f\x8b", b"\r", b"\n", b"\t", b'"', b'""', b"'", b",", b";", b"\\",
    b"\\ud83d", b"{", b"}", b"[", b"]", b":", b"null", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 5000,
    b'{"a":' * 5000, b"prediction", b"reference", b"references", b"id", b"turn", b"persona", b"\x1b]0;x\x07",
    b"\xe2\x80\xa8", b" " * 50,
]  # fmt: skip


def files() -> list[bytes]:
    table = [["Prediction", "reference", "id"], ['a "b"', "c\nd", "1"], ["", "e , f", "2"], ["g", "h", "3"]]
    out = {delimiter: io.StringIO() for delimiter in "\t,;"}
    for delimiter, stream in out.items():
        csv.writer(stream, delimiter=delimiter).writerows(table)
    texts = [
        "\n".join(map(json.dumps, ROWS)), json.dumps(ROWS, indent=1), json.dumps({"predictions": ["a"], "refs": ["b"]}),
        json.dumps({"prediction": {"0": "a"}, "gold": {"0": "b"}}), 'he "said"\tyes\n"no"\t"""b"""\n', "hi\n\nyou\n",
        *(stream.getvalue() for stream in out.values()),
    ]  # fmt: skip
    return [text.encode() for text in texts] + [gzip.compress(texts[0].encode()), texts[1].encode("utf-16")]


def damaged(content: bytes, chance: random.Random) -> bytes:
    for _ in range(chance.randint(1, 3)):
        start = chance.randint(0, len(content))
        end = min(len(content), start + chance.choice([0, 0, 1, 2, 10, 100]))
        content = content[:start] + chance.choice([b"", *PIECES]) + content[end:]
    return content


@pytest.mark.parametrize("seed", range(4))
def test_damaged_files_end_in_figures_or_in_one_line(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    codes = []
    for _ in range(40):
        names = []
        for place in ("a", "g"):
            names.append(
                tmp_path / f"{place}{chance.choice(['', '.jsonl', '.json', '.tsv', '.csv', '.txt', '.tsv.gz'])}"
            )
            names[-1].write_bytes(damaged(chance.choice(files()), chance))
        beside = ["--reference", str(names[1])] if chance.random() < 0.5 else []
        result = falconer("score", str(names[0]), *beside, "--resamples", "100", "--json")
        assert result.code in (0, 2), names
        codes.append(result.code)
        assert not result.err or result.code == 2, result.err
        if result.code == 2:
            assert result.err.startswith("falconer: ") and result.err.count("\n") == 1
            assert not any(ord(character) < 32 for character in result.err[:-1]), result.err
        else:
            json.loads(result.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert set(codes) == {0, 2}
