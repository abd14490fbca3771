"""A hundred broken requests on raw sockets do no harm to anybody else; `tests/besieged.py` sends two thousand."""

import os

import pytest
import torch
from peft import LoraConfig, get_peft_model

from besieged import attack
from broken_requests import ATTACKS, Server
from engines import mini_encoder
from falconer.model.engine import Engine
from falconer.model.load import load_model
from served import serving
from tiny import save_tiny_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    """A small Falcon whose replies differ from conversation to conversation."""
    folder = save_tiny_model(tmp_path_factory.mktemp("falcon"))
    loaded = load_model(str(folder), quantization="none", dtype="fp32", device="cpu")
    torch.manual_seed(2)
    config = LoraConfig(r=4, target_modules=["query_key_value"], task_type="CAUSAL_LM", init_lora_weights=False)
    model = get_peft_model(loaded.model, config, adapter_name="adapter0").requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(4)
    with Engine(model, mini_encoder(), loaded.precision) as engine:
        yield engine


def test_broken_requests_disturb_nobody(engine, capfd):
    with serving(engine.running(num_slots=16), mini_encoder(), max_queued=256) as running:  # type: ignore[arg-type]
        outcome = attack(Server("127.0.0.1", running.port, os.getpid(), "tuned"), num_requests=3 * len(ATTACKS), seed=1)
    assert not outcome.faults, "\n".join(outcome.faults)
    assert {name for name, _ in outcome.answers} == {kind.__name__ for kind in ATTACKS}
    assert len(set(outcome.alone)) == len(outcome.alone) and outcome.num_streams >= len(outcome.alone)
    assert "failed" not in capfd.readouterr().err
