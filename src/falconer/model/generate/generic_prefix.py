"""Prompts that are computed once on the generic path, and what continues them: by a model's own forward pass and cache.

A pass reads further tokens of rows whose beginnings are in a cache of `key_values`. The cached tokens of all rows end
at the same place, so shorter ones are padded on the left; new tokens begin at the same place, so shorter ones are
padded on the right, where no real token looks. Whether a model supports this is found out by asking it: with a state in
place of keys and values (Mamba), or a cache that it does not hand out, it gives another result or none.

    cached         new
    PPPPkkkkkkk    tttPP
    kkkkkkkkkkk    tttttt

Shapes: B rows, T tokens, S places that were asked for, D hidden, V vocabulary.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel

from falconer import runtime
from falconer.kernels import generic_reference
from falconer.model.falcon.adapters import has_learned_prompt
from falconer.model.generate.key_values import Layer, Row, layers_of, new_cache, width_of
from falconer.model.generate.prefix import PrefixGroup
from falconer.model.output_head import Head, chunk_targets
from falconer.model.probe import are_alike


@dataclass(frozen=True, slots=True)
class Computed:
    """A prompt that has been computed.

    Args:
        cache: keys and values of its tokens, views into those of its group.
        state: what the first token of a reply is chosen from, see `PrefixPass.read`; [1, D or V].
    """

    cache: Row
    state: torch.Tensor


class PrefixPass:
    """The forward pass of one model over the next tokens of some rows.

    Args:
        autocast: the dtype for `runtime.autocast`; None for the dtype of the weights.
        pad_id: any token that the model knows.
        head: the model's, to compute logits at single places; None: the model computes those of all places.
    """

    def __init__(
        self, model: Any, autocast: torch.dtype | None, pad_id: int, device: torch.device, head: Head | None
    ) -> None:
        base: Any = model.get_base_model() if isinstance(model, PeftModel) else model
        self._model, self._autocast, self._pad_id, self._device = model, autocast, pad_id, device
        self._head = head
        self._called: Any = base.base_model if head else model
        self._known = frozenset(inspect.signature((base.base_model if head else base).forward).parameters)

    def read(
        self, cache: Any, cached: Sequence[int], new: Sequence[Sequence[int]], places: Sequence[tuple[int, int]]
    ) -> torch.Tensor:
        """Read some tokens of each row, and return what their logits are made from; the cache is extended.

        Args:
            cached: the number of each row's tokens in the cache.
            new: each row's next tokens, at least one.
            places: (row, which of its new tokens).

        Returns:
            Hidden states, or without a head the logits themselves, [S, D or V].
        """
        width, more = width_of(cache) if cache.layers else 0, max(map(len, new))
        ids_BT = np.full((len(new), more), self._pad_id, dtype=np.int64)
        for row, tokens in enumerate(new):
            ids_BT[row, : len(tokens)] = tokens
        starts_B1, ends_B1 = width - np.array(cached)[:, None], width + np.array([len(one) for one in new])[:, None]
        at_T = np.arange(width + more)
        mask_BT = (at_T >= starts_B1) & (at_T < ends_B1)
        named: dict[str, Any] = {}
        if not mask_BT.all():
            named["attention_mask"] = torch.from_numpy(mask_BT.astype(np.int64)).to(self._device)
        if "position_ids" in self._known:
            # Padding takes the place of the last real token: a table of positions may have no further ones.
            positions_BT = np.minimum(at_T[width:], ends_B1 - 1) - starts_B1
            named["position_ids"] = torch.from_numpy(positions_BT).to(self._device)
        with runtime.autocast(self._device.type, self._autocast):
            output = self._called(
                input_ids=torch.from_numpy(ids_BT).to(self._device), past_key_values=cache, use_cache=True, **named
            )
        states_BT = output.last_hidden_state if self._head else output.logits
        flat = torch.tensor([row * more + place for row, place in places], device=self._device)
        states: torch.Tensor = states_BT.flatten(0, 1)[flat]
        return states

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits [S, V] at some places, fp32."""
        return self._head.logits(states).float() if self._head else states.float()

    def log_probabilities(self, states: torch.Tensor, tokens: Sequence[int]) -> np.ndarray:
        """Return the log-probability of a token at each place, in nats, float64 [S]."""
        labels = torch.tensor(tokens, device=self._device)
        if self._head:
            nll = self._head.nll(states, labels, generic_reference)
        else:
            rows = chunk_targets(states.shape[1])
            pairs = zip(states.split(rows), labels.split(rows), strict=True)
            nll = torch.cat([torch.nn.functional.cross_entropy(s.float(), one, reduction="none") for s, one in pairs])
        return -nll.double().cpu().numpy()

    def first_log_probabilities(self, states: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> list[float]:
        """Return the log-probability of each (place, token), in nats; a place may have several tokens."""
        found: dict[tuple[int, int], float] = {}
        rows = chunk_targets(self._model.get_input_embeddings().weight.shape[0])
        for start in range(0, len(states), rows):
            logits_SV = self.logits(states[start : start + rows])
            some = [(place, token) for place, token in pairs if start <= place < start + rows]
            at, tokens = torch.tensor(some, device=self._device).view(-1, 2).T
            values = logits_SV[at - start, tokens] - logits_SV.logsumexp(dim=1)[at - start]
            found |= dict(zip(some, values.tolist(), strict=True))
        return [found[pair] for pair in pairs]

    def prefill(self, groups: Sequence[PrefixGroup], lengths: Sequence[int]) -> dict[int, Computed]:
        """Compute the longest prompt of each group in one pass, and return all prompts by number.

        Args:
            lengths: tokens of every prompt, by number.
        """
        members = [(row, number) for row, group in enumerate(groups) for number in group.members]
        places = [(row, lengths[number] - 1) for row, number in members]
        cache = new_cache([None] * len(groups), 0, 0)
        states = self.read(cache, [0] * len(groups), [group.ids for group in groups], places)
        # Equal prompts, such as those of several samples, have the same object.
        begun: dict[tuple[int, int], Row] = {}
        found = {}
        for at, (row, number) in enumerate(members):
            length = lengths[number]
            if (row, length) not in begun:
                begun[row, length] = _begin(cache, row, length)
            found[number] = Computed(begun[row, length], states[at : at + 1])
        return found

    @torch.inference_mode()
    def works(self, vocabulary: int) -> bool:
        """Return whether a model gives the same output for a text in one pass and in several that branch."""
        if has_learned_prompt(self._model):
            return False
        long, short = ([(step * place + 3) % vocabulary for place in range(13)] for step in (7, 5))
        groups = [PrefixGroup(long[:9], (0, 1)), PrefixGroup(short[:5], (2,))]
        texts, lengths = [long[:12], [*long[:6], *short[:2]], short[:8]], [9, 6, 5]
        try:
            whole = [self._plain(text) for text in texts]
            computed = self.prefill(groups, lengths)
            rows = [computed[number].cache for number in range(3)]
            cache = new_cache(rows, 9, 4)
            new = [text[length:] for text, length in zip(texts, lengths, strict=True)]
            states = self.read(cache, lengths, new, [(row, len(one) - 1) for row, one in enumerate(new)])
            # One token after the other, as replies are generated.
            cache = new_cache(rows, 9, 2)
            self.read(cache, lengths, [one[:1] for one in new], [(0, 0)])
            again = self.read(cache, [n + 1 for n in lengths], [one[1:2] for one in new], [(0, 0), (1, 0), (2, 0)])
            expected = [*whole, *(self._plain(text[: n + 2]) for text, n in zip(texts, lengths, strict=True))]
        except torch.OutOfMemoryError:
            raise
        except Exception:  # whatever a model raises that is not made for it
            return False
        is_ours = all(type(layer) is Layer and layer.num_rows == 3 for layer in cache.layers)
        found = self.logits(torch.cat([states, again]))
        return is_ours and are_alike(self._model, torch.cat(expected), found, self._autocast)

    def _plain(self, text: Sequence[int]) -> torch.Tensor:
        """Return the logits [1, V] after a text, by the whole model and without a cache."""
        with runtime.autocast(self._device.type, self._autocast):
            output = self._model(input_ids=torch.tensor([list(text)], device=self._device), use_cache=False)
        logits: torch.Tensor = output.logits[:, -1].float()
        return logits


def _begin(cache: Any, row: int, length: int) -> Row:
    """Return the keys and values of a row's first tokens, without copying them."""
    found = []
    for layer in layers_of(cache):
        keys, values = (one[row : row + 1, :, :length] for one in layer.rows())
        found.append((keys, values))
    return found
