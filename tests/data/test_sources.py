"""From a source to dialogues and back: splits by all their names, packed files, writing, and the embedded sample."""

import gzip
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line import falconer
from falconer.data.leakage import sentence_set
from falconer.data.sources import SAMPLE, load_dialogues, open_source, write_dialogues
from falconer.data.splits import persona_names
from falconer.errors import FalconerError
from falconer.records import Dialogue, Speaker, Turn

FIXTURES = Path(__file__).parent / "fixtures"

# Control characters are removed at reading, see test_mend.py; line breaks and tabs stay.
characters = st.characters(exclude_categories=("Cs", "Cc"), include_characters="\n\t")
words = st.text(characters, min_size=1, max_size=20).map(str.strip).filter(bool)
sentence = words.map(lambda text: " ".join(text.split()) or "x").map(str.strip).filter(bool)
speakers: st.SearchStrategy[Speaker] = st.sampled_from(("self", "partner"))


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    text = draw(words)
    others = draw(st.lists(words, max_size=2))
    return Turn(draw(speakers), text, (*others, text) if others else (), is_learned=draw(st.booleans()))


def alternating(turns: list[Turn]) -> tuple[Turn, ...]:
    """Return the turns with the speakers taking turns, the last one being "self", whose last reply is learned."""
    sides: tuple[Speaker, Speaker] = ("self", "partner")
    placed = [replace(turn, speaker=sides[i % 2]) for i, turn in enumerate(reversed(turns))]
    kept = [
        replace(turn, is_learned=turn.is_learned or turn.speaker == "partner" or i == 0)
        for i, turn in enumerate(placed)
    ]
    return tuple(reversed(kept))


dialogues = st.builds(
    Dialogue,
    id=words,
    persona=st.lists(sentence, max_size=3).map(tuple),
    turns=st.lists(turns(), min_size=1, max_size=5).map(alternating),
    partner_persona=st.lists(sentence, max_size=2).map(tuple),
)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
@given(written=st.lists(dialogues, min_size=1, max_size=5, unique_by=lambda dialogue: dialogue.id))
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, written: list[Dialogue]
) -> None:
    path = tmp_path_factory.mktemp("round") / f"x{suffix}"
    write_dialogues(written, path)
    loaded = load_dialogues(str(path))
    assert loaded.dialogues == tuple(written)
    assert loaded.format == "falconer"


def test_equal_dialogues_give_equal_bytes_and_the_hash_ignores_the_packing(tmp_path: Path) -> None:
    loaded = load_dialogues(str(FIXTURES / "falconer.jsonl"))
    for name in ("a.jsonl.gz", "b.jsonl.gz", "c.jsonl", "d.jsonl.zst"):
        write_dialogues(loaded.dialogues, tmp_path / name)
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()
    hashes = {load_dialogues(str(tmp_path / name)).sha256 for name in ("a.jsonl.gz", "c.jsonl", "d.jsonl.zst")}
    assert hashes == {loaded.sha256}


def test_every_format_survives_a_conversion(tmp_path: Path) -> None:
    for path in FIXTURES.glob("*.*"):
        if path.suffix == ".md":
            continue
        loaded = load_dialogues(str(path))
        write_dialogues(loaded.dialogues, tmp_path / "x.jsonl")
        assert load_dialogues(str(tmp_path / "x.jsonl")).dialogues == loaded.dialogues


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("before", encoding="utf-8")

    def broken() -> Iterator[Dialogue]:
        yield Dialogue("1", (), (Turn("self", "hi ."),))
        raise KeyError("broken")

    with pytest.raises(KeyError):
        write_dialogues(broken(), path)
    assert path.read_text(encoding="utf-8") == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def splits() -> dict[str, tuple[Dialogue, ...]]:
    """The dialogues of the embedded sample."""
    return {split: load_dialogues(SAMPLE, split=split).dialogues for split in open_source(SAMPLE).splits}


