"""Training a run of a sweep and measuring it on its validation dialogues, in the process of this run."""

from pathlib import Path

from rich.console import Console

from falconer import jobs
from falconer.config import Config
from falconer.data.language import resolve
from falconer.evaluate.configured import choose_dialogues, measure
from falconer.evaluate.progress import show_progress
from falconer.run.folder import read_config
from falconer.run.state import state_of
from falconer.sweep.folder import write_measured
from falconer.train import setup
from falconer.train.loop import train

_TRAINED = ("finished", "stopped early")


def train_and_measure(sweep: Path, run: Path, config: Config | None, console: Console) -> bool:
    """Train a run, or what is missing of it, and measure it.

    Args:
        config: of a new run; None for one that was started before.

    Returns:
        Whether it is measured; False if it was interrupted, and can be continued.

    Raises:
        FalconerError: see `train.loop.train` and `measure_run`.
    """
    if config is not None:
        ended = train(config, run, resume=False, console=console).ended
    elif state_of(run).stage not in _TRAINED:
        ended = train(read_config(run), run, resume=True, console=console).ended
    else:
        ended = "finished"
    if ended != "interrupted":
        measure_run(sweep, run, console)
    return ended != "interrupted"


def measure_run(sweep: Path, run: Path, console: Console) -> None:
    """Measure a run's best adapter on its validation dialogues, with the settings of `evaluate`; its test split is not
    read.

    Args:
        sweep: where the result is written, under the name of the run's folder.

    Raises:
        FalconerError: the data has changed since the run was started, or the adapter is damaged.
    """
    config = read_config(run)
    splits, _ = setup.resume_dialogues(run, config)
    opened = jobs.open_run(run, config=config)
    settings = config.evaluate
    dialogues, notes = choose_dialogues(
        opened.encoder, splits.valid, settings, leave_out=config.data.on_bad_row == "skip"
    )
    for note in notes:
        console.print(f"note    {note}", markup=False, soft_wrap=True)
    language = resolve(settings.language, [d.turns[index].text for d in dialogues for index in d.replies])
    with show_progress(console) as on_progress:
        found = measure(settings, on_progress, opened.engine, "validation", dialogues)
    source = splits.sources["valid"]
    data = f"{len(dialogues):,} validation dialogues ({source['made']})"
    write_measured(sweep, run.name, found, data, language.code)
