"""From dialogues to token ids, each span on its own, with the targets marked by structure and never by token id."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from tokenizers import Tokenizer

from falconer.data import prompt
from falconer.errors import FalconerError
from falconer.records import Dialogue, Example, Span, Turn

_FALCON_FORMAT = prompt.PromptFormat()


@dataclass(frozen=True, slots=True)
class Truncation:
    """What had to be left out so that examples fit: whole turns, oldest first; some of them were supervised replies."""

    num_dialogues: int = 0
    num_turns: int = 0
    num_replies: int = 0


class Encoder:
    """Encodes spans with a tokenizer and one end token, keeping what it has seen.

    Text that spells a special token ("<|endoftext|>") is encoded as text: data may spell it, only we place it.

    Args:
        tokenizer: the serialised fast tokenizer (`tokenizer.backend_tokenizer.to_str()` in transformers).
        end_id: the model's own end-of-text token.
        max_tokens: longest example; the oldest turns are dropped beyond it, never the persona, never the last reply.
        format: what else the prompts of this model look like.
    """

    def __init__(
        self, tokenizer: str, end_id: int, max_tokens: int, format: prompt.PromptFormat = _FALCON_FORMAT
    ) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True
        self._ids: dict[str, list[int]] = {}
        self.end_id = end_id
        self.max_tokens = max_tokens
        self.format = format

    def encode(self, dialogues: Sequence[Dialogue]) -> tuple[list[Example], Truncation]:
        """Encode whole dialogues, one Example each, with a target on every reply and its end token.

        Raises:
            FalconerError: a dialogue without replies, or a persona and last reply that don't fit into `max_tokens`.
        """
        self._remember(chain.from_iterable(prompt.render(dialogue) for dialogue in dialogues))
        examples, cut, turns, replies = [], 0, 0, 0
        for dialogue in dialogues:
            example, dropped = self._example(dialogue)
            examples.append(example)
            cut += dropped > 0
            turns += dropped
            replies += sum(index < dropped for index in dialogue.replies)
        return examples, Truncation(cut, turns, replies)

    def encode_prompt(self, persona: tuple[str, ...], turns: Sequence[Turn], reserve: int = 0) -> list[int]:
        """Encode a persona, a history and the opened reply: an exact prefix of the same dialogue encoded whole.

        Args:
            reserve: tokens to keep free behind the prompt for the reply.

        Raises:
            FalconerError: the persona alone leaves no room.
        """
        head = self._join(prompt.persona_spans(persona))
        limit = self.max_tokens - reserve
        for dropped in range(len(turns) + 1):
            spans = self._turns(persona, turns[dropped:])
            body = self._join(spans + [prompt.opening(first=not persona and not spans)])
            if len(head) + len(body) <= limit:
                return head + body
        raise _persona_too_long(len(head), limit)

    def encode_text(self, text: str) -> list[int]:
        """Encode a bare text, e.g. one reply as it stands behind its tag (with its leading space)."""
        self._remember([Span(text, is_target=False)])
        return self._ids[text]

    def unknown_ids(self, num_rows: int) -> list[int]:
        """Return which of so many ids of a model stand for no text: its embedding may have more rows than texts use."""
        known = set(self._tokenizer.get_vocab().values())
        return [number for number in range(num_rows) if number not in known]

    def _turns(self, persona: tuple[str, ...], turns: Sequence[Turn]) -> list[Span]:
        spans: list[Span] = []
        for turn in turns:
            spans += prompt.turn_spans(turn, first=not persona and not spans)
        return spans

    def _example(self, dialogue: Dialogue) -> tuple[Example, int]:
        replies = dialogue.replies
        if not replies:
            raise FalconerError(
                f"Dialogue '{dialogue.id}' has no reply of the persona's owner to learn from.",
                "Give it a turn of speaker 'self', or load with --on-bad-row skip.",
            )
        # What stands behind the last reply costs time and teaches nothing.
        turns = dialogue.turns[: replies[-1] + 1]
        head = self._join(prompt.persona_spans(dialogue.persona))
        for dropped in range(len(turns)):
            spans = self._turns(dialogue.persona, turns[dropped:])
            # Length of every span's ids, its end token included.
            lengths = [len(self._ids[span.text]) + span.ends_turn for span in spans]
            if len(head) + sum(lengths) <= self.max_tokens:
                break
        else:
            raise _persona_too_long(len(head) + sum(lengths), self.max_tokens, dialogue.id)
        is_target = [False] * len(head)
        starts = []
        for span, length in zip(spans, lengths, strict=True):
            if span.is_target:
                starts.append(len(is_target))
            is_target += [span.is_target] * length
        example = Example(
            ids=np.array(head + self._join(spans), dtype=np.int32),
            is_target=np.array(is_target, dtype=bool),
            dialogue_id=dialogue.id,
            reply_starts=tuple(starts),
            turn_indices=tuple(index for index in replies if index >= dropped),
        )
        return example, dropped

    def _join(self, spans: Sequence[Span]) -> list[int]:
        self._remember(spans)
        ids: list[int] = []
        for span in spans:
            ids += self._ids[span.text]
            if span.ends_turn:
                ids.append(self.end_id)
        return ids

    def _remember(self, spans: Iterable[Span]) -> None:
        # Each utterance is tokenised once, in one batch: dialogues seen from both sides share all their text.
        new = list(dict.fromkeys(span.text for span in spans if span.text not in self._ids))
        if new:
            encodings = self._tokenizer.encode_batch_fast(new, add_special_tokens=False)
            self._ids.update(zip(new, (encoding.ids for encoding in encodings), strict=True))


def check_examples(examples: Sequence[Example], end_id: int) -> None:
    """Refuse examples that could not teach a model when to stop.

    Raises:
        FalconerError: there is no example, one has no target, or a supervised reply lacks its supervised end token.
    """
    if not examples:
        raise FalconerError("There are no dialogues to learn from.", "Check data.train with: falconer data stats FILE.")
    for example in examples:
        if not example.is_target.any():
            raise FalconerError(f"Dialogue '{example.dialogue_id}' has no target token.", "Remove it from the data.")
        # A reply's targets are one run of True; the run must end with the end token.
        run_ends = np.flatnonzero(example.is_target & ~np.append(example.is_target[1:], False))
        if len(run_ends) != len(example.reply_starts) or (example.ids[run_ends] != end_id).any():
            raise FalconerError(
                f"Dialogue '{example.dialogue_id}' has a supervised reply without a supervised end token.",
                "A model trained on it would never stop; encode it with falconer.data.encode.Encoder.",
            )


def _persona_too_long(needed: int, allowed: int, dialogue_id: str = "") -> FalconerError:
    where = f" in dialogue '{dialogue_id}'" if dialogue_id else ""
    return FalconerError(
        f"The persona{where} leaves no room for a reply: {needed} tokens are needed, {allowed} allowed.",
        "Shorten the persona or raise data.max_tokens.",
    )