class TestSample:
    def test_counts(self, splits: dict[str, tuple[Dialogue, ...]]) -> None:
        assert {split: len(found) for split, found in splits.items()} == {"train": 2344, "valid": 64, "test": 203}
        replies = {split: load_dialogues(SAMPLE, split=split).num_replies for split in splits}
        assert replies == {"train": 17233, "valid": 497, "test": 1583}

    def test_gold_is_one_of_twenty_candidates(self, splits: dict[str, tuple[Dialogue, ...]]) -> None:
        for split in ("valid", "test"):
            replies = [turn for d in splits[split] for turn in d.turns if turn.speaker == "self"]
            assert all(len(turn.candidates) == 20 and turn.candidates.count(turn.text) == 1 for turn in replies)

    def test_no_persona_and_no_dialogue_in_two_splits(self, splits: dict[str, tuple[Dialogue, ...]]) -> None:
        names = persona_names([dialogue for found in splits.values() for dialogue in found])
        personas = [
            {names[sentence_set(persona)] for d in found for persona in (d.persona, d.partner_persona) if persona}
            for found in splits.values()
        ]
        ids = [{dialogue.id for dialogue in found} for found in splits.values()]
        for sets in (personas, ids):
            assert sum(map(len, sets)) == len(set[Any]().union(*sets))

    def test_the_halves_of_train_look_alike(self, splits: dict[str, tuple[Dialogue, ...]]) -> None:
        assert all(line.endswith(".") for found in splits.values() for d in found for line in d.persona)
        sizes = Counter(len(dialogue.persona) for dialogue in splits["train"])
        assert sizes == {4: 1173, 5: 1156, 3: 15}

    def test_source_names_no_place_of_this_machine(self) -> None:
        loaded = load_dialogues(SAMPLE, split="test")
        assert loaded.paths == ("persona-chat-sample/test.jsonl.gz",)
        assert loaded.sha256 == "1186d6f0d33e8825d3f208617ce831c8c33ad52f34edc561e25b02c416389172"


def test_packed_files_are_known_by_content(tmp_path: Path) -> None:
    data = (FIXTURES / "convai2_self_original.txt").read_bytes()
    (tmp_path / "x.txt").write_bytes(gzip.compress(data[:1000]) + gzip.compress(data[1000:]))
    expected = load_dialogues(str(FIXTURES / "convai2_self_original.txt"))
    loaded = load_dialogues(str(tmp_path / "x.txt"))
    assert [d.turns for d in loaded.dialogues] == [d.turns for d in expected.dialogues]
    assert loaded.sha256 == expected.sha256


def test_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    for name in ("alekseykorshuk.jsonl", "cynaptics.jsonl", "truecased.jsonl", "messages.jsonl"):
        lines = (FIXTURES / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / name).write_text("".join(reversed(lines)), encoding="utf-8")
        one, two = load_dialogues(str(FIXTURES / name)), load_dialogues(str(tmp_path / name))
        assert {(d.persona, d.turns) for d in one.dialogues} == {(d.persona, d.turns) for d in two.dialogues}


@pytest.mark.parametrize("name", ["valid", "validation", "val", "dev"])
@pytest.mark.parametrize("asked", ["valid", "validation", "val", "dev"])
def test_every_name_of_the_validation_split_is_one(tmp_path: Path, name: str, asked: str) -> None:
    path = tmp_path / "x.json"
    chats = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}]} for text in "ab"]
    path.write_text(json.dumps({"train": chats[:1], name: chats[1:]}), encoding="utf-8")
    loaded = load_dialogues(str(path), split=asked)
    assert [turn.text for turn in loaded.dialogues[0].turns] == ["hi", "b"]
    assert loaded.other_splits == ("train",) and load_dialogues(str(path)).other_splits == ("valid",)
    path.write_text(json.dumps({"valid": chats, "validation": chats}), encoding="utf-8")
    with pytest.raises(FalconerError, match="'valid', 'validation'; two of these are validation splits"):
        load_dialogues(str(path))


def test_converting_says_which_splits_it_leaves_alone(tmp_path: Path) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    (tmp_path / "x.json").write_text(json.dumps({"train": [chat], "dev": [chat], "test": [chat]}), encoding="utf-8")
    made = falconer("data", "convert", str(tmp_path / "x.json"), str(tmp_path / "y.jsonl"), "--split", "validation")
    not_read = "Not read: the splits train, test (choose one with --split)"
    assert made.code == 0 and made.out.splitlines()[1:] == [not_read]
    again = falconer("data", "convert", str(tmp_path / "y.jsonl"), str(tmp_path / "z.jsonl"))
    assert again.code == 0 and "Not read" not in again.out


def test_a_file_without_rows(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[]", encoding="utf-8")
    with pytest.raises(FalconerError, match="has no rows"):
        load_dialogues(str(tmp_path / "x.json"))
