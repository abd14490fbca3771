"""Is each reply of a load the one that the engine gives without the server? Nothing is mixed up between conversations.

All replies can be compared with those of a batch, which is fast, and a sample of them with those that the engine gives
one at a time: a fault that server and batches have in common would show there.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from falconer.bench.serve_load import EMPTY, Done, Talk, talk_number
from falconer.model.engine import Decoding, Engine, Request
from falconer.records import Turn
from falconer.talk.text import Writer


@dataclass(frozen=True, slots=True)
class Compared:
    """What was compared.

    Args:
        num_replies: answered requests that were compared.
        num_prompts: their distinct prompts.
        wrong: the requests whose text is not the engine's, with the engine's.
    """

    num_replies: int
    num_prompts: int
    wrong: tuple[tuple[Done, str], ...]


def compare_replies(
    done: Sequence[Done], talks: Sequence[Talk], engine: Engine, num_tokens: int, *, batch_size: int = 1,
    num_prompts: int | None = None, seed: int = 17,
) -> Compared:  # fmt: skip
    """Compare replies with the greedy ones of at most `num_tokens` that the engine gives to the same prompts.

    Args:
        done: all requests of a load on one model, with `talks` as its conversations.
        engine: with this model.
        batch_size: replies that the engine generates at a time.
        num_prompts: how many distinct prompts to compare, chosen at random; None: all.
    """
    writer = Writer(engine.encoder)
    prompts = _prompts(done, talks, writer, num_tokens)
    asked = list(dict.fromkeys(prompts.values()))
    if num_prompts is not None:
        asked = random.Random(seed).sample(asked, min(num_prompts, len(asked)))
    decoding = Decoding(num_tokens, stops=engine.stops)
    found: dict[tuple[int, ...], str] = {}
    for index, ids in engine.tokens([Request(prompt, decoding) for prompt in asked], batch_size=batch_size):
        reply = writer.reply()
        found[asked[index]] = reply.add(ids) + reply.end()
    compared = [(done[number], found[prompt]) for number, prompt in prompts.items() if prompt in found]
    wrong = tuple((one, text) for one, text in compared if one.answer.text != text)
    return Compared(len(compared), len(asked), wrong)


def _prompts(
    done: Sequence[Done], talks: Sequence[Talk], writer: Writer, num_tokens: int
) -> dict[int, tuple[int, ...]]:
    """Return the prompt of each answered request, by its number."""
    prompts: dict[int, tuple[int, ...]] = {}
    turns: dict[tuple[int, int], list[Turn]] = {}
    for number, one in enumerate(done):
        if one.answer.problem:
            continue
        talk = talk_number(talks, one.talk)
        heard = turns.setdefault((one.stream, one.talk), [])
        assert len(heard) == 2 * one.turn, "the requests of a conversation are in their order"
        heard.append(Turn("partner", talk.turns[one.turn]))
        prompts[number] = tuple(writer.prompt(talk.persona, heard, num_tokens).ids)
        heard.append(Turn("self", one.answer.text or EMPTY))
    return prompts
