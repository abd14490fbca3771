"""`falconer bench serve`: speed and waiting times of the server under the load of many conversations at once.

The server runs in a process of its own, with one adapter and with several at the same time, and streams of real
dialogues load it from others. Beside it stands what the engine alone generates for the same dialogues, where all
prompts are known from the start.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from falconer import runtime
from falconer.bench.serve_ceiling import client_ceiling
from falconer.bench.serve_client import Answer
from falconer.bench.serve_load import Done, Load, Talk, run_load
from falconer.bench.serve_process import NEW_TOKENS, ServerProcess, Setting
from falconer.consoles import counted
from falconer.data.text import natural
from falconer.errors import FalconerError
from falconer.records import Dialogue

WHAT = (
    "falconer serve under streams of Persona-Chat conversations: a stream sends a turn, waits for the whole reply, "
    "keeps it and sends the next turn; replies of at most 32 tokens, greedy, over HTTP on the same machine"
)
NUM_TURNS = 6
# The share of a measurement during which streams begin, before anything is counted.
WARMUP = 0.25
# Fewest dialogues whose replies the engine generates by itself, for comparison; more with more streams.
OFFLINE_TALKS = 2


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured at one number of streams.

    Args:
        adapters: adapters that are loaded and used at the same time; stream number s uses adapter s, starting again
            after the last one.
        seconds: the time that was measured.
        requests: answered in this time; `lost`: requests of the whole load, warm-up included, that were not answered
            in full.
        tok_s: tokens that the clients received, per second; `of_offline`: the same as a share of the engine's own rate.
        first_ms: from sending a request to its first text: median, 90th and 99th percentile.
        token_ms: between a reply's tokens after the first, median.
        reply_tokens, prompt_tokens: mean.
        cached: share of the prompts' tokens that was cached.
        gpu_gib: peak memory of tensors on the GPU; None without one. `rss_gib`: peak resident memory of the process.
    """

    system: str
    adapters: int
    streams: int
    seconds: float
    requests: int
    lost: int
    tok_s: float
    of_offline: float | None
    first_ms: tuple[float, float, float]
    token_ms: float
    reply_tokens: float
    prompt_tokens: float
    cached: float
    gpu_gib: float | None
    rss_gib: float

    def flat(self) -> dict[str, Any]:
        """Return the row as stored in benchmarks/results."""
        row = asdict(self)
        median, p90, p99 = row.pop("first_ms")
        row |= {"first_ms": median, "first_ms_p90": p90, "first_ms_p99": p99}
        digits = {"tok_s": 1, "of_offline": 3, "cached": 3, "gpu_gib": 2, "rss_gib": 2, "token_ms": 2}
        return {
            name: round(value, digits.get(name, 1)) if isinstance(value, float) else value
            for name, value in row.items()
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """What `measure` yields besides rows: what the clients can read at most, or what the engine generates alone."""

    what: str
    tok_s: float


def talks_of(dialogues: Sequence[Dialogue]) -> list[Talk]:
    """Return the conversations of the dialogues that the partner begins, in natural text, cut to NUM_TURNS turns.

    Raises:
        FalconerError: no dialogue has enough turns.
    """
    found = []
    order = ("partner", "self") * NUM_TURNS
    for dialogue in dialogues:
        # The last reply is the model's own alone.
        turns = dialogue.turns[: len(order) - 1]
        if dialogue.persona and tuple(turn.speaker for turn in turns) == order[:-1]:
            said = [natural(turn.text) for turn in turns]
            found.append(Talk(tuple(map(natural, dialogue.persona)), tuple(said[::2]), tuple(said[1::2])))
    if not found:
        raise FalconerError(
            f"None of the {len(dialogues):,} dialogues has a persona, and {NUM_TURNS} turns of a partner who begins.",
            "Use other dialogues, e.g. persona-chat-sample.",
        )
    return found


def num_clients() -> int:
    """Return how many client processes this machine has room for beside the server."""
    return max(1, min(4, runtime.num_cores() // 4))


def measure(
    setting: Setting, talks: Sequence[Talk], *, adapters: Sequence[int], streams: Sequence[int], seconds: float,
    clients: int,
) -> Iterator[Row | Found]:  # fmt: skip
    """Measure every number of streams with every number of adapters, the largest number of streams first.

    Args:
        setting: of the server; its number of adapters is replaced.
        seconds: of each measurement, warm-up included.
        clients: number of client processes.
    """
    rate = client_ceiling(talks, max(streams), clients, NEW_TOKENS)
    many = counted(clients, "client process", "client processes")
    yield Found(f"{many}, {max(streams)} streams, a server that computes nothing", rate)
    offline: float | None = None
    for num_adapters in adapters:
        with ServerProcess(replace(setting, num_adapters=num_adapters)) as server:
            if offline is None:
                some = talks[: max(OFFLINE_TALKS, *streams)]
                offline = server.offline(some)
                yield Found(f"the engine alone, with all prompts of {len(some)} dialogues from the start", offline)
            port = server.serve()
            load = Load(
                server.host, port, server.models, tuple(talks), max(streams), spread_s=0.0, seconds=math.inf,
                options=reply_options(), most_talks=1,
            )  # fmt: skip
            # Compiles kernels and records the steps of all sizes.
            done = run_load(load, clients)
            for num in sorted(streams, reverse=True):
                load = replace(
                    load, num_streams=num, spread_s=WARMUP * seconds / 2, seconds=seconds, most_talks=None,
                    first=1 + max(one.talk for one in done),
                )  # fmt: skip
                server.reset_peak()
                done = run_load(load, clients)
                yield row_of(setting.system, num_adapters, num, done, window_of(done, seconds), offline, server.peak())


def reply_options() -> dict[str, Any]:
    """Return what each request of a measurement asks for besides its messages.

    A server's default decoding has a repetition penalty, an evaluation has none.
    """
    return {
        "max_tokens": NEW_TOKENS, "temperature": 0, "repetition_penalty": 1, "no_repeat_ngram_size": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip


def window_of(done: Sequence[Done], seconds: float) -> tuple[float, float]:
    """Return the time that is measured: from the end of the warm-up to the last new request."""
    start_s = done[0].answer.sent_s
    return start_s + WARMUP * seconds, start_s + seconds


def row_of(
    system: str, adapters: int, streams: int, done: Sequence[Done], window: tuple[float, float],
    offline: float | None, peak: tuple[float | None, float],
) -> Row:  # fmt: skip
    """Return the figures of one load.

    Args:
        window: the time that is measured, as `time.monotonic` gives it.
        peak: GPU memory and resident memory, in GiB.

    Raises:
        FalconerError: no request was answered in this time.
    """
    start_s, end_s = window
    good = [one.answer for one in done if not one.answer.problem]
    ended = [answer for answer in good if start_s <= answer.ended_s < end_s]
    begun = [answer for answer in good if start_s <= answer.sent_s < end_s and answer.pieces]
    if not ended or not begun:
        problem = next((one.answer.problem for one in done if one.answer.problem), "the time is too short")
        raise FalconerError(
            f"With {streams} streams, no request was answered within {end_s - start_s:.0f} s: {problem}.",
            "Measure for longer (--seconds), or with fewer streams.",
        )
    num_tokens = sum(tokens_within(answer, start_s, end_s) for answer in good)
    firsts = [1e3 * (answer.pieces[0][0] - answer.sent_s) for answer in begun]
    # Several tokens may come as one piece; time is divided by what came after the first piece.
    each = [
        1e3 * (answer.pieces[-1][0] - answer.pieces[0][0]) / (answer.num_tokens - 1)
        for answer in begun if answer.num_tokens > 1 and len(answer.pieces) > 1
    ]  # fmt: skip
    prompt_tokens = sum(answer.num_prompt_tokens for answer in ended)
    rate, num = num_tokens / (end_s - start_s), len(ended)
    gpu_gib, rss_gib = peak
    return Row(
        system, adapters, streams, end_s - start_s, num, len(done) - len(good), rate, offline and rate / offline,
        (quantile(firsts, 0.5), quantile(firsts, 0.9), quantile(firsts, 0.99)), quantile(each, 0.5) if each else 0.0,
        sum(answer.num_tokens for answer in ended) / num, prompt_tokens / num,
        sum(answer.num_cached for answer in ended) / max(1, prompt_tokens), gpu_gib, rss_gib,
    )  # fmt: skip


def tokens_within(answer: Answer, start_s: float, end_s: float) -> float:
    """Return how many tokens of a reply came within a time; a piece has tokens in proportion to its characters."""
    size = sum(size for _, size in answer.pieces)
    within = sum(size for when, size in answer.pieces if start_s <= when < end_s)
    return answer.num_tokens * within / size if size else 0.0


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that is not exceeded by this share of the values."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
