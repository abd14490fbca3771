"""A model's own forward pass over the next tokens of some replies, and a test of what it supports.

How a model is asked is found out by asking it, as in `model/probe.py`: a list of names would soon be wrong.

"batch": rows of unlike length share a pass, padded on the left; their keys and values are in a cache of `key_values`.
"alone": each reply has a pass and a cache of its own, of whichever kind the model has (a recurrent state, a sliding
window). "stepwise": the same, but this cache takes single tokens only (Mamba in transformers 5), so the next turn of a
conversation can't go on from it. "uncached": there is no cache to go on from (a learned prompt, a state that is part of
the model), so each token computes the whole text again.

Shapes: B rows, T tokens, V vocabulary.
"""

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from peft import PeftModel
from transformers import PreTrainedConfig

from falconer import runtime
from falconer.model.generate.key_values import Layer, new_cache, width_of
from falconer.model.probe import are_alike
from falconer.model.row_adapters import RowAdapters

Way = Literal["batch", "alone", "stepwise", "uncached"]
# The fastest first.
_WAYS: tuple[Way, ...] = ("batch", "alone", "stepwise", "uncached")
# What models call the cache that they return, and take again.
_CACHES = ("past_key_values", "cache_params", "state")
# What a test reads of two texts, from a token to another: a prompt, a token, and several tokens after a cached prompt.
_READS = (((0, 8), (0, 3)), ((8, 9), (3, 4)), ((9, 13), (4, 8)))


