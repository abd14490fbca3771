"""The consoles for stdout and stderr, which show control characters of texts as escapes, and how counts are printed."""

import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# Characters that no terminal should get: control characters, those that change the direction of what follows, and half
# surrogates, which stand for bytes of file names that are not UTF-8.
_HIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def visible(text: str) -> str:
    """Return text without control characters: each is written as in Python ("\\x1b"), tabs as spaces."""
    return _HIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), text).replace("\t", "    ")


def stdout() -> "Console":
    """Return the console for results: whatever a text from a file or a user contains is shown, never obeyed.

    Markup and emoji codes are off, since texts may contain "[bold]" and ":smile:", and control characters are shown as
    `visible` writes them.
    """
    return _console(stderr=False)


def stderr() -> "Console":
    """Return the console for progress and notes, so that results on stdout can be piped."""
    return _console(stderr=True)


def say(text: str, *, is_note: bool = False) -> None:
    """Print a line as it is, whatever the width of the terminal, but for control characters.

    Args:
        is_note: to stderr, so that results on stdout can be piped.
    """
    file = sys.stderr if is_note else sys.stdout
    print(writable(visible(text), file.encoding), file=file)


def writable(text: str, encoding: str | None) -> str:
    """Return a text with escapes in place of the characters that an encoding does not have, as in the locale C."""
    encoding = encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return "1 dialogue" or "2,344 dialogues"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def _console(*, stderr: bool) -> "Console":
    # Imported and derived from here, since rich loads slowly.
    from rich.console import Console
    from rich.segment import Segment
    from rich.text import Text

    class SafeConsole(Console):
        """A console that shows the control characters of texts. Its own control codes, such as colours, are kept."""

        def render_str(self, text: str, **options: Any) -> Text:
            # rich removes some control characters from a text.
            return super().render_str(visible(text), **options)

        def render(self, *arguments: Any, **options: Any) -> Iterable[Segment]:
            # Every text comes through here, those in the cells of a table before they are cut to its width.
            for segment in super().render(*arguments, **options):
                if segment.control:
                    yield segment
                else:
                    yield Segment(writable(visible(segment.text), self.encoding), segment.style, None)

    return SafeConsole(stderr=stderr, highlight=False, markup=False, emoji=False)
