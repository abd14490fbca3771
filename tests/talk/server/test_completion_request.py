"""The body of a completion of bare text."""

import pytest

from falconer.model.engine import Decoding
from falconer.talk.server.completion_request import completion_fields, read_completion
from falconer.talk.server.limits import Limits
from served import TEXTS

GOOD = {"model": "tuned", "prompt": "once"}


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"prompt": ""}, "prompt", "at least one character"),
        ({"prompt": []}, "prompt", "one text"),
        ({"prompt": ["a", "b"]}, "prompt", "one text"),
        ({"prompt": [1, 2]}, "prompt", "one text"),
        ({"prompt": None}, "prompt", "is null"),
        ({"echo": True}, "echo", "allowed: false or null"),
        ({"suffix": "x"}, "suffix", 'allowed: "" or null'),
        ({"best_of": 2}, "best_of", "allowed: 1 or null"),
        ({"logprobs": True}, "logprobs", "an integer from 0 to 20"),
        ({"messages": []}, "messages", "There is no field"),
    ],
)
def test_what_is_not_allowed_is_refused(server, change, param, says):
    got = server.ask("POST", TEXTS, {**GOOD, **change})
    assert got.status == 400 and got.error["param"] == param and says in got.error["message"]


def test_a_body_is_read():
    fields = completion_fields(("tuned",), Limits(), Decoding())
    read = read_completion({**GOOD, "prompt": ["once"], "logprobs": 2, "n": 2.0}, fields, Decoding())
    assert (read.prompt, read.asked.decoding.num_logprobs, read.asked.num_choices) == ("once", 2, 2)
    assert read_completion(GOOD, fields, Decoding()).asked.has_logprobs is False
