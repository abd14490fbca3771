"""Chat in the terminal: replies appear as they are written, and Ctrl-C ends a reply, not the conversation."""

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
    "/persona": "show who you talk to",
    "/persona I sing. I run.": "make it somebody else, and start anew",
    "/forget": "start anew",
    "/help": "show these commands",
    "/quit": "leave (or Ctrl-D)",
})  # fmt: skip
YOU, MODEL = "you", "assistant"
_STYLES = MappingProxyType({YOU: "bold cyan", MODEL: "bold green"})
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_WIDTH = max(map(len, _STYLES)) + 1


class Reader(Protocol):
    """Asks for a line, as the built-in `input` does."""

    def __call__(self, prompt: str, /) -> str: ...


def talk(session: Session, console: Console, *, title: str = "falconer chat", read: Reader | None = None) -> None:
    """Read lines and stream replies until the user leaves.

    Args:
        title: what is written over the persona.
        read: asks for the next line; raises EOFError at the end.
    """
    read = read or _line_reader(console)
    console.print(_persona(session, title))
    console.print("Type and press Enter. /help shows the commands, Ctrl-C stops a reply, Ctrl-D leaves.", style="dim")
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
            console.print("\nCtrl-C again, or Ctrl-D, leaves.", style="dim")
            continue
        except UnicodeDecodeError:
            console.print("That is not UTF-8.", style="red")
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
        console.print("Everything said is forgotten.", style="dim")
    elif command == "/persona":
        if argument.strip():
            session.change_persona(_SENTENCE_END.split(argument.strip()))
        console.print(_persona(session, title))
    else:
        if command != "/help":
            console.print(f"There is no command {command}.", style="red", markup=False)
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
    """Writes pieces of text as they come, and breaks lines between words, under the first word."""

    def __init__(self, console: Console, indent: int) -> None:
        self._console, self._indent, self._column = console, indent, indent

    def write(self, piece: str) -> None:
        for part in re.split(r"(\s+)", piece):
            width = cell_len(part)
            if self._console.is_terminal:
                if part.isspace() and self._column + width >= self._console.width:
                    # A space at the edge is what the line break will stand for.
                    self._column += width
                    continue
                if not part.isspace() and self._column + width > self._console.width:
                    self._console.out("\n" + " " * self._indent, end="")
                    self._column = self._indent
            # As it is: rich would take brackets for markup, and wrap by its own count of columns.
            self._console.out(part, end="", highlight=False)
            self._column += width


def _persona(session: Session, title: str) -> Panel:
    lines = "\n".join(session.persona) or "nobody in particular"
    return Panel(Text(lines), title=Text(title), title_align="left", expand=False, border_style="dim", padding=(0, 1))


def _prompt(console: Console) -> str:
    label = f"{YOU + ':':<{_WIDTH}} "
    if not console.is_terminal or console.no_color:
        return label
    # readline must not count what moves no cursor: \1 and \2 enclose it.
    return f"\1\033[1;36m\2{label}\1\033[0m\2"


def _line_reader(console: Console) -> Reader:
    """Return `input`: with editing and a history where lines are typed, with an echo where they come from a file."""
    if sys.stdin.isatty():
        import readline

        readline.clear_history()
        return input

    def read(prompt: str, /) -> str:
        line = input(prompt)
        console.out(line, highlight=False)
        return line

    return read
