"""Evaluation, server and terminal give the same greedy replies for the same conversation; the page has its own test."""

import fcntl
import json
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from command_line import ok
from falconer.talk.natural import natural_line
from served import CHATS, JSON
from small_runs import Small, command

NEW_TOKENS = 12
PERSONA = ["I like dogs.", "My sister has two big horses."]
SAID = ["Hi! Do you like cats?", "And when do you play in the snow?"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("same")
    small = Small(folder)
    for file in (small.train, small.valid):
        # In Persona-Chat's spaced style, so that chat and server restyle what they read and show.
        file.write_text(re.sub(r'("text": "[^"]*)"', r'\1 ."', file.read_text()))
    small.run(folder / "mine", "model.name=falcon-mini", "train.max_steps=4", "train.validate_every=4")
    ok(
        "evaluate", "--run", folder / "mine", f"evaluate.max_new_tokens={NEW_TOKENS}", "evaluate.max_replies=8",
        "evaluate.resamples=100",
    )  # fmt: skip
    assert json.loads((folder / "mine/adapter/falconer.json").read_text())["prompt_format"]["is_spaced"]
    return folder / "mine"


@pytest.fixture(scope="module")
def port(run):
    process = command(["serve", "--run", str(run), "--port", "0"])
    said = []
    for line in process.stderr:
        said.append(line)
        if "Ctrl-C finishes" in line:
            break
    found = re.search(r"page +http://127.0.0.1:(\d+)/", "".join(said))
    assert found, "".join(said)
    yield int(found[1])
    process.terminate()
    process.wait(60)
    process.stdout.close()
    process.stderr.close()


def reply(port, model, persona, turns):
    """Return the server's greedy reply to a conversation, the partner's turn first and last."""
    messages = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(turns)]
    body = {
        "model": model, "messages": [{"role": "system", "content": "\n".join(persona)}, *messages],
        "temperature": 0, "repetition_penalty": 1, "no_repeat_ngram_size": 0, "max_tokens": NEW_TOKENS,
    }  # fmt: skip
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", CHATS, json.dumps(body), JSON)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return json.loads(text)["choices"][0]["message"]["content"]
    finally:
        connection.close()


@pytest.mark.parametrize(("which", "model"), [("tuned", "mine"), ("base", "falcon-mini")])
def test_the_server_replies_as_in_the_evaluation(run, port, which, model):
    rows = list(map(json.loads, (run / f"predictions-{which}.jsonl").read_text().splitlines()))
    rows = [row for row in rows if row.get("prediction") is not None]
    assert len(rows) == 8 and any(len(row["history"]) > 1 for row in rows)
    for row in rows:
        expected = "\n".join(natural_line(line, "en") for line in row["prediction"].split("\n"))
        assert reply(port, model, row["persona"], [turn["text"] for turn in row["history"]]) == expected


def test_the_terminal_replies_as_the_server_does(run, port):
    first = reply(port, "mine", PERSONA, SAID[:1])
    second = reply(port, "mine", PERSONA, [SAID[0], first, SAID[1]])
    arguments = [
        sys.executable, "-m", "falconer", "chat", "--run", str(run), "--temperature", "0", "--repetition-penalty", "1",
        "--no-repeat-ngram-size", "0",
        "--max-new-tokens", str(NEW_TOKENS), *(part for line in PERSONA for part in ("--persona", line)),
    ]  # fmt: skip
    pid, terminal = pty.fork()
    if pid == 0:
        source = str(Path(__file__).parents[1] / "src")
        given = {"TERM": "xterm-256color", "NO_COLOR": "1", "PROMPT_TOOLKIT_NO_CPR": "1", "PYTHONPATH": source}
        os.execve(sys.executable, arguments, os.environ | given)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 250, 0, 0))
    shown = ""
    for number, text in enumerate([*SAID, None], 1):
        shown = read_until(terminal, shown, "you:", number)
        os.write(terminal, b"\x04" if text is None else text.encode() + b"\r")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.close(terminal)
    replies = re.findall(r"assistant: ([^\r\n]*)", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown))
    assert [one.strip() for one in replies] == [first, second]


def read_until(terminal, shown, text, times):
    """Return what the terminal has shown until a text stands in it for so many turns, and nothing more comes."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.5)[0]:
            shown += os.read(terminal, 65536).decode("utf-8", "replace")
        elif len(re.findall(r"assistant: [^\r\n]*[\r\n]", shown)) >= times - 1 and text in shown:
            return shown
    raise AssertionError(shown)