class GenericPass:
    """The forward pass of one model.

    Args:
        autocast: the dtype for `runtime.autocast`; None for the dtype of the weights.
        pad_id: any token that the model knows.
    """

    def __init__(self, model: Any, autocast: torch.dtype | None, pad_id: int, device: torch.device) -> None:
        self._model, self._autocast, self._pad_id, self._device = model, autocast, pad_id, device
        base = model.get_base_model() if isinstance(model, PeftModel) else model
        self._known = frozenset(inspect.signature(base.forward).parameters)

    def batch(self, rows: Sequence[Sequence[int]], lengths: Sequence[int], cache: Any) -> torch.Tensor:
        """Return the logits [B, V] after the last tokens of each row, fp32; the cache is extended.

        Args:
            rows: the tokens to read; fewer than in others only in rows of which nothing is cached.
            lengths: the tokens of each row, with those that are cached.
            cache: of `key_values`; its rows are padded on the left to the length of the longest.
        """
        more = max(len(row) for row in rows)
        cached = width_of(cache) if cache.layers else 0
        ids_BT = torch.tensor([[self._pad_id] * (more - len(row)) + list(row) for row in rows], device=self._device)
        places_T = torch.arange(cached + more, device=self._device)
        pads_B1 = cached + more - torch.tensor(lengths, device=self._device)[:, None]
        named: dict[str, Any] = {}
        if "position_ids" in self._known:
            named["position_ids"] = (places_T[cached:] - pads_B1).clamp_min(0)
        mask_BT = (places_T >= pads_B1).long()
        return self._call(input_ids=ids_BT, attention_mask=mask_BT, past_key_values=cache, use_cache=True, **named)[0]

    def alone(self, ids: Sequence[int], cache: tuple[str, Any] | None) -> tuple[torch.Tensor, tuple[str, Any] | None]:
        """Return the logits [1, V] after some more tokens, fp32, and the cache: what the model calls it, and itself.

        Args:
            cache: that of the tokens before, if there are any; it must not be used again.
        """
        named = dict([cache]) if cache else {}
        logits_BV, output = self._call(
            input_ids=torch.tensor([list(ids)], device=self._device), use_cache=True, **named
        )
        found = ((name, getattr(output, name, None)) for name in _CACHES)
        return logits_BV, next(((name, one) for name, one in found if one is not None), None)

    def uncached(self, ids: Sequence[int]) -> torch.Tensor:
        """Return the logits [1, V] after a whole text, fp32."""
        return self._call(input_ids=torch.tensor([list(ids)], device=self._device), use_cache=False)[0]

    def _call(self, **named: Any) -> tuple[torch.Tensor, Any]:
        if "logits_to_keep" in self._known:
            named["logits_to_keep"] = 1
        with runtime.autocast(self._device.type, self._autocast):
            output = self._model(**named)
        return output.logits[:, -1].float(), output

    @torch.inference_mode()
    def way(self, adapters: RowAdapters, vocabulary: int) -> tuple[Way, str]:
        """Return how replies can be computed, and why rows of several adapters can't share a pass, "" if they can."""
        if adapters.has_learned_prompt:
            return "uncached", "an adapter is a learned prompt"
        # A LoRA changes single layers, but other adapters may change how a model treats its cache.
        names = [None, *adapters.names] if adapters.why_apart else [None]
        ways = [self._way_with(adapters, name, vocabulary) for name in names]
        way = next(way for way in _WAYS[::-1] if way in ways)
        return way, adapters.why_apart or (self._why_apart(adapters, vocabulary) if way == "batch" else "")

    def _way_with(self, adapters: RowAdapters, name: str | None, vocabulary: int) -> Way:
        texts = _texts(vocabulary)
        with adapters.only(name):
            expected = torch.cat([
                self.uncached(ids[: read[1]]) for both in _READS for ids, read in zip(texts, both, strict=True)
            ])  # fmt: skip
            for way in _WAYS[:-1]:
                try:
                    found = self._try_batch(texts) if way == "batch" else self._try_alone(texts, way)
                except torch.OutOfMemoryError:
                    raise
                except Exception:  # whatever a model raises that is not made for it
                    continue
                if found is not None and are_alike(self._model, expected[: len(found)], found, self._autocast):
                    return way
        return "uncached"

    def _try_batch(self, texts: tuple[list[int], list[int]]) -> torch.Tensor | None:
        cache, found = new_cache([None, None], 0, 0), []
        for first, second in _READS:
            rows = [texts[0][slice(*first)], texts[1][slice(*second)]]
            found.append(self.batch(rows, [first[1], second[1]], cache))
        is_ours = cache.layers and all(type(layer) is Layer and layer.num_rows == 2 for layer in cache.layers)
        return torch.cat(found) if is_ours else None

    def _try_alone(self, texts: tuple[list[int], list[int]], way: Way) -> torch.Tensor | None:
        caches: list[tuple[str, Any] | None] = [None, None]
        found = []
        for both in _READS if way == "alone" else _READS[:2]:
            for number, (ids, read) in enumerate(zip(texts, both, strict=True)):
                logits_BV, caches[number] = self.alone(ids[slice(*read)], caches[number])
                found.append(logits_BV)
        return torch.cat(found) if all(caches) else None

    def _why_apart(self, adapters: RowAdapters, vocabulary: int) -> str:
        """Return why a pass can't have a row with each adapter and one without, "" if it can."""
        names = [None, *adapters.names]
        if len(names) == 1:
            return ""
        text = _texts(vocabulary)[0]
        expected = []
        for name in names:
            with adapters.only(name):
                expected.append(self.uncached(text))
        try:
            with adapters.of(names):
                found = self.batch([text] * len(names), [len(text)] * len(names), new_cache([None], 0, 0))
        except ValueError:  # PEFT, where a layer sees the tokens of all rows in one dimension, as in OPT
            return "a layer's input has no dimension for the rows"
        if are_alike(self._model, torch.cat(expected), found, self._autocast):
            return ""
        return "together, they give another output than one by one"


def constant_tokens(config: PreTrainedConfig) -> int | None:
    """Return up to how many tokens a token's position has the same encoding in texts of any length; None: always.

    LongRoPE (Ding et al. 2024, arXiv:2402.13753), as in Phi-3, has another encoding for all tokens of a longer text, so
    neither the cache nor the other rows of its batch must be from shorter ones.
    """
    rope = getattr(config.get_text_config(decoder=True), "rope_parameters", None) or {}
    kinds = [rope, *(kind for kind in rope.values() if isinstance(kind, dict))]
    limits = [kind["original_max_position_embeddings"] for kind in kinds if kind.get("rope_type") == "longrope"]
    return min(limits, default=None)


def _texts(vocabulary: int) -> tuple[list[int], list[int]]:
    return [(7 * place + 3) % vocabulary for place in range(13)], [(5 * place + 1) % vocabulary for place in range(8)]
