"""Where a reply ends: its stop tokens, and cutting the text where the model continues with the next turn.

A reply ends with the end token. If every reply of the training data is one line, a line break stops a reply, too, since
the partner's next turn starts there in the prompt template. If replies have several lines, only the next speaker's tag
at the start of a line shows that the model went on to the next turn; if they quote dialogues with such tags, nothing
does. A reply that was cut, or that reached `max_new_tokens`, does not count as ended by the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from falconer.data.encode import Encoder
from falconer.data.prompt import NEXT_TURN


@dataclass(frozen=True, slots=True)
class Reply:
    """A generated reply.

    Args:
        ended: the model ended it with an end token.
        ran_on: the model went on to the next turn, which was cut off.
    """

    text: str
    ended: bool
    ran_on: bool = False


def stop_tokens(encoder: Encoder) -> list[int]:
    """Return the tokens at which a reply stops: the end token, the model's other end tokens and, for replies of one
    line, the line break where it is one token.
    """
    line_break = [] if encoder.format.multi_line else encoder.line_break()
    return [*_ends(encoder), *line_break]


def finish(ids: Sequence[int], encoder: Encoder) -> Reply:
    """Decode generated ids to a reply, cut as described at the top of this module."""
    ids = list(ids)
    end = next((place for place, token in enumerate(ids) if token in _ends(encoder)), None)
    kept = ids[:end]
    text = encoder.decode(kept).strip()
    if encoder.format.multi_line:
        next_turn = None if encoder.format.quotes_tags else NEXT_TURN.search(text)
        cut = next_turn.start() if next_turn else len(text)
    else:
        cut = text.find("\n") if "\n" in text else len(text)
    # What was cut off stood before the end token, so the model did not end this reply but a later turn.
    ran_on = cut < len(text)
    return Reply(text[:cut].strip(), end is not None and not ran_on, ran_on)


def _ends(encoder: Encoder) -> tuple[int, ...]:
    return (encoder.end_id, *encoder.stop_ids)
