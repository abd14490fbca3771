"""What the terminal shows: a reply that wraps between words as it is written, two replies side by side, a persona."""

import re
from collections.abc import Sequence
from types import MappingProxyType

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.control import Control
from rich.live import Live
from rich.panel import Panel
from rich.segment import ControlType
from rich.table import Table
from rich.text import Text

from falconer.consoles import visible

YOU, TUNED, BASE = "you", "assistant", "base"
STYLES = MappingProxyType({YOU: "bold cyan", TUNED: "bold green", BASE: "bold yellow"})
LABEL_WIDTH = max(map(len, STYLES)) + 2
# Narrower than this, there is no room for an indent, or for two columns.
_MIN_INDENTED, _MIN_COLUMNS = 40, 60

_JOINER = "\u200d"  # makes one emoji of two


def label(speaker: str) -> str:
    """Return a speaker's label, in the width that all labels have."""
    return f"{speaker + ':':<{LABEL_WIDTH}}"


class Reply:
    """Writes a reply as it arrives, in lines that break between words and are indented as the first one.

    Args:
        speaker: whose label stands before it.
    """

    def __init__(self, console: Console, speaker: str) -> None:
        self._console = console
        # The last column stays free: a cursor behind it can't be moved back in the same way everywhere.
        self._width = max(1, console.width - 1)
        self._indent = LABEL_WIDTH if console.width >= _MIN_INDENTED else min(2, self._width // 4)
        self._column = LABEL_WIDTH % self._width
        # The word at the end of the line, which later pieces may continue.
        self._word = ""
        console.print(Text(label(speaker), style=STYLES[speaker]), end="")

    def write(self, piece: str) -> None:
        """Write a piece of the reply."""
        text = visible(piece)
        if not self._console.is_terminal:
            self._out(text)
            return
        for part in re.split(r"(\s)", text):
            if part == "\n":
                self._break()
            elif part.isspace():
                self._word = ""
                # A space at the right edge is replaced by the line break.
                if self._column < self._width:
                    self._out(part)
                    self._column += cell_len(part)
            else:
                for unit in _units(part):
                    self._write_unit(unit)

    def end(self, note: str = "") -> None:
        """End the line, with a note behind the reply."""
        self._console.print(Text(note, style="dim"))

    def _write_unit(self, unit: str) -> None:
        """Write a wide character, or narrow ones that belong to one word."""
        # What has been written of the word moves to the next line, where the terminal can erase it.
        # Accents alone, which belong to what stands before them, take no column that could be erased.
        can_move = not _is_wide(unit) and not self._console.is_dumb_terminal and cell_len(self._word) > 0
        begun = _without_leading_accents(self._word) if can_move else ""
        if self._column + cell_len(unit) > self._width and cell_len(begun + unit) <= self._width - self._indent:
            if begun:
                back = (ControlType.CURSOR_BACKWARD, cell_len(begun))
                self._console.control(Control(back, (ControlType.ERASE_IN_LINE, 0)))
            self._break()
            unit = begun + unit
        while self._column + cell_len(unit) > self._width:
            # The word is longer than a line.
            head = unit[: max(0, self._width - self._column)]
            self._out(head)
            self._break()
            unit = unit[len(head) :]
        self._out(unit)
        self._column += cell_len(unit)
        self._word = "" if _is_wide(unit) else self._word + unit

    def _break(self) -> None:
        self._out("\n" + " " * self._indent)
        self._column, self._word = self._indent, ""

    def _out(self, text: str) -> None:
        # `out`, since `print` would read brackets as markup and wrap lines itself.
        self._console.out(text, end="", highlight=False)


class SideBySide:
    """Shows the replies of the tuned and the base model beside each other as they arrive; below each other in a narrow
    terminal, and whole where there is no terminal. Use it as a context manager.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._texts = {TUNED: "", BASE: ""}
        self._note = ""
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="ellipsis")

    def __enter__(self) -> "SideBySide":
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._console.is_terminal:
            self._live.vertical_overflow = "visible"
            self._live.update(self._shown(), refresh=True)
            self._live.stop()
            return
        for speaker, text in self._texts.items():
            self._console.out(f"{label(speaker)}{text}{self._note}", highlight=False)

    def write(self, speaker: str, piece: str) -> None:
        """Add a piece of a reply."""
        self._texts[speaker] += visible(piece)
        if self._console.is_terminal:
            self._live.update(self._shown(), refresh=True)

    def stop(self) -> None:
        """Mark the replies as stopped."""
        self._note = " (stopped)"

    def _shown(self) -> RenderableType:
        heads = [Text(speaker, style=STYLES[speaker]) for speaker in self._texts]
        replies = [Text.assemble(text, (self._note, "dim")) for text in self._texts.values()]
        if self._console.width < _MIN_COLUMNS:
            return Group(*(part for pair in zip(heads, replies, strict=True) for part in pair))
        grid = Table.grid(padding=(0, 3), expand=True)
        for _ in heads:
            grid.add_column(ratio=1, overflow="fold")
        grid.add_row(*heads)
        grid.add_row(*replies)
        return grid


def persona_panel(persona: Sequence[str], title: str) -> Panel:
    """Return a persona in a frame."""
    lines = visible("\n".join(persona)) or "no persona"
    return Panel(
        Text(lines), title=Text(visible(title)), title_align="left", expand=False, border_style="dim", padding=(0, 1)
    )


def _units(word: str) -> list[str]:
    """Split a word where a line may break: before and behind each wide character with its marks."""
    units: list[str] = []
    for char in word:
        is_more = cell_len(char) == 1 and units and not _is_wide(units[-1])
        if units and (is_more or cell_len(char) == 0 or units[-1].endswith(_JOINER)):
            units[-1] += char
        else:
            units.append(char)
    return units


def _without_leading_accents(word: str) -> str:
    """Return a word without accents at its beginning, which the terminal has put on the character before it."""
    return word[next((place for place, char in enumerate(word) if cell_len(char)), len(word)) :]


def _is_wide(unit: str) -> bool:
    return cell_len(unit[:1]) > 1
