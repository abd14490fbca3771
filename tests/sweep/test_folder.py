"""What a sweep's folder holds, and that it comes back."""

import json

import pytest

from falconer.errors import FalconerError
from falconer.evaluate.measure import Evaluated
from falconer.records import Likelihood, Prediction
from falconer.sweep.folder import begin, is_measured, read_measured, run_name, write_measured
from falconer.sweep.plan import make_plan


def plan(*overrides):
    return make_plan(None, overrides, num_seeds=2, by="f1", keep=3, resamples=100)


def test_a_plan_comes_back(tmp_path):
    first = begin(tmp_path / "s", plan("lora.r=4,8"))
    assert begin(tmp_path / "s", None) == begin(tmp_path / "s", plan("lora.r=4,8")) == first


def test_a_search_comes_back(tmp_path):
    first = begin(tmp_path / "s", plan("lora.r=4..8", "train.learning_rate=1e-4..1e-2:log"))
    assert first.search is not None and begin(tmp_path / "s", None) == first
    with pytest.raises(FalconerError, match="another sweep: ranges, --trials or --finalists differ"):
        begin(tmp_path / "s", plan("lora.r=4..9", "train.learning_rate=1e-4..1e-2:log"))


def test_a_plan_of_a_version_without_searches(tmp_path):
    first = begin(tmp_path, plan("lora.r=4,8"))
    written = json.loads((tmp_path / "sweep.json").read_text())
    del written["search"]
    (tmp_path / "sweep.json").write_text(json.dumps(written))
    assert begin(tmp_path, plan("lora.r=4,8")) == first


def test_another_plan_is_refused(tmp_path):
    begin(tmp_path, plan("lora.r=4,8"))
    with pytest.raises(FalconerError, match="another sweep: the keys that vary differ"):
        begin(tmp_path, plan("lora.r=4,16"))
    (tmp_path / "sweep.json").write_text("{}")
    with pytest.raises(FalconerError, match="is damaged"):
        begin(tmp_path, None)


def test_nothing_to_continue(tmp_path):
    with pytest.raises(FalconerError, match="contains no sweep to continue"):
        begin(tmp_path / "none", None)
    assert not (tmp_path / "none").exists()


def test_what_was_measured_comes_back(tmp_path):
    rows = [Prediction("d1", 1, "hi", "hello", ("i ski .",), ended=True)]
    found = Evaluated(rows, [Likelihood(3.0, 2.0, 3, 2, 9), None], ["d1", "d1"])
    name = run_name(3, 17, (1, 4))
    assert name == "setting-03-seed-17-part-1-of-4" and not is_measured(tmp_path, name)
    write_measured(tmp_path, name, found, "2 validation dialogues (given)", "en")
    assert is_measured(tmp_path, name)
    again, measurement = read_measured(tmp_path, name)
    assert again == found and (measurement.data, measurement.language) == ("2 validation dialogues (given)", "en")
