"""What the server of a benchmark serves: a random or given base model, and its adapters."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from falconer import runtime
from falconer.bench.serve_load import Talk
from falconer.bench.serve_process import HOST, Setting
from falconer.bench.train import DTYPE, SHAPES
from falconer.data.encode import Encoder
from falconer.data.prompt import PromptFormat
from falconer.model.engine import Decoding, Engine, Request
from falconer.model.load import LoadedModel, load_model
from falconer.model.lora import load_adapter, load_adapters, save_adapter
from falconer.model.random_falcon import random_adapter, untrained_falcon
from falconer.model.tokenizer import load_tokenizer, set_template
from falconer.openmp import in_thread
from falconer.records import Turn
from falconer.run.folder import ADAPTER, read_config
from falconer.talk.server.gate import Access
from falconer.talk.server.limits import Limits
from falconer.talk.server.processes import Front, HttpProcesses
from falconer.talk.server.served_app import ServedApp
from falconer.talk.server.serving import Server, bind_shared
from falconer.talk.server.worker import Worker
from falconer.talk.text import Writer
from falconer.train import setup

MAX_TOKENS = 1024
# Rank of the adapters with random weights.
RANK = 16
# More than any load has streams.
MOST_QUEUED = 4096
# Seconds that running replies get when the server is stopped.
END_S = 10.0
# Replies that the engine generates before it is timed.
WARMUP = 64


@dataclass(frozen=True, slots=True)
class Base:
    """A base model for a benchmark.

    Args:
        targets: the layers that its adapters change.
        adapter: the folder of a trained adapter; None if there is none.
        text_style: as recorded with adapters.
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast
    encoder: Encoder
    precision: runtime.Precision
    targets: str
    adapter: Path | None = None
    text_style: str = "raw"


def open_base(setting: Setting) -> Base:
    """Make or load the base model."""
    if setting.run:
        config = read_config(setting.run)
        name = config.model
        base = load_model(
            name.name, revision=name.revision, quantization=name.quantization, dtype=name.dtype, device=name.device
        )
        format = setup.recorded_format(setting.run, config)
        own = setting.run / ADAPTER
        return _loaded(base, format, config.data.max_tokens, config.lora.targets, own, config.data.text)
    if setting.model:
        base = load_model(setting.model, quantization=setting.quantization, dtype=setting.dtype)
        return _loaded(base, PromptFormat(bos=base.bos), MAX_TOKENS, "auto", None, "raw")
    assert setting.shape is not None
    device = runtime.pick_device("auto")
    tokenizer, end_id = load_tokenizer("falcon-mini")
    shape = SHAPES[setting.shape]
    # All of the tokenizer's ids must be within the vocabulary.
    sizes = shape | {"vocab_size": max(shape["vocab_size"], len(tokenizer))}
    random = untrained_falcon(sizes, device, DTYPE, nf4=setting.quantization == "nf4")
    encoder = Encoder(tokenizer.backend_tokenizer.to_str(), end_id, MAX_TOKENS)
    return Base(random, tokenizer, encoder, runtime.Precision(DTYPE, "the weights' own"), "query_key_value")


def _loaded(
    base: LoadedModel, format: PromptFormat, max_tokens: int, targets: str, adapter: Path | None, text_style: str
) -> Base:
    set_template(base.tokenizer, format.bos)
    encoder = setup.make_encoder(base, max_tokens, format)
    return Base(base.model, base.tokenizer, encoder, base.precision, targets, adapter, text_style)


def make_adapters(base: Base, names: Sequence[str], folder: Path) -> dict[str, Path]:
    """Return the folder of each adapter; those that were not trained are written below `folder`, all different."""
    found = {}
    for number, name in enumerate(names):
        if number == 0 and base.adapter:
            found[name] = base.adapter
            continue
        found[name] = folder / name
        adapted = random_adapter(base.model, r=RANK, targets=base.targets, seed=number)
        save_adapter(adapted, base.tokenizer, found[name], base.text_style, base.encoder.format)
        adapted.unload()
    return found


