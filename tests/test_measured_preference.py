"""benchmarks/preference_runs.py: runs become mean, spread and tests, and the document shows what the results say."""

import dataclasses
import importlib.util
import json
import shutil
import statistics

import pytest

from command_line import ok
from documented import ROOT
from falconer import jobs
from falconer.evaluate.text.predictions import read_predictions
from falconer.records import Prediction, Turn
from falconer.run.folder import read_config, read_metrics
from falconer.run.pairs import read_pairs
from small_runs import Small, silent, write_dialogues

pytestmark = pytest.mark.usefixtures("one_thread")
RESULTS = ROOT / "benchmarks" / "results"
SEEDS = (17, 18)


@pytest.fixture(scope="module")
def script():
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "benchmarks"))  # it imports a file beside it
    spec = importlib.util.spec_from_file_location("preference_runs", ROOT / "benchmarks" / "preference_runs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    patch.undo()


def rows(replies):
    """Return three replies in each of 40 dialogues; a reply is made of the number of its turn."""
    history = (Turn("partner", "hi"),)
    return [
        Prediction(f"d{place}", 2 * k + 1, replies(3 * place + k), f"gold {place} is what i say", (), history)
        for place in range(40)
        for k in range(3)
    ]  # fmt: skip


def test_fewer_repetitions_are_found_and_nothing_where_nothing_differs(script):
    repeats = "i like to ski and i like to ski"
    before = rows(lambda n: repeats if n % 3 else f"gold {n}")
    found = script.tests_of(before, {"same": before, "better": rows(lambda n: repeats if n % 9 == 1 else f"gold {n}")})
    same, better = ({test["metric"]: test for test in found[name]} for name in ("same", "better"))
    assert {test["p_holm"] for test in same.values()} == {1.0} and "phrase" in same
    phrase = better["phrase"]
    assert phrase["baseline"] == pytest.approx(200 / 3) and phrase["system"] == pytest.approx(13 / 120 * 100, abs=3)
    assert phrase["p_holm"] < 0.05 and phrase["high"] < 0
    # Corrected for the tests of both ways.
    smallest = min(test["p"] for tests in found.values() for test in tests)
    assert phrase["p_holm"] >= smallest * sum(map(len, found.values()))


@pytest.fixture(scope="module")
def results(script, tmp_path_factory):
    """What the script makes of tiny runs in its folders, which are read without their adapters."""
    folder = tmp_path_factory.mktemp("preference")
    small = Small(folder)
    write_dialogues(small.valid, 24, seed=6)
    limits = ("evaluate.max_new_tokens=6", "evaluate.resamples=100", "evaluate.num_samples=2")
    for seed in SEEDS:
        first = script.first_of(folder, seed)
        small.run(first, "train.max_steps=3", f"train.seed={seed}", *limits)
        for way in script.QUICKSTART.ways:
            ok("prefer", "--run", first, "--out", script.after(folder, way, seed), "--pairs", "distractors",
               "train.max_steps=2", f"train.seed={seed}", f"prefer.max_pairs={8 + seed}")  # fmt: skip
        for run in (first, *(script.after(folder, way, seed) for way in script.QUICKSTART.ways)):
            jobs.evaluate_run(jobs.open_run(run), read_config(run), silent())
    gathered = tmp_path_factory.mktemp("gathered")
    for run in (path.parent for path in folder.glob("*/metrics.json")):
        shutil.copytree(run, gathered / run.name, ignore=shutil.ignore_patterns("adapter", "checkpoints", "report*"))
    script.run_all(script.QUICKSTART, gathered, SEEDS)  # nothing is left to do
    return gathered, script.results_of(script.QUICKSTART, gathered, SEEDS)


def test_figures_are_mean_and_standard_deviation_of_the_runs(script, results):
    folder, found = results
    assert list(found["systems"]) == ["before", *script.QUICKSTART.ways]
    for name, system in found["systems"].items():
        folders = [script.first_of(folder, s) if name == "before" else script.after(folder, name, s) for s in SEEDS]
        values = [read_metrics(run).tuned.word_ppl for run in folders]
        expected = (statistics.fmean(values), statistics.stdev(values))
        assert system["tuned"]["word_ppl"] == pytest.approx(expected, abs=1e-3)
        for run, row in zip(folders, system["runs"], strict=True):
            if name != "before":
                train = [pair for pair in read_pairs(run) if not pair.is_validation]
                assert row["train_pairs"] == {"distractors": len(train)} and row["drift"] >= 0
    json.dumps(found, allow_nan=False)


def test_all_seeds_are_tested_together_and_each_on_its_own(script, results):
    _, found = results
    for way in script.QUICKSTART.ways:
        system = found["systems"][way]
        assert len(system["tests_by_seed"]) == len(SEEDS)
        together = {test["metric"]: test for test in system["tests"]}
        assert {"phrase", "word_ppl", "f1"} <= set(together)
        # The mean over seeds of a mean over replies is that of all of them together.
        each = [next(test for test in tests if test["metric"] == "f1") for tests in system["tests_by_seed"]]
        assert together["f1"]["system"] == pytest.approx(statistics.fmean(test["system"] for test in each))


def test_the_table_has_a_column_for_each_way(script, results):
    _, found = results
    head, _, *lines = script.table(found).splitlines()
    assert head == "| | before | 25 to 26 distractors, 1 epoch | 25 to 26 distractors, 4 epochs |"
    # Dialogues without candidates have no hits@1.
    shown = [label for key, label in script.SHOWN.items() if key != "hits_1"]
    assert [line.split(" | ")[0].removeprefix("| ") for line in lines] == shown
    ppl = next(line for line in lines if "word perplexity" in line)
    assert ppl.count(" ± ") == 3 and ppl.count("(p = ") == 2


def test_a_model_of_ones_own_is_trained_on_its_samples(script, tmp_path):
    """The whole way through the command line, with less of everything."""
    small = Small(tmp_path, "llama")
    test = write_dialogues(tmp_path / "test.jsonl", 6, seed=9)
    whole = script.of_model(small.model, "made up")
    assert whole.first[0] == f"model.name={small.model}" and "max_dialogues=null" in whole.evaluated[0]
    ((way, (pairs, settings)),) = whole.ways.items()
    fewer = ("prefer.num_samples=3", "train.max_steps=2")
    experiment = dataclasses.replace(
        whole, first=(*whole.first, *small.settings[1:], f"data.test={test}", "train.max_steps=2"),
        ways={way: (pairs, (*settings, *fewer))},
        evaluated=(*whole.evaluated, "evaluate.max_new_tokens=6", "evaluate.resamples=100"),
    )  # fmt: skip
    script.run_all(experiment, tmp_path / "runs", [17])
    found = script.results_of(experiment, tmp_path / "runs", [17])
    assert found["num_replies"] == len(read_predictions(tmp_path / "runs" / "samples-seed-17/predictions-tuned.jsonl"))
    samples = found["systems"]["samples"]
    assert samples["pairs"] == "samples" and set(samples["runs"][0]["train_pairs"]) == {"samples"}
    assert "llama (made up)" in found["what"] and str(tmp_path) not in json.dumps(found)
    # Nothing was ranked.
    assert "| word perplexity |" in script.table(found) and "hits@1" not in script.table(found)


@pytest.mark.parametrize("model", ["falcon-mini", "gemma-3-270m"])
def test_the_document_shows_what_the_results_say(script, model):
    table = script.table(json.loads((RESULTS / f"preference-{model}.json").read_text(encoding="utf-8")))
    assert table in (ROOT / "docs" / "preference.md").read_text(encoding="utf-8")
