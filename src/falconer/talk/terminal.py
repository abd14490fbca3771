"""`falconer chat`: the chat in a terminal, with streamed replies and commands such as /persona."""

import re
from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from falconer.consoles import counted, visible
from falconer.errors import FalconerError
from falconer.talk.terminal_commands import COMMANDS, obey, replier
from falconer.talk.terminal_input import Read, keep_keys, reader
from falconer.talk.terminal_screen import BASE, TUNED, Reply, SideBySide, persona_panel

if TYPE_CHECKING:
    from falconer.talk.session import Session

_HALF = re.compile(r"[\ud800-\udfff]")

DEFAULT_PERSONA = (
    "I have two dogs.",
    "I work as a teacher.",
    "I love to cook Italian food.",
    "My favorite color is green.",
)


def talk(session: "Session", console: Console, *, title: str = "falconer chat", read: Read | None = None) -> None:
    """Read messages and stream replies until the user leaves.

    Args:
        title: the heading above the persona.
        read: reads the next message; raises EOFError at the end.
    """
    read = read or reader(console, COMMANDS)
    console.print(persona_panel(session.persona, title))
    console.print(
        "Type a message and press Enter. /help lists the commands, Ctrl-C stops a reply, Ctrl-D quits.", style="dim"
    )
    with keep_keys(console):
        _talk(_Chat(session, console, title), console, read)


def _talk(chat: "_Chat", console: Console, read: Read) -> None:
    warned = False
    while True:
        try:
            text = _heard(console, read)
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            if warned:
                console.print()
                return
            warned = True
            console.print("\nPress Ctrl-C again, or Ctrl-D, to quit.", style="dim")
            continue
        warned = False
        if text == "/quit":
            return
        try:
            chat.hear(text)
        except FalconerError as error:
            console.print(Text(visible(str(error)), style="red"))
        except KeyboardInterrupt:
            # While a reply is prepared or ended, or a file is written; `_show` stops a reply that is being written.
            console.print(Text("(stopped)", style="dim"))


def _heard(console: Console, read: Read) -> str:
    """Return the next message; "" if what was typed is no text."""
    try:
        text = read().strip()
    except UnicodeDecodeError:
        text = "\udc80"
    # In the locale C, Python reads bytes that are not UTF-8 as half surrogates; a file may have such a name.
    if _HALF.search(text) and not text.startswith("/"):
        console.print("The input is not valid UTF-8.", style="red")
        return ""
    return text


class _Chat:
    """Answers messages and obeys commands."""

    def __init__(self, session: "Session", console: Console, title: str) -> None:
        self._session, self._console, self._title = session, console, title
        self._is_side_by_side = False

    def hear(self, text: str) -> None:
        """Answer a message, or obey a command.

        Raises:
            FalconerError: the message or the command can't be used.
        """
        command, _, argument = text.partition(" ")
        if not text.startswith("/") or text.startswith("//"):
            self._answer(text.removeprefix("/"))
        elif command == "/retry":
            self._retry()
        elif command == "/side":
            self._is_side_by_side = not self._is_side_by_side
            how = "Both models reply" if self._is_side_by_side else "One model replies"
            self._note(f"{how} from now on; the conversation goes on with the reply of: {replier(self._session)}.")
        else:
            obey(command, argument.strip(), self._session, self._console, self._title)

    def _answer(self, message: str) -> None:
        if not message:
            return
        if self._is_side_by_side:
            self._show_both(self._session.both(message))
        else:
            self._show(self._session.reply(message))

    def _retry(self) -> None:
        pieces = self._session.retry()
        if self._session.decoding.temperature == 0:
            self._note("Greedy decoding gives the same reply each time; start the chat without --temperature 0.")
        self._show(pieces)

    def _show(self, pieces: Generator[str, None, None]) -> None:
        before, note = self._session.num_dropped, ""
        reply = Reply(self._console, replier(self._session))
        with closing(pieces):
            try:
                for piece in pieces:
                    reply.write(piece)
            except KeyboardInterrupt:
                note = " (stopped)"
            finally:
                reply.end(note)
        self._tell_dropped(before)

    def _show_both(self, pieces: Generator[tuple[bool, str], None, None]) -> None:
        before = self._session.num_dropped
        with closing(pieces), SideBySide(self._console) as replies:
            try:
                for is_base, piece in pieces:
                    replies.write(BASE if is_base else TUNED, piece)
            except KeyboardInterrupt:
                replies.stop()
        self._tell_dropped(before)

    def _tell_dropped(self, before: int) -> None:
        num = self._session.num_dropped
        if num > before:
            self._note(f"The oldest turns no longer fit into the model's context: {counted(num, 'turn')} left out.")

    def _note(self, text: str) -> None:
        self._console.print(Text(visible(text), style="dim"))
