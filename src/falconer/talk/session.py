"""A conversation with a model: what was said so far, and the next reply as it is written."""

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

# What the next tokens may still change in natural text made of Persona-Chat's: the last word, and the letters before it
# that may become initials ("u. s" turns into "U.S." with the next full stop).
_UNSETTLED = re.compile(r"(?:(?<!\S)\w\.?\s+)*\S*$")


@dataclass(slots=True)
class Session:
    """Talks in the style that the model was trained on (the encoder's format knows it), and shows natural text.

    Args:
        engine: of the tuned model.
        persona: who the model is, one sentence each, as a person writes them.
        decoding: how tokens are chosen.
        turns: what was said, in the model's style.

    Raises:
        FalconerError: the persona leaves no room for a conversation.
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
        """Become somebody else and start the conversation anew.

        Raises:
            FalconerError: the persona leaves no room for a conversation; the one before stays.
        """
        if isinstance(persona, str):
            raise TypeError(f"persona must be a list of texts, not one text: {persona!r}")
        lines = tuple(line.strip() for line in persona if line.strip())
        self._prompt(lines, [])
        self.persona = lines
        self.forget()

    def forget(self) -> None:
        """Start the conversation anew with the same persona."""
        self.turns.clear()

    def say(self, text: str) -> str:
        """Hear `text` and return the whole reply; see `reply`."""
        return "".join(self.reply(text))

    def reply(self, text: str) -> Generator[str, None, None]:
        """Hear `text` and yield the reply piece by piece; the pieces join to the whole reply.

        However the reply ends (whoever listens may close the iterator), what was written of it is remembered as said.

        Raises:
            FalconerError: `text` is longer than the model's context; it is forgotten.
        """
        if not isinstance(text, str):
            raise TypeError(f"text must be a text, not {type(text).__name__}: {text!r}")
        heard = [*self.turns, Turn("partner", self._inward(text))]
        prompt = self._prompt(self.persona, heard)
        if prompt == self._prompt(self.persona, []):
            raise FalconerError("That is longer than this model can read at once.", "Say it in fewer words.")
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
                        # Counted first: whoever closes the iterator does so while it waits here.
                        start, num_shown = num_shown, len(settled)
                        yield settled[start:]
            yield self._outward(self.engine.finish(ids).text)[num_shown:]
        finally:
            self.turns.append(Turn("self", self.engine.finish(ids).text or "..."))

    def _settled(self, text: str) -> str:
        """Return what of a reply's text can be shown already: no later token changes it."""
        if self.engine.encoder.format.is_spaced:
            return _UNSETTLED.sub("", self._outward(text)).rstrip()
        # A character may be cut after some of its bytes.
        text = text.rstrip("\ufffd")
        *before, last = text.split("\n")
        is_tag = bool(before) and any(tag.startswith(last.strip()) for tag in TAGS.values())
        return ("\n".join(before) if is_tag else text).rstrip()

    def _prompt(self, persona: Sequence[str], turns: Sequence[Turn]) -> list[int]:
        return self.engine.encoder.encode_prompt(
            tuple(map(self._inward, persona)), turns, reserve=self.decoding.max_new_tokens
        )

    def _inward(self, text: str) -> str:
        # Nothing is left of a text of marks that Persona-Chat does not have; then it stays as it is.
        format = self.engine.encoder.format
        as_trained = partial(spaced, language=format.language)
        return (_by_line(as_trained, text) or text.strip()) if format.is_spaced else text.strip()

    def _outward(self, text: str) -> str:
        format = self.engine.encoder.format
        return _by_line(partial(natural, language=format.language), text) if format.is_spaced else text


def _by_line(restyle: Callable[[str], str], text: str) -> str:
    # A line break is no white space to be collapsed: it means a line of its own.
    return "\n".join(map(restyle, text.split("\n"))).strip()
