"""The content of metrics.json: scores, intervals, tests, and the settings that they depend on.

docs/evaluation.md explains the keys. Two of them keep names that this code no longer uses: `floors` are the baselines
and `controls` the ablations.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from falconer.errors import FalconerError, first_problem
from falconer.files.json_record import value_in
from falconer.files.json_value import Refused
from falconer.records import Score

NOT_MEASURED = "not measured"

Record = TypeVar("Record")

Interval = tuple[float, float]  # 95 %: low, high
Intervals = Mapping[str, Interval]  # by the field of `Score`


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of a metric between two systems on the same turns.

    Args:
        metric: the field of `Score`.
        baseline, system: the values of both; `baseline` is the system that the other is tested against.
        low, high: 95 % interval of system - baseline.
        p: two-sided, from the paired bootstrap; never below 1 / (resamples + 1).
        p_holm: after Holm's correction for all tests that are reported together; None if it was not applied.
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

    @property
    def is_significant(self) -> bool:
        """Whether it is more than chance: its interval leaves out 0, and p after Holm is below 0.05."""
        return (self.low > 0 or self.high < 0) and (self.p_holm is None or self.p_holm < 0.05)


@dataclass(frozen=True, slots=True)
class SacreBleuTest:
    """sacreBLEU's own paired bootstrap: p by system, None if there is no difference; or why it was skipped."""

    signature: str = ""
    p: Mapping[str, float | None] = field(default_factory=dict)
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        return {"skipped": self.skipped} if self.skipped else {"signature": self.signature, "p": dict(self.p)}


@dataclass(frozen=True, slots=True)
class Bootstrap:
    """The settings of the bootstrap: number of resamples, seed, and what was resampled."""

    resamples: int
    seed: int
    unit: str
    level: int
    num_dialogues: int
    num_replies: int


@dataclass(frozen=True, slots=True)
class Ranking:
    """hits@1 (0-100) of rankers that need no model, and the number of turns."""

    chance: float
    idf_overlap: float
    num_turns: int


@dataclass(frozen=True, slots=True)
class Judged:
    """The judgement of an NLI model on one system: the C-score, and shares (0-100) of the pairs that it judged."""

    c_score: float | None
    num_pairs: int
    entailed_share: float | None
    contradicted_share: float | None


@dataclass(frozen=True, slots=True)
class Consistency:
    """The agreement of replies with their persona: the NLI model, the definition of the C-score, and the results."""

    model: str
    definition: str
    systems: Mapping[str, Judged]


class Bounded(NamedTuple):
    """A value with its 95 % interval; without bounds if there are too few dialogues."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Slice:
    """The metrics of a subset of the turns: for each system, by the field of `Score`."""

    kind: str
    name: str
    num_replies: int
    systems: Mapping[str, Mapping[str, Bounded]]


@dataclass(frozen=True, slots=True)
class Ablation:
    """The tuned model with something removed from its prompt; `tests` compare it with the full prompt."""

    meaning: str
    score: Score
    intervals: Intervals
    tests: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class Decoded:
    """The tuned model's replies under one decoding.

    Args:
        failures: shares of the replies, 0-100: `phrase` repeats a phrase, `own_turn` repeats an own turn, `stock` is
            the reply at another turn, too.
        intervals: by the field of `Score`, and of `phrase`.
        tests: against the evaluation's own decoding.
    """

    score: Score
    failures: Mapping[str, float]
    intervals: Intervals
    tests: tuple[Difference, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return them as JSON values."""
        tree: dict[str, Any] = TypeAdapter(Decoded).dump_python(self, mode="json")
        return tree | {"tests": tests_to_json(self.tests)}


