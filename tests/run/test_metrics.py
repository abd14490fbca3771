"""metrics.json comes back as it was written, to the byte; an older one is read, a damaged one refused by its key."""

import json
from pathlib import Path
from typing import Any

import pytest

from falconer.errors import FalconerError
from falconer.records import Score
from falconer.run.metrics import Bounded, Difference, Metrics

# Written by falconer 0.1.0 at the end of a quickstart (its `floors`, slices and replies cut down to a few).
STORED = Path(__file__).parent / "fixtures" / "metrics.json"


def read(text: str) -> Metrics:
    return Metrics.from_json(text, Path("runs/x/metrics.json"), "Type this.")


@pytest.fixture
def tree() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8"))
    return found


def test_what_an_older_version_wrote_comes_back_to_the_byte() -> None:
    text = STORED.read_text(encoding="utf-8")
    assert json.dumps(read(text).to_json(), indent=2, allow_nan=False) + "\n" == text


def test_it_is_a_record_of_records() -> None:
    metrics = read(STORED.read_text(encoding="utf-8"))
    assert isinstance(metrics.base, Score) and metrics.base.bleu == pytest.approx(0.412, abs=1e-3)
    assert set(metrics.baselines) == {"constant", "echo", "persona"}
    test = metrics.tests[0]
    assert isinstance(test, Difference) and test.metric == "word_ppl"
    assert test.difference == test.system - test.baseline < 0
    value = metrics.slices[0].systems["tuned"]["bleu"]
    assert isinstance(value, Bounded) and value.low is not None and value.low <= value.value
    assert metrics.ranking and metrics.ranking.num_turns == 40
    assert metrics.bootstrap and metrics.bootstrap.num_dialogues == 31
    with pytest.raises(AttributeError):
        metrics.base = metrics.tuned  # type: ignore[misc]


def test_ablations_and_consistency_come_back_too(tree: dict[str, Any]) -> None:
    tree["controls"] = {
        "no_persona": {
            "meaning": "the model sees the history alone", "score": tree["tuned"],
            "intervals": {"f1": [1.0, 2.0]}, "tests": tree["tests"][:1],
        }
    }  # fmt: skip
    tree["sacrebleu"] = {"skipped": "sacreBLEU's test: too few dialogues (3)"}
    judged = {"c_score": 0.5, "num_pairs": 3, "entailed_share": 50.0, "contradicted_share": None}
    tree["consistency"] = {"model": "nli", "definition": "...", "systems": {"gold": judged}}
    tree["leakage"], tree["ranking"] = "not measured: There is no file", None
    shares = {"phrase": 38.5, "own_turn": 0.0, "stock": 1.0}
    decoded = {"score": tree["tuned"], "failures": shares, "intervals": {"phrase": [1.0, 2.0]}, "tests": tree["tests"]}
    tree["decodings"] = {"greedy": decoded | {"tests": []}, "no repeated 3-gram": decoded}
    metrics = read(json.dumps(tree))
    assert metrics.to_json() == tree
    assert metrics.ablations["no_persona"].tests[0] == metrics.tests[0]
    assert metrics.decodings["no repeated 3-gram"].tests == metrics.tests


def test_the_oldest_one_has_scores_alone() -> None:
    metrics = read('{"base": {"num_replies": 3, "bleu": 1.5}, "tuned": {"num_replies": 3}, "of_tomorrow": [1]}')
    assert metrics.base == Score(3, bleu=1.5)
    assert (metrics.baselines, metrics.tests, metrics.ranking, metrics.gold) == ({}, (), None, None)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        (("base", "bleu"), "1.5", "'base.bleu'"),
        (("base", "num_replies"), None, "'base.num_replies'"),
        (("floors", "echo"), 3, "'floors.echo'"),
        (("tests", 0, "low"), [1], "'tests.0.low'"),
        (("slices", 0, "systems", "tuned", "bleu"), [1.0], "'slices.0.systems.tuned.bleu"),
        (("intervals", "tuned", "f1"), [1.0, 2.0, 3.0], "'intervals.tuned.f1'"),
        (("bootstrap", "seed"), 1.5, "'bootstrap.seed'"),
        (("notes",), "one", "'notes'"),
    ],
)
def test_damage_is_named_by_file_and_key(tree: dict[str, Any], path: tuple[Any, ...], value: Any, named: str) -> None:
    place: Any = tree
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(FalconerError, match=r"^'runs/x/metrics\.json' is damaged: at '.* Type this\.$") as caught:
        read(json.dumps(tree))
    assert named in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"base": {"num_replies": 1, "bleu": NaN}, "tuned": {}}'])
def test_what_is_no_record_is_damaged(text: str) -> None:
    with pytest.raises(FalconerError, match=r"metrics\.json' is damaged: .* Type this\.$"):
        read(text)
