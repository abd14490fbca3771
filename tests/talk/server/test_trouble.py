"""The log: nothing of a request, unless it was asked for."""

import json

from falconer.talk.server import app
from falconer.talk.server.trouble import log_request, report
from served import encoder_of, parrot_of, serving

SECRET = "a-secret-of-mine"


def test_an_error_is_reported_without_its_message(capsys):
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        report(error)
    written = capsys.readouterr().err
    assert "KeyError" in written and "test_trouble.py" in written and SECRET not in written


def test_a_bug_is_an_answer_and_the_log_has_no_text(capfd, monkeypatch):
    def fail(*_):
        raise KeyError(SECRET)

    with serving() as server:
        monkeypatch.setattr(app, "read_chat", fail)
        got = server.chat(messages=[{"role": "user", "content": SECRET}])
        assert got.status == 500 and got.error["type"] == "server_error"
    written = capfd.readouterr()
    assert "KeyError" in written.err and SECRET not in written.err + written.out


def test_nothing_is_written_unless_asked(capfd):
    encoder = encoder_of()
    for on_answer in (None, log_request):
        with serving(parrot_of(encoder), encoder, on_answer=on_answer) as server:
            server.chat(messages=[{"role": "user", "content": SECRET}])
            server.chat(n=SECRET)
        written = capfd.readouterr()
        assert (SECRET in written.err) == (on_answer is not None) and written.out == ""
    # An answer may arrive before it is logged.
    first, second = sorted(map(json.loads, written.err.splitlines()), key=lambda row: row["status"])
    assert (first["status"], first["model"], first["path"]) == (200, "tuned", "/v1/chat/completions")
    assert second["status"] == 400 and second["body"]["n"] == SECRET
