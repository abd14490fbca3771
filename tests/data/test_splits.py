"""Splits share no persona and no dialogue, whatever hangs together and in whatever order the rows stand."""

import json
import random
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.data import sources
from falconer.data.files import packed
from falconer.data.leakage import leakage
from falconer.data.sources import Reading, load_dialogues, write_dialogues
from falconer.data.splits import hold_out, load_splits, persona_names
from falconer.errors import FalconerError
from falconer.records import Dialogue, Speaker, Turn

FIXTURES = Path(__file__).parent / "fixtures"

personas = st.integers(0, 12).map(lambda number: (f"i am number {number} .", f"my name is {number} ."))


@st.composite
def dialogue_lists(draw: st.DrawFn) -> list[Dialogue]:
    pairs = draw(st.lists(st.tuples(personas, st.one_of(st.just(()), personas)), min_size=2, max_size=25))
    found = [make(index, mine, other) for index, (mine, other) in enumerate(pairs)]
    mirrored = draw(st.lists(st.sampled_from(found), max_size=5, unique_by=lambda dialogue: dialogue.id))
    return found + [mirror(dialogue) for dialogue in mirrored]


def make(index: int, persona: tuple[str, ...], partner: tuple[str, ...] = (), num_turns: int = 6) -> Dialogue:
    sides: list[Speaker] = ["partner", "self"]
    turns = tuple(Turn(sides[k % 2], f"dialogue {index} turn {k}") for k in range(num_turns))
    return Dialogue(f"{index}", persona, turns, partner)


def mirror(dialogue: Dialogue) -> Dialogue:
    """The same dialogue from the other side, which opens it and does not hear the last turn."""
    turns = tuple(Turn("self" if turn.speaker == "partner" else "partner", turn.text) for turn in dialogue.turns[:-1])
    return Dialogue(f"{dialogue.id}-mirror", dialogue.partner_persona, turns, dialogue.persona)


def contents(dialogues: tuple[Dialogue, ...]) -> set[tuple[object, ...]]:
    return {(dialogue.persona, dialogue.partner_persona, dialogue.turns) for dialogue in dialogues}


def own(dialogues: tuple[Dialogue, ...]) -> set[tuple[str, ...]]:
    return {dialogue.persona for dialogue in dialogues} - {()}


def partners(dialogues: tuple[Dialogue, ...]) -> set[tuple[str, ...]]:
    return {dialogue.partner_persona for dialogue in dialogues} - {()}


def openings(dialogues: tuple[Dialogue, ...]) -> set[str]:
    return {dialogue.turns[0].text for dialogue in dialogues}


@given(dialogue_lists(), st.floats(0.05, 0.3), st.integers(0, 100))
def test_held_out_personas_and_dialogues_are_nowhere_else(found: list[Dialogue], share: float, seed: int) -> None:
    try:
        kept, held, how = hold_out(found, share, seed)
    except FalconerError:
        assert len(openings(tuple(found))) < 2
        return
    assert kept and held
    assert not openings(kept) & openings(held)
    assert not {dialogue.id for dialogue in kept} & {dialogue.id for dialogue in held}
    if how == "held out by dialogue; personas are shared":
        return
    assert not own(held) & (own(kept) | partners(kept))
    if how == "held out by groups of personas and dialogues":
        assert len(kept) + len(held) == len(found)
        assert not partners(held) & (own(kept) | partners(kept))


@given(dialogue_lists(), st.integers(0, 100), st.randoms(use_true_random=False))
def test_order_of_rows_does_not_matter(found: list[Dialogue], seed: int, rng: random.Random) -> None:
    try:
        kept, held, how = hold_out(found, 0.2, seed)
    except FalconerError:
        return
    shuffled = [replace(dialogue, id=f"row {n}") for n, dialogue in enumerate(rng.sample(found, len(found)))]
    kept_again, held_again, how_again = hold_out(shuffled, 0.2, seed)
    assert (contents(kept), contents(held), how) == (contents(kept_again), contents(held_again), how_again)


