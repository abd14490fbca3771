"""Errors in OpenAI's form."""

import json

import pytest

from falconer.talk.server.errors import ApiError, as_json, invalid, shown


@pytest.mark.parametrize(
    ("status", "type"),
    [
        (400, "invalid_request_error"), (401, "authentication_error"), (403, "authentication_error"),
        (404, "invalid_request_error"), (429, "rate_limit_error"), (500, "server_error"), (503, "server_error"),
    ],
)  # fmt: skip
def test_the_type_follows_from_the_status(status, type):
    error = ApiError(status, "No \udc80.", param="a", code="b", headers={"Retry-After": "2"})
    assert json.loads(error.encoded())["error"] == {"message": "No \udc80.", "type": type, "param": "a", "code": "b"}
    response = error.response()
    assert (response.status_code, response.headers["retry-after"]) == (status, "2")


def test_a_field_is_named_and_a_whole_body_is_not():
    assert invalid("a", "x").body()["error"]["param"] == "a" and invalid("", "x").param is None


def test_values_are_shown_in_short():
    assert shown("a" * 100) == '"' + "a" * 56 + "..." and shown([1]) == "[1]"
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    assert as_json(deep) == "..."
