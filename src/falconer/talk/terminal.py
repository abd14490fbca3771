"""`falconer chat`: the chat in a terminal, with streamed replies and commands such as /persona."""

import re
import sys
from contextlib import closing
from types import MappingProxyType
from typing import Protocol

from rich.cells import cell_len
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from falconer.errors import FalconerError
from falconer.talk.session import Session

DEFAULT_PERSONA = (
    "I have two dogs.",
    "I work as a teacher.",
    "I love to cook Italian food.",
    "My favorite color is green.",
)
COMMANDS = MappingProxyType({
    "/persona": "show the persona",
    "/persona I sing. I run.": "change the persona and start a new conversation",
    "/forget": "start a new conversation",
    "/help": "show these commands",
    "/quit": "quit (or press Ctrl-D)",
})  # fmt: skip
YOU, MODEL = "you", "assistant"
_STYLES = MappingProxyType({YOU: "bold cyan", MODEL: "bold green"})
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WIDTH = max(map(len, _STYLES)) + 1


class Reader(Protocol):
    """Reads a line, like the built-in `input`."""

    def __call__(self, prompt: str, /) -> str: ...


def talk(session: Session, console: Console, *, title: str = "falconer chat", read: Reader | None = None) -> None:
    """Read lines and stream replies until the user leaves.

    Args:
        title: the heading above the persona.
        read: reads the next line; raises EOFError at the end.
    """
    read = read or _line_reader(console)
    console.print(_persona(session, title))
    console.print("Type a message and press Enter. /help lists the commands, Ctrl-C stops a reply, Ctrl-D quits.", style="dim")
    interrupted = False
    while True:
        try:
            text = read(_prompt(console)).strip()
        except EOFError:
            console.print()
            return
        except KeyboardInterrupt:
            if interrupted:
                console.print()
                return
            interrupted = True
            console.print("\nPress Ctrl-C again, or Ctrl-D, to quit.", style="dim")
            continue
        except UnicodeDecodeError:
            console.print("The input is not valid UTF-8.", style="red")
            continue
        interrupted = False
        if text == "/quit":
            return
        try:
            if text.startswith("/"):
                _obey(text, session, console, title)
            elif text:
                _answer(text, session, console)
        except FalconerError as error:
            console.print(str(error), style="red", markup=False)


def _obey(text: str, session: Session, console: Console, title: str) -> None:
    command, _, argument = text.partition(" ")
    if command == "/forget":
        session.forget()
        console.print("A new conversation starts.", style="dim")
    elif command == "/persona":
        if argument.strip():
            session.change_persona(_SENTENCE_END.split(argument.strip()))
        console.print(_persona(session, title))
    else:
        if command != "/help":
            console.print(f"Unknown command: {command}.", style="red", markup=False)
        table = Table.grid(padding=(0, 2))
        for name, meaning in COMMANDS.items():
            table.add_row(Text(name, style="bold"), Text(meaning, style="dim"))
        console.print(table)


def _answer(text: str, session: Session, console: Console) -> None:
    console.print(Text(f"{MODEL + ':':<{_WIDTH}} ", style=_STYLES[MODEL]), end="")
    line = _Line(console, _WIDTH + 1)
    with closing(session.reply(text)) as pieces:
        try:
            for piece in pieces:
                line.write(piece)
        except KeyboardInterrupt:
            console.print(Text(" (stopped)", style="dim"), end="")
    console.print()


class _Line:
    """Writes pieces of text as they arrive, wrapping lines between words with a hanging indent."""

    def __init__(self, console: Console, indent: int) -> None:
        self._console, self._indent, self._column = console, indent, indent

    def write(self, piece: str) -> None:
        for part in re.split(r"(\s+)", piece):
            width = cell_len(part)
            if self._console.is_terminal:
                if part.isspace() and self._column + width >= self._console.width:
                    # A space at the right edge is replaced by the line break.
                    self._column += width
                    continue
                if not part.isspace() and self._column + width > self._console.width:
                    self._console.out("\n" + " " * self._indent, end="")
                    self._column = self._indent
            # `out`, since `print` would read brackets as markup and wrap lines itself.
            self._console.out(part, end="", highlight=False)
            self._column += width


def _persona(session: Session, title: str) -> Panel:
    lines = "\n".join(session.persona) or "no persona"
    return Panel(Text(lines), title=Text(title), title_align="left", expand=False, border_style="dim", padding=(0, 1))


def _prompt(console: Console) -> str:
    label = f"{YOU + ':':<{_WIDTH}} "
    if not console.is_terminal or console.no_color:
        return label
    # \1 and \2 enclose what readline must not count, since it does not move the cursor.
    return f"\1\033[1;36m\2{label}\1\033[0m\2"


def _line_reader(console: Console) -> Reader:
    """Return a function that reads lines: with editing and history from a terminal, with an echo from a file."""
    if sys.stdin.isatty():
        import readline

        readline.clear_history()
        return input

    def read(prompt: str, /) -> str:
        line = input(prompt)
        console.out(line, highlight=False)
        return line

    return read
