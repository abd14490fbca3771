"""Blind votes of the server's page: the better of two replies is learned, and the other one stands beside it.

    {"persona": ["I ski."], "history": [{"speaker": "partner", "text": "Hi!"}], "replies": {"left": "Hello!", "right":
     "No."}, "left": "tuned", "right": "base", "vote": "left", "winner": "tuned"}

Replies in the history are context: nobody voted on them here. A tie says of neither reply that it should be learned, so
it is left out and counted, and so is a vote for an empty reply.
"""

from collections.abc import Iterable
from typing import Any

from falconer.data.files.row import Row, RowError, shown
from falconer.data.formats.messages import row_id
from falconer.data.formats.rows import Parsed, Quirks, as_dict, as_list, as_text, each, get, sentences, speaker
from falconer.records import Dialogue, Turn

TIE = "tie left out"
EMPTY = "vote for an empty reply left out"
_SIDES = ("left", "right")


def parse(rows: Iterable[Row | RowError], name: str, quirks: Quirks) -> Parsed:
    """Yield one Dialogue for each vote that is for one of the replies; they are the candidates of its last turn."""

    def one(line: int, row: dict[str, Any]) -> list[Dialogue]:
        vote = get(row, "vote")
        if vote not in (*_SIDES, "tie"):
            raise RowError("vote", f"is {shown(vote)}; expected 'left', 'right' or 'tie'.")
        replies = as_dict(get(row, "replies"), "replies")
        texts = {side: _text(replies, side) for side in _SIDES}
        turns = [_turn(item, f"history[{i}]") for i, item in enumerate(as_list(get(row, "history"), "history"))]
        if vote == "tie" or not texts[vote]:
            quirks[TIE if vote == "tie" else EMPTY] += 1
            return []
        # A candidate is a text: an empty reply is none.
        candidates = tuple(filter(None, texts.values()))
        turns.append(Turn("self", texts[vote], candidates if len(candidates) > 1 else ()))
        return [Dialogue(row_id(row, f"{name}-{line:05d}"), sentences(get(row, "persona"), "persona"), tuple(turns))]

    return each(rows, one)


def _text(replies: dict[str, Any], side: str) -> str:
    field, value = f"replies.{side}", get(replies, side, "replies.")
    return as_text(value, field) if not isinstance(value, str) or value.strip() else ""


def _turn(item: Any, where: str) -> Turn:
    turn = as_dict(item, where)
    side = speaker(get(turn, "speaker", f"{where}."), f"{where}.speaker")
    return Turn(side, as_text(get(turn, "text", f"{where}."), f"{where}.text"), is_learned=side == "partner")
