"""How tiles are divided among thread blocks, and their items among warps."""

from hypothesis import given
from hypothesis import strategies as st

from falconer.kernels.row_plan import Tiles, most_parts, plan, plan_for

LAYERS = st.tuples(
    st.builds(Tiles, st.integers(1, 400), st.integers(1, 300)),
    st.builds(Tiles, st.integers(0, 400), st.integers(1, 300)),
)


def test_the_tiles_of_falcon_7b() -> None:
    assert Tiles.of(4672, 4544) == Tiles(292, 36), "71 NF4 blocks are 36 items, the last of which shares one"
    assert Tiles.of(4544, 18176) == Tiles(284, 142)


@given(layers=LAYERS, num_blocks=st.integers(1, 300))
def test_every_tile_has_one_thread_block(layers: tuple[Tiles, Tiles], num_blocks: int) -> None:
    first, second = layers
    chosen = plan(first, second, num_blocks)
    assert 1 <= chosen.num_blocks <= num_blocks
    for layer, place in ((first, 0), (second, 1)):
        counts = [kind[place] for kind in blocks_of(chosen)]
        assert sum(counts) == layer.num and min(counts) >= 0
    assert {kind for kind in blocks_of(chosen)} == set(chosen.kinds())


def blocks_of(chosen) -> list[tuple[int, int]]:
    """Return what each thread block has, as the kernel works it out."""
    found = []
    for block in range(chosen.num_blocks):
        is_more, behind = block < chosen.more, max(0, block - chosen.more)
        found.append((chosen.each + is_more, chosen.few if is_more else chosen.many + (behind < chosen.rest)))
    return found


@given(
    layers=LAYERS, num_blocks=st.integers(1, 300), num_warps=st.sampled_from([2, 16, 32]), segments=st.integers(1, 3)
)
def test_no_warp_has_items_of_too_many_tiles(layers, num_blocks, num_warps, segments) -> None:
    chosen = plan_for(layers, num_blocks, num_warps, segments)
    assert most_parts(*layers, chosen, num_warps) <= segments


def test_a_blocks_work_is_divided_evenly_on_an_h200() -> None:
    """132 multiprocessors; the second launch is limited by 284 tiles of four times as many items."""
    for pair, share in (((Tiles(292, 36), Tiles(1136, 36)), 0.98), ((Tiles(284, 142), Tiles(284, 36)), 0.89)):
        chosen = plan_for(pair, 132, 32, 3)
        work = [one * pair[0].items + two * pair[1].items for one, two in blocks_of(chosen)]
        assert len(work) == 132 and sum(work) / len(work) >= share * max(work)
