"""How the work of `nf4_rows.cu` is divided: the tiles among thread blocks, and their items among warps.

A tile is 16 rows of a weight, and an item two of its NF4 blocks of each row. A thread block has whole tiles.
"""

from dataclasses import dataclass

TILE = 16
# Inputs of an item.
ITEM = 128


@dataclass(frozen=True, slots=True)
class Tiles:
    """The tiles of a layer, and the items of each."""

    num: int
    items: int

    @classmethod
    def of(cls, num_outputs: int, width: int) -> "Tiles":
        """Return the tiles of a weight [num_outputs, width]."""
        return cls(-(-num_outputs // TILE), -(-width // ITEM))


@dataclass(frozen=True, slots=True)
class Plan:
    """Which thread block has which tiles: see `Plan` in `nf4_rows.cu`.

    The first `more` thread blocks have `each + 1` tiles of the first layer and `few` of the second one; the others have
    `each`, and `many`, of which the first `rest` have one more.
    """

    num_blocks: int
    each: int
    more: int
    few: int
    many: int
    rest: int

    def kinds(self) -> list[tuple[int, int]]:
        """Return the (tiles of the first layer, of the second one) that thread blocks have."""
        behind = self.num_blocks - self.more
        found = [(self.each + 1, self.few)] if self.more else []
        if self.rest:
            found.append((self.each, self.many + 1))
        return [*found, (self.each, self.many)] if behind > self.rest else found


def plan(first: Tiles, second: Tiles, num_blocks: int) -> Plan:
    """Return how to divide the tiles of two layers so that the busiest thread block has as little work as possible.

    Args:
        first: of the layer whose tiles have more items, which are spread evenly; the other ones fill up.
        second: may have no tiles.
    """
    num_blocks = min(num_blocks, first.num + second.num)
    each, more = divmod(first.num, num_blocks)
    behind = num_blocks - more
    best: tuple[int, Plan] | None = None
    for few in range((second.num // more if more else 0) + 1):
        many, rest = divmod(second.num - few * more, behind)
        busiest = max(
            ((each + 1) * first.items + few * second.items) if more else 0,
            each * first.items + (many + (rest > 0)) * second.items,
        )
        if best is None or busiest < best[0]:
            best = busiest, Plan(num_blocks, each, more, few, many, rest)
    assert best is not None
    return best[1]


def most_parts(first: Tiles, second: Tiles, chosen: Plan, num_warps: int) -> int:
    """Return of how many tiles a warp has items, at most."""
    most = 0
    for num_first, num_second in chosen.kinds():
        split = num_first * first.items
        total = split + num_second * second.items
        for warp in range(num_warps):
            begin, end = warp * total // num_warps, (warp + 1) * total // num_warps
            parts = 0
            for start, stop, items in (
                (begin, min(end, split), first.items), (max(begin, split) - split, end - split, second.items),
            ):  # fmt: skip
                if start < stop:
                    parts += (stop - 1) // items - start // items + 1
            most = max(most, parts)
    return most


def plan_for(layers: tuple[Tiles, Tiles], num_blocks: int, num_warps: int, segments: int) -> Plan:
    """Return the plan with at least so many thread blocks in which no warp has items of more than `segments` tiles."""
    first, second = layers
    # A few thread blocks more change nothing; as many as there are tiles always suffice.
    wave = num_blocks
    while True:
        chosen = plan(first, second, num_blocks)
        if most_parts(first, second, chosen, num_warps) <= segments or chosen.num_blocks < num_blocks:
            return chosen
        num_blocks += wave
