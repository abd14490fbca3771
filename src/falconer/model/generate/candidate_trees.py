"""The candidates of a prompt as trees of tokens: what several of them begin with is computed once.

What follows the prompt in its dialogue is computed with the dialogue's longest prompt, and is the beginning of at least
one candidate, the gold reply.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from falconer.model.generate.prefix import num_common


@dataclass(frozen=True, slots=True)
class Tree:
    """Candidates that begin with the same token.

    Args:
        ids: token ids; a token stands before those that go on from it.
        depths: how many tokens are above each.
        ends: for each, the number of tokens before the first one behind it that does not go on from it.
        ways: (number of a candidate, its tokens by their places in `ids`).
    """

    ids: list[int] = field(default_factory=list)
    depths: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    ways: list[tuple[int, list[int]]] = field(default_factory=list)

    def add(self, number: int, ids: Sequence[int], num_shared: int) -> None:
        """Add a candidate.

        Args:
            num_shared: how many tokens it has in common with the one that was added last.
        """
        shared = self.ways[-1][1][:num_shared] if self.ways else []
        end = len(self.ids) + len(ids) - num_shared
        new = range(len(self.ids), end)
        self.ids.extend(ids[num_shared:])
        self.depths.extend(range(num_shared, len(ids)))
        self.ends.extend([end] * len(new))
        for place in shared:
            self.ends[place] = end
        self.ways.append((number, [*shared, *new]))


def trees_of(candidates: Iterable[tuple[int, Sequence[int]]]) -> list[Tree]:
    """Return (number, token ids) of candidates as trees, one for each first token; each has at least one token."""
    found: list[Tree] = []
    before: Sequence[int] = ()
    # Sorted, each one follows the one with which it has most in common.
    for number, ids in sorted(candidates, key=lambda one: tuple(one[1])):
        num_shared = num_common(before, ids)
        if not num_shared:
            found.append(Tree())
        found[-1].add(number, ids, num_shared)
        before = ids
    return found
