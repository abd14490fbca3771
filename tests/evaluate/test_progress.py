"""A line for each thing that the work names: moving on a terminal, elsewhere when it begins and once a minute."""

import io

from rich.console import Console

from falconer.evaluate.progress import Lines, duration, show_progress


def shown(terminal: bool) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None)
    with show_progress(console) as on_progress:
        on_progress("base: replies", 0, 4)
        on_progress("base: replies", 4, 4)
        on_progress("tuned: replies", 2, 4)
        on_progress("scores", 0, 1)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_each_work_has_a_line_that_moves_on() -> None:
    text = shown(terminal=True)
    assert 0 <= text.rfind("base: replies") < text.rfind("tuned: replies")
    for name, done in (("base: replies", "4/4"), ("tuned: replies", "2/4")):
        line = text[text.rfind(name) :].splitlines()[0]
        assert done in line, line


def test_a_log_says_what_begins_and_how_much_it_is() -> None:
    assert shown(terminal=False).splitlines() == ["base: replies: 4", "tuned: replies: 4", "scores"]


def test_a_log_gets_a_line_a_minute_with_the_time_left() -> None:
    now, said = [0.0], []
    lines = Lines(said.append, lambda: now[0])
    lines.show("candidates", 0, 4000)
    for second in range(1, 401):
        now[0] = float(second)
        lines.show("candidates", 10 * second, 4000)
    assert said == [
        "candidates: 4,000", "candidates: 600 of 4,000, 6 min left", "candidates: 1,200 of 4,000, 5 min left",
        "candidates: 1,800 of 4,000, 4 min left", "candidates: 2,400 of 4,000, 3 min left",
        "candidates: 3,000 of 4,000, 2 min left", "candidates: 3,600 of 4,000, 40 s left", "candidates: 4,000 in 7 min",
    ]  # fmt: skip


def test_the_time_left_counts_from_what_was_done_at_first() -> None:
    now, said = [0.0], []
    lines = Lines(said.append, lambda: now[0])
    lines.show("replies", 100, 200)
    now[0] = 60.0
    lines.show("replies", 150, 200)
    assert said[-1] == "replies: 150 of 200, 1 min left"


def test_no_time_is_told_before_a_hundredth_is_done() -> None:
    """The first reply takes as long as all prompts: 33 hours were once announced for two minutes."""
    now, said = [0.0], []
    lines = Lines(said.append, lambda: now[0])
    lines.show("replies", 0, 2000)
    for now[0], done in ((60.0, 1), (120.0, 19), (180.0, 20)):
        lines.show("replies", done, 2000)
    assert said[1:] == ["replies: 1 of 2,000", "replies: 19 of 2,000", "replies: 20 of 2,000, 4 h 57 min left"]


def test_durations_in_words() -> None:
    assert [duration(s) for s in (0.4, 59, 61, 3599, 7500)] == ["0 s", "59 s", "1 min", "1 h 0 min", "2 h 5 min"]
