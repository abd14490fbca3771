"""Dealing an evaluation's dialogues out to the ranks of a launch, and putting their results together again."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from falconer.data.batch import deal_out

# Characters of text that cost about as much as one token that is generated or computed.
CHARACTERS_A_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Dealing:
    """How work is dealt out, as one of the ranks sees it. All ranks call the methods, in the same order.

    Args:
        number: of this rank, from 0.
        count: of all ranks.
        texts: gives each rank's text to all of them, in the order of ranks.
    """

    number: int
    count: int
    texts: Callable[[str], list[str]]

    def own(self, costs: Sequence[float]) -> list[int]:
        """Return the places of the items that this rank works on, in ascending order; see `deal_out`."""
        return deal_out(costs, self.count)[self.number]

    def together(self, own: Mapping[int, Any]) -> dict[int, Any]:
        """Return the results of all ranks by their number, in its order.

        Args:
            own: this rank's: JSON values, by a number that no other rank has.
        """
        if self.count == 1:
            return dict(own)
        # As text, so that nothing is unpickled; floats are written with all their digits.
        rows = [row for text in self.texts(json.dumps(list(own.items()))) for row in json.loads(text)]
        return dict(sorted((int(number), value) for number, value in rows))


ALONE = Dealing(0, 1, lambda text: [text])
