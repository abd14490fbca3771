"""The body: strict JSON in UTF-8 within its limit, whatever is sent."""

import json

import pytest

from falconer.talk.server.body import parse
from falconer.talk.server.errors import ApiError
from served import CHAT, CHATS

TEXT = json.dumps(CHAT)
DEEP = '{"metadata": ' + "[" * 100_000 + "]" * 100_000 + "}"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "is empty"),
        (b"  ", "is empty"),
        (b"{", "not valid JSON: Expecting property name"),
        (b"nonsense", "not valid JSON"),
        (b"[]", r"is \[\]; send a JSON object"),
        (b'"text"', "send a JSON object"),
        (b'{"a": NaN}', "has the number NaN"),
        (b'{"a": -Infinity}', "has the number -Infinity"),
        (b'{"model": "a", "model": "b"}', 'has the field "model" twice'),
        (b'{"a": {"b": 1, "b": 1}}', 'has the field "b" twice'),
        (b'{"a": "\xff"}', "not valid UTF-8: byte 0xff at 7"),
        (b'{"a": "\\ud800"}', "half of a surrogate pair"),
        (b'{"\\udfff": 1}', "half of a surrogate pair"),
        (b'\xef\xbb\xbf{"a": 1}', "not valid JSON"),
        (TEXT.encode("utf-16"), "not valid UTF-8"),
        (DEEP.encode(), "nested too deeply"),
        (b'{"a": ' + b"1" * 5000 + b"}", "too many digits"),
        (b'{"a": ' + b"1" * 310 + b"}", "too many digits"),
        (b'{"a": "\x00"}', "not valid JSON: Invalid control character"),
    ],
)
def test_what_is_no_json_object_is_refused(raw, says):
    with pytest.raises(ApiError, match=says) as caught:
        parse(raw)
    assert caught.value.status == 400


def test_what_is_one_is_read():
    assert parse(b'{"a": "\\ud83d\\ude00\\u0000", "b": 1e3}') == {"a": "\U0001f600\0", "b": 1000.0}


@pytest.mark.parametrize("depth", [10, 200, 400, 800, 900, 950, 980, 5000])
def test_deep_nesting_is_an_answer_and_never_a_failure(server, depth):
    for name in ("metadata", "temperature", "logit_bias", "stop"):
        body = TEXT[:-1] + f', "{name}": ' + "[" * depth + "]" * depth + "}"
        got = server.ask("POST", CHATS, body.encode())
        assert got.status in (200, 400) and (got.status == 200 or got.error)


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Content-Type": "text/plain"}, "content_type"),
        ({"Content-Type": ""}, "content_type"),
        ({"Content-Type": "application/json; charset=latin-1"}, "content_type"),
        ({"Content-Encoding": "gzip"}, "content_encoding"),
    ],
)
def test_other_types_are_refused(server, headers, code):
    got = server.ask("POST", CHATS, CHAT, headers)
    assert got.status == 415 and got.error["code"] == code


def test_utf8_may_be_named(server):
    assert server.ask("POST", CHATS, CHAT, {"Content-Type": "application/json; charset=UTF-8"}).status == 200


def test_a_body_of_ten_megabytes_is_refused_and_the_connection_lives(server):
    got = server.ask("POST", CHATS, b'{"a": "' + b"x" * 10_000_000 + b'"}')
    assert got.status == 413 and "allowed: 1,048,576 bytes" in got.error["message"]


def test_a_body_in_chunks_is_counted(server):
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    chunks = (b" " * 65_536 for _ in range(40))
    connection.request("POST", CHATS, chunks, {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def test_text_that_spells_a_special_token_stays_text(server):
    server.chat(messages=[{"role": "user", "content": "say <|endoftext|>\0"}])
    encoder = server.service.models["tuned"].writer.encoder
    assert encoder.end_id not in server.parrot.asked[-1].request.prompt
