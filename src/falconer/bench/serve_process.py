"""The process of a benchmark's server: it has the application of `falconer serve`, with a random or given model."""

import multiprocessing
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

from falconer.bench.serve_load import Talk
from falconer.errors import FalconerError
from falconer.openmp import in_thread, wait_briefly

NEW_TOKENS = 32
HOST = "127.0.0.1"
# Seconds that a server gets to end by itself.
END_S = 20.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What is served. One of `shape`, `model` and `run` is given.

    Args:
        shape: of `bench.train.SHAPES`, with random weights.
        model: name of a base model, or its folder.
        run: a run's folder; its adapter is the first one.
        quantization: nf4 or none; a run's own if `run` is given.
        num_slots: replies that are generated at the same time.
        num_adapters: adapters that are loaded; those that no run provides are random.
        dtype: of `model`, as in the configuration.
        num_http: processes for HTTP; 1: the engine's own.
    """

    shape: str | None
    model: str | None
    run: Path | None
    quantization: str
    num_slots: int
    num_adapters: int = 1
    dtype: str = "auto"
    num_http: int = 1

    @property
    def system(self) -> str:
        """The name in the table."""
        what = str(self.run or self.model or f"random {self.shape}")
        return f"{what}, {'NF4' if self.quantization == 'nf4' else 'not quantised'}"


class ServerProcess:
    """The server's process; it ends when this context manager is left."""

    host = HOST

    def __init__(self, setting: Setting) -> None:
        self.models = tuple(_name(number) for number in range(setting.num_adapters))
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # A daemon could have no processes of its own. It ends when the pipe is closed.
        self._process = context.Process(target=_main, args=(theirs, setting))
        self._process.start()
        theirs.close()

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join(END_S)
        self._process.kill()
        self._process.join()

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def offline(self, talks: Sequence[Talk]) -> float:
        """Return the tokens/s of the engine alone, with one adapter, for the replies of these conversations.

        Must be called before `serve`.
        """
        return float(self._ask("offline", list(talks)))

    def serve(self) -> int:
        """Start serving, and return the port."""
        return int(self._ask("serve"))

    def reset_peak(self) -> None:
        """Start measuring the peak of GPU memory."""
        self._ask("reset")

    def peak(self) -> tuple[float | None, float]:
        """Return the peak memory of tensors on the GPU since `reset_peak`, and of the process so far, in GiB."""
        gpu_gib, rss_gib = self._ask("peak")
        return gpu_gib, rss_gib

    def _ask(self, what: str, value: Any = None) -> Any:
        try:
            self._pipe.send((what, value))
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise FalconerError(
                "The benchmark's server process ended; its error is above.", "Use a smaller model, or fewer --slots."
            ) from error
        if isinstance(answer, FalconerError):
            raise answer
        return answer


def _name(number: int) -> str:
    return f"adapter-{number + 1}"


# What the server's process does


def _main(pipe: Connection, setting: Setting) -> None:
    """Make or load what is served, and do what the benchmark's process asks for until it hangs up."""
    # As `falconer serve` does.
    wait_briefly()
    from falconer.bench import serve_model
    from falconer.runtime import quiet_libraries

    quiet_libraries()
    names = [_name(number) for number in range(setting.num_adapters)]
    with tempfile.TemporaryDirectory() as folder:
        try:
            base = in_thread(lambda: serve_model.open_base(setting))
            adapters = in_thread(lambda: serve_model.make_adapters(base, names, Path(folder)))
            what, value = pipe.recv()
            if what == "offline":
                given = base, adapters[names[0]], value, NEW_TOKENS, setting.num_slots
                pipe.send(in_thread(lambda: serve_model.offline_rate(*given)))
                what, value = pipe.recv()
            assert what == "serve", what
            serve_model.serve(base, adapters, setting, pipe)
        except FalconerError as error:
            pipe.send(error)
        except EOFError:
            # The benchmark has ended before it was served.
            return
