"""The application of `falconer serve`: models, page and limits are those that it was given, in any process."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

from starlette.testclient import TestClient

from command_line import SOURCE
from falconer.talk.server.gate import Access
from falconer.talk.server.limits import Limits
from falconer.talk.server.served_app import ServedApp
from falconer.talk.server.worker import Worker
from served import encoder_of, parrot_of


def app_of(votes: Path, **limits) -> ServedApp:
    encoder = encoder_of()
    encoders = {"mine": encoder, "falcon": encoder}
    return ServedApp(encoders, {"mine": "adapter0"}, "falcon", Access(), Limits(**limits), 1_700_000_000, votes)


def test_models_and_sliders_are_those_given_even_after_a_journey(tmp_path: Path) -> None:
    app = pickle.loads(pickle.dumps(app_of(tmp_path / "votes.jsonl", max_tokens=100)))
    worker = Worker(parrot_of(encoder_of(), num_slots=2), max_queued=1)  # type: ignore[arg-type]
    client = TestClient(app.make(worker, lambda: False))
    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == ["mine", "falcon"]
    settings = client.get("/page/data/settings").json()
    assert settings["models"] == [{"name": "mine", "is_base": False}, {"name": "falcon", "is_base": True}]
    (longest,) = (field for field in settings["decoding"] if field["name"] == "max_tokens")
    assert longest["most"] == 100
    assert client.get("/page/data/personas").json()["personas"]
    asked = {"model": "mine", "messages": [{"role": "user", "content": "Hi!"}], "n": 4}
    refused = client.post("/v1/chat/completions", json=asked)
    assert refused.status_code == 400 and "an integer from 1 to 3" in refused.json()["error"]["message"], (
        "2 slots, 1 waits"
    )


def test_a_server_that_stops_says_so(tmp_path: Path) -> None:
    worker = Worker(parrot_of(encoder_of()), max_queued=1)  # type: ignore[arg-type]
    client = TestClient(app_of(tmp_path / "votes.jsonl").make(worker, lambda: True))
    assert client.get("/health").status_code == 503


def test_an_http_process_loads_no_torch() -> None:
    code = (
        "import sys, falconer.talk.server.served_app, falconer.talk.server.processes\n"
        "assert not {'torch', 'transformers', 'peft', 'bitsandbytes', 'datasets'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )
    assert done.returncode == 0, done.stderr
