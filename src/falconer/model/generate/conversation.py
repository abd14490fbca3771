"""One reply token by token, for a conversation: what was said before is in the prefix cache from the turn before.

Shapes: L layers, P tokens of the prefix cache, H head size.
"""

from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from falconer.model.falcon.adapters import adapter_of
from falconer.model.falcon.four_bit import inference_path
from falconer.model.falcon.infer_pass import Forward
from falconer.model.falcon.layout import backbone_of
from falconer.model.generate.prefix import Prefilled, extend
from falconer.model.generate.sampling import Decoding, KnownTokens
from falconer.model.generate.slots import Slots, first_tokens


class Stream:
    """A conversation's caches and its recorded step, for one model as it is now and one way of choosing tokens.

    Args:
        stops: tokens at which a reply stops; none: every reply gets `max_new_tokens`.
        unknown: tokens that are never chosen, the same for one tokenizer and model.
    """

    def __init__(self, model: Any, decoding: Decoding, stops: Sequence[int], unknown: Sequence[int] = ()) -> None:
        head = KnownTokens(model.get_output_embeddings(), unknown)
        self.forward = Forward(inference_path(model, num_rows=1), head)
        self.decoding, self.stops = decoding, list(stops)
        self.cache_LP2H = self.forward.new_cache(backbone_of(model).config.max_position_embeddings)
        self.slots = Slots(self.forward, self.cache_LP2H, 1, decoding, stops)
        self.known: list[int] = []
        self._made_of = _state_of(model)

    def is_for(self, model: Any, decoding: Decoding, stops: Sequence[int]) -> bool:
        """Tell whether it is of use: nothing was switched or trained since."""
        return (decoding, list(stops), _state_of(model)) == (self.decoding, self.stops, self._made_of)

    def reply(self, prompt: Sequence[int]) -> Iterator[int]:
        """Yield the reply's tokens; what the cache knows of the prompt's beginning is not computed again."""
        pairs = zip(self.known, prompt[:-1], strict=False)
        shared = next((place for place, (one, other) in enumerate(pairs) if one != other), None)
        if shared is None:
            shared = min(len(self.known), len(prompt) - 1)
        self.known = self.known[:shared]
        hidden = extend(self.forward, prompt[shared:], shared, self.cache_LP2H)
        self.known = list(prompt)
        found = Prefilled([0], [0], hidden)
        (token,) = first_tokens(self.forward, found, [prompt], self.decoding, self.stops)
        self.slots.fill([0], [0], [0], [token], [prompt])
        for place in range(self.decoding.max_new_tokens):
            if place:
                self.slots.advance(1)
                token = int(self.slots.tokens_BT[0, place])
            yield token
            if token in self.stops:
                return


# Taken out while a reply is written, so that two conversations at once never share a cache.
_streams: "WeakKeyDictionary[Any, Stream]" = WeakKeyDictionary()


def stream(
    model: Any, prompt: Sequence[int], decoding: Decoding, stops: Sequence[int], unknown: Sequence[int] = ()
) -> Iterator[int]:
    """Yield a reply's tokens with what is left of the model's conversation before."""
    held = _streams.pop(model, None)
    if held is None or not held.is_for(model, decoding, stops):
        held = Stream(model, decoding, stops, unknown)
    try:
        yield from held.reply(prompt)
    finally:
        _streams[model] = held


def _state_of(model: Any) -> list[tuple[Any, ...]]:
    """Return what changes when an adapter is switched, replaced or trained."""
    adapters = [adapter_of(module) for module in backbone_of(model).modules() if hasattr(module, "lora_A")]
    return [
        (adapter.a.data_ptr(), adapter.a._version, adapter.b.data_ptr(), adapter.b._version, adapter.scale)
        for adapter in adapters
        if adapter is not None
    ]
