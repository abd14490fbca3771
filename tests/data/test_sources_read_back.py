"""What is loaded from any file, however mutated, is written and read back equal."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus_files import FIXTURES
from falconer.data.sources import load_dialogues, write_dialogues
from falconer.errors import FalconerError
from falconer.records import Dialogue, Turn

# What is text to us: no control characters, which are removed at reading, no half surrogates, no blank ends.
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1, max_size=12).map(str.strip)
LINE = TEXT.filter(bool)


@st.composite
def dialogues(draw: st.DrawFn) -> Dialogue:
    turns = []
    for number in range(draw(st.integers(1, 4))):
        turns += [Turn("partner", draw(LINE)), Turn("self", draw(LINE))]
        if draw(st.booleans()):
            turns[-1] = replace(turns[-1], candidates=(turns[-1].text, draw(LINE)))
        elif number and draw(st.booleans()):
            turns[-1] = replace(turns[-1], is_learned=False)
    lines = st.lists(LINE, max_size=3).map(tuple)
    return Dialogue(draw(LINE), draw(lines), tuple(turns), draw(lines))


@given(
    st.lists(dialogues(), min_size=1, max_size=3, unique_by=lambda dialogue: dialogue.id),
    st.sampled_from(["", ".gz", ".zst"]),
)
def test_what_is_written_reads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, found: list[Dialogue], packed: str
) -> None:
    path = tmp_path_factory.mktemp("written") / f"x.jsonl{packed}"
    write_dialogues(found, path)
    assert list(load_dialogues(str(path)).dialogues) == found


JUNK = ["", " ", "\ud83d", "\0", "\x1b[2J", "\u2028", "a\nb", "['a\nb']", "\ufeff", "\u200b", None, 3, [], {}, True]


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.jsonl")), ids=lambda path: path.name)
def test_what_is_read_of_a_changed_file_reads_back_equal(tmp_path: Path, path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    dice, num_read = random.Random(path.name), 0
    source, written = tmp_path / "x.jsonl", tmp_path / "y.jsonl"
    for _ in range(60):
        changed = [dict(row) for row in rows]
        row = dice.choice(changed)
        for _ in range(dice.randint(1, 2)):
            row[dice.choice(list(row))] = dice.choice(JUNK)
        source.write_text("\n".join(map(json.dumps, changed)))
        try:
            found = load_dialogues(str(source), on_bad_row="skip").dialogues
        except FalconerError:
            continue
        num_read += 1
        write_dialogues(found, written)
        assert load_dialogues(str(written)).dialogues == found
    assert num_read or len(rows) == 1


def test_a_reply_that_continues_a_turn_that_is_not_learned_is_left_out(tmp_path: Path) -> None:
    history = [{"speaker": "partner", "text": "H"}, {"speaker": "self", "text": "T"}]
    good = {"persona": [], "history": history[:1], "replies": {"left": "a", "right": "b"}, "vote": "left"}
    path = tmp_path / "x.jsonl"
    path.write_text("\n".join(map(json.dumps, [good, good | {"history": history}])))
    loaded = load_dialogues(str(path))
    assert len(loaded.dialogues) == 1
    assert loaded.quirks["dialogue whose only reply continues one that is not learned left out"] == 1
    path.write_text(json.dumps(good | {"history": history}) + "\n")
    with pytest.raises(FalconerError, match="each reply continues a turn that is not learned"):
        load_dialogues(str(path))


def test_an_empty_id_is_numbered(tmp_path: Path) -> None:
    text = (FIXTURES / "focus.json").read_text(encoding="utf-8")
    rows = json.loads(text)
    for row in rows["data"]:
        row["dialogID"] = ""
    path = tmp_path / "x.json"
    path.write_text(json.dumps(rows))
    ids = [dialogue.id for dialogue in load_dialogues(str(path)).dialogues]
    assert all(ids) and len(set(ids)) == len(ids)
