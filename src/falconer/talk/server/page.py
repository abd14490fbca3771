"""The web page at `/`: its files, and what it asks the server beyond OpenAI's interface."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from types import MappingProxyType
from typing import Any

from fastapi import APIRouter, Depends
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from falconer import __version__, style
from falconer.errors import FalconerError
from falconer.talk.server.body import read_object
from falconer.talk.server.errors import ApiError, invalid
from falconer.talk.server.fields import Number, unknown_model
from falconer.talk.server.limits import Limits
from falconer.talk.votes import Vote, VoteFile

_TYPES = MappingProxyType({
    "html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
})  # fmt: skip
# What both pages of falconer share, and the page's own files; index.html stands at `/`, the others below /page/.
_SHARED = ("base.css", "theme.js")
# The page loads its own files alone and asks this server alone. A text can't become markup or a script, even if the
# page's own code tried: Trusted Types refuse it.
CONTENT_POLICY = "; ".join((
    "default-src 'none'", "script-src 'self'", "style-src 'self'", "img-src 'self'", "connect-src 'self'",
    "base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'", "require-trusted-types-for 'script'",
    "trusted-types 'none'",
))  # fmt: skip
_HEADERS = MappingProxyType({
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # A new version of falconer is shown at once; an unchanged file costs one exchange without a body.
    "Cache-Control": "no-cache",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class PageModel:
    """A model that the page can talk to; `is_base`: it is the base alone, without an adapter."""

    name: str
    is_base: bool


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    type: str
    etag: str


def page_routes(
    models: Sequence[PageModel], decoding: Sequence[Number], personas: Sequence[Sequence[str]], votes: VoteFile,
    limits: Limits, guard: Callable[..., Any],
) -> APIRouter:  # fmt: skip
    """Return the routes of the page.

    Args:
        models: in the order in which the page offers them; it talks to the first.
        decoding: the fields of a chat request that say how tokens are chosen, with their bounds and defaults.
        personas: examples, in natural text.
        votes: where blind votes are saved.
        limits: of a vote's body.
        guard: a dependency that raises an ApiError unless the request has the server's key. The page's files need none,
            since the page is where a user enters the key.
    """
    files = _files()
    router = APIRouter(include_in_schema=False)
    names = tuple(model.name for model in models)

    show = partial(_show, files)

    @router.api_route("/", methods=["GET", "HEAD"])
    def index(request: Request) -> Response:
        return show(request, "index.html")

    # Where browsers look for it if a page names none, such as /docs.
    @router.api_route("/favicon.ico", methods=["GET", "HEAD"])
    def icon(request: Request) -> Response:
        return show(request, "icon.svg")

    @router.api_route("/page/{name}", methods=["GET", "HEAD"])
    def file(request: Request, name: str) -> Response:
        # Its links are right at `/` alone.
        return show(request, "" if name == "index.html" else name)

    @router.get("/page/data/settings", dependencies=[Depends(guard)])
    def settings() -> JSONResponse:
        return _data({
            "version": __version__,
            "models": [{"name": model.name, "is_base": model.is_base} for model in models],
            "decoding": [_described(field) for field in decoding],
        })  # fmt: skip

    @router.get("/page/data/personas", dependencies=[Depends(guard)])
    def examples() -> JSONResponse:
        return _data({"personas": personas})

    @router.post("/page/data/votes", dependencies=[Depends(guard)])
    async def save(request: Request) -> JSONResponse:
        vote = _vote(await read_object(request, limits), names)
        try:
            await run_in_threadpool(votes.append, vote)
        except FalconerError as error:
            raise ApiError(503, f"The vote was not saved. {error}", code="votes_file") from error
        return _data({"file": votes.path.name}, 201)

    return router


def _show(files: Mapping[str, _File], request: Request, name: str) -> Response:
    if name not in files:
        raise ApiError(404, "There is no such file.", code="not_found")
    return _response(request, files[name])


def _files() -> dict[str, _File]:
    """Return the page's files by their names."""
    folder = resources.files("falconer.talk") / "page"
    own = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir() if file.name[:1] not in "._"}
    return {name: _file(name, text) for name, text in (own | {name: style.text(name) for name in _SHARED}).items()}


def _file(name: str, text: str) -> _File:
    content = text.encode("utf-8")
    return _File(content, _TYPES[name.rpartition(".")[2]], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _response(request: Request, file: _File) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
    if file.etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(file.content, headers=headers, media_type=file.type)


def _data(content: dict[str, Any], status: int = 200) -> JSONResponse:
    # What a key protects stays in no cache.
    return JSONResponse(content, status, {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})


def _described(field: Number) -> dict[str, Any]:
    return {
        "name": field.name, "least": field.least, "most": field.most, "above": field.above, "is_whole": field.is_whole,
        "default": field.default,
    }  # fmt: skip


def _vote(body: dict[str, Any], models: Sequence[str]) -> Vote:
    try:
        vote = Vote.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise invalid(where, f"'{where or 'body'}': {message}.") from error
    for side in (vote.left, vote.right):
        if side.model not in models:
            raise unknown_model(side.model, models)
    return vote
