from pathlib import Path

import pytest

from exported import LINEAR
from tiny import save_tiny_model


@pytest.fixture(scope="session")
def tiny_bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny Falcon (tied), GPT-2 (tied, Conv1D) and Llama (untied)."""
    root = tmp_path_factory.mktemp("bases")
    return {name: save_tiny_model(root / name, name) for name in LINEAR}
