"""What blind votes say, against figures worked out by hand."""

import json
from pathlib import Path

import pytest

from command_line import ok
from corpus_files import FIXTURES
from falconer.errors import FalconerError
from falconer.evaluate.text.votes import Duel, duels, is_vote_file, sign_test, wilson


def votes(path: Path, *rows: tuple[str, str, str]) -> Path:
    lines = [json.dumps({"left": left, "right": right, "vote": vote, "history": [{}]}) for left, right, vote in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_votes_are_counted_whatever_the_side(tmp_path: Path) -> None:
    one = votes(tmp_path / "a.jsonl", ("b", "a", "left"), ("a", "b", "left"), ("a", "b", "tie"), ("b", "a", "right"))
    other = votes(tmp_path / "b.jsonl", ("c", "a", "tie"))
    first, second = duels([one, other])
    assert (first.systems, first.wins, first.ties) == (("a", "b"), (2, 1), 1)
    assert first.share == pytest.approx(200 / 3) and first.p == 1.0
    assert second == Duel(("a", "c"), (0, 0), 1, None, None, None)


@pytest.mark.parametrize(("wins", "count"), [(8, 10), (0, 5), (5, 5), (1, 2), (600, 1000)])
def test_wilson_s_ends_are_where_the_share_is_just_rejected(wins: int, count: int) -> None:
    """The ends p solve (share - p)^2 = z^2 p (1 - p) / count."""
    for end in wilson(wins, count):
        p = end / 100
        assert (wins / count - p) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / count, abs=1e-12)


def test_the_sign_test_counts_outcomes() -> None:
    # Of the 2^10 outcomes of ten votes, 1 + 10 + 45 have at most two for one side, and as many for the other.
    assert sign_test(8, 2) == sign_test(2, 8) == 2 * 56 / 1024
    assert sign_test(15, 3) == 2 * (1 + 18 + 153 + 816) / 2**18
    assert sign_test(5, 5) == sign_test(0, 0) == 1.0
    assert 0 < sign_test(6000, 4000) < 1e-80


def test_a_file_of_one_vote_and_a_report_s_export(tmp_path: Path) -> None:
    one = votes(tmp_path / "one.jsonl", ("a", "b", "right"))
    exported = tmp_path / "falconer-votes.json"
    row = {"dialogue_id": "d", "turn": 1, "left": "b", "right": "a", "vote": "left", "winner": "b"}
    exported.write_text(
        json.dumps({"report": "x", "result": {"a": 0, "b": 1}, "votes": [row]}, indent=2), encoding="utf-8"
    )
    (duel,) = duels([one, exported])
    assert duel.wins == (0, 2)


def test_other_files_are_no_votes(tmp_path: Path) -> None:
    assert is_vote_file(FIXTURES / "votes.jsonl")
    for path in (tmp_path, tmp_path / "missing", FIXTURES / "falconer.jsonl", FIXTURES / "kaggle.csv"):
        assert not is_vote_file(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"left": "a", "right": "b", "vote": "both"}', "line 2: field 'vote' is 'both'"),
        ('{"left": "a", "right": "a", "vote": "tie"}', "line 2: 'left' and 'right' are both 'a'"),
        ('{"left": "a", "right": 3, "vote": "tie"}', "line 2: field 'right' is a number"),
        ('{"left": "a", "ri', "line 2: "),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = votes(tmp_path / "a.jsonl", ("a", "b", "left"))
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(FalconerError) as caught:
        duels([path])
    assert message in str(caught.value) and caught.value.hint


def test_compare_shows_votes(tmp_path: Path) -> None:
    path = votes(tmp_path / "v.jsonl", *[("base", "[b]tuned", "right")] * 9, ("base", "[b]tuned", "tie"))
    shown = ok("compare", path)
    header, row = shown.out.splitlines()[:2]
    assert header.split() == ["system", "against", "wins", "losses", "ties", "share", "low", "high", "p"]
    assert row.split() == ["[b]tuned", "base", "9", "0", "1", "100.0", "70.1", "100.0", "0.004"]
    found = json.loads(ok("compare", "--json", path).out)
    assert found["votes"][0]["wins"] == [9, 0] and found["votes"][0]["systems"] == ["[b]tuned", "base"]
