"""What holds for every test: no network, no GPU unless asked for, no window, the same random numbers each time."""

import os
import random
import shutil
import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Before any test module imports a library that reads them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["MPLBACKEND"] = "Agg"
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
# Processes that share the tests must not each use all cores.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# Triton looks at it when it is imported, which other folders' conftest.py may do before pytest has read its options.
os.environ["TRITON_INTERPRET"] = "0" if "gpu" in sys.argv else "1"

# No deadline: the first example of a test pays for imports. In CI the same examples each time, so that a red run can be
# repeated; elsewhere new ones.
settings.register_profile("falconer", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("falconer")

SEED = 17


def chromium_path() -> str | None:
    """Return the path of a Chromium or Chrome that can run headless, if this machine has one."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((path for name in names if (path := shutil.which(name))), None)


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("markexpr") != "gpu":
        # The default suite is the CPU's, on every machine: automatic device choice must not change what it tests.
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_report_header(config: pytest.Config) -> str:
    return f"browser tests: {chromium_path() or 'left out, no Chromium here'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if chromium_path() is None:
        left_out = [item for item in items if item.get_closest_marker("browser")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a headless Chromium, for tests marked `browser`."""
    path = chromium_path()
    assert path is not None, "only tests marked `browser` may ask for Chromium"
    return path


@pytest.fixture(autouse=True)
def same_random_numbers() -> Iterator[None]:
    """Seed what the test's libraries draw from, so that no test depends on those that ran before it."""
    random.seed(SEED)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(SEED)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(SEED)
    yield


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Products as small as a tiny model's are slower on more than one."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
