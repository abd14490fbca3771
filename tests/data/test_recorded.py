"""A run's dialogues are found again exactly, wherever their files lie, and never taken from files that have changed."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.config import DataConfig
from falconer.data import hub, recorded, splits
from falconer.data.leakage import Leakage, leakage
from falconer.data.prompt import PromptFormat
from falconer.data.recorded import EvaluationData, RunDialogues, pack
from falconer.data.sources import Reading, Source, load_dialogues, write_dialogues
from falconer.data.splits import Splits, load_splits
from falconer.data.text import restyle
from falconer.errors import FalconerError
from falconer.records import Dialogue, Speaker, Turn

RUN = Path("runs/mine")
SEED = 5


def make(index: int, persona: tuple[str, ...], num_turns: int = 6) -> Dialogue:
    sides: list[Speaker] = ["partner", "self"]
    turns = tuple(Turn(sides[k % 2], f"dialogue {index} turn {k}") for k in range(num_turns))
    return Dialogue(f"d{index}", persona, turns)


def write(path: Path, *indices: int) -> str:
    write_dialogues([make(index, (f"i am number {index} .", "i ski .")) for index in indices], path)
    return str(path)


def begin(data: DataConfig) -> tuple[Splits, dict[str, Any], dict[str, Any]]:
    """Return what a run that begins now trains on, and what it writes down: the two records, through JSON."""
    found = load_splits(
        data.train, data.valid, data.test, reading=Reading(data.format, data.on_bad_row),
        valid_share=data.valid_share, seed=SEED, max_train=data.max_dialogues,
    )  # fmt: skip
    sources, packed = json.loads(json.dumps([found.sources, pack(found)]))
    return found, sources, packed


def again(
    sources: dict[str, Any], packed: dict[str, Any] | None, data: DataConfig, **now: str | None
) -> RunDialogues:  # fmt: skip
    return RunDialogues(RUN, sources, packed, data, data.model_copy(update=now), SEED)


def evaluated(*record: Any, **now: str | None) -> EvaluationData:
    data: DataConfig = record[2]
    return again(*record, **now).for_evaluation(PromptFormat(), data.text)


@pytest.fixture
def given_all(tmp_path: Path) -> DataConfig:
    """Three files."""
    return DataConfig(
        train=write(tmp_path / "train.jsonl", *range(20)), valid=write(tmp_path / "valid.jsonl", *range(20, 25)),
        test=write(tmp_path / "test.jsonl", *range(25, 31)),
    )  # fmt: skip


@pytest.fixture
def held_out(tmp_path: Path) -> DataConfig:
    """One file, of which a fifth is held out."""
    return DataConfig(train=write(tmp_path / "train.jsonl", *range(30)), valid_share=0.2)


@pytest.fixture
def own_splits(tmp_path: Path) -> DataConfig:
    """One file that holds three splits."""

    def rows(*indices: int) -> list[dict[str, Any]]:
        turns = [("partner", "turn 0"), ("self", "turn 1"), ("partner", "turn 2"), ("self", "turn 3")]
        return [
            {"persona": [f"i am {i} ."], "turns": [{"speaker": who, "text": f"{i} {text}"} for who, text in turns]}
            for i in indices
        ]

    path = tmp_path / "all.json"
    path.write_text(json.dumps({"train": rows(*range(9)), "validation": rows(9, 10), "test": rows(11, 12, 13)}))
    return DataConfig(train=str(path))


@pytest.fixture
def embedded() -> DataConfig:
    return DataConfig(train="persona-chat-sample", max_dialogues=40)


@pytest.fixture(params=["given_all", "held_out", "own_splits", "embedded"])
def data(request: pytest.FixtureRequest) -> DataConfig:
    """Every way to come to three splits."""
    found: DataConfig = request.getfixturevalue(request.param)
    return found


def test_the_same_files_give_the_same_splits(data: DataConfig) -> None:
    found, sources, packed = begin(data)
    for kept in (packed, None):
        run = again(sources, kept, data)
        assert run.check(("train", "valid")) == []
        resumed = run.splits()
        assert (resumed.train, resumed.valid, resumed.valid_leakage) == (found.train, found.valid, found.valid_leakage)
        assert resumed.hashes["train"] == found.hashes["train"]
        tested = evaluated(sources, kept, data)
        assert (tested.dialogues, tested.leakage) == (found.test, found.leakage)
        is_validation = found.sources["test"]["made"] == "the validation split"
        assert [note[:29] for note in tested.notes] == ["The data has no test split, s"] * is_validation
        assert tested.sources == found.sources
        assert tested.seen == {
            line for dialogue in found.test for line in dialogue.persona if found.trained.shows(line)
        }


def test_a_hub_data_set_too(monkeypatch: pytest.MonkeyPatch, given_all: DataConfig) -> None:
    def rows(*indices: int) -> list[dict[str, Any]]:
        turns = [{"speaker": "partner", "text": "hi"}, {"speaker": "self", "text": "hello"}]
        return [{"persona": [f"i am {i} ."], "turns": [*turns, {"speaker": "self", "text": str(i)}]} for i in indices]

    here = {"train": rows(*range(9)), "validation": rows(9, 10), "test": rows(11, 12)}
    monkeypatch.setattr(hub, "load_splits", lambda name: here)
    data = DataConfig(train="somebody/chats")
    found, sources, packed = begin(data)
    assert evaluated(sources, packed, data).dialogues == found.test
    here["test"] = rows(11, 12, 13)
    with pytest.raises(FalconerError, match=r"has changed since training began: data\.train \('somebody/chats'\)"):
        evaluated(sources, packed, data)
    again(sources, packed, data).check(("train", "valid"))  # these have not


def test_a_held_out_split_does_not_depend_on_how_it_would_be_held_out_today(
    held_out: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, sources, packed = begin(held_out)
    other = splits.hold_out

    def reseeded(dialogues: Any, share: float, seed: int) -> Any:
        return other(dialogues, share, seed + 1)

    for module in (splits, recorded):
        monkeypatch.setattr(module, "hold_out", reseeded)
    assert load_splits(held_out.train, valid_share=0.2, seed=SEED).test != found.test
    assert evaluated(sources, packed, held_out).dialogues == found.test


def test_a_grown_file_is_refused(data: DataConfig) -> None:
    if data.train == "persona-chat-sample":
        return  # nobody can change it
    _, sources, packed = begin(data)
    own = data.test or data.train
    text = Path(own).read_text()
    if own.endswith("jsonl"):
        text += text.splitlines()[0].replace("dialogue", "another") + "\n"
    else:
        text = text.replace("13 turn", "14 turn")
    Path(own).write_text(text)
    for kept in (packed, None):
        with pytest.raises(FalconerError, match=r"'runs/mine' has changed since training began: data\.") as caught:
            evaluated(sources, kept, data)
        assert own in caught.value.message and "data.test=FILE" in caught.value.hint


def test_every_changed_file_is_named_once(given_all: DataConfig) -> None:
    _, sources, packed = begin(given_all)
    for path in (given_all.train, str(given_all.valid)):
        write(Path(path), 1, 2, 3)
    with pytest.raises(FalconerError) as caught:
        again(sources, packed, given_all).check(("train", "valid"))
    assert f"data.train ('{given_all.train}'), data.valid ('{given_all.valid}')." in caught.value.message


def move_plainly(path: Path) -> str:
    return str(path.rename(path.with_name(f"moved-{path.name}")))


def move_packed(path: Path) -> str:
    """As .gz: the hash is that of the unpacked bytes."""
    target = path.with_name(f"moved-{path.name}.gz")
    target.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return str(target)


@pytest.mark.parametrize("move", [move_plainly, move_packed])
@pytest.mark.parametrize("has_hashes", [True, False])
def test_moved_files_are_known_by_their_content(
    given_all: DataConfig, move: Callable[[Path], str], has_hashes: bool
) -> None:
    found, sources, packed = begin(given_all)
    kept = packed if has_hashes else None
    now = {key: move(Path(str(getattr(given_all, key)))) for key in ("train", "valid", "test")}
    run = again(sources, kept, given_all, **now)
    said = run.check(("train", "valid"))
    assert [line.split(":")[0] for line in said] == ["data.train", "data.valid", "data.test"]
    assert all(f"'{now[key]}' has the same content as '{getattr(given_all, key)}'" in "".join(said) for key in now)
    assert run.splits().train == found.train
    tested = evaluated(sources, kept, given_all, **now)
    assert (tested.dialogues, tested.leakage) == (found.test, found.leakage)
    assert tested.sources["test"]["paths"] == [now["test"]]


def test_a_held_out_split_moves_with_its_file(held_out: DataConfig) -> None:
    found, sources, packed = begin(held_out)
    moved = move_plainly(Path(held_out.train))
    tested = evaluated(sources, packed, held_out, train=moved)
    assert (tested.dialogues, len(tested.notes)) == (found.test, 2)


@pytest.mark.parametrize("key", ["train", "valid"])
def test_another_file_is_not_the_one_that_moved(given_all: DataConfig, tmp_path: Path, key: str) -> None:
    _, sources, packed = begin(given_all)
    other = write(tmp_path / "other.jsonl", 70, 71)
    with pytest.raises(FalconerError) as caught:
        evaluated(sources, packed, given_all, **{key: other})
    assert f"data.{key} ('{other}' instead of '{getattr(given_all, key)}')" in caught.value.message


def test_a_file_that_is_gone_is_asked_for(held_out: DataConfig) -> None:
    _, sources, packed = begin(held_out)
    Path(held_out.train).unlink()
    with pytest.raises(
        FalconerError, match=rf"There is no file '{held_out.train}'\..*'runs/mine'.*data\.train"
    ) as caught:
        evaluated(sources, packed, held_out)
    assert "data.train=PATH" in caught.value.hint
    with pytest.raises(FalconerError, match=r"There is no file 'nowhere\.jsonl'") as caught:
        evaluated(sources, packed, held_out, train="nowhere.jsonl")
    assert "runs/mine" not in str(caught.value)


def test_a_recorded_name_that_no_file_can_have_is_asked_for_like_one_that_is_gone(held_out: DataConfig) -> None:
    _, sources, packed = begin(held_out)
    for name in ("9" * 300, f"/tmp/{'9' * 5000}"):
        with pytest.raises(FalconerError, match="needs it for its dialogues") as caught:
            evaluated(sources, packed, held_out.model_copy(update={"train": name}))
        assert "data.train=PATH" in caught.value.hint


def test_only_the_files_that_are_needed_are_read(given_all: DataConfig) -> None:
    found, sources, packed = begin(given_all)
    Path(given_all.train).unlink()
    Path(str(given_all.valid)).unlink()
    tested = evaluated(sources, packed, given_all)
    assert (tested.dialogues, tested.leakage) == (found.test, found.leakage)

    write(Path(given_all.train), *range(20))
    write(Path(str(given_all.valid)), *range(20, 25))
    Path(str(given_all.test)).unlink()
    run = again(sources, packed, given_all)
    run.check(("train", "valid"))
    assert (run.splits().train, run.splits().test) == (found.train, ())


def test_another_test_file_needs_no_file_of_the_run_and_is_compared_with_training(
    data: DataConfig, tmp_path: Path
) -> None:
    found, sources, packed = begin(data)
    shared = found.train[:2]
    dialogues = [*shared, make(90, ("I SKI!", "i fly ."))]
    write_dialogues(dialogues, tmp_path / "new.jsonl")
    for key in ("train", "valid", "test"):
        if (path := Path(str(getattr(data, key)))).is_file():
            path.unlink()
    tested = evaluated(sources, packed, data, test=str(tmp_path / "new.jsonl"))
    assert tested.dialogues == tuple(dialogues)
    assert tested.leakage == leakage(found.train, dialogues)
    assert isinstance(tested.leakage, Leakage) and tested.leakage.shared_dialogues == 2
    assert tested.sources["test"]["made"] == "given to this evaluation"
    assert tested.sources["train"] == found.sources["train"]
    assert tested.seen and set(shared[0].persona) <= tested.seen
    assert "i fly ." not in tested.seen
    (note,) = tested.notes
    assert note.startswith("2 of 3 test dialogues begin like dialogues in the training data")


def test_an_old_run_compares_with_training_only_where_it_still_can(given_all: DataConfig, tmp_path: Path) -> None:
    found, sources, _ = begin(given_all)
    new = write(tmp_path / "new.jsonl", 3, 90)
    assert evaluated(sources, None, given_all, test=new).leakage == leakage(found.train, load_dialogues(new).dialogues)
    moved = move_plainly(Path(given_all.train))
    for now in ({"test": new}, {}):
        tested = evaluated(sources, None, given_all, **now)
        assert isinstance(tested.leakage, str) and f"no file '{given_all.train}'" in tested.leakage
        assert tested.seen is None and len(tested.dialogues) in (2, 6)
        assert isinstance(evaluated(sources, None, given_all, train=moved, **now).leakage, Leakage)
    write(Path(given_all.train), 1, 2)
    assert "has changed" in str(evaluated(sources, None, given_all, test=new).leakage)


def test_a_file_of_its_own_with_a_format_of_its_own(given_all: DataConfig) -> None:
    """Also the run's own test file, read in another way, is another one."""
    _, sources, packed = begin(given_all)
    path = Path(str(given_all.test))
    path.write_text(path.read_text() + "{}\n")
    copy = str(path.rename(path.with_name("copy.jsonl")))
    with pytest.raises(FalconerError, match="line 7"):
        evaluated(sources, packed, given_all, test=copy)
    tested = evaluated(sources, packed, given_all, test=copy, on_bad_row="skip")
    assert len(tested.dialogues) == 6 and len(tested.sources["test"]["bad_rows"]) == 1


