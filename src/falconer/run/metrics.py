"""What an evaluation found, as a run's metrics.json holds it: figures, their intervals, tests, and how they were made.

docs/evaluation.md explains the keys. Two of them keep names that this code no longer uses: `floors` holds the baselines
and `controls` the ablations.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from falconer.errors import FalconerError
from falconer.records import Score

NOT_MEASURED = "not measured"

Record = TypeVar("Record")

Interval = tuple[float, float]  # 95 %: low, high
Intervals = Mapping[str, Interval]  # by the field of `Score`


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure of one system against another's on the same turns.

    Args:
        metric: the field of `Score`.
        baseline, system: the figure of each; `baseline` is the system that the other is tested against.
        low, high: 95 % interval of system - baseline.
        p: two-sided, from the paired bootstrap; never below 1 / (resamples + 1).
        p_holm: after Holm's correction for all tests that are reported together; None where none was asked for.
    """

    metric: str
    baseline: float
    system: float
    low: float
    high: float
    p: float
    p_holm: float | None = None

    @property
    def difference(self) -> float:
        return self.system - self.baseline


@dataclass(frozen=True, slots=True)
class SacreBleuTest:
    """sacreBLEU's own paired bootstrap: p by system, None where there is no difference; or why it was left out."""

    signature: str = ""
    p: Mapping[str, float | None] = field(default_factory=dict)
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"skipped": self.skipped} if self.skipped else {"signature": self.signature, "p": dict(self.p)}


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """How intervals and tests were made: so many resamples of so many dialogues, chosen by the seed."""

    resamples: int
    seed: int
    unit: str
    level: int
    num_dialogues: int
    num_replies: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """hits@1 (0-100) of rankers that need no model, over so many turns."""

    chance: float
    idf_overlap: float
    num_turns: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What an NLI model said of one system's replies: the C-score, and shares (0-100) of the pairs that it judged."""

    c_score: float | None
    num_pairs: int
    entailed_share: float | None
    contradicted_share: float | None


@dataclass(frozen=True, slots=True)
class Consistency:
    """Whether replies agree with their persona: which NLI model judged, what the C-score means, each system's."""

    model: str
    definition: str
    systems: Mapping[str, Judged]


class Bounded(NamedTuple):
    """A figure with its 95 % interval; no bounds where it rests on too few dialogues."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Slice:
    """The figures of some of the turns: for each system, by the field of `Score`."""

    kind: str
    name: str
    num_replies: int
    systems: Mapping[str, Mapping[str, Bounded]]


@dataclass(frozen=True, slots=True)
class Ablation:
    """The tuned model with something taken from its prompt; `tests` compare it with the tuned model as it is."""

    meaning: str
    score: Score
    intervals: Intervals
    tests: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Metrics:
    """Everything that an evaluation measured, and what the figures depend on.

    Only `base` and `tuned` are in every metrics.json; an older version's may lack the others.

    Args:
        base, tuned, gold: figures; `gold` is the gold replies scored against themselves.
        baselines: figures of replies that need no model, by name.
        intervals: by system ("base", "tuned", "gold") or baseline.
        tests: tuned against base.
        legacy: figures under older definitions, by system.
        ranking: None where the data has no candidates.
        consistency: `NOT_MEASURED` without an NLI model.
        ablations: by name; empty where none were asked for.
        language: the replies' language, and how it is known.
        not_measured: why a figure is None, by the field of `Score`.
        notes: what is to be read with care.
        signatures: which variant of each metric was computed.
        settings: what the figures depend on, in words.
        data: for each split its files, hash, and how it was made.
        leakage: what the test dialogues share with training, see `data.leakage.Leakage`; or why that is not known.
        environment: hardware and versions.
    """

    base: Score
    tuned: Score
    baselines: Annotated[Mapping[str, Score], Field(alias="floors")] = field(default_factory=dict)
    gold: Score | None = None
    intervals: Mapping[str, Intervals] = field(default_factory=dict)
    tests: tuple[Difference, ...] = ()
    sacrebleu: SacreBleuTest = SacreBleuTest()
    legacy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ranking: Ranking | None = None
    consistency: Consistency | str = NOT_MEASURED
    slices: tuple[Slice, ...] = ()
    ablations: Annotated[Mapping[str, Ablation], Field(alias="controls")] = field(default_factory=dict)
    bootstrap: Bootstrap | None = None
    language: str = ""
    not_measured: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    signatures: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    leakage: Mapping[str, int] | str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the tree that metrics.json holds; `from_json` gives the record back."""
        tree: dict[str, Any] = TypeAdapter(Metrics).dump_python(self, mode="json", by_alias=True)
        tree["tests"] = tests_to_json(self.tests)
        tree["sacrebleu"] = self.sacrebleu.to_json()
        for name, ablation in self.ablations.items():
            tree["controls"][name]["tests"] = tests_to_json(ablation.tests)
        return tree

    @classmethod
    def from_json(cls, text: str, file: Path, hint: str) -> "Metrics":
        """Return the record of a metrics.json.

        Args:
            text: its content.
            file: its path, for the error; `hint` says there what to type.

        Raises:
            FalconerError: it is no JSON, or a key is missing or has a value of the wrong kind; names the key.
        """
        return checked(cls, text, file, hint)


def tests_to_json(tests: tuple[Difference, ...]) -> list[dict[str, Any]]:
    """Return tests ready for JSON: the fields of each, and `difference` (system - baseline)."""
    rows: list[dict[str, Any]] = TypeAdapter(tuple[Difference, ...]).dump_python(tests, mode="json")
    return [{**row, "difference": test.difference} for row, test in zip(rows, tests, strict=True)]


def checked(kind: type[Record], text: str, file: Path, hint: str) -> Record:
    """Return a record of the given class from JSON text, each value checked against its type.

    Raises:
        FalconerError: see `Metrics.from_json`.
    """
    # Python's reader tells where JSON breaks off, and refuses NaN, which is no figure.
    load_json(text, file, hint, parse_constant=_refuse)
    try:
        return _checker(kind).validate_json(text, strict=True)  # type: ignore[arg-type]  # classes are hashable
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"at '{key}': " if key else ""
        raise FalconerError(f"'{file}' is damaged: {where}{first['msg']}.", hint) from None


def load_json(text: str, file: Path, hint: str, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """Return the value of JSON text; `parse_constant` as in `json.loads`.

    Raises:
        FalconerError: it is no JSON, or nested too deeply; names the file.
    """
    try:
        return json.loads(text, parse_constant=parse_constant)
    except RecursionError:
        raise FalconerError(f"'{file}' is damaged: it is nested too deeply.", hint) from None
    except ValueError as error:
        raise FalconerError(f"'{file}' is damaged: {error}.", hint) from None


@lru_cache(maxsize=8)
def _checker(kind: type[Record]) -> TypeAdapter[Record]:
    """Return what checks a class's JSON: a pure function of the class, which takes as long as reading ten files."""
    return TypeAdapter(kind)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no figure")
