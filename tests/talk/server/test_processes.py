"""HTTP in processes of its own: they share a port, one worker and one end; signals are in test_serve_command.py."""

import threading
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from falconer.errors import FalconerError
from falconer.talk.server.limits import Limits
from falconer.talk.server.processes import Front, HttpProcesses
from falconer.talk.server.serving import bind_shared
from falconer.talk.server.worker import Worker
from served import SHOWN, Got, app_of, encoder_of, parrot_of, request


@dataclass(frozen=True)
class ParrotApp:
    metrics: Path
    fails: bool = False

    def make(self, worker, is_stopping):
        if self.fails:
            raise FalconerError("This process has no place.")
        return app_of(worker, encoder_of(), is_stopping, self.metrics)


def front_of(folder, app, parrot):
    return Front(app.make, Limits(), parrot.num_slots, max_queued=64, grace_s=5, metrics=folder)


def test_every_process_answers_and_all_end_together(tmp_path):
    parrot = parrot_of(encoder_of(), num_slots=8)
    sockets = bind_shared("127.0.0.1", 0, 2)
    port = sockets[0].getsockname()[1]
    processes = HttpProcesses(front_of(tmp_path, ParrotApp(tmp_path), parrot), sockets)
    found = SimpleNamespace(answers=[], refused=None)

    def use():
        try:
            threads = [
                threading.Thread(target=lambda: found.answers.append(request(port, stream=True))) for _ in range(20)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            parrot.delay_s = 0.1
            last = threading.Thread(target=lambda: found.answers.append(request(port, max_tokens=20)))
            last.start()
            while not parrot.num_running:
                pass
            processes.stop()
            last.join(60)
        finally:
            processes.stop()

    user = threading.Thread(target=use)
    processes.run(Worker(parrot, max_queued=64), user.start)  # type: ignore[arg-type]
    user.join(60)
    assert [answer.status for answer in found.answers] == [200] * 21, "that which ran at the end, too"
    for answer in found.answers[:-1]:
        assert text_of(answer) == SHOWN
    assert not any(process.is_alive() for process in processes._processes)
    assert {path.name.split("_")[0] for path in tmp_path.iterdir()} == {"counter", "histogram"}


def text_of(answer: Got) -> str:
    return "".join(event["choices"][0]["delta"].get("content", "") for event in answer.events[:-1])


def test_a_process_that_does_not_start_is_an_error(tmp_path, capfd):
    parrot = parrot_of(encoder_of())
    front = front_of(tmp_path, ParrotApp(tmp_path, fails=True), parrot)
    processes = HttpProcesses(front, bind_shared("127.0.0.1", 0, 1))
    with pytest.raises(FalconerError, match="HTTP processes did not start; .* Start the server with --http-proc"):
        processes.run(Worker(parrot, max_queued=1), lambda: None)  # type: ignore[arg-type]
    assert "This process has no place." in capfd.readouterr().err
