"""Prompts of one dialogue are computed together, whatever order they come in."""

from hypothesis import given
from hypothesis import strategies as st

from falconer.model.generate.prefix import group_by_prefix, num_common, split_groups


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), max_size=12), st.integers(1, 20))
def test_every_prompt_is_in_one_family_whose_longest_begins_with_it(prompts, room):
    groups = group_by_prefix(prompts)
    assert sorted(number for group in groups for number in group.members) == list(range(len(prompts)))
    for group in groups:
        assert list(group.ids) == prompts[group.members[0]]
        assert all(list(group.ids[: len(prompts[number])]) == prompts[number] for number in group.members)
    # As few as there can be: nobody's longest begins somebody else's.
    for one in groups:
        assert not any(one is not other and other.ids[: len(one.ids)] == one.ids for other in groups)
    parts = list(split_groups(groups, room))
    assert [group for part in parts for group in part] == groups
    assert all(len(part) == 1 or sum(len(group.ids) for group in part) <= room for part in parts)


def test_common_beginnings():
    assert [num_common([1, 2, 3], other) for other in ([], [1, 2], [1, 2, 3], [1, 2, 3, 4], [2], [1, 4, 3])] == [
        0, 2, 3, 3, 0, 1,
    ]  # fmt: skip
    assert num_common((1, 2), [1, 2, 5]) == 2
