"""What is shown is what was encoded: the mask in colour, the borders, the statistics and their picture."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

from falconer.data.batch import collate
from falconer.data.encode import Encoder, Truncation
from falconer.data.show import (
    CONTEXT_STYLES,
    END_STYLE,
    TARGET_STYLES,
    length_stats,
    pieces,
    render,
    stats_table,
    write_histogram,
)
from falconer.errors import FalconerError
from falconer.model.tokenizer import load_tokenizer
from falconer.records import Dialogue, Turn

TOKENIZER, END_ID = load_tokenizer("falcon-mini")
BACKEND = TOKENIZER.backend_tokenizer.to_str()

TALK = Dialogue(
    "talk",
    ("i ski .",),
    (
        Turn("partner", "hi <|endoftext|>"),
        Turn("self", "my fiancé 😀\nskis ."),
        Turn("partner", "[bold]ok[/bold]"),
        Turn("self", "bye ."),
    ),
)


def encoder(max_tokens: int = 512) -> Encoder:
    return Encoder(BACKEND, END_ID, max_tokens)


def styled(text: Text, *styles: str) -> list[str]:
    """The text of each run of characters in one of the styles, in order; "\\n" has none and ends a run."""
    runs = [""]
    for offset, character in enumerate(text.plain):
        inside = any(span.start <= offset < span.end and str(span.style) in styles for span in text.spans)
        if inside:
            runs[-1] += character
        elif runs[-1]:
            runs.append("")
    return [run for run in runs if run]


def test_colours_are_the_mask() -> None:
    example = encoder().encode([TALK])[0][0]
    text = render(TALK, example, TOKENIZER, in_colour=True)
    body = text[text.plain.index("Persona:") :]
    assert styled(body, END_STYLE) == ["<|endoftext|>", "<|endoftext|>"]
    assert [run.replace("·", "") for run in styled(body, *TARGET_STYLES)] == [" my fiancé 😀", "skis .", " bye ."]
    context = styled(body, *CONTEXT_STYLES)
    assert context[:2] == ["Persona:", "- i ski ."]
    # Text that spells the end token is context here, and so are brackets that look like markup.
    assert "User: hi <|endoftext|>" in context and "User: [bold]ok[/bold]" in context
    assert text.plain.startswith(
        f"talk: {len(example.ids)} tokens, {example.num_targets} of them targets in 2 replies\n"
    )


def test_borders_between_tokens_are_seen() -> None:
    example = encoder().encode([TALK])[0][0]
    text = render(TALK, example, TOKENIZER, in_colour=True)
    tokens = [span for span in text.spans if span.start >= text.plain.index("Persona:") and span.end > span.start]
    neighbours = [(a, b) for a, b in zip(tokens, tokens[1:], strict=False) if a.end == b.start]
    assert len(neighbours) > 20
    assert all(a.style != b.style for a, b in neighbours)


def test_legend_and_dropped_replies() -> None:
    turns = tuple(Turn("self" if k % 2 else "partner", f"turn number {k} of this talk") for k in range(20))
    long = Dialogue("long", ("i ski .",), turns)
    example = encoder(120).encode([long])[0][0]
    text = render(long, example, TOKENIZER, in_colour=True)
    dropped = 10 - len(example.reply_starts)
    assert dropped > 0 and f"; {dropped} older replies were dropped to fit" in text.plain
    assert all(word in text.plain for word in (" target ", " end token (a target) ", " context, no loss "))


def test_it_prints_without_losing_a_character() -> None:
    example = encoder().encode([TALK])[0][0]
    text = render(TALK, example, TOKENIZER, in_colour=True)
    console = Console(file=io.StringIO(), width=200, force_terminal=False)
    console.print(text)
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().rstrip() == text.plain.rstrip()


@pytest.mark.parametrize(
    "text", ["hi ! i'm fine .", "fiancé 日本語 😀👍🏽 ok", " two  spaces\n\nlines", "<|endoftext|>"]
)
def test_pieces_give_the_text_back(text: str) -> None:
    ids = encoder().encode_text(text)
    found = pieces(ids, TOKENIZER)
    assert len(found) == len(ids)
    assert "".join(piece for piece in found if piece != "·") == text


def test_length_stats() -> None:
    talks = [Dialogue(f"{n}", ("i ski .",), TALK.turns * (n + 1)) for n in range(5)]
    examples, truncation = encoder(150).encode(talks)
    lengths = [len(example.ids) for example in examples]
    groups = [[0, 1], [2, 3, 4]]
    stats = length_stats(examples, groups, truncation)
    assert (stats.num_examples, stats.num_tokens, stats.max_tokens) == (5, sum(lengths), max(lengths))
    assert stats.num_replies == sum(len(example.reply_starts) for example in examples)
    assert stats.median_tokens == np.median(lengths)
    assert stats.target_share == pytest.approx(100 * sum(e.num_targets for e in examples) / sum(lengths))
    positions = sum(collate([examples[i] for i in group], END_ID).ids.size for group in groups)
    assert stats.padding_share == pytest.approx(100 * (1 - sum(lengths) / positions))
    assert truncation.num_dialogues > 0
    assert (stats.num_truncated, stats.num_dropped_turns) == (truncation.num_dialogues, truncation.num_turns)
    assert stats.num_dropped_replies == truncation.num_replies
    assert length_stats(examples, groups).num_dropped_turns == Truncation().num_turns == 0


def test_stats_table_shows_every_figure() -> None:
    examples, truncation = encoder().encode([TALK])
    console = Console(file=io.StringIO(), width=100)
    console.print(stats_table(length_stats(examples, [[0]], truncation)))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert all(
        word in shown for word in ("dialogues", "replies to learn", "median", "95th percentile", "padding", "truncated")
    )


@pytest.mark.parametrize("lengths", [[5], [3, 3, 3], list(range(20, 900, 7)), [100] * 50 + [60_000]])
def test_histogram_is_a_png_and_equal_lengths_are_equal_bytes(tmp_path: Path, lengths: list[int]) -> None:
    for name in ("a.png", "b.png"):
        write_histogram(lengths, tmp_path / name)
    data = (tmp_path / "a.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (1350, 675)
    assert data == (tmp_path / "b.png").read_bytes()


def test_nothing_to_measure(tmp_path: Path) -> None:
    with pytest.raises(FalconerError, match="no dialogues to measure"):
        length_stats([], [])
    with pytest.raises(FalconerError, match="no lengths to plot"):
        write_histogram([], tmp_path / "x.png")
    assert not list(tmp_path.iterdir())