def test_what_was_trained_is_the_subset(held_out: DataConfig) -> None:
    data = held_out.model_copy(update={"max_dialogues": 7})
    found, sources, packed = begin(data)
    whole = load_splits(data.train, valid_share=0.2, seed=SEED)
    assert len(found.train) == 7 and set(found.train) < set(whole.train) and found.test == whole.test
    assert sources["train"]["num_dialogues"] == 7
    assert sources["train"]["num_not_chosen"] == len(whole.train) - 7
    unchosen = [dialogue for dialogue in whole.train if dialogue not in found.train]
    assert found.trained.shared_with(unchosen).shared_dialogues == 0
    for kept in (packed, None):
        assert again(sources, kept, data).splits().train == found.train


def test_persona_sentences_that_training_shows_are_known_in_natural_style_too(tmp_path: Path) -> None:
    path = write(tmp_path / "train.jsonl", *range(20))
    data = DataConfig(train=path, test=write(tmp_path / "test.jsonl", 40, 41), text="natural")
    found, sources, packed = begin(data)
    tested = evaluated(sources, packed, data)
    assert tested.dialogues == tuple(restyle(dialogue, "natural", "en") for dialogue in found.test)
    assert tested.seen == {"I ski."}


def test_another_reading_of_the_same_file_is_refused(held_out: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    _, sources, packed = begin(held_out)
    real = Source.load

    def differently(source: Source, *args: Any, **options: Any) -> Any:
        loaded = real(source, *args, **options)
        return replace(loaded, dialogues=tuple(replace(d, turns=d.turns[:-2]) for d in loaded.dialogues))

    monkeypatch.setattr(Source, "load", differently)
    with pytest.raises(
        FalconerError, match=r"this version of falconer does not read the same test dialogues.* 6 of 6 .*differ"
    ):
        evaluated(sources, packed, held_out)
    monkeypatch.setattr(Source, "load", lambda *a, **o: replace(r := real(*a, **o), dialogues=r.dialogues[4:]))
    with pytest.raises(FalconerError, match="it now has 5 dialogues, but had 6"):
        evaluated(sources, None, held_out)


@pytest.mark.parametrize(
    ("file", "sources", "packed"),
    [
        ("run.json", None, None),
        ("run.json", {"train": {}, "valid": {}, "test": {}}, None),
        ("run.json", {"train": 1}, None),
        ("splits.json", ..., {"version": 1}),
        ("splits.json", ..., {"version": 1, "dialogues": {"train": [], "valid": [], "test": []}, "trained": {}}),
        ("splits.json", ..., {}),
    ],
)
def test_a_damaged_record_is_named(given_all: DataConfig, file: str, sources: Any, packed: Any) -> None:
    good = begin(given_all)[1]
    with pytest.raises(FalconerError, match=f"The record of 'runs/mine' is damaged: {file}"):
        again(good if sources is ... else sources, packed, given_all)


def test_hashes_of_another_version_are_no_hashes(held_out: DataConfig) -> None:
    found, sources, packed = begin(held_out.model_copy(update={"max_dialogues": 7}))
    data = held_out.model_copy(update={"max_dialogues": 7})
    run = again(sources, packed | {"version": 0, "dialogues": {}}, data)
    assert run.splits().train == found.train


turns = st.sampled_from([("hi", "hello"), ("hi", "hello", "how", "fine"), ("hey", "été"), ("a", "b"), ("c", "d")])


@given(st.lists(st.tuples(st.integers(0, 9), turns), min_size=2, max_size=20))
def test_every_dialogue_of_every_split_comes_back_also_where_some_are_equal(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, tuple[str, ...]]]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "x.jsonl"
    sides = ("partner", "self")
    spoken = [[{"speaker": sides[k % 2], "text": text} for k, text in enumerate(said)] for _, said in rows]
    lines = [
        json.dumps({"persona": [f"i am {n}"], "turns": said}) + "\n" for (n, _), said in zip(rows, spoken, strict=True)
    ]
    path.write_text("".join(lines))
    data = DataConfig(train=str(path), valid_share=0.3)
    try:
        found, sources, packed = begin(data)
    except FalconerError as error:
        assert "too few to hold out" in error.message
        return
    run = again(sources, packed, data)
    assert (run.splits().train, run.splits().valid) == (found.train, found.valid)
    assert evaluated(sources, packed, data).dialogues == found.test


@pytest.mark.parametrize("wrong", [{}, [], None, 3, float("inf")])
def test_a_hash_or_field_of_the_wrong_type_is_damage(wrong: Any) -> None:
    _, sources, packed = begin(DataConfig())
    packed["dialogues"]["train"][1] = wrong
    with pytest.raises(FalconerError, match="train has a value of the wrong type"):
        again(sources, packed, DataConfig())
    _, sources, packed = begin(DataConfig())
    sources["valid"]["sha256"] = wrong
    with pytest.raises(FalconerError, match="sha256 has a value of the wrong type"):
        again(sources, packed, DataConfig())