def test_seed_decides() -> None:
    found = [make(n, (f"i am {n} .",)) for n in range(100)]
    assert hold_out(found, 0.1, 1) == hold_out(found, 0.1, 1)
    assert hold_out(found, 0.1, 1) != hold_out(found, 0.1, 2)
    assert len(hold_out(found, 0.1, 1)[1]) == 10


def test_groups_stay_together_where_they_can() -> None:
    # Ten personas with four dialogues each, every dialogue twice, once from each side.
    found = [make(n, (f"i am {n % 10} .", "i ski .", f"i like {n % 10} .")) for n in range(40)]
    found += [mirror(dialogue) for dialogue in found]
    kept, held, how = hold_out(found, 0.2, 3)
    assert how == "held out by groups of personas and dialogues"
    assert (len(kept), len(held)) == (64, 16)


def test_personas_paired_at_random_are_held_out_by_persona() -> None:
    rng = random.Random(5)
    found = []
    for n in range(400):
        mine, other = rng.sample(range(40), 2)
        found += [make(n, (f"i am {mine} .",), (f"i am {other} .",))]
        found += [mirror(found[-1])]
    kept, held, how = hold_out(found, 0.05, 3)
    assert how == "held out by persona"
    assert 20 <= len(held) <= 40
    assert len(kept) > 0.85 * len(found)
    report = leakage(kept, held)
    assert (report.shared_persona_sets, report.shared_dialogues, report.shared_replies) == (0, 0, 0)


def test_one_system_message_for_all() -> None:
    found = [make(n, ("You are helpful.",)) for n in range(50)]
    kept, held, how = hold_out(found, 0.1, 3)
    assert how == "held out by dialogue; personas are shared"
    assert (len(kept), len(held)) == (45, 5)


def test_nothing_to_split() -> None:
    with pytest.raises(FalconerError, match="too few to hold out") as caught:
        hold_out([make(1, ("i ski .",)), mirror(make(1, ("i ski .",)))], 0.1, 3)
    assert "data.valid" in caught.value.hint


def test_sets_with_half_their_sentences_in_common_are_one_persona() -> None:
    lines = ("I've a dog.", "i ski.", "i cook.", "i sing.", "i run.")
    same = [make(0, lines[:4]), make(1, lines[1:]), make(2, ("i ve a dog", "I ski!", "x", "y", "z"))]
    other = [make(3, (lines[0], "a.", "b.", "c."))]
    names = list(persona_names(same + other).values())
    assert len(names) == 4 and len(set(names)) == 2


