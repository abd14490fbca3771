"""The Hugging Face hub's HTTP interface on the loopback address: repositories, uploads, downloads, faults."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "a1B2" * 8
# What the tests call a base model and an adapter.
BASE, REPOSITORY = "alice/falcon", "alice/tiny-persona"
# What the hub keeps outside of git.
LARGE = ("*.safetensors", "*.png", "*.gguf")


@dataclass
class Repository:
    """A repository: its commits, its files, and what the hub has read of its page."""

    is_private: bool
    commits: list[str] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def sha(self) -> str:
        return hashlib.sha1("".join(self.commits).encode()).hexdigest()


@dataclass
class Fault:
    """What goes wrong at requests of a kind: a status; "cut" or "hang" before they are done; "lost": the answer."""

    kind: str
    how: int | str
    times: int


class FakeHub:
    """A hub in a thread.

    Attributes:
        repositories: by name.
        large: the objects that were uploaded, by SHA-256.
        seen: (kind, path) of each request.
        warnings: on the metadata of a card.
        closing: set when the hub ends, for which requests that hang wait.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.large: dict[str, bytes] = {}
        self.seen: list[tuple[str, str]] = []
        self.faults: list[Fault] = []
        self.closing = threading.Event()
        self.warnings: list[str] = []
        self._lock = threading.Lock()
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def fail(self, kind: str, how: int | str, times: int = 1) -> None:
        """Let the next requests of a kind ("create", "info", "preupload", "batch", "put", "commit", ...) fail."""
        self.faults.append(Fault(kind, how, times))

    def put(self, name: str, folder: Path, *, private: bool = False) -> None:
        """Give the hub a repository with the files of a folder."""
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repositories[name] = Repository(private, ["first"], files)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.seen]

    def fault(self, kind: str) -> int | str | None:
        with self._lock:
            found = next((one for one in self.faults if one.kind == kind and one.times > 0), None)
            if found is None:
                return None
            found.times -= 1
            return found.how


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Start a hub that ends with the block."""
    hub = FakeHub()
    try:
        yield hub
    finally:
        hub.close()


def environment(hub: FakeHub, cache: Path, token: str | None = TOKEN) -> dict[str, str]:
    """Return the environment variables with which a process uses this hub."""
    return {
        "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(cache),
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "0", "HF_TOKEN": token or "", "HF_HUB_CACHE": str(cache / "hub"),
    }  # fmt: skip


def connect(hub: FakeHub, monkeypatch: Any, cache: Path, token: str | None = TOKEN) -> None:
    """Let this process use the hub; its library read the environment long ago."""
    from huggingface_hub import constants, hf_api
    from huggingface_hub.utils import _http
    from transformers.utils import hub as transformers_hub

    for name, value in environment(hub, cache, token).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    # Both libraries keep an object with the address of its first use, which may be an earlier test's hub.
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
    monkeypatch.setattr(transformers_hub.hf_api(), "endpoint", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(cache / "token"))
    # The library waits for seconds before it tries again.
    monkeypatch.setattr(_http.time, "sleep", lambda seconds: None)


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_PUT(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        kind = _kind(self.command, path)
        self.hub.seen.append((kind, path))
        fault = self.hub.fault(kind)
        if fault == "hang":
            self.hub.closing.wait(60)
        if fault in ("cut", "hang"):
            self.close_connection = True
            return
        if isinstance(fault, int):
            headers = {"retry-after": "7"} if fault == 429 else {}
            self._send(fault, b'{"error": "as the test wants it"}', headers)
            return
        authorized = self.headers.get("authorization") == f"Bearer {TOKEN}"
        if kind not in ("put", "resolve", "info", "tree", "validate") and not authorized:
            self._send(401, b'{"error": "Invalid username or password."}', {"x-error-message": "Invalid token"})
            return
        status, content, headers = self._do(kind, path, body, authorized)
        if fault == "lost":
            self.close_connection = True
            return
        self._send(status, content, headers)

    def _do(self, kind: str, path: str, body: bytes, authorized: bool) -> tuple[int, bytes, dict[str, str]]:
        parts = path.strip("/").split("/")
        if kind == "create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}"
            self.hub.repositories.setdefault(name, Repository(asked.get("visibility") == "private", ["first"]))
            return _json({"url": f"{self.hub.url}/{name}", "name": name})
        if kind == "validate":
            content = json.loads(body)["content"]
            if "license: no-such-license" in content:
                return _json({"errors": [{"message": '"license" must be one of [...]'}], "warnings": []}, 400)
            return _json({"errors": [], "warnings": [{"message": one} for one in self.hub.warnings]})
        if kind == "put":
            self.hub.large[parts[-1]] = body
            return 200, b"", {}
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2]).removesuffix(".git")
        found = self.hub.repositories.get(name)
        if found is None or (found.is_private and not authorized):
            status = 404 if authorized else 401
            return status, b'{"error": "Repository not found"}', {"x-error-code": "RepoNotFound"}
        if kind == "info":
            return _json(
                {
                    "id": name, "modelId": name, "sha": found.sha, "private": found.is_private, "tags": [],
                    "cardData": found.card,
                    "siblings": [{"rfilename": one} for one in [".gitattributes", *found.files]],
                }
            )  # fmt: skip
        if kind == "preupload":
            return _json({"files": [self._mode(found, one["path"]) for one in json.loads(body)["files"]]})
        if kind == "batch":
            return _json({"transfer": "basic", "objects": [self._upload(one) for one in json.loads(body)["objects"]]})
        if kind == "commit":
            return self._commit(name, found, body)
        if kind == "tree":
            return _json([_entry(one, content) for one, content in sorted(found.files.items())])
        return self._file(found, "/".join(parts[4:]))

    def _mode(self, found: Repository, path: str) -> dict[str, Any]:
        mode = "lfs" if any(fnmatch(path, one) for one in LARGE) else "regular"
        oid = _oid(path, found.files[path]) if path in found.files else None
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid}

    def _upload(self, asked: dict[str, Any]) -> dict[str, Any]:
        entry: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
        if asked["oid"] not in self.hub.large:
            entry["actions"] = {"upload": {"href": f"{self.hub.url}/large/{asked['oid']}", "header": {}}}
        return entry

    def _commit(self, name: str, found: Repository, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        rows = [json.loads(line) for line in body.splitlines()]
        header = rows[0]["value"]
        if header.get("parentCommit") not in (None, found.sha):
            return _json({"error": "A commit has happened since"}, 412)
        files = dict(found.files)
        for row in rows[1:]:
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                files.pop(value["path"])
        found.files = files
        found.commits.append(f"{header['summary']} {len(found.commits)}")
        url = f"{self.hub.url}/{name}/commit/{found.sha}"
        return _json({"success": True, "commitUrl": url, "commitOid": found.sha})

    def _file(self, found: Repository, path: str) -> tuple[int, bytes, dict[str, str]]:
        if path not in found.files:
            return 404, b"", {"x-error-code": "EntryNotFound", "x-repo-commit": found.sha}
        content = found.files[path]
        return 200, content, {"x-repo-commit": found.sha, "etag": f'"{_oid(path, content)}"'}

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _kind(method: str, path: str) -> str:
    for kind, sign in (
        ("create", "/api/repos/create"), ("validate", "/api/validate-yaml"), ("preupload", "/preupload/"),
        ("batch", "/info/lfs/objects/batch"), ("commit", "/commit/"), ("tree", "/tree/"), ("resolve", "/resolve/"),
        ("put", "/large/"), ("info", "/api/models/"),
    ):  # fmt: skip
        if sign in path:
            return kind
    return f"{method} {path}"


def _entry(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _git(content)}
    if any(fnmatch(path, one) for one in LARGE):
        entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return entry


def _oid(path: str, content: bytes) -> str:
    is_large = any(fnmatch(path, one) for one in LARGE)
    return hashlib.sha256(content).hexdigest() if is_large else _git(content)


def _git(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _json(tree: Any, status: int = 200) -> tuple[int, bytes, dict[str, str]]:
    return status, json.dumps(tree).encode(), {"content-type": "application/json"}
