"""The screen: lines break between words wherever pieces end, and whatever is written, nothing leaves its line."""

import io

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from falconer.consoles import visible
from falconer.talk.terminal_screen import Reply, SideBySide

WORDS = "the quick brown fox jumps over the lazy dog and runs away from all of them"


def screen_of(width: int, terminal: bool = True) -> Console:
    return Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None, legacy_windows=False)


def lines_of(console: Console) -> list[str]:
    """Return the lines on the screen; of control sequences, it knows the two that `Reply` uses."""
    lines, column = [""], 0
    text = console.file.getvalue()
    while text:
        if text.startswith("\x1b["):
            end = next(at for at, char in enumerate(text) if char.isalpha())
            if text[end] == "D":
                column -= int(text[2:end])
            else:
                assert text[end] == "K"
                # A cell is erased with the accents on it.
                erased = (at for at in range(len(lines[-1])) if cell_len(lines[-1][: at + 1]) > column)
                lines[-1] = lines[-1][: next(erased, None)]
            text = text[end + 1 :]
            continue
        if text[0] == "\n":
            lines, column = [*lines, ""], 0
        else:
            assert cell_len(lines[-1]) == column, "nothing is written over"
            lines[-1] += text[0]
            column += cell_len(text[0])
        text = text[1:]
    return lines


def written(pieces: list[str], width: int) -> list[str]:
    console = screen_of(width)
    reply = Reply(console, "assistant")
    for piece in pieces:
        reply.write(piece)
    reply.end()
    return lines_of(console)[:-1]


@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_lines_break_between_words_under_the_first(size: int) -> None:
    lines = written([WORDS[at : at + size] for at in range(0, len(WORDS), size)], width=40)
    assert len(lines) == 3
    assert all(len(line) < 40 for line in lines)
    assert all(line.startswith(" " * 11) and line[11] != " " for line in lines[1:])
    assert " ".join(" ".join(lines).split()) == f"assistant: {WORDS}"


def test_a_word_longer_than_a_line_is_broken() -> None:
    lines = written(["so ", "ab" * 20], width=40)
    assert lines == ["assistant: so " + "ab" * 12 + "a", " " * 11 + "b" + "ab" * 7]


def test_wide_characters_break_anywhere() -> None:
    lines = written(["我今天过得很好，", "谢谢你的关心。😀👍🏽 e\u0301"], width=40)
    assert "".join("".join(lines).split()) == "assistant:我今天过得很好，谢谢你的关心。😀👍🏽e\u0301"
    assert all(cell_len(line) < 40 for line in lines)


def test_a_line_break_of_the_reply_is_one() -> None:
    assert written(["one\n", "two"], width=60) == ["assistant: one", " " * 11 + "two"]


@given(st.lists(st.text(st.sampled_from("ab \n我😀\u0301\x1b"), max_size=12), max_size=12), st.integers(1, 50))
@example([" ", "\u0301", "a"], 1)
@example(["\u0301a", "a"], 3)
@example(["a a\u0301", "aa"], 7)
@example(["a a\u0301", "aa"], 6)
def test_whatever_is_written_stays_on_its_lines_and_is_whole(pieces: list[str], width: int) -> None:
    lines = written(pieces, width)
    assert "".join("".join(lines).split()) == "assistant:" + "".join(visible("".join(pieces)).split())
    if width > 12:
        assert all(cell_len(line) < width for line in lines)


@pytest.mark.parametrize("width", [40, 80, 120])
def test_two_replies_side_by_side(width: int) -> None:
    console = screen_of(width)
    with SideBySide(console) as replies:
        for word in WORDS.split():
            replies.write("assistant", f"{word} ")
            replies.write("base", f"{word.upper()} ")
    last = console.file.getvalue().rpartition("assistant")[2]
    assert " ".join(last.split()).count("them") == 1 and "THEM" in last
    is_beside = any("the" in line and "THE" in line for line in last.split("\n"))
    assert is_beside == (width >= 60)


def test_a_file_gets_both_replies_whole() -> None:
    console = screen_of(40, terminal=False)
    with SideBySide(console) as replies:
        replies.write("base", "HI")
        replies.write("assistant", f"{WORDS}\x1b")
    assert console.file.getvalue() == f"assistant: {WORDS}\\x1b\nbase:      HI\n"
