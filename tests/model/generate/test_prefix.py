"""Prompts of one dialogue are computed together, whatever order they come in."""

from hypothesis import given
from hypothesis import strategies as st

from falconer.model.generate.prefix import families_of, split_families


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), max_size=12), st.integers(1, 20))
def test_every_prompt_is_in_one_family_whose_longest_begins_with_it(prompts, room):
    families = families_of(prompts)
    assert sorted(number for family in families for number in family.members) == list(range(len(prompts)))
    for family in families:
        assert list(family.ids) == prompts[family.members[0]]
        assert all(list(family.ids[: len(prompts[number])]) == prompts[number] for number in family.members)
    # As few as there can be: nobody's longest begins somebody else's.
    for one in families:
        assert not any(one is not other and other.ids[: len(one.ids)] == one.ids for other in families)
    parts = list(split_families(families, room))
    assert [family for part in parts for family in part] == families
    assert all(len(part) == 1 or sum(len(family.ids) for family in part) <= room for part in parts)
