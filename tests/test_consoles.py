"""Results and notes take different ways out, names from people's files are shown as they are, and numbers agree."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
