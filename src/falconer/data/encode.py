"""Encoding dialogues as token ids, with targets marked by the dialogue's structure and never by token id."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from falconer.data import prompt
from falconer.data.pieces import Piece, Pieces, Place
from falconer.errors import FalconerError
from falconer.records import Dialogue, Example, Turn

# Tokens that are kept of what prompts were encoded to, about 40 MB.
_MOST_REMEMBERED = 2**20


@dataclass(frozen=True, slots=True)
class Truncation:
    """What had to be left out so that examples fit.

    Whole turns, oldest first, some of which were supervised replies; and dialogues whose persona and last reply alone
    do not fit, where those are to be left out.
    """

    num_dialogues: int = 0
    num_turns: int = 0
    num_replies: int = 0
    num_left_out: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt that ends with the opened reply.

    Args:
        num_dropped: turns that did not fit, oldest first.
        own_turns: where in `ids` earlier replies are, (start, end) without end tokens.
    """

    ids: list[int]
    num_dropped: int = 0
    own_turns: tuple[tuple[int, int], ...] = ()


class Encoder:
    """Encodes dialogues with a tokenizer and one end token, keeping what it has seen.

    The ids are those that the tokenizer gives the whole text, what it puts before every text (BOS) included. Text that
    spells a special token ("<|endoftext|>") is encoded as text: data may spell it, only we place it.

    Args:
        tokenizer: the serialised fast tokenizer (`tokenizer.backend_tokenizer.to_str()` in transformers).
        end_id: the model's own end-of-text token.
        max_tokens: longest example; the oldest turns are dropped beyond it, never the persona, never the last reply.
        format: what else the prompts of this model look like; None: they begin as the tokenizer's texts do.
        stop_ids: the model's other end tokens: they stop a reply too, but none is ever learned or placed.

    Raises:
        FalconerError: the tokenizer does not have the format's BOS.
    """

    def __init__(
        self, tokenizer: str, end_id: int, max_tokens: int, format: prompt.PromptFormat | None = None,
        stop_ids: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        self._pieces = Pieces(tokenizer, end_id, format.bos if format else None)
        self._ids: dict[Piece, list[int]] = {}
        self._num_remembered = 0
        self.end_id = end_id
        self.max_tokens = max_tokens
        self.format = format or prompt.PromptFormat(bos=self._pieces.bos)
        self.stop_ids = stop_ids
        self.byte_ids = self._pieces.byte_ids

    def encode(
        self, dialogues: Sequence[Dialogue], *, leave_out: bool = False, partner_too: bool = False
    ) -> tuple[list[Example], Truncation]:
        """Encode whole dialogues, one Example each, with a target on every reply and its end token.

        Args:
            leave_out: leave out and count a dialogue whose persona and last reply alone don't fit into `max_tokens`.
            partner_too: the partner's turns and all tags are targets, too; the persona never is.

        Raises:
            FalconerError: a dialogue without replies, or one that doesn't fit where `leave_out` is off.
        """
        threads = [_thread_of(dialogue) for dialogue in dialogues]
        self._remember(piece for thread in threads if thread.turns for piece in (thread.first(0), *thread.rest))
        if partner_too:
            self._remember(Piece(Place.FIRST, thread.persona_text) for thread in threads)
        examples, cut, turns, replies, left_out = [], 0, 0, 0, 0
        for dialogue, thread in zip(dialogues, threads, strict=True):
            try:
                example, dropped = self._example(dialogue, thread, partner_too)
            except _TooLong:
                if not leave_out:
                    raise
                left_out += 1
                continue
            examples.append(example)
            cut += dropped > 0
            turns += dropped
            replies += sum(index < dropped for index in dialogue.replies)
        return examples, Truncation(cut, turns, replies, left_out)

    def encode_prompt(self, persona: tuple[str, ...], turns: Sequence[Turn], reserve: int = 0) -> list[int]:
        """Encode a persona, a history and the opened reply: an exact prefix of the same dialogue encoded whole.

        Args:
            reserve: tokens to keep free behind the prompt for the reply.

        Raises:
            FalconerError: the persona alone leaves no room.
        """
        return self.encode_fitting(persona, turns, reserve).ids

    def encode_fitting(self, persona: tuple[str, ...], turns: Sequence[Turn], reserve: int = 0) -> Prompt:
        """Encode a prompt as `encode_prompt` does; return it with what did not fit, and where earlier replies are.

        Raises:
            FalconerError: the persona alone leaves no room.
        """
        return self._prompt(_Thread(persona, turns, is_open=True), reserve)

    def encode_prompts(self, asked: Sequence[tuple[tuple[str, ...], Sequence[Turn], int]]) -> list[list[int]]:
        """Encode many prompts as `encode_prompt` does, which takes less time than one by one.

        Args:
            asked: persona, turns and `reserve` of each.

        Raises:
            FalconerError: the persona of one alone leaves no room.
        """
        threads = [_Thread(persona, turns, is_open=True) for persona, turns, _ in asked]
        self._remember(piece for thread in threads for piece in (thread.first(0), *thread.rest))
        return [self._prompt(thread, reserve).ids for thread, (_, _, reserve) in zip(threads, asked, strict=True)]

    def encode_texts(self, texts: Iterable[str]) -> dict[str, list[int]]:
        """Encode many bare texts as `encode_text` does, all at once; nothing of them is kept."""
        pieces = [Piece(Place.REPLY, text) for text in dict.fromkeys(texts)]
        return {piece.text: ids for piece, ids in self._pieces.encode(pieces).items()}

    def _prompt(self, thread: "_Thread", reserve: int) -> Prompt:
        fitting = self._fit(thread, self.max_tokens - reserve)
        if fitting is None:
            persona = thread.persona
            needed = self.max_tokens - self.room(persona)
            raise FalconerError(
                f"The persona leaves no room for a reply of {reserve} tokens: it takes {needed} of {self.max_tokens}.",
                "Shorten the persona, or ask for shorter replies.",
            )
        dropped, pieces = fitting
        ids, own_turns = list(self._pieces.bos_ids), []
        for piece in pieces:
            if piece.place is Place.REPLY:
                own_turns.append((len(ids), len(ids) + len(self._ids[piece])))
            ids += self._with_end(piece)
        # A server's prompts are new ones all the time; what is forgotten is encoded again where it is needed.
        if self._num_remembered > _MOST_REMEMBERED:
            self._ids.clear()
            self._num_remembered = 0
        return Prompt(ids, dropped, tuple(own_turns))

    def encode_text(self, text: str) -> list[int]:
        """Encode a bare text, e.g. one reply as it stands behind its tag (with its leading space)."""
        piece = Piece(Place.REPLY, text)
        self._remember([piece])
        return self._ids[piece]

    def encode_reply(self, text: str) -> list[int]:
        """Encode a reply as it stands behind its tag in a dialogue, with its end token."""
        return [*self.encode_text(f" {text.strip()}"), self.end_id]

    def encode_start(self, text: str) -> list[int]:
        """Encode a bare text as the tokenizer does, BOS included; nothing of it is kept."""
        piece = Piece(Place.FIRST, text)
        return [*self._pieces.bos_ids, *self._pieces.encode([piece])[piece]]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens as they are spelled."""
        return self._pieces.decode(ids)

    def line_break(self) -> list[int]:
        """Return the token of a line break in a list; none where it is not one token, or gets lost in the tokenizer."""
        ids = self.encode_text("\n")
        return ids if len(ids) == 1 and "\n" in self._pieces.decode(ids) else []

    def unknown_ids(self, num_rows: int) -> list[int]:
        """Return which of so many ids of a model stand for no text: its embedding may have more rows than texts use."""
        return [number for number in range(num_rows) if number not in self._pieces.known_ids]

    def fits(self, dialogue: Dialogue) -> bool:
        """Tell whether a dialogue can become an example: it has a reply, and persona and last reply fit."""
        return bool(dialogue.replies) and self._fit(_thread_of(dialogue), self.max_tokens) is not None

    def room(self, persona: tuple[str, ...], turns: Sequence[Turn] = ()) -> int:
        """Return the tokens that a persona, turns and the tag of a reply leave free; fewer than 0 if too many."""
        thread = _Thread(persona, turns, is_open=True)
        pieces = [thread.first(0), *thread.rest]
        self._remember(pieces)
        return self.max_tokens - self._size(pieces)

    def _example(self, dialogue: Dialogue, thread: "_Thread", partner_too: bool) -> tuple[Example, int]:
        if not dialogue.replies:
            raise _TooLong(
                f"Dialogue '{dialogue.id}' has no reply to learn: it has no turn of the speaker 'self'.",
                "Add such a turn, or leave such dialogues out with --on-bad-row skip.",
            )
        fitting = self._fit(thread, self.max_tokens)
        if fitting is None:
            raise self._too_long(dialogue)
        dropped, pieces = fitting
        ids = list(self._pieces.bos_ids)
        is_target = [False] * len(ids)
        starts, ends = [], []
        kept = iter(turn for turn in thread.turns[dropped:] if turn.speaker == "self")
        for piece in pieces:
            is_learned = piece.place is Place.REPLY and next(kept).is_learned
            if is_learned:
                starts.append(len(ids))
            ids += self._with_end(piece)
            if is_learned:
                ends.append(len(ids))
            if piece.place is Place.FIRST and partner_too:
                is_target += [False] * self._persona_size(thread, piece)
            is_target += [is_learned or (partner_too and piece.place is not Place.REPLY)] * (len(ids) - len(is_target))
        is_target[0] = False  # nothing stands before it
        example = Example(
            ids=np.array(ids, dtype=np.int32),
            is_target=np.array(is_target, dtype=bool),
            dialogue_id=dialogue.id,
            reply_starts=tuple(starts),
            reply_ends=tuple(ends),
            turn_indices=tuple(index for index in dialogue.replies if index >= dropped),
        )
        return example, dropped

    def _persona_size(self, thread: "_Thread", first: Piece) -> int:
        """Return how many tokens of a dialogue's first piece are those of the persona alone."""
        alone = self._ids[Piece(Place.FIRST, thread.persona_text)]
        pairs = zip(alone, self._ids[first], strict=False)
        return next((place for place, (one, other) in enumerate(pairs) if one != other), len(alone))

    def _fit(self, thread: "_Thread", limit: int) -> tuple[int, list[Piece]] | None:
        """Return the fewest turns to drop and the pieces that are left; None where nothing fits."""
        self._remember(thread.rest)
        sizes = [len(self._with_end(piece)) for piece in thread.rest]
        behind = list(accumulate(reversed(sizes), initial=0))[::-1]

        def fits(dropped: int) -> bool:
            rest = behind[thread.place_of(dropped)]
            if rest > limit:
                return False
            first = thread.first(dropped)
            self._remember([first])
            return self._size([first]) + rest <= limit

        # Most dialogues fit whole; only for the others do shortened first pieces have to be tokenised.
        dropped = 0 if fits(0) else bisect_left(range(thread.num_choices), True, key=fits)
        if dropped == thread.num_choices:
            return None
        return dropped, [thread.first(dropped), *thread.rest[thread.place_of(dropped) :]]

    def _size(self, pieces: Iterable[Piece]) -> int:
        return len(self._join(pieces))

    def _join(self, pieces: Iterable[Piece]) -> list[int]:
        ids = list(self._pieces.bos_ids)
        for piece in pieces:
            ids += self._with_end(piece)
        return ids

    def _with_end(self, piece: Piece) -> list[int]:
        ids = self._ids[piece]
        return [*ids, self.end_id] if piece.place is Place.REPLY else ids

    def _remember(self, pieces: Iterable[Piece]) -> None:
        # Each piece is tokenised once, in one batch.
        new = list(dict.fromkeys(piece for piece in pieces if piece not in self._ids))
        if new:
            encoded = self._pieces.encode(new)
            self._ids.update(encoded)
            self._num_remembered += sum(map(len, encoded.values()))

    def _too_long(self, dialogue: Dialogue) -> "_TooLong":
        index = dialogue.replies[-1]
        reply = len(self.encode_text(f" {dialogue.turns[index].text.strip()}")) + 1
        persona = self.max_tokens - self.room(dialogue.persona)
        needed = f"{persona + reply} tokens are needed, {self.max_tokens} allowed"
        other = "raise data.max_tokens as far as the model's context goes, or leave it out with data.on_bad_row=skip."
        if persona > reply:
            return _TooLong(
                f"The persona in dialogue '{dialogue.id}' leaves no room for a reply: {needed} "
                f"(persona {persona}, last reply {reply}).",
                f"Shorten the persona, {other}",
            )
        return _TooLong(
            f"The reply at turn {index} (from 0) of dialogue '{dialogue.id}' is too long: {needed} "
            f"(reply {reply}, persona and tag {persona}).",
            f"Shorten the reply, {other}",
        )


def check_examples(examples: Sequence[Example], end_id: int, *, partner_too: bool = False) -> None:
    """Refuse examples that could not teach a model when to stop.

    Args:
        partner_too: see `Encoder.encode`; else there are no targets but those of replies.

    Raises:
        FalconerError: there is no example, one has no target, or a supervised reply lacks its supervised end token.
    """
    if not examples:
        raise FalconerError("There are no dialogues to learn from.", "Check data.train with: falconer data stats FILE.")
    for example in examples:
        if not example.num_targets:
            raise FalconerError(f"Dialogue '{example.dialogue_id}' has no target token.", "Remove it from the data.")
        replies = list(zip(example.reply_starts, example.reply_ends, strict=True))
        is_whole = all(example.is_target[start:end].all() and example.ids[end - 1] == end_id for start, end in replies)
        if not is_whole or (example.num_targets != sum(example.reply_sizes) and not partner_too):
            raise FalconerError(
                f"Dialogue '{example.dialogue_id}' has a supervised reply without a supervised end token.",
                "A model trained on it would never stop; encode it with falconer.data.encode.Encoder.",
            )


class _TooLong(FalconerError):
    """A dialogue that cannot become an example."""


class _Thread:
    """A persona and turns, cut into pieces; the first one depends on how many of the oldest turns are dropped.

    Args:
        is_open: behind the last turn a reply is opened; else the last turn is a reply.
    """

    def __init__(self, persona: tuple[str, ...], turns: Sequence[Turn], *, is_open: bool) -> None:
        self.persona = persona
        self.turns = turns
        self.num_choices = len(turns) + is_open
        replies = [index for index, turn in enumerate(turns) if turn.speaker == "self"]
        # For each number of dropped turns, how many replies go with them.
        self._gone = list(accumulate((turn.speaker == "self" for turn in turns), initial=0))
        self._ends = [*replies, len(turns)]
        self.rest: list[Piece] = []
        for number, index in enumerate(replies):
            self.rest.append(Piece(Place.REPLY, prompt.turn_spans(turns[index], first=False)[-1].text))
            if number + 1 < len(replies) or is_open:
                between = self._context(turns[index + 1 : self._ends[number + 1]])
                self.rest.append(Piece(Place.BEHIND_END, between))

    @property
    def persona_text(self) -> str:
        return "".join(span.text for span in prompt.persona_spans(self.persona))

    def first(self, dropped: int) -> Piece:
        """Return what stands before the first reply that is left."""
        turns = self.turns[dropped : self._ends[self._gone[dropped]]]
        if self.persona:
            return Piece(Place.FIRST, self.persona_text + self._context(turns))
        return Piece(Place.FIRST, self._context(turns).removeprefix("\n"))

    def place_of(self, dropped: int) -> int:
        """Return where in `rest` the first reply stands that is left."""
        return min(2 * self._gone[dropped], len(self.rest))

    @staticmethod
    def _context(turns: Sequence[Turn]) -> str:
        spans = [span for turn in turns for span in prompt.turn_spans(turn, first=False)]
        return "".join(span.text for span in (*spans, prompt.opening(first=False)))


def _thread_of(dialogue: Dialogue) -> _Thread:
    # What stands behind the last reply costs time and teaches nothing.
    turns = dialogue.turns[: dialogue.replies[-1] + 1] if dialogue.replies else ()
    return _Thread(dialogue.persona, turns, is_open=False)
