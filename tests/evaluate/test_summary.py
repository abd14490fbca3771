"""An evaluation's figures are those of each system on its own, and complete as metrics.json needs them."""

import json
from dataclasses import replace
from pathlib import Path

from falconer.data.language import Language
from falconer.evaluate.measure import Evaluated
from falconer.evaluate.summary import Measured, summarise
from falconer.evaluate.text.metrics import score_predictions
from falconer.records import Dialogue, Likelihood, Prediction
from falconer.run.metrics import NOT_MEASURED, Metrics

ENGLISH = Language("en", "as given")


def measured(rows: list[Prediction]) -> Measured:
    """LMEDR's replies as the tuned model's, and the gold reply of the row before as the base's."""
    rows = [replace(row, likelihood=Likelihood(9.0, 8.0, 5, 4, 20)) for row in rows]
    shifted = [replace(row, prediction=one.reference) for row, one in zip(rows, rows[-1:] + rows[:-1], strict=True)]
    dialogues = [Dialogue(name, (), ()) for name in dict.fromkeys(row.dialogue_id for row in rows)]
    base, tuned = (
        Evaluated(some, [row.likelihood for row in some], [row.dialogue_id for row in some]) for some in (shifted, rows)
    )
    return Measured(base, tuned, {"no_persona": base}, dialogues, None, ENGLISH)


def test_figures_tests_and_baselines(rows: list[Prediction]) -> None:
    found = summarise(measured(rows), 100, 17, None)
    for score, some in ((found.base, measured(rows).base), (found.tuned, measured(rows).tuned)):
        assert score == score_predictions(some.predictions)
    assert found.gold is not None and found.gold.f1 == 100
    assert list(found.baselines) == ["constant", "echo", "persona"] and list(found.intervals)[:3] == [
        "base",
        "tuned",
        "gold",
    ]
    tests = {test.metric: test for test in found.tests}
    assert found.tuned.f1 is not None and tests["f1"].system == found.tuned.f1 and tests["f1"].baseline == found.base.f1
    against = {name: {test.metric: test for test in tests} for name, tests in found.baseline_tests.items()}
    assert {name: list(tests) for name, tests in against.items()} == {
        name: ["bleu", "rouge_l", "f1"] for name in found.baselines
    }
    constant = against["constant"]["f1"]
    assert (constant.baseline, constant.system) == (found.tuned.f1, found.baselines["constant"].f1)
    assert constant.p_holm is not None and constant.p <= constant.p_holm <= 9 * constant.p
    ablation = found.ablations["no_persona"]
    assert ablation.score == found.base and ablation.tests[0].baseline == getattr(found.tuned, ablation.tests[0].metric)
    assert found.consistency == NOT_MEASURED and found.ranking is None and set(found.sacrebleu.p) == {"tuned"}
    assert {one.kind for one in found.slices} == {"reply", "gold", "gold persona"}


def test_it_comes_back_from_its_json(rows: list[Prediction]) -> None:
    found = summarise(measured(rows), 100, 17, None)
    assert Metrics.from_json(json.dumps(found.to_json(), allow_nan=False), Path("m"), "") == found
