"""A chat session: the persona, the turns so far, and the next reply, streamed as it is generated."""

import re
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial

from falconer.data.prompt import TAGS
from falconer.data.text import natural, spaced
from falconer.errors import FalconerError
from falconer.model.engine import Conversation, Decoding, Engine, Request
from falconer.records import Turn

# The end of a natural text that later tokens may still change: the last word, and letters before it that may become
# initials ("u. s" becomes "U.S." with the next full stop).
_UNSETTLED = re.compile(r"(?:(?<!\S)\w\.?\s+)*\S*$")


@dataclass(slots=True)
class Session:
    """A conversation with a model. Text is converted to the style of the training data and back to natural text.

    Args:
        engine: the engine of the tuned model.
        persona: sentences about the speaker that the model plays, in natural text.
        decoding: how tokens are chosen.
        turns: the turns so far, in the style of the training data.

    Raises:
        FalconerError: the persona is so long that no tokens are left for a conversation.
    """

    engine: Engine
    persona: Sequence[str]
    decoding: Decoding
    turns: list[Turn] = field(default_factory=list)
    _conversation: Conversation = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._conversation = self.engine.conversation()
        self.change_persona(self.persona)

    def change_persona(self, persona: Sequence[str]) -> None:
        """Change the persona and start a new conversation.

        Raises:
            FalconerError: the persona is too long for a conversation; the old one is kept.
        """
        lines = tuple(line.strip() for line in persona if line.strip())
        self._prompt(lines, [])
        self.persona = lines
        self.forget()

    def forget(self) -> None:
        """Start a new conversation with the same persona."""
        self.turns.clear()

    def say(self, text: str) -> str:
        """Return the whole reply to `text`; see `reply`."""
        return "".join(self.reply(text))

    def reply(self, text: str) -> Generator[str, None, None]:
        """Yield the reply to `text` in pieces, as it is generated; together they are the whole reply.

        If the iterator is closed early, the part that was generated becomes the turn.

        Raises:
            FalconerError: `text` is longer than the model's context; it is not added to the turns.
        """
        heard = [*self.turns, Turn("partner", self._inward(text))]
        prompt = self._prompt(self.persona, heard)
        if prompt == self._prompt(self.persona, []):
            raise FalconerError("Your message is longer than the model's context.", "Write a shorter one.")
        self.turns = heard
        ids: list[int] = []
        num_shown = 0
        try:
            with closing(self._conversation.reply(Request(prompt, self.decoding))) as tokens:
                for token in tokens:
                    ids.append(token)
                    reply = self.engine.finish(ids)
                    if reply.ran_on:
                        break
                    settled = self._settled(reply.text)
                    if len(settled) > num_shown:
                        # Updated before the yield, where the iterator may be closed.
                        start, num_shown = num_shown, len(settled)
                        yield settled[start:]
            yield self._outward(self.engine.finish(ids).text)[num_shown:]
        finally:
            self.turns.append(Turn("self", self.engine.finish(ids).text or "..."))

    def _settled(self, text: str) -> str:
        """Return the part of a reply's text that no later token can change, so that it can be shown."""
        if self.engine.encoder.format.is_spaced:
            return _UNSETTLED.sub("", self._outward(text)).rstrip()
        # The last character may be incomplete: some of its bytes are still to come.
        text = text.rstrip("\ufffd")
        *before, last = text.split("\n")
        is_tag = bool(before) and any(tag.startswith(last.strip()) for tag in TAGS.values())
        return ("\n".join(before) if is_tag else text).rstrip()

    def _prompt(self, persona: Sequence[str], turns: Sequence[Turn]) -> list[int]:
        return self.engine.encoder.encode_prompt(
            tuple(map(self._inward, persona)), turns, reserve=self.decoding.max_new_tokens
        )

    def _inward(self, text: str) -> str:
        # A text of characters that Persona-Chat does not use would become empty; it is kept as it is.
        format = self.engine.encoder.format
        as_trained = partial(spaced, language=format.language)
        return (_by_line(as_trained, text) or text.strip()) if format.is_spaced else text.strip()

    def _outward(self, text: str) -> str:
        format = self.engine.encoder.format
        return _by_line(partial(natural, language=format.language), text) if format.is_spaced else text


def _by_line(restyle: Callable[[str], str], text: str) -> str:
    # Line by line, since a line break is not white space to be collapsed.
    return "\n".join(map(restyle, text.split("\n"))).strip()
