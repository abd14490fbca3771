"""A conversation with a model: what was said so far, and the next reply as it is written."""

import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from falconer.data.encode import Encoder
from falconer.data.prompt import TAGS
from falconer.data.text import natural, spaced
from falconer.errors import FalconerError
from falconer.model.generate.cut import Reply, finish
from falconer.model.generate.replies import Decoding, stream_reply
from falconer.records import Turn

# What the next tokens may still change in natural text made of Persona-Chat's: the last word, and the letters before it
# that may become initials ("u. s" turns into "U.S." with the next full stop).
_UNSETTLED = re.compile(r"(?:(?<!\S)\w\.?\s+)*\S*$")


@dataclass(slots=True)
class Session:
    """Talks in the style that the model was trained on (the encoder's format knows it), and shows natural text.

    Args:
        model, tokenizer, encoder: the tuned model and what training used.
        persona: who the model is, one sentence each, as a person writes them.
        decoding: how tokens are chosen.
        autocast: number format of the arithmetic, or None for the weights' own.
        turns: what was said, in the model's style.

    Raises:
        FalconerError: the persona leaves no room for a conversation.
    """

    model: Any
    tokenizer: Any
    encoder: Encoder
    persona: Sequence[str]
    decoding: Decoding
    autocast: torch.dtype | None = None
    turns: list[Turn] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.change_persona(self.persona)

    def change_persona(self, persona: Sequence[str]) -> None:
        """Become somebody else and start the conversation anew.

        Raises:
            FalconerError: the persona leaves no room for a conversation; the one before stays.
        """
        lines = tuple(line.strip() for line in persona if line.strip())
        self._prompt(lines, [])
        self.persona = lines
        self.forget()

    def forget(self) -> None:
        """Start the conversation anew with the same persona."""
        self.turns.clear()

    def reply(self, text: str) -> Generator[str, None, None]:
        """Hear `text` and yield the reply piece by piece; the pieces join to the whole reply.

        However the reply ends (whoever listens may close the iterator), what was written of it is remembered as said.

        Raises:
            FalconerError: `text` is longer than the model's context; it is forgotten.
        """
        heard = [*self.turns, Turn("partner", self._inward(text))]
        prompt = self._prompt(self.persona, heard)
        if prompt == self._prompt(self.persona, []):
            raise FalconerError("That is longer than this model can read at once.", "Say it in fewer words.")
        self.turns = heard
        ids: list[int] = []
        num_shown = 0
        try:
            for token in stream_reply(self.model, self.encoder, prompt, self.decoding, self.autocast):
                ids.append(token)
                reply = self._reply(ids)
                if reply.ran_on:
                    break
                settled = self._settled(reply.text)
                if len(settled) > num_shown:
                    # Counted first: whoever closes the iterator does so while it waits here.
                    start, num_shown = num_shown, len(settled)
                    yield settled[start:]
            yield self._outward(self._reply(ids).text)[num_shown:]
        finally:
            self.turns.append(Turn("self", self._reply(ids).text or "..."))

    def _settled(self, text: str) -> str:
        """Return what of a reply's text can be shown already: no later token changes it."""
        if self.encoder.format.is_spaced:
            return _UNSETTLED.sub("", self._outward(text)).rstrip()
        # A character may be cut after some of its bytes.
        text = text.rstrip("\ufffd")
        *before, last = text.split("\n")
        is_tag = bool(before) and any(tag.startswith(last.strip()) for tag in TAGS.values())
        return ("\n".join(before) if is_tag else text).rstrip()

    def _reply(self, ids: list[int]) -> Reply:
        return finish(self.tokenizer, ids, self.encoder)

    def _prompt(self, persona: Sequence[str], turns: Sequence[Turn]) -> list[int]:
        return self.encoder.encode_prompt(
            tuple(map(self._inward, persona)), turns, reserve=self.decoding.max_new_tokens
        )

    def _inward(self, text: str) -> str:
        # Nothing is left of a text of marks that Persona-Chat does not have; then it stays as it is.
        format = self.encoder.format
        as_trained = partial(spaced, language=format.language)
        return (_by_line(as_trained, text) or text.strip()) if format.is_spaced else text.strip()

    def _outward(self, text: str) -> str:
        format = self.encoder.format
        return _by_line(partial(natural, language=format.language), text) if format.is_spaced else text


def _by_line(restyle: Callable[[str], str], text: str) -> str:
    # A line break is no white space to be collapsed: it means a line of its own.
    return "\n".join(map(restyle, text.split("\n"))).strip()
