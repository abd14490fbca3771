"""The dialogues of an existing run: exactly those that it recorded, even if their files have been moved."""

import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from falconer.config import DataConfig
from falconer.data.leakage import Contents, Leakage, contents
from falconer.data.prompt import PromptFormat
from falconer.data.sources import SAMPLE, Loaded, Source, open_source
from falconer.data.splits import (
    GIVEN,
    OWN_SPLIT,
    VALIDATION_SPLIT,
    Splits,
    describe,
    dialogue_hash,
    hold_out,
    load_split,
    subset,
    test_note,
)
from falconer.data.text import restyle
from falconer.errors import FalconerError
from falconer.records import Dialogue
from falconer.run.folder import RECORD, SPLITS

# Of the hashes in splits.json: another number where `dialogue_hash`, `normalise` or `Contents` change their meaning.
VERSION = 1
# The splits, and the keys of the data section that name their files.
_SPLITS: Mapping[str, str] = MappingProxyType({"train": "training", "valid": "validation", "test": "test"})


@dataclass(frozen=True, slots=True)
class EvaluationData:
    """What a run is evaluated on, and what training has seen of it.

    Args:
        dialogues: in the run's text style.
        sources: as `Splits.sources`: those of the run, `test` as it was read for this evaluation.
        leakage: what the dialogues share with those that were trained on, or why that can't be told.
        seen: their persona sentences that training shows; None where that can't be told.
        notes: sentences for the user: what has moved, and what is no unseen dialogue.
        format: what the run's prompts look like.
    """

    dialogues: tuple[Dialogue, ...]
    sources: dict[str, dict[str, Any]]
    leakage: Leakage | str
    seen: frozenset[str] | None
    notes: tuple[str, ...]
    format: PromptFormat


def pack(splits: Splits) -> dict[str, Any]:
    """Return what a run keeps of its dialogues in splits.json: hashes of each, and of what training shows."""
    return {
        "version": VERSION,
        "dialogues": {name: list(hashes) for name, hashes in splits.hashes.items()},
        "trained": splits.trained.to_json(),
    }


