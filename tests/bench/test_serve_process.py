"""Does a server process say what is wrong with its setting, and end when the benchmark does?"""

from pathlib import Path

import pytest

from falconer.bench.serve_process import ServerProcess, Setting
from falconer.errors import FalconerError


def test_what_can_not_be_served_is_said(tmp_path: Path) -> None:
    setting = Setting(None, None, tmp_path, "nf4", num_slots=2)
    with pytest.raises(FalconerError, match="config.yaml") as caught, ServerProcess(setting) as server:
        server.serve()
    assert str(tmp_path) in str(caught.value) and not server.is_alive
