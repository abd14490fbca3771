"""Who may ask, and the headers of every answer."""

import pytest

from falconer.talk.server.gate import Access
from served import CHAT, CHATS, serving

KEY = "correct-horse"
OPEN, CLOSED = ("/health", "/docs"), ("/v1/models", "/metrics", "/openapi.json", "/nowhere", "/page/data/settings")


@pytest.fixture(scope="module")
def closed():
    with serving(key=KEY, origins=("https://example.org",)) as running:
        yield running


@pytest.mark.parametrize("path", CLOSED)
def test_a_key_is_required(closed, path):
    for given, says in (
        (None, "is required"),
        ("Bearer wrong", "is wrong"),
        (f"Basic {KEY}", "is wrong"),
        ("Bearer", "is required"),
    ):
        got = closed.ask("GET", path, headers={"Authorization": given} if given else {})
        assert got.status == 401 and says in got.error["message"] and got.headers["www-authenticate"] == "Bearer"
        assert KEY not in got.body.decode()


def test_the_right_key_opens_and_some_routes_need_none(closed):
    for given in (f"Bearer {KEY}", f"bearer  {KEY}"):
        assert closed.ask("POST", CHATS, CHAT, {"Authorization": given}).status == 200
    assert [closed.ask("GET", path).status for path in OPEN] == [200, 200]
    assert b"tuned" not in closed.ask("GET", "/docs").body, "what needs no key names no model"


def test_a_wrong_key_with_a_large_body_is_answered(closed):
    assert closed.ask("POST", CHATS, b"x" * 5_000_000).status == 401


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("LOCALHOST", 200), ("evil.example", 403),
        ("localhost.evil.example:80", 403), ("127.0.0.1:80:90", 403),
    ],
)  # fmt: skip
def test_only_names_of_this_machine_are_answered(server, host, status):
    got = server.ask("GET", "/health", headers={"Host": host})
    assert got.status == status and (status == 200 or got.error["code"] == "host_not_allowed")


def test_every_answer_has_strict_headers(server):
    for got in (server.ask("GET", "/health"), server.ask("GET", "/none"), server.chat(stream=True), server.chat(n=-1)):
        assert got.headers["x-content-type-options"] == "nosniff" and got.headers["cache-control"] == "no-store"
        assert got.headers["content-security-policy"].startswith("default-src 'none'")
        assert "server" not in got.headers and "access-control-allow-origin" not in got.headers


def test_pages_of_named_sites_may_ask(closed):
    asks = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    got = closed.ask("OPTIONS", CHATS, headers=asks)
    assert got.status == 204 and got.headers["access-control-allow-origin"] == "https://example.org"
    assert "Authorization" in got.headers["access-control-allow-headers"] and got.headers["vary"] == "Origin"
    got = closed.ask("POST", CHATS, CHAT, {"Origin": "https://example.org", "Authorization": f"Bearer {KEY}"})
    assert got.status == 200 and got.headers["access-control-allow-origin"] == "https://example.org"
    other = closed.ask("OPTIONS", CHATS, headers={**asks, "Origin": "https://evil.example"})
    assert other.status == 401 and "access-control-allow-origin" not in other.headers


def test_no_key_lets_everybody_ask():
    Access().check_key({})
