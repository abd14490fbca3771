"""The text of a bare completion while it is generated: as the model writes it, ended by end tokens and stop texts."""

from collections.abc import Sequence

from falconer.data.encode import Encoder
from falconer.talk.text import Decoded, Stops


class RawText:
    """Takes token ids, gives text that no later token can change.

    Attributes:
        is_over: nothing more will be shown: stop generating.
        ended: the model ended the text with an end token.
    """

    def __init__(self, encoder: Encoder, stops: Sequence[str] = ()) -> None:
        self.is_over = False
        self.ended = False
        self._ends = frozenset((encoder.end_id, *encoder.stop_ids))
        self._decoded = Decoded(encoder)
        self._stops = Stops(stops)

    def add(self, ids: Sequence[int]) -> str:
        """Return the next piece of text; "" if no more is settled."""
        shown = ""
        for token in ids:
            if self.is_over:
                break
            if token in self._ends:
                self.ended = True
                shown += self.end()
                break
            shown += self._stops.add(self._decoded.add(token))
            self.is_over = self._stops.is_found
        return shown

    def end(self) -> str:
        """Return the rest of the text, at the end of generation."""
        if self.is_over:
            return ""
        self.is_over = True
        return self._stops.add(self._decoded.end()) + self._stops.end()
