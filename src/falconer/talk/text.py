"""From a persona and turns to a prompt, and from generated tokens to the text that is shown.

The people who write and read see natural text. Where a model was trained on Persona-Chat's spaced text, what they write
is restyled to it, and the reply is restyled to natural text as it is generated. Terminal, server and Python interface
all use this, so equal conversations are equal prompts.
"""

from collections.abc import Sequence
from dataclasses import replace

from falconer.data.encode import Encoder, Prompt
from falconer.data.prompt import NEXT_TURN, TAGS
from falconer.data.text import join_line_end, spaced
from falconer.errors import FalconerError
from falconer.records import Turn
from falconer.talk.natural import NaturalLine, natural_line

_UNKNOWN = "\ufffd"  # what incomplete bytes are decoded to
# Tokens that are decoded again with the next one before they become settled text.
_MOST_PENDING = 8


class Writer:
    """Writes prompts for a model, and reads its replies.

    Args:
        encoder: the model's; its format says in which style the training text was.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def prompt(self, persona: Sequence[str], turns: Sequence[Turn], reserve: int) -> Prompt:
        """Return the prompt of a conversation; the oldest turns are dropped where it is too long, never the persona.

        Args:
            persona: sentences about the speaker that the model plays, in natural text.
            turns: in natural text; the last one is to be answered.
            reserve: tokens to keep free for the reply.

        Raises:
            FalconerError: a text is not valid Unicode, or the persona or the last message is too long.
        """
        lines = tuple(filter(None, map(self.persona_line, persona)))
        heard = [replace(turn, text=self.as_trained(turn.text, "The message")) for turn in turns]
        most, room = self.encoder.max_tokens, self.encoder.room(lines)
        allowed = f"with a reply of {reserve:,}, at most {most:,} are allowed"
        if room < reserve:
            raise FalconerError(
                f"The persona is {reserve - room:,} tokens too long: it takes {most - room:,}; {allowed}.",
                "Shorten the persona, or ask for a shorter reply.",
            )
        if turns and (left := self.encoder.room(lines, heard[-1:])) < reserve:
            raise FalconerError(
                f"The last message is {reserve - left:,} tokens too long: it takes {room - left:,}, the persona "
                f"{most - room:,}; {allowed}.",
                "Shorten the message or the persona, or ask for a shorter reply.",
            )
        return self.encoder.encode_fitting(lines, heard, reserve)

    def reply(self, stops: Sequence[str] = ()) -> "ReplyText":
        """Return a reply that is about to be generated.

        Args:
            stops: texts that end the reply; neither they nor what follows is shown.
        """
        return ReplyText(self.encoder, stops)

    def as_trained(self, text: str, what: str = "The text") -> str:
        """Return natural text in the style of the training data.

        Raises:
            FalconerError: the text is not valid Unicode.
        """
        check_unicode(text, what)
        format = self.encoder.format
        if not format.is_spaced:
            return text.strip()
        # Not from the cache of `spaced`: a server's texts would fill it. Line by line, since a line break is not white
        # space to be collapsed. A text of characters that Persona-Chat does not use would become empty; it is kept.
        restyled = "\n".join(spaced.__wrapped__(line, format.language) for line in text.split("\n")).strip()
        return restyled or text.strip()

    def persona_line(self, text: str) -> str:
        """Return a line of a persona in the style of the training data; see `as_trained`."""
        line, format = self.as_trained(text, "The persona"), self.encoder.format
        return join_line_end(line) if format.is_spaced and format.joins_persona_end else line

    def as_natural(self, text: str) -> str:
        """Return a reply in the style of the training data as natural text, just as `ReplyText` shows it."""
        format = self.encoder.format
        if not format.is_spaced:
            return text.strip()
        return "\n".join(natural_line(line, format.language) for line in text.split("\n")).strip()


class ReplyText:
    """A reply that is being generated: takes token ids, gives text that no later token can change.

    The text is that of `model/generate/cut.py`, which evaluation uses, as natural text.

    Attributes:
        text: what has been shown so far.
        ids: the tokens so far.
        is_over: nothing more will be shown, since the reply ended, a stop text was found, or the model went on to the
            next turn: stop generating.
        ended: the model ended the reply with an end token.
    """

    def __init__(self, encoder: Encoder, stops: Sequence[str] = ()) -> None:
        self.ids: list[int] = []
        self.is_over = False
        self.ended = False
        self._shown: list[str] = []
        self._ends = frozenset((encoder.end_id, *encoder.stop_ids))
        self._decoded = Decoded(encoder)
        self._cut = _Cut(encoder.format.multi_line, encoder.format.quotes_tags)
        self._lines = _Lines(encoder.format.language) if encoder.format.is_spaced else None
        self._stops = Stops(stops)
        # The reply may end within a line, so that each token has to be looked at.
        self._is_watched = bool(stops) or encoder.format.multi_line

    @property
    def text(self) -> str:
        return "".join(self._shown)

    @property
    def num_tokens(self) -> int:
        return len(self.ids)

    def add(self, ids: Sequence[int]) -> str:
        """Return the next piece of text; "" if no more is settled. After the reply is over, nothing is added."""
        shown = together = ""
        for token in ids:
            if self.is_over:
                break
            self.ids.append(token)
            if token in self._ends:
                self.ended = True
                shown += self._show(self._cut.add(together)) + self.end()
                together = ""
                continue
            together += self._decoded.add(token)
            # What can't end the reply is restyled together, which costs little more than a single token.
            if self._is_watched or "\n" in together:
                shown += self._show(self._cut.add(together))
                together = ""
                if self._cut.is_over:
                    shown += self.end()
        return shown + (self._show(self._cut.add(together)) if together else "")

    def end(self) -> str:
        """Return the rest of the text, at the end of generation."""
        if self.is_over:
            return ""
        rest = self._cut.add(self._decoded.end()) + self._cut.end()
        shown = self._show(rest, is_end=True)
        self.is_over = True
        return shown

    def _show(self, text: str, *, is_end: bool = False) -> str:
        if self._lines:
            text = self._lines.add(text) + (self._lines.end() if is_end else "")
        text = self._stops.add(text) + (self._stops.end() if is_end else "")
        if text:
            self._shown.append(text)
        self.is_over |= self._stops.is_found
        return text


class Decoded:
    """The text of tokens that arrive one by one; each is decoded with its neighbours, never with the whole reply."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        # The last token whose text has been given, since a decoder may write a space before a token that follows.
        self._lead: list[int] = []
        self._pending: list[int] = []
        self._num_given = 0  # characters of the text of lead and pending tokens
        self._enough = 0  # pending tokens from which it is worth decoding them

    def add(self, token: int) -> str:
        """Return the next piece; "" while a character is incomplete."""
        self._pending.append(token)
        # A run of byte tokens is decoded together: one that ends in an incomplete character has no character at all.
        if token in self._encoder.byte_ids or len(self._pending) < self._enough:
            return ""
        text = self._encoder.decode(self._lead + self._pending)
        if text.endswith(_UNKNOWN):
            # So many tokens are no character that is incomplete, but bytes that are none.
            self._enough = len(self._pending) * 9 // 8 if len(self._pending) > _MOST_PENDING else 0
            return ""
        piece = text[self._num_given :]
        self._num_given = len(text)
        if len(self._pending) >= _MOST_PENDING:
            alone = self._encoder.decode([token])
            if alone and _UNKNOWN not in alone:
                self._lead, self._pending, self._num_given, self._enough = [token], [], len(alone), 0
        return piece

    def end(self) -> str:
        """Return the rest, incomplete characters as they are decoded."""
        return self._encoder.decode(self._lead + self._pending)[self._num_given :]


