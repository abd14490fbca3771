"""`falconer bench generate`: generation speed at the shape of a Falcon, of transformers and of falconer.

No stop tokens are set, so every reply has the full length; speed does not depend on the values of the random weights.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from typing import Any

import torch
from transformers import GenerationConfig

from falconer import runtime
from falconer.bench.train import DTYPE, reset_memory, sizes_of
from falconer.data.batch import deal_out
from falconer.data.encode import Encoder
from falconer.errors import FalconerError
from falconer.evaluate.dealing import CHARACTERS_A_TOKEN
from falconer.evaluate.measure import rank_gold, reply_turns
from falconer.model.engine import Conversation, Decoding, Engine, Request
from falconer.model.random_falcon import untrained_falcon
from falconer.records import Dialogue
from falconer.train.ranks import Ranks

WHAT = "Replies, ranked candidates and a single stream, random weights, real dialogues"
NEW_TOKENS = 32
# A single stream is timed over more tokens, since its first token includes the prompt.
STREAM_TOKENS = 128
STREAM_RUNS = 3
# Replies generated before the timing starts, and the batch size of transformers.
WARMUP, HF_BATCH = 64, 256


@dataclass(frozen=True, slots=True)
class Row:
    """What was measured.

    Args:
        batch: batch size; None if the system chooses it.
        seconds: for all replies or candidates; for the single stream, for the tokens after the first.
        replies_per_s: replies, or ranked turns, per second.
        tok_s: generated tokens per second; None where tokens are not counted.
        peak_gib: peak memory of tensors.
        how: the path, and how 4-bit weights are multiplied.
    """

    system: str
    what: str
    batch: int | None
    seconds: float
    replies_per_s: float
    tok_s: float | None
    peak_gib: float
    how: str

    def flat(self) -> dict[str, Any]:
        """Return the row as stored in benchmarks/results."""
        digits = {"seconds": 3, "replies_per_s": 2, "tok_s": 1, "peak_gib": 2}
        rounded = {key: round(value, digits[key]) for key, value in asdict(self).items() if key in digits and value}
        return asdict(self) | rounded


class Clock:
    """Times work that all ranks do at the same time: from when the first begins until the last has finished."""

    def __init__(self, device: torch.device, ranks: Ranks) -> None:
        self._device, self._ranks = device, ranks
        self.gpus = f" on {ranks.count} GPUs" if ranks.count > 1 else ""

    def timed(self, work: Callable[[], int]) -> tuple[float, int, float]:
        """Return (seconds, what `work` returned here, peak GiB here)."""
        reset_memory(self._device)
        runtime.synchronize(self._device)
        self._ranks.wait()
        started = time.perf_counter()
        result = work()
        runtime.synchronize(self._device)
        self._ranks.wait()
        return time.perf_counter() - started, result, runtime.peak_memory_gib(self._device)

    def total(self, number: int) -> int:
        """Return the sum of a number over all ranks."""
        return int(self._ranks.sum(torch.tensor(number)))


def measure(
    shape: str, encoder: Encoder, dialogues: Sequence[Dialogue], *, num_replies: int | None = None,
    hf_replies: int = 1024, num_ranked: int | None = None, num_layers: int | None = None, ranks: Ranks,
) -> Iterator[Row]:  # fmt: skip
    """Measure replies and ranking with bf16 weights, then a single stream with 4-bit weights; yield each row.

    Args:
        shape: of `bench.train.SHAPES`.
        encoder: its token ids must be within the vocabulary, which is enlarged for the tiny shape.
        num_replies, num_ranked: number of turns, from the first on; None: all.
        hf_replies: number of these replies, sampled at random, that transformers generates; its rate does not depend
            on it.
        num_layers: blocks; None: as many as the model has.
        ranks: with several, each generates and ranks for some of the dialogues, and all get the same rows.
    """
    device = runtime.pick_device("auto")
    clock = Clock(device, ranks)
    turns = reply_turns(dialogues)
    some = _own(turns[:num_replies], ranks)
    prompts = [encoder.encode_prompt(d.persona, d.turns[:index], reserve=NEW_TOKENS) for d, index in some]
    sizes = sizes_of(shape, num_layers) | {"vocab_size": 65024}
    model = untrained_falcon(sizes, device, DTYPE, nf4=False)
    order = random.Random(17).sample(range(len(prompts)), len(prompts))
    for_hf = [prompts[index] for index in order[: max(1, hf_replies // ranks.count)]]
    yield _replies("HF generate, bf16", HF_BATCH, for_hf, clock, lambda part: _hf_replies(model, part, device), "")
    with _engine(model, encoder) as engine:
        how = engine.how()
        yield _replies("falconer, bf16", None, prompts, clock, lambda part: _our_replies(engine, part), how)
        asked = [(d, index) for d, index in turns if d.turns[index].candidates][:num_ranked]
        if asked:
            yield _ranking(engine, _own(asked, ranks), clock, how)
    del model, engine
    reset_memory(device)
    model = untrained_falcon(sizes, device, DTYPE, nf4=True)
    prompt = sorted(prompts, key=len)[len(prompts) // 2]
    yield _stream("HF generate, NF4", prompt, clock, lambda count: _hf_stream(model, prompt, count, device), "")
    with _engine(model, encoder) as engine:
        # A different first token each time, so that no prefix is cached.
        talk, firsts = engine.conversation(), itertools.count(1)
        how = engine.how(num_rows=1)
        yield _stream("falconer, NF4", prompt, clock, lambda count: _our_stream(talk, prompt, next(firsts), count), how)


def _own(turns: Sequence[tuple[Dialogue, int]], ranks: Ranks) -> list[tuple[Dialogue, int]]:
    """Return the turns that this rank works on: those of whole dialogues, whose prompts have a common beginning.

    Raises:
        FalconerError: there are fewer dialogues than ranks.
    """
    costs: dict[str, float] = {}
    for d, index in turns:
        own = d.turns[index]
        num_new = NEW_TOKENS + sum(map(len, own.candidates)) / CHARACTERS_A_TOKEN
        costs[d.id] = costs.get(d.id, 0.0) + num_new + len(own.text) / CHARACTERS_A_TOKEN
    if len(costs) < ranks.count:
        raise FalconerError(
            f"The {len(turns)} turns are of {len(costs)} dialogues, fewer than the {ranks.count} processes.",
            "Give larger --replies and --ranked, or start fewer processes.",
        )
    names = list(costs)
    mine = {names[place] for place in deal_out(list(costs.values()), ranks.count)[ranks.number]}
    return [(d, index) for d, index in turns if d.id in mine]


def _engine(model: Any, encoder: Encoder) -> Engine:
    """Return an engine that may generate any token of the vocabulary, for one conversation."""
    precision = runtime.Precision(DTYPE, "the weights' own")
    return Engine(model, encoder, precision, num_conversations=1, unknown_ids=())


def _replies(
    system: str, batch: int | None, prompts: Sequence[Sequence[int]], clock: Clock,
    reply: Callable[[Sequence[Sequence[int]]], int], how: str,
) -> Row:  # fmt: skip
    """Time `reply`, which returns how many tokens it made."""
    # Of the lengths that the timed ones have, so that kernels and allocators have seen them.
    reply(sorted(prompts, key=len)[:: max(1, len(prompts) // WARMUP)])
    seconds, num_tokens, peak = clock.timed(lambda: reply(prompts))
    assert num_tokens == len(prompts) * NEW_TOKENS, f"{num_tokens} tokens for {len(prompts)} replies"
    num = clock.total(len(prompts))
    what = f"{num} replies of {NEW_TOKENS} tokens{clock.gpus}"
    return Row(system, what, batch, seconds, num / seconds, num * NEW_TOKENS / seconds, peak, how)


def _ranking(engine: Engine, turns: Sequence[tuple[Dialogue, int]], clock: Clock, how: str) -> Row:
    def rank(some: Sequence[tuple[Dialogue, int]]) -> int:
        return len(rank_gold(engine, some, lambda *_: None, 17))

    rank(turns[:: max(1, len(turns) // 4)])
    seconds, _, peak = clock.timed(lambda: rank(turns))
    num_candidates = clock.total(sum(len(d.turns[index].candidates) for d, index in turns))
    num = clock.total(len(turns))
    what = f"gold's rank among {num_candidates} candidates of {num} turns{clock.gpus}"
    return Row("falconer, bf16", what, None, seconds, num / seconds, None, peak, how)


def _stream(system: str, prompt: Sequence[int], clock: Clock, reply: Callable[[int], int], how: str) -> Row:
    """Time the tokens after the first: the difference between a long reply and a reply of one token."""
    times: dict[int, float] = {}
    for count in (1, STREAM_TOKENS):
        reply(count)
        found = [clock.timed(lambda count=count: reply(count)) for _ in range(STREAM_RUNS)]  # type: ignore[misc]
        assert {num for _, num, _ in found} == {count}
        times[count], peak = sorted(seconds for seconds, _, _ in found)[STREAM_RUNS // 2], found[-1][2]
    seconds = times[STREAM_TOKENS] - times[1]
    what = f"single stream, {len(prompt)} tokens of prompt, tokens 2 to {STREAM_TOKENS}"
    return Row(system, what, 1, seconds, 1 / times[STREAM_TOKENS], (STREAM_TOKENS - 1) / seconds, peak, how)


@torch.inference_mode()
def _hf_generate(model: Any, rows: Sequence[Sequence[int]], count: int, device: torch.device) -> int:
    """Generate `count` tokens per row with transformers, padded on the left; return the number of tokens."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        ids[number, width - len(row) :], mask[number, width - len(row) :] = torch.tensor(row), 1
    config = GenerationConfig(
        max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0, use_cache=True,
        eos_token_id=model.config.eos_token_id,
    )  # fmt: skip
    output = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=config)
    return (output.shape[1] - width) * len(rows)


