"""Reading messages: with line editing, history and completion in a terminal, line by line from a pipe or file."""

import re
import sys
import termios
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console

from falconer.consoles import visible
from falconer.talk.terminal_screen import STYLES, YOU, label

if TYPE_CHECKING:
    from prompt_toolkit import PromptSession
    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.completion import CompleteEvent, Completer, Completion
    from prompt_toolkit.document import Document
    from prompt_toolkit.input import Input
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
    from prompt_toolkit.key_binding.key_processor import KeyPress
    from prompt_toolkit.output import Output

Read = Callable[[], str]
# A Ctrl-C that comes so soon after the prompt was typed before it, for the reply that was being written.
_STRAY_S = 0.15
# More characters at once than this were pasted.
_LONGEST_TYPED = 16
_INPUT, _LOCAL = 0, 3  # places of the flags in what termios gives


def reader(console: Console, commands: Mapping[str, str]) -> Read:
    """Return a function that reads the next message; it raises EOFError at the end, KeyboardInterrupt at Ctrl-C.

    Args:
        commands: names of commands, for completion; those with a file have "FILE" in their meaning.
    """
    if console.is_terminal and sys.stdin.isatty():
        session = editor(console, commands)

        def prompt() -> str:
            while True:
                began = time.monotonic()
                try:
                    return session.prompt(lambda: [("class:you", label(YOU))])
                except KeyboardInterrupt:
                    if time.monotonic() - began > _STRAY_S:
                        raise

        return prompt

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
    from prompt_toolkit.input import create_input
    from prompt_toolkit.output import ColorDepth
    from prompt_toolkit.shortcuts import CompleteStyle
    from prompt_toolkit.styles import Style

    source = input or create_input()
    read_keys = source.read_keys
    # What was pasted without the terminal saying so would otherwise be taken and drawn a character at a time.
    setattr(source, "read_keys", lambda: _joined(read_keys()))  # noqa: B010  a method of one input
    session: PromptSession[str] = PromptSession(
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
        input=source,
        output=output,
    )

    def draw_long_texts_rarely(buffer: "Buffer") -> None:
        # A text of many thousand characters takes a tenth of a second to draw.
        session.app.min_redraw_interval = len(buffer.text) / 200_000

    session.default_buffer.on_text_changed += draw_long_texts_rarely
    return session


def _joined(keys: "list[KeyPress]") -> "list[KeyPress]":
    """Return keys with long runs of characters as one paste each."""
    from prompt_toolkit.key_binding.key_processor import KeyPress
    from prompt_toolkit.keys import Keys

    found: list[KeyPress] = []
    for is_text, run in groupby(keys, key=lambda press: not isinstance(press.key, Keys) and press.key == press.data):
        presses = list(run)
        if is_text and len(presses) > _LONGEST_TYPED:
            found.append(KeyPress(Keys.BracketedPaste, "".join(press.data for press in presses)))
        else:
            found += presses
    return found


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
