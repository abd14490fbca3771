"""Blind votes: the better reply is learned beside the other one, and ties are left out."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from corpus_files import FIXTURES, check_bad, load, said
from falconer.data.sources import load_dialogues
from falconer.talk.votes import Vote

GOOD = {
    "persona": ["I ski."],
    "history": [{"speaker": "partner", "text": "Hi!"}],
    "replies": {"left": "Hello!", "right": "No."},
    "left": "tuned", "right": "base", "vote": "right", "winner": "base",
}  # fmt: skip


def test_the_better_reply_is_learned_and_nothing_else() -> None:
    loaded = load_dialogues(str(FIXTURES / "votes.jsonl"))
    assert loaded.format == "votes" and loaded.num_replies == 2
    assert loaded.quirks["tie left out"] == 1
    first, second = loaded.dialogues
    assert first.persona == ("I grow tomatoes.", "I have a twin sister.")
    assert first.turns[-1].candidates == ("I am a.", "The one with the tomatoes.")
    assert first.turns[-1].text == "The one with the tomatoes." and first.turns[-1].is_learned
    assert said(second)[-1] == ("self", "No, with my sister.")
    assert [turn.is_learned for turn in second.turns] == [True, False, True, True]
    assert second.replies == (3,)


def test_the_server_s_rows_are_read(tmp_path: Path) -> None:
    reply = {"model": "tuned", "text": "Hello!"}
    vote = Vote.model_validate({
        "persona": ["I ski."], "history": [{"speaker": "partner", "text": "Hi!"}], "left": reply,
        "right": reply | {"model": "base", "text": ""}, "vote": "left",
    })  # fmt: skip
    (dialogue,) = load(tmp_path, [vote.row(datetime.now(UTC))]).dialogues
    assert said(dialogue) == [("partner", "Hi!"), ("self", "Hello!")]
    assert dialogue.turns[-1].candidates == ()  # an empty reply is no candidate


def test_a_vote_for_an_empty_reply_is_left_out(tmp_path: Path) -> None:
    loaded = load(tmp_path, [GOOD, GOOD | {"replies": {"left": "Hello!", "right": " "}}])
    assert len(loaded.dialogues) == 1 and loaded.quirks["vote for an empty reply left out"] == 1


def test_bad_rows(tmp_path: Path) -> None:
    check_bad(
        tmp_path,
        GOOD,
        (GOOD | {"vote": "both"}, "vote"),
        (GOOD | {"replies": {"left": "Hello!"}}, "replies.right"),
        (GOOD | {"replies": {"left": "Hello!", "right": 3}}, "replies.right"),
        (GOOD | {"history": [{"speaker": "bot?", "text": "Hi!"}]}, "history[0].speaker"),
        (GOOD | {"history": [{"speaker": "partner", "text": ""}]}, "history[0].text"),
        (GOOD | {"persona": [3]}, "persona[0]"),
    )


@pytest.mark.parametrize("field", ["persona", "history"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    check_bad(tmp_path, GOOD, ({key: value for key, value in GOOD.items() if key != field}, field))
