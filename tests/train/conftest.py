"""One small world for all runs here, and one thread: tiny products are slower on more, and sums keep their order."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from transformers.utils import logging

from falconer import cli
from small_runs import Small


@pytest.fixture(autouse=True, scope="module")
def one_quiet_thread() -> Iterator[None]:
    threads, verbosity = torch.get_num_threads(), logging.get_verbosity()
    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    yield
    torch.set_num_threads(threads)
    logging.set_verbosity(verbosity)
    logging.enable_progress_bar()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def finished(small: Small, one_quiet_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that ended well; look, but write nothing into it."""
    run = tmp_path_factory.mktemp("finished") / "run"
    small.run(run)
    return run


Falconer = Callable[..., tuple[int, str]]


@pytest.fixture
def falconer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Falconer:
    """The command line in this process: arguments -> (exit code, what it printed to stderr)."""

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["falconer", *arguments])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        return int(exit.value.code or 0), capsys.readouterr().err

    return run
