"""A conversation with a model: what was said so far, and the next reply as it is written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from falconer.data.encode import Encoder
from falconer.data.text import natural, spaced
from falconer.model.generate import Decoding, finish, stream_reply
from falconer.records import Turn


@dataclass(slots=True)
class Session:
    """Talks in the style that the model was trained on, and shows natural text.

    Args:
        model, tokenizer, encoder: the tuned model and what training used.
        persona: who the model is, one sentence each, as a person writes them.
        decoding: how tokens are chosen.
        text_style: "raw" where the model learned Persona-Chat's lower-case, spaced text; "natural" otherwise.
        autocast: number format of the arithmetic, or None for the weights' own.
    """

    model: Any
    tokenizer: Any
    encoder: Encoder
    persona: Sequence[str]
    decoding: Decoding
    text_style: str
    autocast: torch.dtype | None = None
    turns: list[Turn] = field(default_factory=list)

    def reply(self, text: str) -> Iterator[str]:
        """Hear `text` and yield the reply piece by piece; the pieces join to the whole reply."""
        self.turns.append(Turn("partner", self._inward(text)))
        prompt = self.encoder.encode_prompt(
            tuple(self._inward(line) for line in self.persona), self.turns, reserve=self.decoding.max_new_tokens
        )
        ids: list[int] = []
        shown = ""
        for token in stream_reply(self.model, self.encoder, prompt, self.decoding, self.autocast):
            ids.append(token)
            text_now = self._outward(finish(self.tokenizer, ids, self.encoder.end_id).text)
            # A half-written character or word may still change: show only what the next token can't take back.
            stable = text_now.rpartition(" ")[0]
            if len(stable) > len(shown) and stable.startswith(shown):
                yield stable[len(shown) :]
                shown = stable
        reply = finish(self.tokenizer, ids, self.encoder.end_id).text
        self.turns.append(Turn("self", reply or "..."))
        final = self._outward(reply)
        if final.startswith(shown):
            yield final[len(shown) :]

    def forget(self) -> None:
        """Start the conversation anew with the same persona."""
        self.turns.clear()

    def _inward(self, text: str) -> str:
        return spaced(text) if self.text_style == "raw" else text.strip()

    def _outward(self, text: str) -> str:
        return natural(text) if self.text_style == "raw" else text
