"""The running batch of an engine, on both paths: its replies are the engine's own, and its errors are for the user."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from engines import mini_encoder
from falconer.errors import FalconerError
from falconer.model.engine import Decoding, Engine, Joining, Request
from falconer.model.load import load_model
from tiny import save_tiny_model

PROMPTS = [[(31 * index + 7 * number) % 300 for index in range(5 + 6 * number)] for number in range(6)]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", params=["falcon", "llama"])
def engine(request, tmp_path_factory):
    folder = save_tiny_model(tmp_path_factory.mktemp(request.param), request.param)
    loaded = load_model(str(folder), quantization="none", dtype="fp32", device="cpu")
    targets = ["query_key_value"] if request.param == "falcon" else ["q_proj", "down_proj"]
    config = LoraConfig(r=4, target_modules=targets, task_type="CAUSAL_LM", init_lora_weights=False)
    torch.manual_seed(2)
    model = get_peft_model(loaded.model, config, adapter_name="ski")
    model.add_adapter("cook", config)
    model.requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(4)
    engine = Engine(model, mini_encoder(), loaded.precision)
    assert engine.path == ("fast" if request.param == "falcon" else "generic")
    yield engine
    engine.close()


def finished(running, writings):
    while running.num_running:
        running.step()
    return [[said.token for said in writing.said] for writing in writings]


def test_the_replies_of_many_adapters_are_those_of_the_engine_with_each(engine):
    assert engine.adapters == ("ski", "cook")
    requests = [Request(prompt, Decoding(6), number) for number, prompt in enumerate(PROMPTS)]
    expected = {}
    for name in engine.adapters:
        engine.model.set_adapter(name, inference_mode=True)
        expected[name] = dict(engine.tokens(requests))
    expected[None] = dict(engine.base.tokens(requests))
    assert expected["ski"] != expected["cook"] != expected[None]
    running = engine.running(num_slots=4)
    for name in (None, "ski", "cook"):
        mixed = [name, "cook", None, "ski"]
        writings = running.join([Joining(requests[at], adapter) for at, adapter in enumerate(mixed)])
        assert finished(running, writings) == [expected[adapter][at] for at, adapter in enumerate(mixed)]


def test_what_can_not_run_is_refused_before_anything_joins(engine):
    running = engine.running(num_slots=2)
    (first,) = running.join([Joining(Request(PROMPTS[0], Decoding(4, stops=())), "ski")])
    for joining, message in [
        (Joining(Request(PROMPTS[0]), "swim"), "No adapter 'swim' is loaded. Loaded are: ski, cook."),
        (Joining(Request([1] * 5000)), "tokens, .* more than the context allows"),
        (Joining(Request([10**6])), "has token id 1,000,000"),
    ]:
        with pytest.raises(FalconerError, match=message):
            running.join([Joining(Request(PROMPTS[1])), joining])
    assert running.num_running == 1
    assert len(finished(running, [first])[0]) == 4


def test_memory_that_runs_out_is_told_in_words(engine, monkeypatch):
    running = engine.running(num_slots=2)

    def fails(*_):
        raise torch.OutOfMemoryError("no room")

    for name in ("join", "step"):
        monkeypatch.setattr(running._running, name, fails)
    with pytest.raises(FalconerError, match="Out of memory"):
        running.join([Joining(Request(PROMPTS[0]))])
    with pytest.raises(FalconerError, match="Out of memory"):
        running.step()


def test_a_closed_engine_runs_nothing(engine):
    other = Engine(engine.model, engine.encoder, engine.precision)
    running = other.running(num_slots=1)
    other.close()
    with pytest.raises(RuntimeError, match="closed"):
        running.join([Joining(Request(PROMPTS[0]))])
