"""The speed of a small model on a CPU is that of real steps: forward, backward and AdamW on the path of the run."""

import pytest
import torch
from transformers import AutoConfig

from falconer import runtime
from falconer.config import LoraConfig, load
from falconer.train import forecast, timed_step
from falconer.train.forecast import plan_run
from falconer.train.timed_step import timed_tokens_per_s
from falconer.train.ways import Asked
from small_runs import Small

pytestmark = pytest.mark.usefixtures("one_thread")

FP32 = runtime.Precision(torch.float32, "")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return Small(tmp_path_factory.mktemp("timed"))


@pytest.mark.parametrize("path", ["auto", "generic"])
def test_the_speed_is_that_of_the_rows_that_were_timed(small, monkeypatch, path):
    shapes, clock = [], iter([1.0, 0.5, 2.0, 3.0])
    real = timed_step.nll_sum

    def nll_sum(model, batch, **options):
        shapes.append(batch.ids.shape)
        return real(model, batch, **options)

    def median_s(step, device, runs, warmup):
        step()
        return next(clock)

    monkeypatch.setattr(timed_step, "nll_sum", nll_sum)
    monkeypatch.setattr(runtime, "median_s", median_s)
    asked = Asked(path, "auto", "auto")
    speed = timed_tokens_per_s(AutoConfig.from_pretrained(small.model), LoraConfig(r=4), FP32, asked, (3, 20), 0.3)
    assert shapes == [(3, 20)] * 4 and speed == 60 / 0.5


def test_the_work_is_limited_to_a_part_of_the_micro_batch(small, monkeypatch):
    monkeypatch.setattr(timed_step, "FLOP", 1.0)
    monkeypatch.setattr(runtime, "median_s", lambda *_, **__: 0.1)
    architecture = AutoConfig.from_pretrained(small.model)
    asked = Asked("auto", "auto", "auto")
    assert timed_tokens_per_s(architecture, LoraConfig(r=4), FP32, asked, (50, 20), 0.3) == pytest.approx(200)


def test_a_plan_times_a_small_model_and_says_that_it_guesses_for_a_large_one(small, monkeypatch):
    config = load(None, small.settings)
    monkeypatch.setattr(forecast, "timed_tokens_per_s", lambda *_: 123.0)
    plan = plan_run(config)
    assert (plan.tokens_per_s, plan.speed_from) == (123.0, "timed")
    monkeypatch.setattr(forecast, "MOST_PARAMETERS", 10)
    assert plan_run(config).speed_from == "guessed"
