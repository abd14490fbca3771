"""Results and notes take different ways out, names from people's files are shown as they are, and numbers agree."""

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from falconer import consoles

HOSTILE = "[bold]runs/a [/] b[/bold] :smile: https://x.org 3.5"


def test_results_go_to_stdout_and_notes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    consoles.stdout().print("a result")
    consoles.stderr().print("a note")
    assert tuple(capsys.readouterr()) == ("a result\n", "a note\n")


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_text_is_shown_as_it_is_also_in_colour(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No brackets that are a style to rich, no names of emoji, no numbers and addresses that it would paint."""
    for variable, value in (("FORCE_COLOR", "1"), ("TERM", "xterm-256color"), ("COLUMNS", "120")):
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    console = getattr(consoles, name)()
    assert console.color_system is not None, "a console without colours would prove nothing"
    console.print(HOSTILE)
    console.print("asked for", style="bold")
    written = getattr(capsys.readouterr(), "out" if name == "stdout" else "err")
    plain, styled = written.splitlines()
    assert plain == HOSTILE
    assert styled == "\x1b[1masked for\x1b[0m"


@pytest.mark.parametrize(
    ("number", "noun", "plural", "expected"),
    [
        (0, "dialogue", "", "0 dialogues"),
        (1, "dialogue", "", "1 dialogue"),
        (2344, "dialogue", "", "2,344 dialogues"),
        (1, "reply", "replies", "1 reply"),
        (1_000_000, "reply", "replies", "1,000,000 replies"),
    ],
)
def test_one_is_singular_and_thousands_are_separated(number: int, noun: str, plural: str, expected: str) -> None:
    assert consoles.counted(number, noun, plural) == expected


@given(st.integers(0, 10**12))
def test_the_number_can_be_read_back(number: int) -> None:
    said, noun = consoles.counted(number, "row").split(" ")
    assert int(said.replace(",", "")) == number
    assert (noun == "row") == (number == 1)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[31m\x00\x7f\x9b", r"a\x1b[31m\x00\x7f\x9b"),
        ("a\tb\nc\rd", "a    b\nc\\rd"),
        ("\u202eabc\u2066\u2028", r"\u202eabc\u2066\u2028"),
        ("\udc80", r"\udc80"),
        ("é 我 😀👩\u200d🚀 [b] \\x", "é 我 😀👩\u200d🚀 [b] \\x"),
    ],
)
def test_control_characters_are_visible(text: str, shown: str) -> None:
    assert consoles.visible(text) == shown


ESCAPES = "\x1b]0;title\x07\x1b[31mred\x1b[2J\x9b1m\u202etfel\udc80"
SHOWN = r"\x1b]0;title\x07\x1b[31mred\x1b[2J\x9b1m\u202etfel\udc80"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_no_control_character_of_a_text_reaches_the_terminal(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in (("FORCE_COLOR", "1"), ("TERM", "xterm-256color"), ("COLUMNS", "200")):
        monkeypatch.setenv(variable, value)
    console = getattr(consoles, name)()
    console.print(ESCAPES)
    console.print(f"soft {ESCAPES}", soft_wrap=True)
    console.out(ESCAPES, end="")
    console.print(Text(ESCAPES, style="bold"))
    table = Table(title=ESCAPES)
    table.add_column(ESCAPES)
    table.add_row(ESCAPES)
    console.print(table)
    console.print(Panel(ESCAPES, title=ESCAPES))
    written = re.sub(r"\x1b\[[0-9;]*m", "", getattr(capsys.readouterr(), "out" if name == "stdout" else "err"))
    assert "\x1b" not in written and "\x9b" not in written and "\u202e" not in written and "\x07" not in written
    assert written.count(SHOWN) >= 3 and written.count(r"\x1b[2J") == 9


def test_a_cell_with_control_characters_does_not_widen_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    console = consoles.stdout()
    console.width = 40
    table = Table(width=40)
    table.add_column("a")
    table.add_row("\x1b" * 100)
    console.print(table)
    assert {len(line) for line in capsys.readouterr().out.splitlines()} == {40}


def test_a_line_is_said_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    consoles.say(f"[b]{'long ' * 100}{ESCAPES}")
    consoles.say("a note", is_note=True)
    assert tuple(capsys.readouterr()) == (f"[b]{'long ' * 100}{SHOWN}\n", "a note\n")


@pytest.mark.parametrize(("encoding", "shown"), [("ascii", r"\xe9 \u6211"), ("latin-1", r"é \u6211"), (None, "é 我")])
def test_characters_that_the_locale_lacks_are_escaped(encoding: str | None, shown: str) -> None:
    assert consoles.writable("é 我", encoding) == shown
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding or "utf-8", write_through=True)
    console = consoles.stdout()
    console.file = stream
    console.print("é 我")
    assert stream.buffer.getvalue().decode(encoding or "utf-8") == f"{shown}\n"  # type: ignore[attr-defined]
