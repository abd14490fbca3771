"""A vote's row, and a file that several append to and that a crash has cut."""

import json
import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from pydantic import ValidationError

from falconer.errors import FalconerError
from falconer.talk.votes import Vote, VotedReply, VotedTurn, VoteFile


def vote(choice: str = "left", text: str = "Hello!") -> Vote:
    return Vote(
        persona=["I ski."], history=[VotedTurn(speaker="partner", text="Hi!")],
        left=VotedReply(model="tuned", text=text), right=VotedReply(model="base", text="No."), vote=choice,
    )  # fmt: skip


@pytest.mark.parametrize(("choice", "winner"), [("left", "tuned"), ("right", "base"), ("tie", None)])
def test_a_row_says_who_won_and_when(choice: str, winner: str | None) -> None:
    row = vote(choice).row(datetime(2026, 1, 2, 3, 4, 5, 678, timezone(timedelta(hours=2))))
    assert (row["left"], row["right"], row["vote"], row["winner"]) == ("tuned", "base", choice, winner)
    assert row["time"] == "2026-01-02T01:04:05+00:00"
    assert row["replies"] == {"left": "Hello!", "right": "No."}


def test_rows_are_appended_and_what_a_crash_cut_off_stays_alone(tmp_path: Path) -> None:
    file = VoteFile(tmp_path / "new" / "votes.jsonl")
    file.append(vote(text="a\nb \u2028 \U0001f600 שלום"))
    with file.path.open("ab") as cut:
        cut.write(b'{"time": "20')
    file.append(vote("tie"))
    first, broken, second = file.path.read_text(encoding="utf-8").split("\n")[:-1]
    assert json.loads(first)["replies"]["left"] == "a\nb \u2028 \U0001f600 שלום"
    assert broken == '{"time": "20' and json.loads(second)["vote"] == "tie"


def test_threads_and_servers_do_not_mix_their_rows(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    servers = [VoteFile(path), VoteFile(path)]

    def cast(number: int) -> None:
        for _ in range(10):
            servers[number % 2].append(vote(text=str(number) * 5000))

    threads = [threading.Thread(target=cast, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = [json.loads(line)["replies"]["left"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert sorted(texts) == sorted(str(number) * 5000 for number in range(4) for _ in range(10))


def test_a_file_that_can_t_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FalconerError, match=str(tmp_path)):
        VoteFile(tmp_path).append(vote())
    with pytest.raises(FalconerError, match="No space left on the disk for '/dev/full'"):
        VoteFile(Path("/dev/full")).append(vote())


def test_infinite_numbers_and_half_characters_are_refused() -> None:
    with pytest.raises(ValidationError, match="a finite number"):
        VotedReply.model_validate({"model": "base", "text": "", "decoding": {"temperature": float("inf")}})
    with pytest.raises(ValidationError, match="unicode"):
        VotedReply.model_validate({"model": "base", "text": "\ud800"})