def offline_rate(base: Base, adapter: Path, talks: Sequence[Talk], num_tokens: int, num_slots: int) -> float:
    """Return the tokens/s of the engine alone for the replies of conversations whose gold replies are the history.

    Args:
        num_slots: replies in a batch; on a GPU the engine chooses.
    """
    with _adapted(base, adapter) as model, Engine(model, base.encoder, base.precision) as engine:
        writer = Writer(base.encoder)
        requests: list[Request] = []
        for talk in talks:
            turns: list[Turn] = []
            for said, reply in zip(talk.turns, (*talk.replies, ""), strict=True):
                turns.append(Turn("partner", said))
                prompt = writer.prompt(talk.persona, turns, num_tokens).ids
                requests.append(Request(prompt, Decoding(num_tokens), len(requests)))
                turns.append(Turn("self", reply))
        some = sorted(requests, key=lambda request: len(request.prompt))
        list(engine.tokens(some[:: max(1, len(some) // WARMUP)], batch_size=num_slots))
        device = runtime.pick_device("auto")
        runtime.synchronize(device)
        started = time.perf_counter()
        count = sum(len(ids) for _, ids in engine.tokens(requests, batch_size=num_slots))
        runtime.synchronize(device)
        return count / (time.perf_counter() - started)


def serve(base: Base, adapters: Mapping[str, Path], setting: Setting, pipe: Connection) -> None:
    """Serve the base with its adapters until the other end of the pipe is closed.

    Sends the port when the server listens, and then the memory whenever it is asked for.
    """
    model = in_thread(lambda: load_adapters(base.model, adapters))
    sockets = bind_shared(HOST, 0, setting.num_http)
    port = sockets[0].getsockname()[1]
    with Engine(model, base.encoder, base.precision) as engine, TemporaryDirectory() as folder:
        app = _application(base.encoder, tuple(adapters), Path(folder))
        worker = Worker(in_thread(lambda: engine.running(num_slots=setting.num_slots)), max_queued=MOST_QUEUED)

        def started() -> None:
            pipe.send(port)

        if setting.num_http == 1:
            server = Server(
                app.make(worker, lambda: server.is_stopping), worker, app.limits, grace_s=END_S, on_start=started
            )
            Thread(target=_answer, args=(pipe, server.stop), daemon=True).start()
            server.run(sockets=sockets)
            return
        app = replace(app, metrics=Path(folder))
        processes = HttpProcesses(
            Front(app.make, app.limits, setting.num_slots, MOST_QUEUED, END_S, Path(folder)), sockets
        )
        Thread(target=_answer, args=(pipe, processes.stop), daemon=True).start()
        processes.run(worker, started)


def _application(encoder: Encoder, adapters: Sequence[str], folder: Path) -> ServedApp:
    base_name = "base"
    encoders = dict.fromkeys([*adapters, base_name], encoder)
    names = {name: name for name in adapters}
    return ServedApp(encoders, names, base_name, Access(), Limits(), int(time.time()), folder / "votes.jsonl")


def _answer(pipe: Connection, stop: Callable[[], None]) -> None:
    """Answer questions about the memory; stop when the pipe is closed."""
    device = runtime.pick_device("auto")
    on_gpu = device.type == "cuda"
    with suppress(EOFError, OSError):
        while True:
            what, _ = pipe.recv()
            if what == "reset":
                if on_gpu:
                    torch.cuda.reset_peak_memory_stats(device)
                pipe.send(None)
            else:
                pipe.send((runtime.peak_memory_gib(device) if on_gpu else None, _resident_gib()))
    stop()


def _resident_gib() -> float:
    """Return the peak of this process's resident memory."""
    return runtime.peak_memory_gib(torch.device("cpu"))


@contextmanager
def _adapted(base: Base, adapter: Path) -> Iterator[Any]:
    """Have one adapter on the base."""
    model = load_adapter(base.model, adapter)
    try:
        yield model
    finally:
        model.unload()
