"""Choosing the next token of each row of a running batch on the generic path.

Shapes: B rows, V vocabulary.
"""

from collections.abc import Sequence

import torch

from falconer.model.generate.running import as_said
from falconer.model.generate.sampling import Kind, Rows, choose, penalised, scores, without
from falconer.model.request import Said, Writing


class Choice:
    """How the next tokens of some replies are chosen; made anew when one comes or goes.

    Args:
        ids: the tokens of prompt and reply so far, which the repetition penalty counts.
        vocabulary: outputs of the model's head.
        unknown: tokens that are never chosen, int64.
    """

    def __init__(
        self, replies: Sequence[Writing], ids: Sequence[Sequence[int]], vocabulary: int, unknown: torch.Tensor
    ) -> None:
        self._replies, self._unknown = tuple(replies), unknown
        self._requests = [reply.request for reply in replies]
        self._kind = Kind.of(self._requests)
        self._rows = Rows.of(self._requests, vocabulary, unknown.device)
        self._seen_BV = torch.zeros(0, vocabulary, dtype=torch.bool, device=unknown.device)
        if self._kind.penalises:
            self._seen_BV = torch.zeros(len(ids), vocabulary, dtype=torch.bool, device=unknown.device)
            for seen_V, row in zip(self._seen_BV, ids, strict=True):
                seen_V[torch.tensor(row, device=unknown.device)] = True

    def next(self, logits_BV: torch.Tensor) -> list[Said]:
        """Choose each reply's next token.

        Args:
            logits_BV: the model's, fp32; they are changed.
        """
        without(logits_BV, self._unknown)
        changed_BV = penalised(logits_BV, self._seen_BV, self._rows) if self._kind.penalises else logits_BV
        steps_B = torch.tensor([len(reply.said) for reply in self._replies], device=logits_BV.device)
        tokens_B = choose(changed_BV, self._rows, steps_B, samples=self._kind.samples)
        found = [Said(token) for token in tokens_B.tolist()]
        asking = [row for row, request in enumerate(self._requests) if request.decoding.num_logprobs is not None]
        if asking:
            places = torch.tensor(asking, device=logits_BV.device)
            most = max(self._requests[row].decoding.num_logprobs or 0 for row in asking)
            scored = (one.tolist() for one in scores(logits_BV[places], tokens_B[places], most))
            for row, logprob, values, ids in zip(asking, *scored, strict=True):
                found[row] = as_said(self._requests[row], found[row].token, logprob, values, ids)
        if self._kind.penalises:
            self._seen_BV.scatter_(1, tokens_B[:, None], True)
        return found
