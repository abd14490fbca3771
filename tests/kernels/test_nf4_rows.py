"""The CUDA kernel for few rows against float64: its source on the CPU, and itself on a GPU."""

import shutil

import pytest
import torch
from torch.nn import functional as F

from falconer.kernels import nf4_rows, reference
from falconer.kernels.cuda_driver import DriverError
from falconer.kernels.formats import NF4_ROWS, Nf4
from falconer.kernels.nf4_rows import RowProducts, Tiling
from falconer.kernels.nvrtc import CannotCompile
from kernel_rule import exactly, hold_to_rule, quantised
from rows_on_cpu import kernel_on_cpu, pretend_gpu

# Odd and even numbers of NF4 blocks, of which the widest are divided among warps.
SHAPES = [((96, 192), (48, 448)), ((32, 128), (64, 128)), ((80, 320), (96, 192))]
# The weights of a block of Falcon-7B, 11B and 40B, as they share launches.
FALCONS = [
    ((4672, 4544), (18176, 4544)), ((4544, 18176), (4544, 4544)), ((6144, 4096), (16384, 4096)),
    ((4096, 16384), (4096, 4096)), ((9216, 8192), (32768, 8192)), ((8192, 32768), (8192, 8192)),
]  # fmt: skip
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="builds the kernel for the CPU with g++")


def weight_of(shape, nested, device="cpu"):
    return quantised(torch.randn(*shape, device=device) * 0.02, nested)[2]


def hold(found, x, weight, whole=None):
    whole = reference.dequantise(weight, torch.float32) if whole is None else whole
    hold_to_rule(found, F.linear(x, whole.to(x.dtype)), exactly(x) @ whole.double().T)


@needs_compiler
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("step", [1, 2])
def test_the_source_itself_on_the_cpu(monkeypatch, tmp_path, nested, step):
    """Every number of rows, one and two layers, of which either has the wider tiles."""
    kernel = kernel_on_cpu(monkeypatch, tmp_path, nested, Tiling(4, 1, step))
    for shapes in SHAPES:
        weights = [weight_of(shape, nested) for shape in shapes]
        assert kernel.goes_with(*weights)
        for num_rows in range(1, NF4_ROWS + 1):
            pairs = [(torch.randn(num_rows, weight.shape[1]).bfloat16(), weight) for weight in weights]
            for pair, found in zip(pairs, kernel.products(pairs), strict=True):
                hold(found, *pair)
            hold(kernel.products(pairs[:1])[0], *pairs[0])


@needs_compiler
@pytest.mark.parametrize("multiprocessors", [1, 2, 5, 40])
def test_the_same_on_any_number_of_multiprocessors(monkeypatch, tmp_path, multiprocessors):
    kernel = kernel_on_cpu(monkeypatch, tmp_path, True, Tiling(4, 1, step=2, segments=2), num_groups=1)
    kernel._multiprocessors = multiprocessors
    pairs = [(torch.randn(2, shape[1]).bfloat16(), weight_of(shape, True)) for shape in ((320, 576), (160, 192))]
    for pair, found in zip(pairs, kernel.products(pairs), strict=True):
        hold(found, *pair)


@needs_compiler
def test_infinite_input_stays_in_its_own_row(monkeypatch, tmp_path):
    """Lanes without input read zeros, and what is read for nothing must not meet an infinite value."""
    kernel = kernel_on_cpu(monkeypatch, tmp_path, True, Tiling(2, 1, step=2), num_groups=1)
    weight, x = weight_of((32, 320), True), torch.randn(3, 320).bfloat16()
    x[1, 255] = torch.inf
    (found,) = kernel.products([(x, weight)])
    assert not found[1].isfinite().any()
    hold(found[[0, 2]], x[[0, 2]], weight)


@needs_compiler
@pytest.mark.parametrize("x", [
    torch.zeros(17, 128).bfloat16(), torch.zeros(0, 128).bfloat16(), torch.zeros(2, 192).bfloat16(),
    torch.zeros(2, 128), torch.zeros(128, 2).bfloat16().T, torch.zeros(129).bfloat16()[1:].view(1, 128),
], ids=["17 rows", "no row", "another width", "fp32", "not contiguous", "not aligned"])  # fmt: skip
def test_inputs_that_it_is_not_made_for_are_refused(monkeypatch, tmp_path, x):
    kernel = kernel_on_cpu(monkeypatch, tmp_path, True, Tiling(2, 1, step=1), num_groups=1)
    with pytest.raises(AssertionError):
        kernel.products([(x, weight_of((16, 128), True))])


class Loaded:
    """Takes a kernel's place; fails where it is told to."""

    failure = ""

    def __init__(self, cubin, name, device, shared_bytes):
        if self.failure:
            raise DriverError(self.failure)


