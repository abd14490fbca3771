"""The FastAPI application: its routes, and how errors become OpenAI's bodies."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Path
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from falconer import __version__
from falconer.errors import FalconerError
from falconer.talk.server import docs_page, schema
from falconer.talk.server.answer import refusal
from falconer.talk.server.answers import answer_chat, answer_completion
from falconer.talk.server.body import read_object
from falconer.talk.server.chat_request import REQUIRED as CHAT_REQUIRED
from falconer.talk.server.chat_request import chat_fields, read_chat
from falconer.talk.server.completion_request import REQUIRED as COMPLETION_REQUIRED
from falconer.talk.server.completion_request import completion_fields, read_completion
from falconer.talk.server.errors import ApiError, failed
from falconer.talk.server.fields import unknown_model
from falconer.talk.server.gate import Access, Gate
from falconer.talk.server.metrics import CONTENT_TYPE
from falconer.talk.server.service import ServedModel, Service
from falconer.talk.server.worker import BrokenError, StoppingError

OPEN_PATHS = ("/health",)
_ABOUT = (
    "OpenAI's interface to a base model and its adapters. The system message of a chat is the persona, one sentence a "
    "line. Answers to chats say in `dropped_turns` and in the header `X-Dropped-Turns` how many turns, oldest first, "
    "did not fit into the context."
)


def make_app(
    service: Service, access: Access, *, routers: Sequence[APIRouter] = (),
    is_stopping: Callable[[], bool] = lambda: False, on_answer: Callable[[Any, int, float], None] | None = None,
) -> Gate:  # fmt: skip
    """Return the ASGI application.

    Args:
        routers: further routes, such as those of the page.
        is_stopping: the server shuts down: /health says so, and nothing new is begun.
        on_answer: see `Gate`.
    """
    app = FastAPI(
        title="falconer", version=__version__, description=_ABOUT, docs_url=None, redoc_url=None, openapi_url=None,
        redirect_slashes=False,
        exception_handlers={
            ApiError: _on_api_error, HTTPException: _on_http_error, FalconerError: _on_user_error, Exception: _on_bug,
        },
    )  # fmt: skip
    guards = [status for status, on in ((401, access.key is not None), (403, access.hosts is not None)) if on]
    app.include_router(_generation(service, guards, is_stopping))
    app.include_router(_models(service, guards))
    app.include_router(_state(service, guards, is_stopping))
    for router in routers:
        app.include_router(router)
    has_key = access.key is not None
    described = schema.completed(app.openapi(), has_key=has_key, open_paths=OPEN_PATHS)
    docs = docs_page.page(described, names=() if has_key else service.names)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return JSONResponse(described)

    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> Response:
        return HTMLResponse(docs.content, headers=docs.headers)

    return Gate(app, access, service.metrics, on_answer)


def _generation(service: Service, guards: Sequence[int], is_stopping: Callable[[], bool]) -> APIRouter:
    router, names, limits, default = APIRouter(tags=["generation"]), service.names, service.limits, service.default
    of_chat, of_completion = chat_fields(names, limits, default), completion_fields(names, limits, default)
    messages = [
        {"role": "system", "content": "I have two dogs.\nI work as a teacher."},
        {"role": "user", "content": "Hi! What do you do?"},
    ]
    chat_body = schema.request_body(of_chat, CHAT_REQUIRED, {"model": names[0], "messages": messages})
    text = {"model": names[0], "prompt": "User: hello\nAssistant:", "max_tokens": 16}
    completion_body = schema.request_body(of_completion, COMPLETION_REQUIRED, text)
    statuses = (*schema.TO_ASK, *guards)

    async def read(request: Request) -> dict[str, Any]:
        body = await read_object(request, limits)
        if is_stopping():
            raise refusal(StoppingError())
        return body

    @router.post(
        "/v1/chat/completions", summary="Reply to a conversation", openapi_extra=chat_body,
        responses=schema.responses(schema.ChatCompletion, statuses, is_stream=True), response_class=Response,
    )  # fmt: skip
    async def chat(request: Request) -> Response:
        return await answer_chat(service, request, read_chat(await read(request), of_chat, default))

    @router.post(
        "/v1/completions", summary="Continue a text", openapi_extra=completion_body,
        responses=schema.responses(schema.Completion, statuses, is_stream=True), response_class=Response,
    )  # fmt: skip
    async def complete(request: Request) -> Response:
        return await answer_completion(service, request, read_completion(await read(request), of_completion, default))

    return router


def _models(service: Service, guards: Sequence[int]) -> APIRouter:
    router = APIRouter(tags=["models"])
    base = next(model.name for model in service.models.values() if model.adapter is None)

    def describe(model: ServedModel) -> dict[str, Any]:
        return {
            "id": model.name, "object": "model", "created": service.created, "owned_by": "falconer", "root": base,
            "parent": None if model.adapter is None else base, "max_model_len": model.context,
        }  # fmt: skip

    @router.get("/v1/models", summary="List the models", responses=schema.responses(schema.ModelList, (500, *guards)))
    async def models() -> Response:
        return JSONResponse({"object": "list", "data": list(map(describe, service.models.values()))})

    one_of = Path(json_schema_extra={"enum": list(service.names)})

    # A name may have a slash, such as tiiuae/falcon-7b.
    @router.get(
        "/v1/models/{model:path}", summary="Describe a model",
        responses=schema.responses(schema.ModelBody, (404, 500, *guards)),
    )  # fmt: skip
    async def model(model: Annotated[str, one_of]) -> Response:
        if model not in service.models:
            raise unknown_model(model, service.names)
        return JSONResponse(describe(service.models[model]))

    return router


def _state(service: Service, guards: Sequence[int], is_stopping: Callable[[], bool]) -> APIRouter:
    router = APIRouter(tags=["state"])
    service.metrics.watch(service.worker)

    @router.get(
        "/health", summary="Say whether requests are accepted",
        responses=schema.responses(schema.Health, (500, 503, *guards)),
    )  # fmt: skip
    async def health() -> Response:
        if is_stopping():
            raise refusal(StoppingError())
        await service.worker.refresh()
        if service.worker.figures.is_broken:
            raise refusal(BrokenError())
        return JSONResponse({"status": "ok"})

    @router.get(
        "/metrics", summary="Figures for Prometheus", response_class=Response,
        responses=schema.responses(None, (500, *guards), text="text/plain"),
    )  # fmt: skip
    async def metrics() -> Response:
        await service.worker.refresh()
        return Response(service.metrics.text(), media_type=CONTENT_TYPE)

    return router


async def _on_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _on_user_error(request: Request, error: Exception) -> Response:
    return ApiError(400, str(error)).response()


async def _on_bug(request: Request, error: Exception) -> Response:
    """Answer to an error of our own; the gate reports it."""
    return failed().response()


async def _on_http_error(request: Request, error: Exception) -> Response:
    """Answer to what no route is for."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        what = f"The method {request.method} is not allowed here; allowed: {headers.get('Allow', 'none')}."
        return ApiError(405, what, code="method_not_allowed", headers=headers).response()
    if error.status_code == 404:
        what = "There is no such route. Requests go to /v1/chat/completions, /v1/completions and /v1/models; see /docs."
        return ApiError(404, what, code="route_not_found").response()
    return ApiError(error.status_code, str(error.detail), headers=headers).response()