def counted(function: Callable[..., Any], name: str, counts: Counter[str]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        counts[name] += 1
        return function(*arguments)

    return call


def three_splits(tmp_path: Path, kind: str) -> tuple[Path, list[int]]:
    """Write a file of each kind, and return how many dialogues load_splits should find in it."""
    said = [{"speaker": "partner", "text": "who are you ?"}, {"speaker": "self", "text": "."}]
    rows = [{"persona": [f"i am {n} ."], "turns": [said[0] | {"text": f"{n} ?"}, said[1]]} for n in range(12)]
    lines = [f"{json.dumps(row)}\n" for row in rows]
    path = tmp_path / {"lines": "x.jsonl", "splits": "x.json", "zip": "x.zip", "parquet": "x.parquet"}[kind]
    if kind == "lines":
        path.write_text("".join(lines), encoding="utf-8")
        return path, [12, 12, 12]
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        return path, [11, 1, 1]
    if kind == "splits":
        path.write_text(json.dumps({"train": rows[:7], "validation": rows[7:9], "test": rows[9:]}), encoding="utf-8")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, some in (("train", lines[:7]), ("valid", lines[7:9]), ("test", lines[9:])):
                archive.writestr(f"{name}.jsonl", "".join(some))
    return path, [7, 2, 3]


class TestLoadSplits:
    def test_sample(self) -> None:
        splits = load_splits("persona-chat-sample")
        assert [len(part) for part in (splits.train, splits.valid, splits.test)] == [2344, 64, 203]
        for report in (splits.leakage, splits.valid_leakage):
            assert (report.shared_persona_sets, report.shared_dialogues) == (0, 0)
            assert report.reply_share < 2
        assert splits.leakage.persona_sentence_share == pytest.approx(100 * 25 / 285)
        assert splits.sources["test"]["num_replies"] == 1583
        json.dumps(splits.sources)

    def test_own_validation_split_serves_as_test_too(self) -> None:
        splits = load_splits(str(FIXTURES / "transfertransfo.json"))
        assert splits.test is splits.valid
        assert splits.sources["valid"]["split"] == "valid"
        assert splits.sources["test"]["made"] == "the validation split"

    def test_held_out_of_one_file(self, tmp_path: Path) -> None:
        path = tmp_path / "x.jsonl"
        write_dialogues([make(n, (f"i am {n // 2} .",)) for n in range(40)], path)
        splits = load_splits(str(path), valid_share=0.1, seed=5)
        assert (len(splits.train), len(splits.valid)) == (36, 4)
        assert splits.leakage.shared_persona_sets == 0
        assert splits.sources["train"]["num_dialogues"] == 36
        assert splits.sources["valid"]["made"] == "held out by groups of personas and dialogues"
        assert splits == load_splits(str(path), valid_share=0.1, seed=5)

    def test_given_files_are_used_whole(self) -> None:
        ours, other = str(FIXTURES / "falconer.jsonl"), str(FIXTURES / "kaggle.csv")
        splits = load_splits(ours, other, "persona-chat-sample")
        assert splits.valid == load_dialogues(other).dialogues
        assert len(splits.test) == 203
        assert splits.valid_leakage.dialogue_share == 100
        assert splits.sources["valid"]["paths"] == [other]

    @pytest.mark.parametrize("kind", ["lines", "splits", "zip", "parquet"])
    def test_each_file_is_read_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
        path, splits = three_splits(tmp_path, kind)
        counts: Counter[str] = Counter()
        # What costs time: unpacking, decoding and parsing.
        for module, name in ((packed, "read_files"), (sources, "decode"), (sources, "json_splits"),
                             (sources, "parquet_rows")):  # fmt: skip
            monkeypatch.setattr(module, name, counted(getattr(module, name), name, counts))
        found = load_splits(str(path), str(path) if kind == "lines" else None)
        assert counts["read_files"] == 1
        parts = 3 if kind == "zip" else 1  # an archive's files, one a split
        assert (counts["decode"], counts["json_splits"], counts["parquet_rows"]) == (
            (0, 0, 1) if kind == "parquet" else (parts, parts, 0)
        )
        assert [len(found.train), len(found.valid), len(found.test)] == splits

    def test_a_hub_data_set_is_asked_for_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        rows = [json.loads(line) for line in (FIXTURES / "alekseykorshuk.jsonl").read_text("utf-8").splitlines()]
        splits = {"train": rows, "validation": rows[:1], "test": rows[1:]}
        counts: Counter[str] = Counter()
        monkeypatch.setattr(sources.hub, "load_splits", counted(lambda name: splits, "load_splits", counts))
        found = load_splits("owner/name")
        assert counts == {"load_splits": 1}
        assert [len(found.train), len(found.valid), len(found.test)] == [len(rows), 1, len(rows) - 1]
        assert found.sources["test"]["made"] == "the training source's own split"

    def test_bad_rows_are_listed(self, tmp_path: Path) -> None:
        path = tmp_path / "x.jsonl"
        write_dialogues([make(n, (f"i am {n} .",)) for n in range(10)], path)
        path.write_text(path.read_text(encoding="utf-8") + "{}\n", encoding="utf-8")
        with pytest.raises(FalconerError, match="line 11"):
            load_splits(str(path))
        (row,) = load_splits(str(path), reading=Reading(on_bad_row="skip")).sources["train"]["bad_rows"]
        assert row == {"path": str(path), "line": 11, "field": "turns", "message": "is missing. The row is empty."}
