"""The arguments that several commands have: settings as section.key=value, a preset, the run, JSON, resamples."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from falconer.errors import FalconerError
from falconer.wrong_settings import as_setting

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Settings, e.g. train.epochs=2; falconer train --keys lists them.", show_default=False
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings, e.g. evaluate.max_replies=100.", show_default=False),
]
ComputedHow = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings, e.g. model.path=generic.", show_default=False),
]
Run = Annotated[Path, typer.Option("--run", metavar="FOLDER", help="The run's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Resamples = Annotated[
    int,
    typer.Option(
        "--resamples",
        min=100,
        metavar="N",
        help="Number of bootstrap resamples of the dialogues; many tests take more.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="quickstart, falcon-7b, falcon-7b-all-linear, any-causal-lm, or a YAML file of your own.",
    ),
]


class WithSettings(TyperCommand):
    """A command that takes section.key=value; an option such as --epochs is told how to be written."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        from falconer.config import all_keys

        known = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        names = [argument.partition("=")[0] for argument in args if argument.startswith("--")]
        for name in names:
            if name not in known and (hint := as_setting(name, all_keys())):
                raise FalconerError(f"There is no option {name}.", hint)
        return super().parse_args(ctx, args)
