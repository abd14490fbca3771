"""The training loop: setting up, resuming, interrupting and finishing a run."""

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from falconer import runtime
from falconer.config import Config
from falconer.consoles import counted
from falconer.data.prompt import PromptFormat
from falconer.data.recorded import pack
from falconer.data.splits import Splits
from falconer.errors import FalconerError
from falconer.files.disk_errors import explain_disk_errors
from falconer.files.locks import lock_run
from falconer.files.room import check_room
from falconer.model.base_files import hashed_base, same_base
from falconer.model.load import load_model
from falconer.model.tokenizer import set_template
from falconer.run.folder import LAST, PAIRS, read_record, write_config, write_run
from falconer.run.pairs import read_pairs
from falconer.run.state import How, training, write_training
from falconer.train import ranks as processes
from falconer.train import setup
from falconer.train.announce import run_record, say_what_runs
from falconer.train.checkpoint import Progress, load_checkpoint
from falconer.train.job import Job, Materials
from falconer.train.objectives.lm import LmObjective
from falconer.train.objectives.objective import Objective
from falconer.train.objectives.ranking import RankedSplit, RankingObjective
from falconer.train.prefer import begin_preference, pair_materials
from falconer.train.ranks import Ranks
from falconer.train.recorder import Recorder
from falconer.train.resumable import check_resumable


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended: "finished", "early" (no better validation loss) or "interrupted" (it can be resumed)."""

    run: Path
    ended: How
    progress: Progress
    num_steps: int

    @property
    def ending(self) -> str:
        """A sentence on how the run ended, for a run that was not interrupted."""
        steps, best = (
            counted(self.progress.step, "step"),
            f"{self.progress.best_loss:.4f} at step {self.progress.best_step}",
        )
        if self.ended == "early":
            return f"Stopped early after {steps}: no better validation loss than {best}."
        return f"Done after {steps}: best validation loss {best}."


@dataclass(frozen=True, slots=True)
class PreferenceStart:
    """What a new preference training begins with.

    Args:
        splits: of the run whose adapter it starts from.
        format: of that run's prompts.
        write_pairs: writes pairs.jsonl into a folder, and returns the splits, with what training will have seen of
            them, and notes. Called on the first rank only.
    """

    splits: Splits
    format: PromptFormat
    write_pairs: Callable[[Path], tuple[Splits, tuple[str, ...]]]


def train(
    config: Config, run: Path, *, resume: bool, console: Console, start: PreferenceStart | None = None
) -> TrainResult:
    """Train an adapter; all files are written into the folder `run`.

    Args:
        start: of a new preference training; one that is resumed has all it needs in its folder.
        resume: continue from the last checkpoint; on a CPU the result is bit for bit that of an uninterrupted run.
        console: for progress and notes.

    Raises:
        FalconerError: a mistake that the user can correct, or a non-finite loss after the checkpoint was saved.
    """
    ranks = Ranks(runtime.pick_device(config.model.device))
    console.quiet = console.quiet or not ranks.is_first
    with lock_run(run) if ranks.is_first else nullcontext():
        return _train(config, run, ranks, resume, console, start)


def _train(
    config: Config, run: Path, ranks: Ranks, resume: bool, console: Console, start: PreferenceStart | None
) -> TrainResult:
    if config.prefer.pairs and not resume and start is None:
        raise FalconerError(
            "prefer.pairs is set, but pairs of replies are built by another command.",
            "Run: falconer prefer --run RUN --out FOLDER, or set prefer.pairs=null.",
        )
    if ranks.is_first:
        setup.check_packages()
        setup.check_run(run, config, resume)
        if resume:
            for line in check_resumable(run, config.train.save_every):
                console.print(line, markup=False, soft_wrap=True)
    notes: tuple[str, ...] = ()
    if start is None:
        splits, moved = _dialogues(config, run, ranks, resume)
    else:
        splits, moved = start.splits, []
        if ranks.is_first:
            splits, notes = start.write_pairs(run)
        ranks.wait()
    format = start.format if start else None
    job = Job(config, run, ranks, _materials(config, run, splits, resume, ranks.is_first, format), console)
    for line in moved:
        console.print(f"data    {line}", markup=False, soft_wrap=True)
    if moved and ranks.is_first:
        write_config(run, config)
    if ranks.is_first:
        check_room(run, job.file_sizes(), "A checkpoint")
    before = read_record(run) if resume and ranks.is_first else {}
    files = _base_files(config, before) if ranks.is_first else {}
    if config.prefer.pairs:
        begin_preference(job, before, files)
    if resume:
        _go_on(job)
    elif ranks.is_first:
        record = run_record(job, splits, notes) | {"base_files": files}
        write_run(run, config, record, pack(splits), [PAIRS] if config.prefer.pairs else [])
        say_what_runs(job, record, splits, console)
    ended = _do_steps(job)
    ranks.wait()
    processes.close()
    return TrainResult(run, ended, job.progress, len(job.plan))


def _base_files(config: Config, record: Mapping[str, Any]) -> Mapping[str, str]:
    """Return the hashes of the base model's files, which the record of a run that is resumed has."""
    if record:
        return record.get("base_files") or {}
    with hashed_base(config.model.name, config.model.revision) as files:
        return files.hashes()


