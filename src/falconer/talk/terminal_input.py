"""Reading messages: with line editing, history and completion in a terminal, line by line from a pipe or file."""

import re
import sys
import termios
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console

from falconer.consoles import visible
from falconer.talk.terminal_screen import STYLES, YOU, label

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.output import Output

Read = Callable[[], str]
_INPUT, _LOCAL = 0, 3  # places of the flags in what termios gives


def reader(console: Console, commands: Mapping[str, str]) -> Read:
    """Return a function that reads the next message; it raises EOFError at the end, KeyboardInterrupt at Ctrl-C.

    Args:
        commands: names of commands, for completion; those with a file have "FILE" in their meaning.
    """
    if console.is_terminal and sys.stdin.isatty():
        session = editor(console, commands)
        return lambda: session.prompt(lambda: [("class:you", label(YOU))])

    def read() -> str:
        line = input(label(YOU))
        # What is typed into a terminal is shown by the terminal itself.
        if not sys.stdin.isatty():
            console.out(visible(line), highlight=False)
        return line

    return read


@contextmanager
def keep_keys(console: Console) -> Iterator[None]:
    """While a reply is written, keep what is typed for the next message instead of showing it amid the reply.

    The terminal would also turn Enter into a line break then, which the editor takes for Ctrl-J. Ctrl-C still stops.
    """
    if not (console.is_terminal and sys.stdin.isatty()):
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    kept = termios.tcgetattr(sys.stdin)
    kept[_INPUT] &= ~termios.ICRNL
    kept[_LOCAL] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(sys.stdin, termios.TCSANOW, kept)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def editor(
    console: Console, commands: Mapping[str, str], input: "Input | None" = None, output: "Output | None" = None
) -> "PromptSession[str]":
    """Return the line editor; `input` and `output` replace the terminal in tests."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory
    from prompt_toolkit.output import ColorDepth
    from prompt_toolkit.shortcuts import CompleteStyle
    from prompt_toolkit.styles import Style

    return PromptSession(
        # In memory alone: what people say to a model is not written to the disk unless they save it.
        history=InMemoryHistory(),
        key_bindings=_keys(),
        completer=_completer(commands),
        complete_while_typing=False,
        complete_style=CompleteStyle.READLINE_LIKE,
        multiline=True,
        prompt_continuation=lambda width, line, wrapped: " " * width,
        style=Style.from_dict({"you": STYLES[YOU].replace("cyan", "ansicyan")}),
        color_depth=ColorDepth.DEPTH_1_BIT if console.no_color else None,
        input=input,
        output=output,
    )


def _keys() -> "KeyBindings":
    from prompt_toolkit.key_binding import KeyBindings

    keys = KeyBindings()

    @keys.add("enter")
    def send(event: "KeyPressEvent") -> None:
        event.current_buffer.validate_and_handle()

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def break_line(event: "KeyPressEvent") -> None:
        event.current_buffer.insert_text("\n")

    return keys


def _completer(commands: Mapping[str, str]) -> "Completer":
    from prompt_toolkit.completion import Completer, Completion, PathCompleter
    from prompt_toolkit.document import Document

    paths = PathCompleter(expanduser=True)

    class Commands(Completer):
        """Completes commands at the beginning of a message, and the names of files behind those that take one."""

        def get_completions(self, document: "Document", event: "CompleteEvent") -> "Iterable[Completion]":
            text = document.text_before_cursor
            if re.fullmatch(r"/\w*", text):
                for name in commands:
                    if name.startswith(text):
                        yield Completion(name, start_position=-len(text))
            elif (given := re.fullmatch(r"(/\w+) (?:--overwrite )?(.*)", text)) and "FILE" in commands.get(
                given[1], ""
            ):
                yield from paths.get_completions(Document(given[2]), event)

    return Commands()