class _Cut:
    """A reply's text without the next turn, if the model goes on to it, and without white space around it."""

    def __init__(self, multi_line: bool, quotes_tags: bool) -> None:
        self._multi_line, self._has_tags = multi_line, multi_line and not quotes_tags
        self._held = ""
        self._is_empty = True
        self.is_over = False

    def add(self, text: str) -> str:
        """Return the next piece; "" if no more is settled."""
        if self._is_empty:
            text = text.lstrip()
            self._is_empty = not text
        if not text or self.is_over:
            return ""
        text = self._held + text
        end = self._end_of(text)
        self.is_over = end is not None
        settled = text[:end].rstrip()
        if not self.is_over and self._has_tags:
            # The last line may become a tag.
            before, line_break, last = settled.rpartition("\n")
            if line_break and any(tag.startswith(last.lstrip()) for tag in TAGS.values()):
                settled = before.rstrip()
        self._held = text[len(settled) :]
        return settled

    def end(self) -> str:
        """Return what was held back."""
        return "" if self.is_over else self._held.rstrip()

    def _end_of(self, text: str) -> int | None:
        if not self._multi_line:
            return text.index("\n") if "\n" in text else None
        next_turn = NEXT_TURN.search(text) if self._has_tags else None
        return next_turn.start() if next_turn else None


class _Lines:
    """The lines of a reply in natural text."""

    def __init__(self, language: str) -> None:
        self._language = language
        self._line = NaturalLine(language)
        self._num_breaks = 0

    def add(self, text: str) -> str:
        """Return the next piece; line breaks come with the text behind them."""
        first, *others = text.split("\n")
        shown = self._put(self._line.add(first))
        for line in others:
            shown += self.end()
            self._line = NaturalLine(self._language)
            self._num_breaks += 1
            shown += self._put(self._line.add(line))
        return shown

    def end(self) -> str:
        """Return the rest of the last line."""
        return self._put(self._line.end())

    def _put(self, text: str) -> str:
        if not text:
            return ""
        breaks, self._num_breaks = "\n" * self._num_breaks, 0
        return breaks + text


class Stops:
    """Ends a text at the first stop text; what may be the beginning of one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(filter(None, stops))
        self._held = ""
        self.is_found = False

    def add(self, text: str) -> str:
        """Return the next piece; "" if no more is settled."""
        if self.is_found or not self._stops:
            return "" if self.is_found else text
        text = self._held + text
        # The one that is complete first; of those that end in the same place, the longest.
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.is_found = True
            return text[: min(found)[1]]
        num_held = max(_num_begun(text, stop) for stop in self._stops)
        settled = text[: len(text) - num_held]
        self._held = text[len(settled) :]
        return settled

    def end(self) -> str:
        """Return what was held back."""
        return "" if self.is_found else self._held


def _num_begun(text: str, stop: str) -> int:
    """Return how many characters at a text's end are the beginning of a stop text."""
    most = min(len(text), len(stop) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(stop[:size])), 0)


def check_unicode(text: str, what: str) -> None:
    """Refuse half a surrogate pair, which is no character: Python and JSON ("\\ud800") can write it, UTF-8 can't.

    Raises:
        FalconerError: the text has one; its message names its place.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FalconerError(
            f"{what} is not valid Unicode: character {error.start + 1} is U+{ord(text[error.start]):04X}, half of a "
            "surrogate pair.",
            "Remove it.",
        ) from None
