"""Splitting dialogues into training, validation and test without shared personas, and reporting what they share."""

import hashlib
import random
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from falconer.consoles import counted
from falconer.data.leakage import Contents, Leakage, contents, openings, sentence_set
from falconer.data.personas import groups, persona_names
from falconer.data.sources import Loaded, Reading, Source, open_source
from falconer.errors import FalconerError
from falconer.records import Dialogue

# How a split came about, as `Splits.sources` says it; a held-out one says which way of `hold_out` was taken.
GIVEN = "given"
OWN_SPLIT = "the training source's own split"
VALIDATION_SPLIT = "the validation split"


@dataclass(frozen=True, slots=True)
class Splits:
    """Dialogues by split.

    Args:
        train: those that are trained on, the chosen ones where their number is limited.
        sources: for each split: path, format, sha256, num_dialogues, num_replies, bad_rows and how it was made.
        hashes: for each split: `dialogue_hash` of its dialogues as they were read, in order.
        trained: what train shows.
        leakage: what test shares with train.
        valid_leakage: what valid shares with train.
    """

    train: tuple[Dialogue, ...]
    valid: tuple[Dialogue, ...]
    test: tuple[Dialogue, ...]
    sources: dict[str, dict[str, Any]]
    hashes: dict[str, tuple[str, ...]]
    trained: Contents
    leakage: Leakage
    valid_leakage: Leakage


def test_note(source: Mapping[str, Any]) -> str:
    """Return what the user should know if the test dialogues are the validation dialogues; "" if they are not.

    Args:
        source: what `Splits.sources` says of the test split.
    """
    if source["made"] != VALIDATION_SPLIT:
        return ""
    return (
        "The data has no test split, so the validation dialogues are evaluated. The best adapter is chosen on them, "
        "which makes its figures look a little better; data.test=FILE gives other dialogues."
    )


def load_splits(
    train: str,
    valid: str | None = None,
    test: str | None = None,
    *,
    reading: Reading | None = None,
    valid_share: float = 0.05,
    seed: int = 17,
    max_train: int | None = None,
    partner_too: bool = False,
) -> Splits:
    """Load the three splits of a run.

    Args:
        train, valid, test: sources, see `load_dialogues`. Without `valid`: the training source's own validation split,
            else one held out of it (see `hold_out`). Without `test`: its own test split, else the validation split.
        reading: how the sources are read; None: as `Reading` says.
        valid_share: share (0-1) of the training dialogues to hold out.
        seed: decides what is held out, and what `max_train` chooses.
        max_train: train on so many dialogues at most.
        partner_too: training learns the partner's turns, too, so other splits share what is said in these.

    Raises:
        FalconerError: see `load_dialogues` and `hold_out`.
    """
    found = _load_all({"train": train, "valid": valid, "test": test}, reading or Reading())
    sources = {name: describe(part.loaded, part.split, part.made) for name, part in found.items()}
    train_part, train_dialogues = found["train"], found["train"].loaded.dialogues
    if "valid" in found:
        valid_dialogues = found["valid"].loaded.dialogues
    else:
        num_before = len(train_dialogues)
        train_dialogues, valid_dialogues, how = hold_out(train_dialogues, valid_share, seed)
        sources["valid"] = describe(train_part.loaded, train_part.split, how) | _counts(valid_dialogues)
        left_out = num_before - len(train_dialogues) - len(valid_dialogues)
        sources["train"] |= _counts(train_dialogues) | {"num_left_out": left_out}
    if "test" in found:
        test_dialogues = found["test"].loaded.dialogues
    else:
        test_dialogues = valid_dialogues
        sources["test"] = sources["valid"] | {"made": VALIDATION_SPLIT}
    chosen = subset(train_dialogues, max_train, seed)
    if len(chosen) < len(train_dialogues):
        sources["train"] |= _counts(chosen) | {"num_not_chosen": len(train_dialogues) - len(chosen)}
    dialogues = {"train": chosen, "valid": valid_dialogues, "test": test_dialogues}
    trained = contents(chosen, partner_too=partner_too)
    valid_leakage = trained.shared_with(valid_dialogues)
    return Splits(
        **dialogues,
        sources={name: sources[name] for name in dialogues},
        hashes={name: tuple(map(dialogue_hash, some)) for name, some in dialogues.items()},
        trained=trained,
        leakage=valid_leakage if test_dialogues is valid_dialogues else trained.shared_with(test_dialogues),
        valid_leakage=valid_leakage,
    )


@dataclass(frozen=True, slots=True)
class _Part:
    """A split that a source gives: its name there, what it holds, and how it came about."""

    split: str
    loaded: Loaded
    made: str


def _load_all(given: Mapping[str, str | None], reading: Reading) -> dict[str, _Part]:
    """Load the splits that are given, and those that the training source has itself; each source is read once."""
    train = given["train"]
    opened: dict[str, Source] = {}
    found: dict[str, _Part] = {}
    for wanted, own in given.items():
        name = own or train
        assert name is not None, "there is always a training source"
        if name not in opened:
            opened[name] = open_source(name, reading.format, reading.max_gib)
        if own or wanted in opened[name].splits:
            found[wanted] = _Part(*load_split(opened[name], wanted, reading.on_bad_row), GIVEN if own else OWN_SPLIT)
    return found


