"""Which sets of sentences belong to one persona, found in time that grows linearly with their number."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from itertools import combinations, pairwise

from falconer.data.leakage import sentence_set
from falconer.records import Dialogue

# Sets of up to so many sentences are compared by their subsets, of which the largest has 252 of half its size.
_MAX_SMALL = 10
# A sentence that more sets have, such as "You are a helpful assistant.", brings no set to the comparison one by one.
_MAX_HOLDERS = 256


def persona_names(dialogues: Iterable[Dialogue]) -> dict[frozenset[str], int]:
    """Return which persona each set of sentences belongs to.

    Persona-Chat shows four or five lines of a persona, not always the same ones. Sets that have half of the smaller
    one's sentences in common are one persona: in ConvAI2's validation split that gives its 100 personas for 680 sets.

    Among sets of more than ten sentences, those that more than 256 sets have only count if two sets have all of them
    in common, or another sentence besides: everything else would take a time that grows with the square.
    """
    sets = sorted(
        {sentence_set(p) for d in dialogues for p in (d.persona, d.partner_persona)} - {frozenset()}, key=sorted
    )
    links: list[list[Hashable]] = [[("set", index)] for index in range(len(sets))]
    _link_small(sets, links)
    _link_large(sets, links)
    return dict(zip(sets, groups(links), strict=True))


def groups(keys: Sequence[Sequence[Hashable]]) -> list[int]:
    """Return a group number for each item; items that share a key, directly or through others, share the number."""
    parent: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for item in keys:
        for one, two in pairwise(item):
            parent[root(one)] = root(two)
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(root(item[0]), len(numbers)) for item in keys]


def _half(num_sentences: int) -> int:
    """Return how many sentences of a set another one must have."""
    return -(-num_sentences // 2)


def _link_small(sets: Sequence[frozenset[str]], links: list[list[Hashable]]) -> None:
    """Link small sets that have half of the smaller one in common: some half of it, which then both of them contain."""
    small = [(index, sorted(persona)) for index, persona in enumerate(sets) if len(persona) <= _MAX_SMALL]
    halves = {half for _, persona in small for half in combinations(persona, _half(len(persona)))}
    sizes = sorted({len(half) for half in halves})
    for index, persona in small:
        for size in sizes:
            # A larger half belongs to a larger set, which finds a half of this one.
            if size <= _half(len(persona)):
                links[index] += [("half", half) for half in combinations(persona, size) if half in halves]


def _link_large(sets: Sequence[frozenset[str]], links: list[list[Hashable]]) -> None:
    """Link large sets with each other and with small ones, by the sentences that not too many sets have."""
    if all(len(persona) <= _MAX_SMALL for persona in sets):
        return
    holders: dict[str, list[int]] = defaultdict(list)
    for index, persona in enumerate(sets):
        for sentence in persona:
            holders[sentence].append(index)
    common = {sentence for sentence, found in holders.items() if len(found) > _MAX_HOLDERS}
    for index, persona in enumerate(sets):
        if len(persona) <= _MAX_SMALL:
            continue
        own = persona & common
        found = Counter(other for sentence in persona - common for other in holders[sentence] if other != index)
        for other, number in found.items():
            # The pair of two large sets comes twice; it is linked once.
            if other > index or len(sets[other]) <= _MAX_SMALL:
                needed = _half(min(len(persona), len(sets[other])))
                if number >= needed or number + len(own & sets[other]) >= needed:
                    links[other].append(("set", index))
    for one, other in _alike_in(sets, common):
        links[other].append(("set", one))


def _alike_in(sets: Sequence[frozenset[str]], common: set[str]) -> Iterator[tuple[int, int]]:
    """Yield pairs of large sets that have the same common sentences, if those are half of the smaller one."""
    by_common: dict[frozenset[str], list[int]] = defaultdict(list)
    for index, persona in enumerate(sets):
        if len(persona) > _MAX_SMALL:
            by_common[persona & common].append(index)
    for shared, members in by_common.items():
        smallest = min(members, key=lambda index: len(sets[index]))
        if len(shared) >= _half(len(sets[smallest])):
            yield from ((smallest, other) for other in members if other != smallest)
