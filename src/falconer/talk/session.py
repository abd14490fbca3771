"""A conversation in the terminal or in Python: persona, turns, and the next reply, streamed as it is generated."""

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from falconer.data.encode import Prompt
from falconer.data.text import is_spaced, restyle
from falconer.errors import FalconerError
from falconer.model.engine import Conversation, Decoding, Engine, Request
from falconer.records import Dialogue, Turn
from falconer.talk.text import ReplyText, Writer

# The turn of a reply without text, which the model would have to see as a reply of nothing.
SILENCE = "..."


@dataclass(slots=True)
class Session:
    """A conversation with a model, all of it in natural text.

    Args:
        engine: the engine of the tuned model.
        persona: sentences about the speaker that the model plays.
        decoding: how tokens are chosen.
        turns: the turns so far, as they were typed and shown.
        is_base: the base model replies, without the adapter; may be changed at any time.

    Attributes:
        num_dropped: the oldest turns that the last reply has not seen, since they no longer fit into the context.

    Raises:
        FalconerError: the persona is so long that no tokens are left for a conversation.
    """

    engine: Engine
    persona: Sequence[str]
    decoding: Decoding
    turns: list[Turn] = field(default_factory=list)
    is_base: bool = False
    num_dropped: int = field(default=0, init=False)
    _writer: Writer = field(init=False, repr=False)
    _conversations: dict[bool, Conversation] = field(default_factory=dict, init=False, repr=False)
    # How often the last message was answered before, so that a sampled reply to it is a new one.
    _attempt: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        self._writer = Writer(self.engine.encoder)
        turns, self.turns = self.turns, []
        self.change_persona(self.persona)
        self.turns = turns

    def change_persona(self, persona: Sequence[str]) -> None:
        """Change the persona and start a new conversation.

        Raises:
            FalconerError: the persona is too long for a conversation, or not valid Unicode; the old one is kept.
        """
        if isinstance(persona, str):
            raise TypeError(f"persona must be a list of texts, not one text: {persona!r}")
        self.continue_from(Dialogue("", tuple(persona), ()))

    def continue_from(self, dialogue: Dialogue) -> None:
        """Replace persona and turns by those of a dialogue, whatever style its text is in.

        Raises:
            FalconerError: its persona is too long for a conversation, or a text is not valid Unicode; nothing changes.
        """
        if is_spaced(turn.text for turn in dialogue.turns):
            dialogue = restyle(dialogue, "natural", self.engine.encoder.format.language)
        lines = tuple(line.strip() for line in dialogue.persona if line.strip())
        self._writer.prompt(lines, (), self.decoding.max_new_tokens)
        for turn in dialogue.turns:
            self._writer.as_trained(turn.text, "A turn")
        self.persona = lines
        self.forget()
        self.turns.extend(Turn(turn.speaker, turn.text.strip()) for turn in dialogue.turns)

    def dialogue(self, id: str = "chat") -> Dialogue:
        """Return the conversation as a dialogue, which can be saved, loaded and learned from.

        Raises:
            FalconerError: there is no reply yet.
        """
        if not any(turn.speaker == "self" for turn in self.turns):
            raise FalconerError("There is no reply to save yet.", "Talk first.")
        return Dialogue(id, tuple(self.persona), tuple(self.turns))

    def forget(self) -> None:
        """Start a new conversation with the same persona."""
        self.turns.clear()
        self.num_dropped = self._attempt = 0

    def undo(self) -> str:
        """Take back the last message and its reply, and return the message.

        Raises:
            FalconerError: there is no message.
        """
        place = self._last_message()
        message = self.turns[place].text
        del self.turns[place:]
        self._attempt = 0
        return message

    def say(self, text: str) -> str:
        """Return the whole reply to `text`; see `reply`."""
        return "".join(self.reply(text))

    def reply(self, text: str) -> Generator[str, None, None]:
        """Yield the reply to `text` in pieces, as it is generated; together they are the whole reply.

        If the iterator is closed early, the part that was yielded becomes the turn.

        Raises:
            FalconerError: `text` is empty, not valid Unicode, or longer than the model's context; it is not added to
                the turns.
        """
        heard = self._with(text)
        return self._reply_to(heard, self._prompt(heard))

    def both(self, text: str) -> Generator[tuple[bool, str], None, None]:
        """Yield the replies of the tuned and of the base model to `text` in turn, as (is it the base's, piece).

        The conversation goes on with the reply of the model that replies at the moment (`is_base`). Everything else is
        as in `reply`.
        """
        heard = self._with(text)
        return self._replies(heard, self._prompt(heard), (False, True))

    def retry(self) -> Generator[str, None, None]:
        """Yield another reply to the last message instead of the one it got; greedy decoding repeats its reply.

        Raises:
            FalconerError: there is no message.
        """
        heard = self.turns[: self._last_message() + 1]
        self._attempt += len(heard) < len(self.turns)
        return self._reply_to(heard, self._prompt(heard))

    def _with(self, text: str) -> list[Turn]:
        if not isinstance(text, str):
            raise TypeError(f"text must be a text, not {type(text).__name__}: {text!r}")
        if not text.strip():
            raise FalconerError("The message is empty.", "Write at least one character.")
        self._attempt = 0
        return [*self.turns, Turn("partner", text.strip())]

    def _last_message(self) -> int:
        places = [place for place, turn in enumerate(self.turns) if turn.speaker == "partner"]
        if not places:
            raise FalconerError("There is no message yet.", "Type one.")
        return places[-1]

    def _prompt(self, heard: Sequence[Turn]) -> Prompt:
        return self._writer.prompt(self.persona, heard, self.decoding.max_new_tokens)

    def _reply_to(self, heard: list[Turn], prompt: Prompt) -> Generator[str, None, None]:
        with closing(self._replies(heard, prompt, (self.is_base,))) as pieces:
            for _, piece in pieces:
                yield piece

    def _replies(
        self, heard: list[Turn], prompt: Prompt, models: Sequence[bool]
    ) -> Generator[tuple[bool, str], None, None]:
        """Yield (model, piece) of each model's reply, a token of each at a time; one of them becomes the turn."""
        before, self.turns, self.num_dropped = self.turns, heard, prompt.num_dropped
        replies = {is_base: self._writer.reply() for is_base in models}
        shown = dict.fromkeys(models, "")
        kept, has_failed = self.is_base, False
        try:
            with ExitStack() as opened:
                streams = {}
                for is_base in models:
                    request = Request(prompt.ids, self.decoding, self._attempt, prompt.own_turns)
                    tokens = self._conversation(is_base).reply(request)
                    streams[is_base] = opened.enter_context(closing(tokens))
                while streams:
                    for is_base in list(streams):
                        piece = _advance(streams, is_base, replies[is_base])
                        if piece:
                            # Before the yield, where the iterator may be closed.
                            shown[is_base] += piece
                            yield is_base, piece
        except FalconerError:
            has_failed = True
            raise
        finally:
            if has_failed and not shown[kept]:
                self.turns = before
            else:
                self.turns.append(Turn("self", shown[kept].strip() or SILENCE))

    def _conversation(self, is_base: bool) -> Conversation:
        # Each model has a prefix cache of its own, which outlives a change to the other model.
        if is_base not in self._conversations:
            engine = self.engine.base if is_base else self.engine
            self._conversations[is_base] = engine.conversation()
        return self._conversations[is_base]


def _advance(streams: dict[bool, Generator[int, None, None]], is_base: bool, reply: ReplyText) -> str:
    """Take a token of a stream, and return the next piece of its reply; the stream is removed where the reply ends."""
    token = next(streams[is_base], None)
    piece = reply.end() if token is None else reply.add([token])
    if reply.is_over:
        streams.pop(is_base).close()
    return piece
