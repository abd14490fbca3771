"""Several ranks measure what one does: every dialogue once, results in their order, the same figures."""

import json
import threading
from dataclasses import asdict, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line import ok
from falconer.data.sources import load_dialogues
from falconer.evaluate.dealing import ALONE, Dealing
from falconer.evaluate.measure import Limits, evaluate_model
from falconer.evaluate.text.predictions import read_predictions
from falconer.jobs import open_run
from falconer.model.engine import Decoding
from falconer.records import Turn
from falconer.run.folder import read_metrics
from small_runs import TWO_RANKS, Small, command, two_nodes

pytestmark = pytest.mark.usefixtures("one_thread")
FEW = ("evaluate.max_new_tokens=5", "evaluate.resamples=100")


def ranks(count, texts=None):
    return [Dealing(number, count, texts or (lambda text: [text])) for number in range(count)]


@given(st.lists(st.floats(0, 1e6), max_size=30), st.integers(1, 9))
def test_every_item_goes_to_one_rank_and_none_has_much_more_than_another(costs, count):
    own = [rank.own(costs) for rank in ranks(count)]
    assert sorted(place for places in own for place in places) == list(range(len(costs)))
    assert all(places == sorted(places) for places in own)
    loads = [sum(costs[place] for place in places) for places in own]
    assert max(loads) - min(loads) <= max(costs, default=0) * (1 + 1e-9)


@given(st.dictionaries(st.integers(0, 99), st.floats(allow_nan=False) | st.none() | st.text(), max_size=20))
def test_results_come_together_as_they_were(values):
    halves = [{number: one for number, one in values.items() if number % 2 == rank} for rank in range(2)]
    sent = [json.dumps(list(half.items())) for half in halves]
    for rank, half in zip(ranks(2, lambda _: sent), halves, strict=True):
        found = rank.together(half)
        assert found == values and list(found) == sorted(values)
    assert ALONE.together(values) == values


class Together:
    """Ranks as threads, of which one computes at a time, since they share a model."""

    def __init__(self, count):
        self.sent = [""] * count
        self.barrier = threading.Barrier(count)
        self.computing = threading.Lock()

    def run(self, work):
        found = [None] * len(self.sent)

        def one(number):
            def texts(text):
                self.sent[number] = text
                self.computing.release()
                self.barrier.wait(60)
                given = list(self.sent)
                self.barrier.wait(60)
                self.computing.acquire()
                return given

            with self.computing:
                found[number] = work(Dealing(number, len(self.sent), texts))

        threads = [threading.Thread(target=one, args=(number,)) for number in range(len(self.sent))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        return found


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dealt")
    Small(folder).run(folder / "run", "train.max_steps=3")
    return folder / "run"


@pytest.fixture(scope="module")
def opened(run):
    return open_run(run)


@pytest.mark.parametrize("limits", [Limits(None, None, 4), Limits(7, 3, 2), Limits(1, 0, 1)])
@pytest.mark.parametrize("count", [2, 5])
def test_ranks_find_what_one_finds(opened, limits, count):
    dialogues = load_dialogues(str(opened.config.data.valid)).dialogues[:4]
    with_candidates = [
        replace(d, turns=tuple(replace(turn, candidates=(turn.text, "and i", "we run")) for turn in d.turns))
        for d in dialogues
    ]
    # A reply too long for the context has no likelihood, and no rank is without work for the others.
    with_candidates[0] = replace(with_candidates[0], turns=(Turn("self", "snow " * 400), *with_candidates[0].turns))
    # Sampling, so that a reply depends on its turn's number.
    decoding = Decoding(max_new_tokens=5, temperature=1.0)

    def work(dealing=ALONE):
        return evaluate_model(opened.engine, with_candidates, decoding, limits, lambda *_: None, dealing)

    expected = work()
    found = Together(count).run(work)
    assert all(one == found[0] for one in found)
    assert [(row.prediction, row.ranks) for row in found[0].predictions] == [
        (row.prediction, row.ranks) for row in expected.predictions
    ]
    assert found[0].dialogue_ids == expected.dialogue_ids
    for ours, theirs in zip(found[0].likelihoods, expected.likelihoods, strict=True):
        assert (ours is None) == (theirs is None)
        assert ours is None or ours.nll == pytest.approx(theirs.nll, rel=1e-5)


@pytest.fixture(scope="module")
def evaluated(run):
    """The metrics and the predictions of one process."""
    ok("evaluate", "--run", run, "--controls", *FEW)
    return read_metrics(run), read_predictions(run / "predictions-tuned.jsonl")


def check_same_evaluation(run, evaluated):
    """Check that the run's evaluation has one process's replies and figures; only likelihoods are rounded otherwise."""
    one, expected = evaluated
    found = read_metrics(run)
    assert [row.prediction for row in read_predictions(run / "predictions-tuned.jsonl")] == [
        row.prediction for row in expected
    ]
    for ours, theirs in ((found.base, one.base), (found.tuned, one.tuned)):
        rounded = {name for name in asdict(ours) if "ppl" in name or "bits" in name}
        assert "word_ppl" in rounded
        for name, value in asdict(ours).items():
            assert value == (
                pytest.approx(getattr(theirs, name), rel=1e-5) if name in rounded else getattr(theirs, name)
            )


def test_a_launched_evaluation_equals_one_process(run, evaluated):
    process = command(["evaluate", "--run", str(run), "--controls", *FEW], launcher=TWO_RANKS)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert out.count("Report: ") == 1 and err.count("work    ") == 1
    check_same_evaluation(run, evaluated)


def test_an_evaluation_on_two_nodes_equals_one_process(run, evaluated):
    """The nodes number themselves, so either of them can be the one that writes and speaks."""
    nodes = two_nodes(["evaluate", "--run", str(run), "--controls", *FEW], c10d=True)
    assert [code for code, _, _ in nodes] == [0, 0], nodes
    assert sorted(out.count("Report: ") for _, out, _ in nodes) == [0, 1]
    assert sorted(err.count("work    ") for _, _, err in nodes) == [0, 1]
    check_same_evaluation(run, evaluated)


def test_a_launched_import_is_refused(run, tmp_path):
    arguments = ["evaluate", "--adapter", str(run / "adapter"), "--data", str(run / "x.jsonl")]
    process = command(arguments, launcher=TWO_RANKS)
    _, err = process.communicate(timeout=240)
    assert process.returncode != 0 and "the launcher started 2 processes to evaluate it" in err
