"""The routes of the page: its files with their headers, what it may ask, and votes that are good or bad."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from falconer import style
from falconer.talk.server.page import CONTENT_POLICY
from scripted_server import DECODING, PERSONAS, Script, scripted_app

KEY = {"Authorization": "Bearer s3cret"}
PAGE = Path(__file__).parents[3] / "src" / "falconer" / "talk" / "page"
VOTE = {
    "persona": ["I ski."],
    "history": [{"speaker": "partner", "text": "Hi!"}],
    "left": {"model": "tuned", "text": "Hello!", "decoding": {"temperature": 0.7, "seed": 7}},
    "right": {"model": "base", "text": "No."},
    "vote": "left",
}


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def votes(tmp_path: Path) -> Path:
    return tmp_path / "run" / "votes.jsonl"


@pytest.fixture
def client(script: Script, votes: Path) -> Iterator[TestClient]:
    with TestClient(scripted_app(script, votes)) as found:
        yield found


def test_every_file_has_its_type_and_the_content_policy(client: TestClient) -> None:
    types = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    names = {file.name for file in PAGE.iterdir()} - {"index.html"}
    assert {"main.js", "page.css", "icon.svg"} <= names
    for name in (*names, "base.css", "theme.js"):
        answer = client.get(f"/page/{name}")
        assert answer.status_code == 200 and answer.content
        assert answer.headers["content-type"].split(";")[0] == types[name.rpartition(".")[2]]
        assert answer.headers["content-security-policy"] == CONTENT_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-cache"
    assert client.get("/").content == (PAGE / "index.html").read_bytes()
    assert client.get("/page/base.css").text == style.text("base.css")
    assert client.get("/favicon.ico").content == (PAGE / "icon.svg").read_bytes()


def test_the_policy_allows_nothing_inline_and_nothing_from_elsewhere() -> None:
    assert "unsafe" not in CONTENT_POLICY and "*" not in CONTENT_POLICY and "http" not in CONTENT_POLICY
    assert CONTENT_POLICY.startswith("default-src 'none'; script-src 'self';")
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"\son\w+=|\sstyle=|<style|<script>|javascript:", html)
    addresses = re.findall(r'(?:src|href|action)="([^"]+)"', html)
    assert addresses and all(re.fullmatch(r"page/[\w.]+|#\w+|docs", address) for address in addresses)
    scripts = "".join(file.read_text(encoding="utf-8") for file in PAGE.glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", scripts)


def test_no_file_of_the_page_is_too_long_or_restates_a_default() -> None:
    for file in PAGE.iterdir():
        assert len(file.read_text(encoding="utf-8").splitlines()) <= 400, file.name
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    assert not [field.name for field in DECODING if field.name in html]


def test_a_file_that_has_not_changed_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/page/main.js")
    tag = first.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]{32}"', tag)
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = client.get("/page/main.js", headers={"If-None-Match": known})
        assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == tag
    assert client.get("/page/main.js", headers={"If-None-Match": '"other"'}).status_code == 200
    assert client.get("/page/page.css").headers["etag"] != tag
    head = client.head("/")
    assert head.status_code == 200 and head.content == b"" and int(head.headers["content-length"]) > 1000


@pytest.mark.parametrize("name", ["missing.js", "..%2fserver%2fpage.py", "%2e%2e", "__init__.py", "index.html", "%00"])
def test_nothing_else_is_served(client: TestClient, name: str) -> None:
    assert client.get(f"/page/{name}").status_code in (404, 405)


def test_settings_name_models_and_decoding(client: TestClient) -> None:
    answer = client.get("/page/data/settings")
    settings = answer.json()
    assert answer.headers["cache-control"] == "no-store"
    assert settings["models"] == [{"name": "tuned", "is_base": False}, {"name": "base", "is_base": True}]
    assert [(field["name"], field["default"]) for field in settings["decoding"]] == [
        (field.name, field.default) for field in DECODING
    ]
    assert settings["decoding"][4]["above"] is True and settings["decoding"][6]["most"] == 512
    assert client.get("/page/data/personas").json() == {"personas": [list(lines) for lines in PERSONAS]}


def test_the_page_needs_no_key_but_its_data_do(client: TestClient, script: Script, votes: Path) -> None:
    script.key = "s3cret"
    assert client.get("/").status_code == client.get("/page/main.js").status_code == 200
    for path in ("settings", "personas"):
        assert client.get(f"/page/data/{path}").status_code == 401
        assert client.get(f"/page/data/{path}", headers=KEY).status_code == 200
    assert client.post("/page/data/votes", json=VOTE).status_code == 401 and not votes.exists()
    assert client.post("/page/data/votes", json=VOTE, headers=KEY).status_code == 201


def test_a_vote_is_a_row_of_the_file(client: TestClient, votes: Path) -> None:
    answer = client.post("/page/data/votes", json=VOTE)
    assert answer.status_code == 201 and answer.json() == {"file": "votes.jsonl"}
    client.post("/page/data/votes", json=VOTE | {"vote": "tie"})
    first, second = map(json.loads, votes.read_text(encoding="utf-8").splitlines())
    assert first["winner"] == "tuned" and second["winner"] is None
    assert first["decoding"] == {"left": {"temperature": 0.7, "seed": 7}, "right": {}}


@pytest.mark.parametrize(
    ("change", "status", "param", "words"),
    [
        ({"vote": "both"}, 400, "vote", "'left', 'right' or 'tie'"),
        ({"left": {"model": "gpt", "text": ""}}, 404, "model", "allowed: tuned, base"),
        ({"left": VOTE["right"]}, 400, None, "two different models"),
        ({"history": []}, 400, "history", "at least 1 item"),
        ({"history": [{"speaker": "self", "text": "Hi!"}]}, 400, None, "a turn of 'partner'"),
        ({"history": [{"speaker": "bot", "text": "Hi!"}]}, 400, "history.0.speaker", "'self' or 'partner'"),
        ({"persona": "I ski."}, 400, "persona", "valid list"),
        ({"persona": ["x" * 100_001]}, 400, "persona.0", "at most 100000 characters"),
        ({"left": {"model": "tuned", "text": 3}}, 400, "left.text", "valid string"),
        ({"extra": 1}, 400, "extra", "not permitted"),
        ({"right": {"model": "base", "text": "", "decoding": {"seed": "7"}}}, 400, "right.decoding.seed", "integer"),
    ],
)
def test_a_bad_vote_is_refused_by_its_field(
    client: TestClient, votes: Path, change: dict, status: int, param: str | None, words: str
) -> None:
    answer = client.post("/page/data/votes", json=VOTE | change)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert words in error["message"] and not votes.exists()


def test_another_site_s_form_can_not_vote(client: TestClient, votes: Path) -> None:
    """A form of another page can send text, but JSON only after asking, which this server does not answer."""
    answer = client.post("/page/data/votes", content=json.dumps(VOTE), headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415 and not votes.exists()


def test_a_vote_that_can_t_be_saved_is_an_error_of_the_server(client: TestClient, votes: Path) -> None:
    votes.mkdir(parents=True)
    answer = client.post("/page/data/votes", json=VOTE)
    assert answer.status_code == 503
    assert answer.json()["error"]["message"].startswith("The vote was not saved.")
    assert "votes.jsonl" in answer.json()["error"]["message"]


def test_the_routes_are_no_part_of_the_interface(client: TestClient) -> None:
    assert list(client.get("/openapi.json").json()["paths"]) == ["/v1/chat/completions"]