@pytest.fixture
def a_gpu(monkeypatch):
    """A GPU on which every kernel loads."""
    pretend_gpu(monkeypatch)
    monkeypatch.setattr(nf4_rows, "cached_cubin", lambda *_: b"")
    monkeypatch.setattr(nf4_rows, "LoadedKernel", Loaded)
    return torch.device("cuda", 0)


def test_why_it_is_not_there_is_said(a_gpu, monkeypatch):
    assert not RowProducts(a_gpu, True, None).starts_early, (
        "before 9.0 no kernel starts before the one before has ended"
    )
    monkeypatch.setattr(Loaded, "failure", "the CUDA driver can't load a kernel: out of memory (2)")
    with pytest.raises(CannotCompile, match="out of memory"):
        RowProducts(a_gpu, True, None)
    for capability, reason in (((7, 5), "compute capability 7.5 is below 8.0"), ((12, 1), "older than compute.*12.1")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, found=capability: found)
        with pytest.raises(CannotCompile, match=reason):
            RowProducts(a_gpu, True, None)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(CannotCompile, match="built without CUDA"):
        RowProducts(a_gpu, True, None)


def nf4(shape=(64, 128), address=512, **others):
    """Return a weight without values, on the GPU that is not here."""
    packed = type("", (), {"device": torch.device("cuda", 0), "data_ptr": lambda _: address})()
    scales = torch.ones(1)
    given = {"nested_code": scales, "nested_absmax": scales, "offset": scales} | {
        "block_size": 64, "nested_block_size": 256
    }  # fmt: skip
    return Nf4(packed, scales, scales, shape=shape, **given | others)


@pytest.mark.parametrize(("weight", "reason"), [
    (lambda: nf4(), ""),
    (lambda: nf4(block_size=128), "blocks are of 128 values"),
    (lambda: nf4((60, 128)), "60 x 128"),
    (lambda: nf4((64, 64)), "two blocks a row"),
    (lambda: nf4((64, 160)), "64 x 160"),
    (lambda: nf4(nested_absmax=None), "not quantised themselves"),
    (lambda: nf4(nested_block_size=100), "not a power of two"),
    (lambda: nf4(address=8), "not aligned to 16 bytes"),
])  # fmt: skip
def test_weights_that_it_does_not_know_are_refused(a_gpu, weight, reason):
    kernel, made = RowProducts(a_gpu, True, None), weight()
    assert reason in kernel.why_not(made) and bool(kernel.why_not(made)) == bool(reason)


def test_weights_with_other_codes_do_not_share_a_launch(a_gpu):
    kernel, one = RowProducts(a_gpu, True, None), nf4()
    assert kernel.goes_with(one, nf4())
    assert not kernel.goes_with(one, nf4(nested_code=torch.zeros(1)))
    assert not kernel.goes_with(one, nf4(nested_block_size=128)) and not kernel.goes_with(nf4((60, 128)), one)


@pytest.fixture(scope="module")
def on_gpu():
    kernels = {nested: RowProducts(torch.device("cuda", 0), nested, None) for nested in (False, True)}
    return lambda nested: kernels[nested]


@pytest.mark.gpu
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("shapes", [*SHAPES, *FALCONS], ids=str)
def test_every_number_of_rows_on_a_gpu(on_gpu, nested, shapes):
    weights = [weight_of(shape, nested, "cuda") for shape in shapes]
    wholes = [reference.dequantise(weight, torch.float32) for weight in weights]
    assert on_gpu(nested).goes_with(*weights)
    for num_rows in range(1, NF4_ROWS + 1):
        pairs = [(torch.randn(num_rows, weight.shape[1], device="cuda").bfloat16(), weight) for weight in weights]
        both = on_gpu(nested).products(pairs)
        for pair, whole, found in zip(pairs, wholes, both, strict=True):
            hold(found, *pair, whole)
            hold(on_gpu(nested).products([pair])[0], *pair, whole)
        for found, again in zip(both, on_gpu(nested).products(pairs), strict=True):
            assert torch.equal(found, again), "the same sums in the same order each time"


@pytest.mark.gpu
def test_recorded_launches_wait_for_those_before_them(on_gpu):
    """Each one's input is the output of the one before, in a graph where launches may start early."""
    kernel, weights = on_gpu(True), [weight_of(shape, True, "cuda") for shape in ((18176, 4544), (4544, 18176))]
    x = torch.randn(2, 4544, device="cuda").bfloat16()

    def chain():
        y = x
        for _ in range(30):
            (wide,) = kernel.products([(y, weights[0])])
            (y,) = kernel.products([(wide, weights[1])])
        return y

    expected = chain()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = chain()
    for _ in range(20):
        graph.replay()
        torch.cuda.synchronize()
        assert torch.equal(found, expected) and expected.isfinite().all()
