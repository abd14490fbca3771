"""A line for each thing that the work names, on a terminal; elsewhere nothing."""

import io

from rich.console import Console

from falconer.evaluate.progress import show_progress


def shown(terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    with show_progress(console) as on_progress:
        on_progress("base: replies", 1, 4)
        on_progress("base: replies", 4, 4)
        on_progress("tuned: replies", 2, 4)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_each_work_has_a_line_that_moves_on() -> None:
    text = shown(terminal=True)
    assert 0 <= text.rfind("base: replies") < text.rfind("tuned: replies")
    for name, done in (("base: replies", "4/4"), ("tuned: replies", "2/4")):
        line = text[text.rfind(name) :].splitlines()[0]
        assert done in line, line


def test_a_log_gets_none_of_it() -> None:
    assert not shown(terminal=False).strip()
