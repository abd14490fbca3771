"""Trees of candidates: every way is its candidate, and nothing that two begin with stands there twice."""

import numpy as np

from falconer.model.generate.candidate_trees import trees_of


def test_a_tree_for_each_first_token():
    texts = [[5, 6, 7], [8], [5, 9], [5, 6], [5, 6, 7]]
    one, other = trees_of(enumerate(texts))
    assert (one.ids, one.depths, one.ends) == ([5, 6, 7, 9], [0, 1, 2, 1], [4, 3, 3, 4])
    assert one.ways == [(3, [0, 1]), (0, [0, 1, 2]), (4, [0, 1, 2]), (2, [0, 3])]
    assert (other.ids, other.depths, other.ends, other.ways) == ([8], [0], [1], [(1, [0])])
    assert trees_of([]) == []


def test_a_token_sees_its_way_alone():
    rng = np.random.default_rng(0)
    texts = [rng.integers(0, 3, rng.integers(1, 9)).tolist() for _ in range(60)]
    trees = trees_of(enumerate(texts))
    assert sorted(number for tree in trees for number, _ in tree.ways) == list(range(60))
    beginnings = {tuple(text[: place + 1]) for text in texts for place in range(len(text))}
    assert sum(len(tree.ids) for tree in trees) == len(beginnings)
    for tree in trees:
        for number, way in tree.ways:
            assert [tree.ids[place] for place in way] == texts[number]
            assert [tree.depths[place] for place in way] == list(range(len(way)))
            # What the last token of the way sees, by the rule of `formats.Branches`.
            assert [place for place in range(way[-1] + 1) if tree.ends[place] > way[-1]] == way
