"""The running batch of an engine: its requests are checked, and errors of memory become messages for the user."""

from collections.abc import Sequence
from dataclasses import replace

from falconer.errors import FalconerError
from falconer.model.generate.running import Running
from falconer.model.kept import Kept
from falconer.model.limits import Limits
from falconer.model.request import Joining, Said, Writing


class RunningBatch:
    """The running batch of an engine, from `Engine.running`.

    Args:
        adapters: the names of the adapters that requests may have.
    """

    def __init__(self, kept: Kept, limits: Limits, running: Running, adapters: Sequence[str]) -> None:
        self._kept, self._limits, self._running, self.adapters = kept, limits, running, tuple(adapters)

    @property
    def num_slots(self) -> int:
        """The maximum number of replies at the same time."""
        return self._running.num_slots

    @property
    def num_running(self) -> int:
        """Replies that are being generated."""
        return self._running.num_running

    @property
    def notes(self) -> tuple[str, ...]:
        """What slows the model down here, in sentences for the user."""
        return self._running.notes

    def join(self, asked: Sequence[Joining]) -> list[Writing]:
        """Compute the prompts of requests and their replies' first tokens; all of them join, or none.

        Raises:
            FalconerError: a request has an unknown token or adapter, beams, or is longer than the context, there are
                not enough free slots, or memory is too short; the replies that are running go on.
        """
        for joining in asked:
            if joining.adapter is not None and joining.adapter not in self.adapters:
                raise FalconerError(
                    f"No adapter '{joining.adapter}' is loaded.", f"Loaded are: {', '.join(self.adapters) or 'none'}."
                )
            if joining.request.decoding.num_beams > 1:
                raise FalconerError(
                    "A running batch sends each token at once, which beam search can't do.",
                    "Ask for the reply with Engine.tokens, or set num_beams=1.",
                )
        most = self._limits.talk_tokens
        prepared = [replace(joining, request=self._limits.prepared(joining.request, most)) for joining in asked]
        return self._kept.step(lambda: self._running.join(prepared))

    def step(self) -> list[tuple[Writing, Said]]:
        """Give every running reply its next token, and return all tokens that have not been returned before.

        Raises:
            FalconerError: memory has no room for it.
        """
        return self._kept.step(self._running.step)

    def leave(self, writing: Writing) -> None:
        """End a reply; nothing happens if it has ended already."""
        with self._kept.lock:
            self._running.leave(writing)
