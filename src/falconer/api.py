"""The public Python interface: the functions and classes of `falconer.__all__`, for notebooks and other programs.

Each function does what the command of the same name does, and raises `FalconerError` where the command would print an
error and exit. Paths may be strings or `pathlib.Path`. Progress and notes are written to stderr, unless `quiet=True`.
"""

from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from falconer import consoles
from falconer.config import Config, for_chat, for_evaluation, load
from falconer.records import Dialogue
from falconer.run.folder import ADAPTER, read_config

if TYPE_CHECKING:
    from rich.console import Console

    from falconer.evaluate.text.compare import Comparison
    from falconer.evaluate.text.score import FileScore
    from falconer.jobs import Opened
    from falconer.run.metrics import Metrics
    from falconer.talk.session import Session
    from falconer.train.loop import TrainResult

AnyPath = str | PathLike[str]


def load_config(preset: AnyPath | None = None, overrides: Sequence[str] = ()) -> Config:
    """Return a configuration: the defaults, then a preset, then overrides.

    Args:
        preset: "quickstart", "falcon-7b", "falcon-7b-all-linear", "any-causal-lm", or the path of a YAML file.
        overrides: `section.key=value`; docs/keys.md lists every key.

    Raises:
        FalconerError: an unknown preset, section or key, or a value that is not allowed.
    """
    return load(str(preset) if preset is not None else None, overrides)


def load_dialogues(
    source: AnyPath = "persona-chat-sample", *, split: str = "train", format: str = "auto"
) -> list[Dialogue]:
    """Return the dialogues of one split, whatever the format of the data.

    Args:
        source: a file, a hub data set ("owner/name"), or "persona-chat-sample", which is embedded.
        split: "train", "validation" or "test", if the source has several splits.
        format: the name of a format; "auto" recognises it from the content.

    Raises:
        FalconerError: there is no such source or split, or a row can't be read.
    """
    from falconer.data import sources

    return list(sources.load_dialogues(str(source), split=split, format=format).dialogues)


def train_run(config: Config, run: AnyPath, *, resume: bool = False, quiet: bool = False) -> "TrainResult":
    """Train an adapter into the folder `run`.

    Args:
        config: from `load_config`.
        resume: continue an interrupted run from its last checkpoint.

    Raises:
        FalconerError: the folder already contains a run, the data has no targets, there is not enough memory, ...
    """
    _quiet_libraries()
    from falconer.train.loop import train

    return train(config, Path(run), resume=resume, console=_console(quiet))


class Run:
    """A trained run with its model loaded, for evaluation and chat. Close it, or use it as a context manager.

    Attributes:
        folder: the folder of the run.
        config: its configuration, including the overrides that it was opened with.
        notes: what you should know before you use it.
    """

    def __init__(self, opened: "Opened") -> None:
        self._opened = opened
        self.folder, self.config, self.notes = opened.run, opened.config, opened.notes

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Run '{self.folder}': {self.config.model.name}>"

    def close(self) -> None:
        """Free the caches of the model. The run can't be used any more."""
        self._opened.engine.close()

    def evaluate(self, overrides: Sequence[str] = (), *, ablations: bool = False, quiet: bool = False) -> "Metrics":
        """Evaluate the base and the tuned model, and write predictions, metrics.json and the report into the folder.

        Args:
            overrides: `evaluate.*` keys, and `data.test=FILE` for other test dialogues.
            ablations: also evaluate the tuned model without persona, with another dialogue's persona, and without history.

        Raises:
            FalconerError: a package or file that the evaluation needs is missing, or the data does not match the run.
        """
        config = for_evaluation(self.config, overrides)
        from falconer import jobs
        from falconer.files.locks import lock_run

        with lock_run(self.folder):
            return jobs.evaluate_run(self._opened, config, _console(quiet), ablations=ablations)

    def talk(
        self, persona: Sequence[str] = (), *, temperature: float = 0.7, repetition_penalty: float = 1.1,
        max_new_tokens: int = 64, seed: int = 17,
    ) -> "Session":  # fmt: skip
        """Start a conversation with the tuned model: `Session.say` returns a reply, `Session.reply` streams it.

        Several conversations may be open at the same time; they do not affect each other.

        Args:
            persona: sentences about the speaker that the model plays.
            temperature: 0 selects greedy decoding.

        Raises:
            FalconerError: the persona is so long that no tokens are left for a conversation.
        """
        from falconer import jobs
        from falconer.model.engine import Decoding

        decoding = Decoding(
            max_new_tokens=max_new_tokens, temperature=temperature, repetition_penalty=repetition_penalty, seed=seed
        )
        return jobs.open_session(self._opened, list(persona), decoding)


def open_run(run: AnyPath, *, adapter: str = ADAPTER, overrides: Sequence[str] = ()) -> Run:
    """Load a run's base model and adapter.

    Args:
        run: the folder that training wrote.
        adapter: a folder inside the run: "adapter" (the best) or "checkpoints/last".
        overrides: `model.device=...`, `model.dtype=...` or `model.path=...`, if they should differ from training.

    Raises:
        FalconerError: the folder contains no run, or its adapter is missing or damaged.
    """
    config = for_chat(read_config(Path(run)), overrides)
    _quiet_libraries()
    from falconer import jobs

    return Run(jobs.open_run(Path(run), adapter, config))


def score(
    predictions: AnyPath, reference: AnyPath | None = None, *, against: AnyPath | None = None, language: str = "auto"
) -> "FileScore":
    """Score a predictions file of any system; no model is needed.

    Args:
        predictions: JSON Lines, JSON, TSV or CSV with the fields "prediction" and "reference", or one reply per line.
        reference: a file with the gold replies, if the predictions file has none.
        against: another predictions file, for a paired test.

    Raises:
        FalconerError: a file can't be read, or the files contain replies to different turns.
    """
    from falconer.evaluate.text.score import score_file

    return score_file(
        Path(predictions), Path(reference) if reference else None, Path(against) if against else None, language=language
    )


def compare(*systems: AnyPath, reference: AnyPath | None = None, language: str = "auto") -> "Comparison":
    """Test runs or predictions files against the first one, by paired bootstrap with Holm's correction.

    Raises:
        FalconerError: there are fewer than two systems, or they replied to different turns.
    """
    from falconer.evaluate.text.compare import comparison, read_systems

    return comparison(
        read_systems([Path(system) for system in systems], Path(reference) if reference else None, language)
    )


def _console(quiet: bool) -> "Console":
    console = consoles.stderr()
    console.quiet = quiet
    return console


def _quiet_libraries() -> None:
    from falconer.runtime import quiet_libraries

    quiet_libraries()
