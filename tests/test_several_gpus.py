"""docs/several-gpus.md: its commands exist, for falconer and for torchrun."""

import shlex

import pytest
from torch.distributed.run import parse_args

from documented import ROOT, check_parses, check_settings, commands, falconer_commands

TEXT = (ROOT / "docs" / "several-gpus.md").read_text(encoding="utf-8")
COMMANDS = commands(TEXT)


def test_every_command_starts_falconer_by_torchrun() -> None:
    assert len(COMMANDS) == len(falconer_commands(TEXT)) == 6
    assert all(command.startswith("torchrun ") for command in COMMANDS)


@pytest.mark.parametrize("command", falconer_commands(TEXT))
def test_each_command_exists(command: str) -> None:
    check_parses(command)
    check_settings(command)


@pytest.mark.parametrize("command", COMMANDS)
def test_torchrun_reads_each_command(command: str) -> None:
    words = shlex.split(command)[1:]
    given = parse_args(words)
    assert given.module and given.training_script == "falconer"
    assert given.training_script_args == words[words.index("falconer") + 1 :]
    # It ignores a node's number where nodes number themselves.
    assert given.rdzv_backend == "static" or "--node-rank" not in words


def test_without_the_dashes_torchrun_takes_run_for_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_args(shlex.split(COMMANDS[0].replace("-- ", "")))
    assert "ambiguous option: --run" in capsys.readouterr().err
