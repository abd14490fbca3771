"""The option --adapter of `falconer chat` and `falconer evaluate`: a folder inside a run, or one from elsewhere."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from falconer.errors import FalconerError
from falconer.launcher import count

if TYPE_CHECKING:
    from falconer.config import Config
    from falconer.jobs import Opened

Adapter = Annotated[
    str,
    typer.Option(
        "--adapter",
        metavar="FOLDER",
        help="The adapter's folder inside the run's; without --run also another folder, or OWNER/NAME on the hub.",
    ),
]
Data = Annotated[
    str | None, typer.Option("--data", metavar="FILE", help="Other test dialogues, the same as data.test=FILE.")
]


def open_chosen(context: typer.Context, run: Path, adapter: str, settings: Sequence[str]) -> "Opened":
    """Return the model to chat with, a run's or an adapter from elsewhere.

    Raises:
        FalconerError: there is no such adapter, or it can't be loaded.
    """
    if not _is_elsewhere(context, run, adapter):
        from falconer.config import for_chat
        from falconer.run.folder import read_config

        config = for_chat(read_config(run), settings)
        _quiet()
        from falconer import jobs

        return jobs.open_run(run, adapter, config)
    _quiet()
    from falconer import jobs
    from falconer.elsewhere import find

    found = find(adapter, settings)
    folder = found.folder
    opened = jobs.open_adapter(folder.parent, folder.name, found.config, found.format, is_whole=found.is_whole)
    return replace(opened, run=Path(adapter), notes=(*found.notes, *opened.notes))


def choose_run(
    context: typer.Context, run: Path, adapter: str, data: str | None, settings: Sequence[str]
) -> "tuple[Path, str, Config]":
    """Return the run to evaluate, its adapter's folder, and the configuration.

    For an adapter from elsewhere a run's folder is made: `run` if it was given, else runs/NAME.

    Raises:
        FalconerError: there is no such adapter, it needs dialogues, or a setting is not allowed.
    """
    from falconer.config import for_evaluation
    from falconer.run.folder import ADAPTER, is_inside, read_config

    is_elsewhere = _is_elsewhere(context, run, adapter)
    if not is_elsewhere and (data is None or is_inside(run, adapter)):
        more = [] if data is None else [f"data.test={data}"]
        return run, adapter, for_evaluation(read_config(run), [*settings, *more])
    if data is None:
        raise FalconerError(f"No dialogues are known to evaluate '{adapter}' on.", "Give them: --data FILE.")
    if count() > 1:
        # The run's folder would be made by all of them at the same time.
        raise FalconerError(
            f"'{adapter}' was trained elsewhere, and the launcher started {count()} processes to evaluate it.",
            "Start this command once without the launcher, with evaluate.max_dialogues=1 for example: that makes a "
            "run's folder. Then evaluate this run on all GPUs.",
        )
    _quiet()
    from falconer.elsewhere import find, make_run

    found = find(adapter, settings, ("evaluate.", "data.format", "data.on_bad_row"))
    run = make_run(found, data, None if is_elsewhere else run)
    return run, ADAPTER, read_config(run)


def _is_elsewhere(context: typer.Context, run: Path, adapter: str) -> bool:
    """Return whether an adapter outside of any run is meant: no --run was given, and the default one lacks it."""
    from falconer.run.folder import is_inside

    source = context.get_parameter_source("run")
    return source is not None and source.name == "DEFAULT" and not is_inside(run, adapter)


def _quiet() -> None:
    from falconer.runtime import quiet_libraries

    quiet_libraries()