def _dialogues(config: Config, run: Path, ranks: Ranks, resume: bool) -> tuple[Splits, list[str]]:
    """Load the dialogues.

    Returns:
        The splits, and a sentence for each file that has moved since the run was started.
    """
    if not resume:
        return setup.load_dialogues(config), []
    splits, moved = setup.resume_dialogues(run, config)
    ranks.wait()  # until the first rank has restored the run's folders
    return splits, moved


def _materials(
    config: Config, run: Path, splits: Splits, resume: bool, is_first: bool, format: PromptFormat | None
) -> Materials:
    """Load the base model and encode the dialogues, or pairs, in the run's prompt format.

    Args:
        format: where it is known already.
    """
    model = config.model
    # All ranks load the same files.
    with same_base(read_record(run) if resume and is_first else {}, model.name, model.revision):
        base = load_model(
            model.name, revision=model.revision, quantization=model.quantization, dtype=model.dtype, device=model.device
        )
    if resume:
        format = setup.recorded_format(run, config)
    elif format is None:
        format = setup.continued_format(setup.prompt_format(splits, base.bos), config.lora.init_adapter)
    set_template(base.tokenizer, format.bos)
    if config.prefer.pairs:
        return pair_materials(base, read_pairs(run), config, format)
    examples = setup.encode_splits(splits, base, config, format)
    return Materials(base, examples, _objective(examples, config, base.end_id), format)


def _objective(examples: setup.Examples, config: Config, pad_id: int) -> Objective:
    """Return what is learned from dialogues."""
    if examples.distractors is None or examples.valid_distractors is None:
        return LmObjective(examples.train, examples.valid, pad_id)
    train = RankedSplit(examples.train, examples.distractors)
    return RankingObjective(train, RankedSplit(examples.valid, examples.valid_distractors), config.ranking, pad_id)


def _go_on(job: Job) -> None:
    """Restore the last checkpoint; see `resumable` for a run that has none."""
    if (job.run / LAST).is_dir():
        job.progress = load_checkpoint(job.run / LAST, job.model, job.optimizer)
        if job.progress.step > len(job.plan):
            raise FalconerError(
                f"The checkpoint in '{job.run / LAST}' is damaged: it is of step {job.progress.step}, but the run has "
                f"{counted(len(job.plan), 'step')}.",
                "Copy an undamaged checkpoint into its place, or start a new run with another --run.",
            )
    else:
        job.console.print(f"'{job.run}' has no checkpoint yet, so it starts again from the first step.", soft_wrap=True)


def _do_steps(job: Job) -> How:
    """Do the remaining steps of the plan; return how it ended, see `TrainResult`."""
    job.model.train()
    ended: How = "early" if job.is_stale else "finished"
    run, is_first = job.run, job.ranks.is_first
    with (
        explain_disk_errors(run), training(run, is_first),
        Recorder(run, len(job.plan), job.progress.step, is_first, job.console) as recorder,
        _interruptible(job.console) as interrupt,
    ):  # fmt: skip
        # A killed process may have saved its last checkpoint, and not drawn the curve.
        job.draw()
        while not job.is_done and ended == "finished":
            recorder.step(job.step())
            if job.is_done or job.progress.step % job.validate_every == 0:
                job.validate(recorder)
                if job.is_stale:
                    ended = "early"
            if job.ranks.any(interrupt.is_set):
                ended = "interrupted"
            if job.is_done or ended != "finished" or job.progress.step % job.save_every == 0:
                job.save()
        job.draw()
        if is_first:
            done = job.progress
            write_training(run, ended, done.step, len(job.plan), done.best_loss, done.best_step)
    return ended


class _Interrupt:
    def __init__(self, console: Console) -> None:
        self.is_set = False
        self._console = console

    def __call__(self, number: int, frame: Any) -> None:
        # The first signal stops the run after the current step, a second one immediately.
        self.is_set = True
        if number == signal.SIGHUP:
            # The terminal is gone: printing would fail. Shell and kernel both send this signal.
            self._console.quiet = True
            signal.signal(number, signal.SIG_IGN)
        else:
            signal.signal(number, signal.default_int_handler)


@contextmanager
def _interruptible(console: Console) -> Iterator[_Interrupt]:
    interrupt = _Interrupt(console)
    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # by nohup
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
