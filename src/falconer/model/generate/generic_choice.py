"""Choosing the next token of each row of a running batch on the generic path.

Shapes: B rows, V vocabulary, T tokens of the longest reply so far.
"""

from collections.abc import Sequence

import torch

from falconer.model.generate.key_values import fill, filling
from falconer.model.generate.repeats import Repeats
from falconer.model.generate.running import as_said
from falconer.model.generate.sampling import Kind, Rows, choose, scores, without
from falconer.model.generate.transfer import on_device
from falconer.model.request import Said, Writing


class Choice:
    """How the next tokens of some replies are chosen; made anew when one comes.

    When some leave, `remove` is cheaper than making it anew. A step still computes what any of them needed.

    Args:
        vocabulary: outputs of the model's head.
        unknown: tokens that are never chosen, int64.
    """

    def __init__(self, replies: Sequence[Writing], vocabulary: int, unknown: torch.Tensor) -> None:
        self._replies, self._unknown = list(replies), unknown
        self._requests = [reply.request for reply in replies]
        self._kind = Kind.of(self._requests)
        self._rows = Rows.of(self._requests, vocabulary, unknown.device)
        self._repeats = Repeats.of(self._requests, [_said(reply) for reply in replies], vocabulary, unknown.device)

    def remove(self, gone: Sequence[int]) -> None:
        """Take some replies out; the last ones take their places, see `key_values.filling`."""
        moves = filling(len(self._replies), gone)
        fill(self._replies, gone)
        fill(self._requests, gone)
        if moves:
            sources, targets = on_device(moves, self._unknown.device).T
            self._rows.move(sources, targets)
            self._repeats.move(sources, targets)

    def next(self, logits_BV: torch.Tensor) -> list[Said]:
        """Choose each reply's next token.

        Args:
            logits_BV: the model's, fp32; they are changed.
        """
        without(logits_BV, self._unknown)
        rows = self._rows.first(len(self._replies))
        steps = [len(reply.said) for reply in self._replies]
        said = [_said(reply) + [0] * (max(steps) - len(reply.said)) for reply in self._replies if self._kind.ngram]
        steps_B = torch.tensor(steps, device=logits_BV.device)
        said_BT = torch.tensor(said, dtype=torch.int64, device=logits_BV.device)
        changed_BV = self._repeats.changed(logits_BV, rows, self._kind, said_BT, steps_B)
        tokens_B = choose(changed_BV, rows, steps_B, self._kind)
        found = [Said(token) for token in tokens_B.tolist()]
        asking = [row for row, request in enumerate(self._requests) if request.decoding.num_logprobs is not None]
        if asking:
            places = torch.tensor(asking, device=logits_BV.device)
            most = max(self._requests[row].decoding.num_logprobs or 0 for row in asking)
            scored = (one.tolist() for one in scores(logits_BV[places], tokens_B[places], most))
            for row, logprob, values, ids in zip(asking, *scored, strict=True):
                found[row] = as_said(self._requests[row], found[row].token, logprob, values, ids)
        self._repeats.add(tokens_B, self._kind)
        return found


def _said(reply: Writing) -> list[int]:
    return [said.token for said in reply.said]