class RunDialogues:
    """The way from a run's records to its dialogues; each source is read once.

    Args:
        run: the run's folder, for messages.
        sources: what run.json holds as "data".
        packed: what splits.json holds; None for a run of a version that did not write one: then the splits are made
            again by the run's own seed.
        before: the run's data section; `now` may name its files elsewhere, and another test file.
        seed: the run's.

    Raises:
        FalconerError: a record is damaged.
    """

    def __init__(
        self, run: Path, sources: Any, packed: Mapping[str, Any] | None, before: DataConfig, now: DataConfig, seed: int
    ) -> None:
        self._run, self._before, self._now, self._seed = run, before, now, seed
        self._opened: dict[str, Source] = {}  # those that have another split to load
        self._read: dict[tuple[str, str], Loaded] = {}
        self._held_out: tuple[tuple[Dialogue, ...], tuple[Dialogue, ...], str] | None = None
        self._hashes: dict[str, list[str]] | None = None
        self._trained: Contents | None = None
        file = RECORD
        try:
            self._sources = {name: dict(sources[name]) for name in _SPLITS}
            for key, kind in (("made", str), ("sha256", str), ("split", str), ("num_dialogues", int)):
                _check_all([one[key] for one in self._sources.values()], kind, key)
            file = SPLITS
            if packed is not None and packed["version"] == VERSION:
                self._hashes = {name: list(packed["dialogues"][name]) for name in _SPLITS}
                for name, hashes in self._hashes.items():
                    _check_all(hashes, str, name)
                self._trained = Contents.from_json(packed["trained"])
        except (KeyError, TypeError, ValueError) as error:
            raise FalconerError(
                f"The record of '{run}' is damaged: {file} does not describe its dialogues ({error}).",
                "Restore the file that this run wrote.",
            ) from error

    def check(self, names: Iterable[str], may_have_moved: Iterable[str] = tuple(_SPLITS)) -> list[str]:
        """Compare the files behind some splits, and every file that is named elsewhere, with what the run recorded.

        Args:
            may_have_moved: keys of the data section that may name a file of the run elsewhere.

        Returns:
            A sentence for each file that has moved.

        Raises:
            FalconerError: one is gone or has changed; all that have are named.
        """
        moved = [key for key in may_have_moved if getattr(self._before, key) != getattr(self._now, key)]
        # Each key has a split of its own name, which comes from its file.
        same = {
            name: self._load(name).sha256 == self._sources[name]["sha256"] for name in dict.fromkeys((*names, *moved))
        }
        pairs = {key: (getattr(self._now, key), getattr(self._before, key)) for key in moved}
        changed = dict.fromkeys(self._where(name) for name, is_same in same.items() if not is_same)
        if changed:
            raise FalconerError(
                f"The data of the run '{self._run}' has changed since training began: {', '.join(changed)}.",
                "Restore the original files, or train a new run. To evaluate on other dialogues, give them in a "
                "file of their own: falconer evaluate data.test=FILE.",
            )
        return [
            f"data.{key}: '{now}' has the same content as '{before}', the file that the run was started with."
            for key, (now, before) in pairs.items()
        ]

    def splits(self) -> Splits:
        """Return what the run trains and validates on, after `check` of both; without test dialogues."""
        train, valid = self._split("train"), self._split("valid")
        trained = self._trained or contents(train)
        return Splits(
            train=train,
            valid=valid,
            test=(),
            sources=self._sources,
            hashes={"train": tuple(map(dialogue_hash, train)), "valid": tuple(map(dialogue_hash, valid)), "test": ()},
            trained=trained,
            leakage=trained.shared_with(()),
            valid_leakage=trained.shared_with(valid),
        )

    def for_evaluation(self, format: PromptFormat, text: Literal["raw", "natural"]) -> EvaluationData:
        """Return the run's test split, or the test file that `now` names, and what training has seen of it.

        Training's file is read only where the test split was held out of it, or the run has not kept its hashes.

        Args:
            format: what the run's prompts look like.
            text: the style in which they show the dialogues.

        Raises:
            FalconerError: a file that is needed is gone or has changed since the run began.
        """
        other = self._other_test()
        if other is None:
            notes = [*self.check(("test",)), *filter(None, [test_note(self._sources["test"])])]
            source = self._sources["test"] | {"paths": list(self._load("test").paths)}
            dialogues = self._split("test")
        else:
            notes = self.check((), may_have_moved=("train", "valid"))
            split, loaded = other
            source, dialogues = describe(loaded, split, "given to this evaluation"), loaded.dialogues
        shown = tuple(restyle(dialogue, text, format.language) for dialogue in dialogues)
        sources = self._sources | {"test": source}
        try:
            trained = self._trained or contents(self._old_training())
        except FalconerError as error:
            return EvaluationData(shown, sources, error.message, None, tuple(notes), format)
        leakage = trained.shared_with(dialogues)
        if leakage.shared_dialogues:
            notes.append(
                f"{leakage.shared_dialogues:,} of {leakage.num_dialogues:,} test dialogues begin like dialogues in the "
                "training data, so the figures are not of unseen dialogues alone."
            )
        styled = (zip(raw.persona, new.persona, strict=True) for raw, new in zip(dialogues, shown, strict=True))
        seen = frozenset(line for pairs in styled for raw_line, line in pairs if trained.shows(raw_line))
        return EvaluationData(shown, sources, leakage, seen, tuple(notes), format)

    def _other_test(self) -> tuple[str, Loaded] | None:
        """Return split and content of a test file that is not the run's own; None where it is, also if it moved."""
        before, now = self._before, self._now
        if now.test is None or now.test == before.test:
            return None
        split, loaded = load_split(open_source(now.test, now.format, now.max_gib), "test", now.on_bad_row)
        is_read_as_before = (now.format, now.on_bad_row) == (before.format, before.on_bad_row)
        own = self._sources["test"]["sha256"] if self._field("test") == "test" else None
        return None if is_read_as_before and loaded.sha256 == own else (split, loaded)

    def _old_training(self) -> Sequence[Dialogue]:
        self.check(("train",), may_have_moved=())
        return self._split("train")

    def _split(self, name: str) -> tuple[Dialogue, ...]:
        if self._hashes is None:
            return self._made_again(name)
        found: dict[str, deque[Dialogue]] = defaultdict(deque)
        for dialogue in self._load(name).dialogues:
            found[dialogue_hash(dialogue)].append(dialogue)
        held = Counter({key: len(some) for key, some in found.items()})
        num_missing = (Counter(self._hashes[name]) - held).total()
        if num_missing:
            raise self._read_differently(name, f"{num_missing:,} of {len(self._hashes[name]):,} dialogues differ")
        return tuple(found[key].popleft() for key in self._hashes[name])

    def _made_again(self, name: str) -> tuple[Dialogue, ...]:
        """Split the run's data as it did when it began; for runs that kept no hashes."""
        source, dialogues = self._sources[name], self._load(name).dialogues
        if source["made"] == VALIDATION_SPLIT:
            return self._made_again("valid")
        how = self._sources["valid"]["made"]
        is_held_out = how not in (GIVEN, OWN_SPLIT)
        if is_held_out and name in ("train", "valid"):
            if self._held_out is None:
                self._held_out = hold_out(dialogues, self._before.valid_share, self._seed)
            kept, held, how_now = self._held_out
            dialogues = kept if name == "train" else held
            if how_now != how:
                raise self._read_differently(name, f"the split would now be {how_now}, but it was {how}")
        num_before = source["num_dialogues"] + source.get("num_not_chosen", 0)
        if len(dialogues) != num_before:
            raise self._read_differently(name, f"it now has {len(dialogues):,} dialogues, but had {num_before:,}")
        return subset(dialogues, self._before.max_dialogues, self._seed) if name == "train" else dialogues

    def _field(self, name: str) -> str:
        """Return which key of the data section, less "data.", names the file behind a split."""
        how = self._sources[name]["made"]
        if how == VALIDATION_SPLIT:
            return self._field("valid")
        return name if how == GIVEN else "train"

    def _load(self, name: str) -> Loaded:
        field, split = self._field(name), self._sources[name]["split"]
        path = str(getattr(self._now, field))
        if (path, split) not in self._read:
            try:
                source = self._opened.get(path) or open_source(path, self._before.format, self._now.max_gib)
                self._read[path, split] = source.load(split, on_bad_row=self._before.on_bad_row)
                if len(source.splits) > 1:
                    self._opened[path] = source
            except FalconerError as error:
                if path != getattr(self._before, field) or path == SAMPLE or os.path.exists(path):
                    raise
                raise FalconerError(
                    f"{error.message} The run '{self._run}' needs it for its dialogues (data.{field}).",
                    f"If the file has been moved, give its new path: data.{field}=PATH. Its content will be compared "
                    "with what the run recorded.",
                ) from error
        return self._read[path, split]

    def _where(self, name: str) -> str:
        key = self._field(name)
        now, before = getattr(self._now, key), getattr(self._before, key)
        return f"data.{key} ('{now}'" + (")" if now == before else f" instead of '{before}')")

    def _read_differently(self, name: str, how: str) -> FalconerError:
        path = getattr(self._now, self._field(name))
        return FalconerError(
            f"The file '{path}' has not changed, but this version of falconer does not read the same "
            f"{_SPLITS[name]} dialogues from it as the run '{self._run}': {how}.",
            f"Use the version of falconer that {RECORD} names, or give another test file: "
            "falconer evaluate data.test=FILE.",
        )


def _check_all(values: Sequence[Any], kind: type, name: str) -> None:
    if wrong := [value for value in values if not isinstance(value, kind)]:
        raise TypeError(f"{name} has a value of the wrong type: {type(wrong[0]).__name__}")
