"""Is each reply of a load the one that the engine gives alone? Nothing is mixed up between conversations, then."""

from collections.abc import Sequence

from falconer.bench.serve_load import EMPTY, Done, Talk, talk_number
from falconer.model.engine import Decoding, Engine, Request
from falconer.records import Turn
from falconer.talk.text import Writer


def wrong_replies(
    done: Sequence[Done], talks: Sequence[Talk], engine: Engine, num_tokens: int
) -> list[tuple[Done, str]]:
    """Return the answered requests whose text is not the greedy reply of at most `num_tokens`, with that reply.

    Args:
        done: all requests of a load on one model, with `talks` as its conversations.
        engine: with this model; it generates one reply at a time.
    """
    writer = Writer(engine.encoder)
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
    asked = list(dict.fromkeys(prompts.values()))
    decoding = Decoding(num_tokens, stops=engine.stops)
    found: dict[tuple[int, ...], str] = {}
    for index, ids in engine.tokens([Request(prompt, decoding) for prompt in asked], batch_size=1):
        reply = writer.reply()
        found[asked[index]] = reply.add(ids) + reply.end()
    return [
        (done[number], found[prompt]) for number, prompt in prompts.items() if done[number].answer.text != found[prompt]
    ]  # fmt: skip