def _hf_replies(model: Any, prompts: Sequence[Sequence[int]], device: torch.device) -> int:
    # Sorted by length, so that batches have little padding.
    order = sorted(prompts, key=len, reverse=True)
    starts = range(0, len(order), HF_BATCH)
    return sum(_hf_batch(model, order[start : start + HF_BATCH], device) for start in starts)


def _hf_batch(model: Any, rows: Sequence[Sequence[int]], device: torch.device) -> int:
    """Generate a batch with transformers; if memory does not suffice, in two halves."""
    try:
        return _hf_generate(model, rows, NEW_TOKENS, device)
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
    # After the except clause: inside it, the traceback still references the tensors to be freed.
    reset_memory(device)
    half = len(rows) // 2
    return _hf_batch(model, rows[:half], device) + _hf_batch(model, rows[half:], device)


def _hf_stream(model: Any, prompt: Sequence[int], count: int, device: torch.device) -> int:
    return _hf_generate(model, [prompt], count, device)


def _our_replies(engine: Engine, prompts: Sequence[Sequence[int]]) -> int:
    requests = [Request(prompt, Decoding(NEW_TOKENS, stops=()), number) for number, prompt in enumerate(prompts)]
    return sum(len(ids) for _, ids in engine.tokens(requests, batch_size=len(requests)))


def _our_stream(talk: Conversation, prompt: Sequence[int], first: int, count: int) -> int:
    # With another first token, nothing of the prompt is in the prefix cache.
    request = Request([first, *prompt[1:]], Decoding(STREAM_TOKENS, stops=()))
    with closing(talk.reply(request)) as tokens:
        return sum(1 for _ in zip(range(count), tokens, strict=False))
