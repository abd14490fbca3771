"""An option that is a setting's name is told how it is written; options of the command and values pass."""

from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from falconer.errors import FalconerError
from falconer.setting_options import WithSettings

app = typer.Typer()


@app.command(cls=WithSettings)
def command(settings: list[str] | None = None, run: Annotated[str, typer.Option("--run")] = "runs/x") -> None:
    print(run)


@pytest.mark.parametrize("option", ["--epochs", "--epochs=2", "--lr", "--learning-rate"])
def test_an_option_that_is_a_setting(option: str) -> None:
    result = CliRunner().invoke(app, [option, "2"])
    assert isinstance(result.exception, FalconerError)
    assert f"There is no option {option.partition('=')[0]}. Settings are given as" in str(result.exception)


def test_options_of_the_command_pass_and_others_are_refused_as_usual() -> None:
    assert CliRunner().invoke(app, ["--run", "runs/y"]).output == "runs/y\n"
    result = CliRunner().invoke(app, ["--xyzzy", "2"])
    assert result.exit_code == 2 and "No such option" in result.output