@dataclass(frozen=True, slots=True)
class Metrics:
    """All results of an evaluation, and the settings that they depend on.

    Only `base` and `tuned` are in every metrics.json; files of older versions may lack the others.

    Args:
        base, tuned, gold: the scores; `gold` are the gold replies scored against themselves.
        baselines: the scores of replies that need no model, by name.
        intervals: by system ("base", "tuned", "gold") or baseline.
        tests: tuned against base.
        baseline_tests: each baseline against tuned, by the baseline's name.
        legacy: metrics under older definitions, by system.
        ranking: None if the data has no candidates.
        consistency: `NOT_MEASURED` without an NLI model.
        ablations: by name; empty if they were not evaluated.
        decodings: by decoding, in words, the evaluation's own one first; empty if others were not evaluated.
        language: the replies' language, and how it was determined.
        not_measured: why a metric is None, by the field of `Score`.
        notes: what the reader should be aware of.
        signatures: the exact variant of each metric.
        settings: the settings that the scores depend on, in words.
        data: for each split its files, hash, and how it was made.
        leakage: what the test dialogues share with training, see `data.leakage.Leakage`; or why that is unknown.
        environment: hardware and versions.
    """

    base: Score
    tuned: Score
    baselines: Annotated[Mapping[str, Score], Field(alias="floors")] = field(default_factory=dict)
    gold: Score | None = None
    intervals: Mapping[str, Intervals] = field(default_factory=dict)
    tests: tuple[Difference, ...] = ()
    baseline_tests: Mapping[str, tuple[Difference, ...]] = field(default_factory=dict)
    sacrebleu: SacreBleuTest = SacreBleuTest()
    legacy: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ranking: Ranking | None = None
    consistency: Consistency | str = NOT_MEASURED
    slices: tuple[Slice, ...] = ()
    ablations: Annotated[Mapping[str, Ablation], Field(alias="controls")] = field(default_factory=dict)
    decodings: Mapping[str, Decoded] = field(default_factory=dict)
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
        """Return the content of metrics.json; `from_json` is the inverse."""
        tree: dict[str, Any] = TypeAdapter(Metrics).dump_python(self, mode="json", by_alias=True)
        tree["tests"] = tests_to_json(self.tests)
        # Files of versions that did not test the baselines stay as they are.
        del tree["baseline_tests"]
        if self.baseline_tests:
            tree["baseline_tests"] = {name: tests_to_json(tests) for name, tests in self.baseline_tests.items()}
        del tree["decodings"]
        if self.decodings:
            tree["decodings"] = {name: one.to_json() for name, one in self.decodings.items()}
        tree["sacrebleu"] = self.sacrebleu.to_json()
        for name, ablation in self.ablations.items():
            tree["controls"][name]["tests"] = tests_to_json(ablation.tests)
        return tree

    @classmethod
    def from_json(cls, text: str, file: Path, hint: str) -> "Metrics":
        """Return the record of a metrics.json.

        Args:
            text: its content.
            file, hint: its path and a hint, for error messages.

        Raises:
            FalconerError: it is not JSON, or a key is missing or has a value of the wrong type; the message names it.
        """
        return checked(cls, text, file, hint)


def tests_to_json(tests: tuple[Difference, ...]) -> list[dict[str, Any]]:
    """Return tests as JSON values: their fields, and `difference` (system - baseline)."""
    rows: list[dict[str, Any]] = TypeAdapter(tuple[Difference, ...]).dump_python(tests, mode="json")
    return [{**row, "difference": test.difference} for row, test in zip(rows, tests, strict=True)]


def checked(kind: type[Record], text: str, file: Path, hint: str) -> Record:
    """Return a record of the given class from JSON text, with all types checked.

    Raises:
        FalconerError: see `Metrics.from_json`.
    """
    # Python's reader tells where JSON breaks off, and refuses NaN, which is no figure.
    value_in(text, file, hint, parse_constant=_refuse)
    try:
        return _checker(kind).validate_json(text, strict=True)  # type: ignore[arg-type]  # classes are hashable
    except ValidationError as error:
        key, problem = first_problem(error)
        where = f"at '{key}': " if key else ""
        raise FalconerError(f"'{file}' is damaged: {where}{problem}.", hint) from None


@lru_cache(maxsize=8)
def _checker(kind: type[Record]) -> TypeAdapter[Record]:
    """Return what checks a class's JSON: a pure function of the class, which takes as long as reading ten files."""
    return TypeAdapter(kind)


def _refuse(constant: str) -> NoReturn:
    raise Refused(f"{constant} is not a valid value")
