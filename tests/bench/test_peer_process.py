"""Does a peer's process do what it is told to? Where TRL or Unsloth is installed, it is asked itself."""

import importlib.util
import io
import json
import math

import pytest
import torch
from transformers.models.falcon import modeling_falcon

from falconer.bench import peer_process, peers
from falconer.bench.peer_model import write_random_falcon, write_rows
from falconer.bench.train import TINY, adapt
from falconer.model.load import load_model
from falconer.model.random_falcon import untrained_falcon

pytestmark = pytest.mark.usefixtures("one_thread")
CPU = torch.device("cpu")
ORDER = {"peer": "trl", "rows": ["a", "b"], "runs": 3, "warmup": 2}


def answered(monkeypatch, train, **changes):
    monkeypatch.setattr(peer_process, "with_trl", lambda order: train)
    pipe = io.StringIO()
    peer_process.main(ORDER | changes, pipe)
    return [json.loads(line) for line in pipe.getvalue().splitlines()]


def test_the_median_is_that_of_the_steps_after_the_warm_up(monkeypatch):
    asked = []

    def train(path, num_steps):
        asked.append((path, num_steps))
        return [9.0, 8.0, 3.0, 1.0, 2.0], 6.5

    first, second, last = answered(monkeypatch, train)
    assert asked == [("a", 5), ("b", 5)] and last == {"done": True}
    assert (first["rows"], first["seconds"], first["loss"]) == ("a", 2.0, 6.5) and second["rows"] == "b"
    assert first["peak_gib"] > 0.05


def test_running_out_of_memory_is_a_result_and_the_next_rows_follow(monkeypatch):
    def train(path, num_steps):
        if path == "a":
            raise torch.OutOfMemoryError
        return [1.0] * num_steps, 6.5

    first, second, last = answered(monkeypatch, train)
    assert first == {"rows": "a", "seconds": None, "peak_gib": None, "loss": None}
    assert second["seconds"] == 1.0 and last == {"done": True}


def test_an_error_is_the_last_answer_and_its_traceback_is_printed(monkeypatch, capsys):
    def train(path, num_steps):
        raise KeyError("lora")

    assert answered(monkeypatch, train) == [{"error": "KeyError: 'lora'"}]
    assert "Traceback" in capsys.readouterr().err


def test_other_work_than_falconers_is_refused():
    model = adapt(untrained_falcon(TINY, CPU, torch.float32, nf4=True))
    peer_process.check(model, {"num_quantised": 8, "num_adapted": 2})
    with pytest.raises(RuntimeError, match="8 layers are quantised and 2 adapted, instead of 8 and 8"):
        peer_process.check(model, {"num_quantised": 8, "num_adapted": 8})
    with pytest.raises(RuntimeError, match="0 layers are quantised and 2 adapted, instead of 8 and 2"):
        peer_process.check(
            adapt(untrained_falcon(TINY, CPU, torch.float32, nf4=False)), {"num_quantised": 8, "num_adapted": 2}
        )


def test_falcons_own_linear_layers_become_torchs(monkeypatch):
    monkeypatch.setattr(modeling_falcon, "FalconLinear", modeling_falcon.FalconLinear)
    assert modeling_falcon.FalconLinear is not torch.nn.Linear
    peer_process.linear_layers_can_be_quantised()
    assert modeling_falcon.FalconLinear is torch.nn.Linear


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", peers.PEERS)
def test_a_peer_computes_the_loss_of_falconers_own_model(tmp_path, name, checkpointing):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    folder, rows = tmp_path / "model", tmp_path / "rows.json"
    folder.mkdir()
    write_random_falcon(TINY, folder, CPU)
    write_rows(rows, 2, 32, TINY["vocab_size"])
    order = peers.Order(name, str(folder), checkpointing, (str(rows),), 1, 1, num_quantised=8, num_adapted=2)
    (installed,) = peers.find_peers([name], None)
    (answer,) = peers.answers(installed, order, tmp_path, tmp_path / "log")
    assert answer["seconds"] > 0 and answer["peak_gib"] > 0
    given = {key: torch.tensor(values) for key, values in json.loads(rows.read_text()).items()}
    # A new adapter changes nothing.
    model = load_model(str(folder), quantization="nf4", dtype="fp32", device="cpu").model
    with torch.no_grad():
        expected = model(**given).loss.item()
    assert answer["loss"] == pytest.approx(expected, rel=2e-3) and expected > math.log(512)
