"""A recorded pass over prompts gives what an unrecorded one gives, and stores the same keys."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from decoded import Recorded, forward_of, model_of
from falcon_tiny import GPU_SHAPES, LAYOUTS, VOCAB
from falconer.kernels import fused, reference
from falconer.model.falcon.infer_pass import Forward
from falconer.model.generate import prompt_pass
from falconer.model.generate.prefix import Extension
from falconer.model.generate.prompt_pass import SIZES, PromptPass

ROW, NUM_ROWS = 90, 6
SPARE = ROW * NUM_ROWS
IDS = [(37 * index + 5) % VOCAB for index in range(ROW)]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(request):
    return model_of(layout=getattr(request, "param", "7b"))


@pytest.fixture
def recordings(monkeypatch):
    found = []

    def recorded(step, device):
        found.append(Recorded(step, device))
        return found[-1]

    monkeypatch.setattr(prompt_pass, "recorded", recorded)
    return found


def passes_of(forward):
    """Return a recording and an unrecorded pass, each with a cache of its own."""
    found = []
    for records in (True, False):
        cache = forward.new_cache(SPARE + 1)
        one = PromptPass(forward, cache, SPARE)
        one.records = records
        found.append((one, cache))
    return found


def extension(row, known, count, adapter=0):
    return Extension(IDS[known : known + count], row * ROW, known, adapter)


@pytest.mark.parametrize(
    ("model", "ops"), [("7b", reference), ("7b", fused), ("40b", reference), ("11b", reference)], indirect=["model"]
)
def test_prompts_that_go_on_from_the_cache_and_new_ones_share_a_recorded_pass(model, recordings, ops):
    forward = forward_of(model, ops)
    (ours, cache), (plain, expected) = passes_of(forward)
    for extensions in (
        [extension(0, 0, 20), extension(3, 0, 1), extension(5, 0, 43)],
        [extension(0, 20, 1), extension(2, 0, 8), extension(5, 43, 30)],
        [extension(0, 21, 5)],
    ):
        torch.testing.assert_close(ours(extensions), plain(extensions), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cache[:, :SPARE], expected[:, :SPARE], rtol=1e-4, atol=1e-4)
    assert len(recordings) == 1, "one size suffices"


def test_each_row_has_its_own_adapter_in_a_recorded_pass_too(model, recordings):
    plain = forward_of(model)
    forward = Forward(plain.path, plain.head, ["default"])
    (ours, _), (unrecorded, _) = passes_of(forward)
    extensions = [extension(row, 0, 12, adapter=row % 2) for row in range(3)]
    found = ours(extensions)
    torch.testing.assert_close(found, unrecorded(extensions), rtol=1e-4, atol=1e-4)
    assert (found[0] - found[1]).abs().max() > 1e-2 and torch.allclose(found[0], found[2], atol=1e-4)


@settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(1, ROW), min_size=1, max_size=NUM_ROWS))
def test_any_sizes(model, counts):
    forward = forward_of(model)
    (ours, _), (plain, _) = passes_of(forward)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prompt_pass, "recorded", Recorded)
        extensions = [extension(row, 0, count) for row, count in enumerate(counts)]
        torch.testing.assert_close(ours(extensions), plain(extensions), rtol=1e-4, atol=1e-4)


def test_more_than_the_largest_size_is_not_recorded(model, recordings, monkeypatch):
    monkeypatch.setattr(prompt_pass, "SIZES", ((16, 2),))
    (ours, _), (plain, _) = passes_of(forward_of(model))
    for extensions in ([extension(0, 0, 17)], [extension(row, 0, 2) for row in range(3)]):
        torch.testing.assert_close(ours(extensions), plain(extensions))
    assert not recordings
    ours([extension(0, 0, 16)])
    assert len(recordings) == 1


def test_sizes_grow_in_both_directions():
    assert list(SIZES) == sorted(SIZES) and [prompts for _, prompts in SIZES] == sorted(s for _, s in SIZES)


@pytest.mark.gpu
@pytest.mark.parametrize("layout", LAYOUTS)
def test_on_a_gpu_a_graph_is_replayed_with_other_prompts(layout):
    shape = {} if layout == "7b" else GPU_SHAPES[layout]
    forward = forward_of(model_of(layout=layout, **shape).cuda(), fused)
    (ours, cache), (plain, expected) = passes_of(forward)
    with torch.inference_mode():
        for extensions in (
            [extension(0, 0, 20), extension(5, 0, 43)],
            [extension(0, 20, 1), extension(2, 0, 8), extension(5, 43, 30)],
            [extension(row, 0, 60) for row in range(6)],
        ):
            torch.testing.assert_close(ours(extensions), plain(extensions), rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(cache[:, :SPARE], expected[:, :SPARE], rtol=2e-3, atol=2e-3)