def load_split(source: Source, wanted: str, on_bad_row: str) -> tuple[str, Loaded]:
    """Load the wanted one of a source's splits; a file given for validation has one split, which is called "train".

    Returns:
        The split's own name, and what it holds.
    """
    splits = source.splits
    split = wanted if wanted in splits or len(splits) > 1 else splits[0]
    return split, source.load(split, on_bad_row=on_bad_row)


def subset(dialogues: tuple[Dialogue, ...], limit: int | None, seed: int) -> tuple[Dialogue, ...]:
    """Return `limit` of the dialogues, chosen by the seed; all of them without a limit."""
    if limit is None or limit >= len(dialogues):
        return dialogues
    return tuple(dialogues[index] for index in np.random.default_rng(seed).permutation(len(dialogues))[:limit])


def dialogue_hash(dialogue: Dialogue) -> str:
    """Return 16 hex digits of a dialogue's content: personas, turns, and which replies are learned; not its id."""
    text = f"{_fingerprint(dialogue)} {dialogue.replies}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def hold_out(
    dialogues: Sequence[Dialogue], share: float, seed: int
) -> tuple[tuple[Dialogue, ...], tuple[Dialogue, ...], str]:
    """Return (kept, held out, how), never by row. The strictest of three ways is taken that can give about `share`:

    1. Whole groups of dialogues that share a persona (of either speaker) or are the same dialogue.
    2. Where nearly everything hangs together (Persona-Chat pairs its personas at random): the dialogues whose own
       persona is among the held-out ones; what shows a held-out persona from the other side, or the same dialogue, is
       left out of both. So no persona whose replies are held out occurs in what is kept, on either side.
    3. Where there are too few personas (one system message for all): whole dialogues; personas are then shared.

    The result depends on the set of dialogues and the seed, not on their order.

    Raises:
        FalconerError: fewer than two different dialogues.
    """
    personas = persona_names(dialogues)
    identities = groups([openings(dialogue) for dialogue in dialogues])
    own = [personas.get(sentence_set(dialogue.persona)) for dialogue in dialogues]
    partners = [personas.get(sentence_set(dialogue.partner_persona)) for dialogue in dialogues]
    keys = [
        [("dialogue", same), *(("persona", p) for p in (mine, other) if p is not None)]
        for same, mine, other in zip(identities, own, partners, strict=True)
    ]
    by_persona = [
        ("dialogue", same) if mine is None else ("persona", mine) for same, mine in zip(identities, own, strict=True)
    ]
    ways: tuple[tuple[str, Sequence[Hashable]], ...] = (
        ("held out by groups of personas and dialogues", groups(keys)),
        ("held out by persona", by_persona),
        ("held out by dialogue; personas are shared", identities),
    )
    target = max(share * len(dialogues), 1)
    for how, units in ways:
        chosen = _choose(units, dialogues, target, seed)
        held = [index for index, unit in enumerate(units) if unit in chosen]
        taken: set[Hashable] = set()
        if units is by_persona:
            # A partner's persona is only seen, not learned, so it alone keeps nobody out.
            taken = {("dialogue", identities[i]) for i in held} | {("persona", own[i]) for i in held}
        rest = (index for index, unit in enumerate(units) if unit not in chosen)
        kept = [index for index in rest if not taken.intersection(keys[index])]
        is_enough = 2 * len(held) >= target or units is identities
        if held and kept and is_enough:
            return tuple(dialogues[i] for i in kept), tuple(dialogues[i] for i in held), how
    raise FalconerError(
        f"The data has {counted(len(dialogues), 'dialogue')}, {len(set(identities))} of them distinct, which is too "
        "few to hold out a validation split.",
        "Give a validation file: data.valid=FILE.",
    )


def _choose(units: Sequence[Hashable], dialogues: Sequence[Dialogue], target: float, seed: int) -> set[Hashable]:
    """Return random units that hold about `target` dialogues, the same ones whatever the dialogues' order."""
    members: dict[Hashable, list[str]] = defaultdict(list)
    for unit, dialogue in zip(units, dialogues, strict=True):
        members[unit].append(_fingerprint(dialogue))
    order = sorted(members, key=lambda unit: sorted(members[unit]))
    random.Random(seed).shuffle(order)
    chosen: set[Hashable] = set()
    size = 0
    for unit in order:
        if size + len(members[unit]) <= target or (not size and len(members[unit]) <= 2 * target):
            chosen.add(unit)
            size += len(members[unit])
    return chosen


def _fingerprint(dialogue: Dialogue) -> str:
    parts = [*dialogue.persona, "|", *dialogue.partner_persona, "|", *(f"{t.speaker}:{t.text}" for t in dialogue.turns)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def describe(loaded: Loaded, split: str, made: str) -> dict[str, Any]:
    """Return what a run's record says of the source of a split."""
    return {
        "paths": list(loaded.paths),
        "split": split,
        "made": made,
        "format": loaded.format,
        "sha256": loaded.sha256,
        **_counts(loaded.dialogues),
        "quirks": loaded.quirks,
        "bad_rows": [asdict(row) for row in loaded.bad_rows],
    }


def _counts(dialogues: Sequence[Dialogue]) -> dict[str, int]:
    replies = sum(len(dialogue.replies) for dialogue in dialogues)
    return {"num_dialogues": len(dialogues), "num_replies": replies}
