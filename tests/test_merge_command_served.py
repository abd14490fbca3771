"""A merged folder in `transformers serve`, asked by the openai client: the greedy reply that falconer gives."""

import os
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import openai
import pytest

from command_line import ok
from falconer import jobs
from falconer.data.prompt import messages
from falconer.data.sources import SAMPLE, load_dialogues
from falconer.model.engine import Decoding, Request
from falconer.run.folder import read_config
from small_runs import Small

pytestmark = pytest.mark.usefixtures("one_thread")
LONGEST_START_S = 180


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """falcon-mini, tuned for three steps: its replies are words."""
    folder = tmp_path_factory.mktemp("served")
    small = Small(folder)
    small.run(folder / "run", "model.name=falcon-mini", "train.max_steps=3", "train.learning_rate=1e-3")
    return folder / "run"


def free_port() -> int:
    with closing(socket.socket()) as bound:
        bound.bind(("127.0.0.1", 0))
        return int(bound.getsockname()[1])


@pytest.fixture
def client(run, tmp_path):
    out, port = tmp_path / "merged", free_port()
    ok("merge", "--run", run, "--out", out, "--dtype", "fp32", "--no-measure")
    program = Path(sys.executable).with_name("transformers")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path / "cache")}
    command = [str(program), "serve", str(out), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    asked = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=60)
    try:
        end = time.monotonic() + LONGEST_START_S
        while True:
            assert process.poll() is None and time.monotonic() < end, (tmp_path / "log").read_text()
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
            except OSError:
                time.sleep(0.2)
        yield lambda rows: asked.chat.completions.create(model=str(out), messages=rows, temperature=0, max_tokens=24)
    finally:
        process.kill()
        process.wait(30)


def test_the_replies_are_falconers(run, client):
    opened = jobs.open_run(run, config=read_config(run))
    dialogues = load_dialogues(SAMPLE, split="test").dialogues[:3]
    for dialogue in dialogues:
        turns = dialogue.turns[: dialogue.replies[1]]
        prompt = opened.encoder.encode_prompt(dialogue.persona, turns, 24)
        ((_, expected),) = opened.engine.replies([Request(prompt, Decoding(max_new_tokens=24))])
        rows = messages(dialogue)[: len(turns) + bool(dialogue.persona)]
        found = client(rows).choices[0].message.content
        assert expected.text and found.strip() == expected.text
    opened.engine.close()
