"""A command that takes settings as section.key=value."""

from typing import Any

from typer.core import TyperCommand

from falconer.errors import FalconerError
from falconer.wrong_settings import as_setting


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
