"""`falconer serve`: the options of the server, and what it says when it starts."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from falconer import consoles
from falconer.consoles import counted
from falconer.errors import FalconerError
from falconer.setting_options import WithSettings

if TYPE_CHECKING:
    import socket

    from fastapi import APIRouter

    from falconer.served import Served
    from falconer.talk.server.gate import Access
    from falconer.talk.server.limits import Limits
    from falconer.talk.server.service import Service

serve_app = typer.Typer()

# The page's sliders, and its examples of personas.
SLIDERS = frozenset(("temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed"))
NUM_PERSONAS, SEED = 50, 17
# What is open besides connections: libraries, the model's files, the log.
OTHER_FILES = 256
# The page's votes, in the run's folder.
VOTES = "votes.jsonl"


@serve_app.command(cls=WithSettings)
def serve(
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Settings, e.g. model.path=generic.", show_default=False),
    ] = None,
    run: Annotated[Path, typer.Option("--run", metavar="FOLDER", help="The run's folder.")] = Path("runs/quickstart"),
    run_adapter: Annotated[
        str, typer.Option("--run-adapter", metavar="FOLDER", help="The adapter's folder, inside the run's folder.")
    ] = "adapter",
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter",
            metavar="NAME=FOLDER",
            help="A further adapter on the same base: a run, an adapter's folder, or OWNER/NAME on the hub; repeat it.",
        ),
    ] = None,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="The address to listen at; 0.0.0.0: all of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="0: any that is free.")] = 8000,
    slots: Annotated[
        int, typer.Option("--slots", min=1, max=4096, metavar="N", help="Replies that are generated at the same time.")
    ] = 64,
    queue: Annotated[int, typer.Option("--queue", min=0, metavar="N", help="Requests that may wait for a slot.")] = 256,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens",
            min=1,
            metavar="N",
            help="Longest reply that may be asked for; the default is half the context.",
        ),
    ] = None,
    max_body: Annotated[
        int, typer.Option("--max-body", min=1024, metavar="BYTES", help="Largest body of a request.")
    ] = 2**20,
    max_connections: Annotated[
        int, typer.Option("--max-connections", min=1, metavar="N", help="Connections at the same time.")
    ] = 1024,
    receive_time: Annotated[
        float, typer.Option("--receive-time", min=0.1, metavar="SECONDS", help="To receive a request.")
    ] = 20,
    request_time: Annotated[
        float, typer.Option("--request-time", min=0.1, metavar="SECONDS", help="To answer a request, waiting included.")
    ] = 300,
    grace: Annotated[
        float,
        typer.Option(
            "--grace", min=0, metavar="SECONDS", help="To finish what runs, after the first SIGTERM or Ctrl-C."
        ),
    ] = 60,
    allow_host: Annotated[
        list[str] | None,
        typer.Option("--allow-host", metavar="NAME", help="Answer to this Host header, too, as a proxy may send it."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin", metavar="URL", help="Let pages of this site ask (CORS), e.g. https://example.org."
        ),
    ] = None,
    votes: Annotated[
        Path | None, typer.Option("--votes", metavar="FILE", help="Where the page's blind votes are saved.")
    ] = None,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="Print each request with its text; by default nothing is printed.")
    ] = False,
) -> None:
    """Serve a run's model: OpenAI's interface and a web page.

    Further adapters on the same base are served by the same process. Other machines can only ask if --host says so, and
    then a key is required: set FALCONER_API_KEY. SIGTERM or Ctrl-C finishes what runs; a second one ends at once.
    """
    from falconer.config import for_chat
    from falconer.run.folder import read_config

    config = for_chat(read_config(run), overrides or [])
    from falconer.runtime import allow_open_files, api_key, quiet_libraries

    quiet_libraries()
    allow_open_files(max_connections + OTHER_FILES)
    from falconer.served import find_adapters, open_served
    from falconer.talk.server.app import make_app
    from falconer.talk.server.gate import Access
    from falconer.talk.server.limits import Limits
    from falconer.talk.server.serving import Server, bind, check_key
    from falconer.talk.server.trouble import log_request

    adapters = find_adapters(run, run_adapter, adapter or [])
    key = api_key()
    check_key(key, host)
    origins = _origins(allow_origin or [])
    bound = bind(host, port)
    served = open_served(config, run, adapters)
    limits = Limits(
        max_body=max_body, max_connections=max_connections, receive_s=receive_time, request_s=request_time,
        # At least half of the context is left for the conversation.
        max_tokens=max_tokens or max(1, min(one.max_tokens for one in served.encoders.values()) // 2),
    )  # fmt: skip
    service = _service(served, slots, queue, limits)
    access = Access(key, _hosts(host, allow_host or []), origins)
    page = _page(served, service, access, votes or run / VOTES)
    app = make_app(
        service, access, routers=[page], is_stopping=lambda: server.is_stopping,
        on_answer=log_request if log_requests else None,
    )  # fmt: skip
    server = Server(
        app, service.worker, limits, grace_s=grace, on_start=lambda: _welcome(served, service, access, bound, run)
    )
    with served.engine:
        server.run(sockets=[bound])


def _service(served: "Served", slots: int, queue: int, limits: "Limits") -> "Service":
    from falconer.talk.server.asked import DEFAULT
    from falconer.talk.server.metrics import Metrics
    from falconer.talk.server.service import ServedModel, Service
    from falconer.talk.server.worker import Worker
    from falconer.talk.text import Writer

    models = {
        name: ServedModel(name, served.adapters.get(name), Writer(encoder)) for name, encoder in served.encoders.items()
    }
    default = replace(DEFAULT, max_new_tokens=min(DEFAULT.max_new_tokens, limits.max_tokens))
    worker = Worker(served.engine.running(slots), max_queued=queue)
    # More would never be accepted.
    limits = replace(limits, max_choices=min(limits.max_choices, worker.num_slots + queue))
    return Service(worker, models, default, limits, Metrics(), int(time.time()), ThreadPoolExecutor(1, "texts"))


def _page(served: "Served", service: "Service", access: "Access", votes: Path) -> "APIRouter":
    from falconer.talk.personas import sample_personas
    from falconer.talk.server.asked import shared_fields
    from falconer.talk.server.fields import Number
    from falconer.talk.server.page import PageModel, page_routes
    from falconer.talk.votes import VoteFile

    models = [PageModel(name, name == served.base_name) for name in service.names]
    fields = shared_fields(service.names, service.limits, service.default)
    decoding = [field for field in fields if isinstance(field, Number) and field.name in SLIDERS]
    personas = sample_personas(NUM_PERSONAS, SEED)
    return page_routes(models, decoding, personas, VoteFile(votes), service.limits, access.guard)


def _welcome(served: "Served", service: "Service", access: "Access", bound: "socket.socket", run: Path) -> None:
    """Say what is served, where, and how."""
    from falconer.runtime import device_name, memory_gib

    address, port = bound.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    url = f"http://{shown if address not in ('0.0.0.0', '::') else 'localhost'}:{port}"
    engine, worker = served.engine, service.worker
    device = next(engine.model.parameters()).device
    free, total = memory_gib(device)
    context = min(model.context for model in service.models.values())
    names = ", ".join(f"{name} (base)" if name == served.base_name else name for name in service.names)
    who = "an API key is required (FALCONER_API_KEY)" if access.key else "this machine alone, without a key"
    lines = {
        "models": names,
        "page": f"{url}/",
        "API": f"{url}/v1 (chat completions, completions, models); documented at {url}/docs",
        "access": f"{who}; listening at {shown}, port {port}",
        "path": engine.how(worker.num_slots),
        "precision": f"{served.base.precision.name}: {served.base.precision.reason}",
        "memory": f"{total - free:.1f} of {total:.1f} GiB of {device_name(device)} are in use",
        "slots": f"{worker.num_slots} replies at the same time, {worker.max_queued} may wait",
        "context": f"{context:,} tokens, of which a reply may have {service.limits.max_tokens:,}",
    }
    console = consoles.stderr()
    console.print(f"Serving {counted(len(service.models), 'model')} of '{run}':", soft_wrap=True)
    for name, what in lines.items():
        console.print(f"  {name:<10}{what}", soft_wrap=True)
    for note in (*served.notes, *engine.notes):
        console.print(f"  note      {note}", soft_wrap=True)
    console.print("Ctrl-C finishes what runs and stops; a second one stops at once.", soft_wrap=True)


def _hosts(host: str, allowed: list[str]) -> frozenset[str] | None:
    """Return the names that the server answers to; None: to any, if other machines may ask it."""
    from falconer.talk.server.serving import LOCAL_NAMES, is_loopback

    if not is_loopback(host) and not allowed:
        return None
    names = {host.lower(), f"[{host.lower()}]", *(name.lower() for name in allowed)}
    return LOCAL_NAMES | frozenset(names)


def _origins(given: list[str]) -> frozenset[str]:
    """Check the sites whose pages may ask.

    Raises:
        FalconerError: one is not a scheme and a host, as browsers send it.
    """
    for url in given:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or f"{parts.scheme}://{parts.netloc}" != url or not parts.netloc:
            raise FalconerError(
                f"--allow-origin {url} is not the address of a site.",
                "Give scheme and host, without a path: https://example.org, or http://localhost:3000.",
            )
    return frozenset(given)
