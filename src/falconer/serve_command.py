"""`falconer serve`: the options of the server, and what it says when it starts."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated
from urllib.parse import urlsplit

import typer

from falconer import consoles
from falconer.consoles import counted
from falconer.errors import FalconerError
from falconer.openmp import in_thread, wait_briefly
from falconer.setting_options import ComputedHow, Run, WithSettings

if TYPE_CHECKING:
    import socket

    from falconer.served import Served
    from falconer.talk.server.served_app import ServedApp
    from falconer.talk.server.worker import Worker

serve_app = typer.Typer()

# What is open besides connections: libraries, the model's files, the log.
OTHER_FILES = 256
# The page's votes, in the run's folder.
VOTES = "votes.jsonl"
# Beside a GPU, each HTTP process has so many of the machine's cores to itself.
CORES_OF_AN_HTTP_PROCESS, MOST_HTTP_PROCESSES = 4, 4


@serve_app.command(cls=WithSettings)
def serve(
    overrides: ComputedHow = None,
    run: Run = Path("runs/quickstart"),
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
    http_processes: Annotated[
        int | None,
        typer.Option(
            "--http-processes",
            min=1,
            max=64,
            metavar="N",
            help="Processes that read and answer requests; 1: the engine's own. By default 1, and up to 4 with a GPU.",
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
    wait_briefly()
    from falconer.runtime import allow_open_files, api_key, quiet_libraries

    quiet_libraries()
    allow_open_files(max_connections + OTHER_FILES)
    from falconer.served import find_adapters, open_running
    from falconer.talk.server.gate import Access
    from falconer.talk.server.limits import Limits
    from falconer.talk.server.served_app import ServedApp
    from falconer.talk.server.serving import bind_shared, check_key
    from falconer.talk.server.worker import Worker

    adapters = find_adapters(run, run_adapter, adapter or [])
    key = api_key()
    check_key(key, host)
    origins = _origins(allow_origin or [])
    bound = bind_shared(host, port, http_processes or _num_http_processes())
    served, running = in_thread(lambda: open_running(config, run, adapters, slots))
    limits = Limits(
        max_body=max_body, max_connections=max_connections, receive_s=receive_time, request_s=request_time,
        # At least half of the context is left for the conversation.
        max_tokens=max_tokens or max(1, min(one.max_tokens for one in served.encoders.values()) // 2),
    )  # fmt: skip
    access = Access(key, _hosts(host, allow_host or []), origins)
    app = ServedApp(
        served.encoders, served.adapters, served.base_name, access, limits, int(time.time()), votes or run / VOTES,
        log_requests,
    )  # fmt: skip
    address = bound[0].getsockname()[:2]
    worker = Worker(running, max_queued=queue)
    with served.engine:
        _run(app, worker, bound, grace, partial(_welcome, served, app, worker, address, len(bound), run))


def _num_http_processes() -> int:
    """Return how many HTTP processes this machine has use for: on a CPU, the model is slower than they are."""
    from falconer.runtime import num_cores, pick_device

    if pick_device("auto").type != "cuda":
        return 1
    return max(1, min(MOST_HTTP_PROCESSES, num_cores() // CORES_OF_AN_HTTP_PROCESS))


def _run(
    app: "ServedApp", worker: "Worker", bound: "list[socket.socket]", grace: float, on_start: Callable[[], None]
) -> None:
    """Serve until a signal, in this process or in one for each socket."""
    if len(bound) == 1:
        from falconer.talk.server.serving import Server

        made = app.make(worker, lambda: server.is_stopping)
        server = Server(made, worker, app.limits, grace_s=grace, on_start=on_start)
        server.run(sockets=bound)
        return
    from falconer.talk.server.processes import Front, HttpProcesses

    with TemporaryDirectory(prefix="falconer-metrics-") as metrics:
        shares = replace(app.limits, max_connections=-(-app.limits.max_connections // len(bound)))
        app = replace(app, limits=shares, metrics=Path(metrics))
        front = Front(app.make, shares, worker.num_slots, worker.max_queued, grace, Path(metrics))
        HttpProcesses(front, bound).run(worker, on_start)


def _welcome(
    served: "Served", app: "ServedApp", worker: "Worker", address: tuple[str, int], processes: int, run: Path
) -> None:
    """Say what is served, where, and how."""
    from falconer.runtime import device_name, memory_gib

    host, port = address
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown if host not in ('0.0.0.0', '::') else 'localhost'}:{port}"
    engine = served.engine
    device = next(engine.model.parameters()).device
    free, total = memory_gib(device)
    context = min(encoder.max_tokens for encoder in app.encoders.values())
    names = ", ".join(f"{name} (base)" if name == served.base_name else name for name in app.encoders)
    who = "an API key is required (FALCONER_API_KEY)" if app.access.key else "this machine alone, without a key"
    lines = {
        "models": names,
        "page": f"{url}/",
        "API": f"{url}/v1 (chat completions, completions, models); documented at {url}/docs",
        "access": f"{who}; listening at {shown}, port {port}",
        "path": engine.how(worker.num_slots),
        "precision": f"{served.base.precision.name}: {served.base.precision.reason}",
        "memory": f"{total - free:.1f} of {total:.1f} GiB of {device_name(device)} are in use",
        "slots": f"{worker.num_slots} replies at the same time, {worker.max_queued} may wait",
        "context": f"{context:,} tokens, of which a reply may have {app.limits.max_tokens:,}",
    }
    if processes > 1:
        lines["requests"] = f"are read and answered in {processes} processes of their own"
    console = consoles.stderr()
    console.print(f"Serving {counted(len(app.encoders), 'model')} of '{run}':", soft_wrap=True)
    for name, what in lines.items():
        console.print(f"  {name:<10}{what}", soft_wrap=True)
    for note in (*served.notes, *engine.notes, *worker.notes):
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
