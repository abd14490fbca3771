"""The public Python interface: the functions and classes of `falconer.__all__`, for notebooks and other programs.

Each function does what the command of the same name does, and raises `FalconerError` where the command would print an
error and exit; an argument of a wrong type is a `TypeError`. Paths may be strings or `pathlib.Path`. Progress and notes
are written to stderr, unless `quiet=True`.
"""

import math
import os
import sys
from collections.abc import Sequence
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from falconer import consoles
from falconer.config import Config, for_chat, for_evaluation, load
from falconer.decoding_limits import MOST_NGRAM
from falconer.errors import FalconerError
from falconer.records import Dialogue
from falconer.run.folder import ADAPTER, read_config
from falconer.talk import decoding

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
    return load(None if preset is None else os.fspath(_path("preset", preset)), _texts("overrides", overrides))


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

    name = _text("source", source) if isinstance(source, str) else os.fspath(_path("source", source))
    loaded = sources.load_dialogues(name, split=_text("split", split), format=_text("format", format))
    return list(loaded.dialogues)


def train_run(config: Config, run: AnyPath, *, resume: bool = False, quiet: bool = False) -> "TrainResult":
    """Train an adapter into the folder `run`.

    Args:
        config: from `load_config`.
        resume: continue an interrupted run from its last checkpoint.

    Returns:
        How it ended: `ended` is "finished", "early" or, after Ctrl-C or SIGTERM, "interrupted". The first Ctrl-C raises
        nothing: the current step is finished and a checkpoint is saved. A second one raises `KeyboardInterrupt`.

    Raises:
        FalconerError: the folder already contains a run, the data has no targets, there is not enough memory, ...
    """
    folder = _path("run", run)
    if not isinstance(config, Config):
        raise _wrong("config", "a Config, as load_config returns it", config)
    _quiet_libraries()
    from falconer.train.loop import train

    return train(config, folder, resume=resume, console=_console(quiet))


class Run:
    """A trained run with its model loaded, for evaluation and chat. Close it, or use it as a context manager.

    Attributes:
        folder: the folder of the run.
        config: its configuration, including the overrides that it was opened with.
        notes: what you should know before you use it.
    """

    def __init__(self, opened: "Opened") -> None:
        self._opened, self._is_closed = opened, False
        self.folder, self.config, self.notes = opened.run, opened.config, opened.notes

    def __enter__(self) -> "Run":
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Run '{self.folder}': {self.config.model.name}>"

    def close(self) -> None:
        """Free the caches of the model. The run can't be used any more."""
        self._is_closed = True
        self._opened.engine.close()

    def _check_open(self) -> None:
        if self._is_closed:
            raise FalconerError(f"{self!r} was closed.", f"Open it again: falconer.open_run('{self.folder}').")

    def evaluate(
        self, overrides: Sequence[str] = (), *, ablations: bool = False, decodings: bool = False, quiet: bool = False
    ) -> "Metrics":
        """Evaluate the base and the tuned model, and write predictions, metrics.json and the report into the folder.

        Args:
            overrides: `evaluate.*` keys, and `data.test=FILE` for other test dialogues.
            ablations: also evaluate the tuned model without persona, with a shuffled one, and without history.
            decodings: also compare the tuned model's replies under other decodings.

        Raises:
            FalconerError: a package or file that the evaluation needs is missing, or the data does not match the run.
        """
        self._check_open()
        config = for_evaluation(self.config, _texts("overrides", overrides))
        from falconer import jobs
        from falconer.files.locks import lock_run

        with lock_run(self.folder):
            return jobs.evaluate_run(self._opened, config, _console(quiet), ablations=ablations, decodings=decodings)

    def talk(
        self, persona: Sequence[str] = (), *, temperature: float = decoding.TEMPERATURE,
        repetition_penalty: float = decoding.REPETITION_PENALTY, top_p: float = decoding.TOP_P,
        min_p: float = decoding.MIN_P, no_repeat_ngram_size: int = decoding.NO_REPEAT_NGRAM_SIZE,
        max_new_tokens: int = decoding.MAX_NEW_TOKENS, seed: int = decoding.SEED,
    ) -> "Session":  # fmt: skip
        """Start a conversation with the tuned model: `Session.say` returns a reply, `Session.reply` streams it.

        Several conversations may be open at the same time; they do not affect each other.

        Args:
            persona: sentences about the speaker that the model plays.
            temperature: 0 selects greedy decoding.
            min_p: sample from tokens at least this share as likely as the most likely one.
            no_repeat_ngram_size: no sequence of so many tokens is said twice by the model in a conversation; 0: off.

        Raises:
            FalconerError: a number is out of its range, the run was closed, or the persona is so long that no tokens
                are left for a conversation.
        """
        self._check_open()
        persona = _texts("persona", persona)
        _number("temperature", temperature, 0)
        _number("repetition_penalty", repetition_penalty, sys.float_info.min)
        _number("top_p", top_p, 0)
        _number("min_p", min_p, 0, 1)
        _number("no_repeat_ngram_size", no_repeat_ngram_size, 0, MOST_NGRAM, is_whole=True)
        _number("max_new_tokens", max_new_tokens, 1, is_whole=True)
        _number("seed", seed, 0, is_whole=True)
        from falconer import jobs
        from falconer.model.engine import Decoding

        chosen = Decoding(
            max_new_tokens, temperature, top_p, repetition_penalty, seed, min_p=min_p,
            no_repeat_ngram_size=no_repeat_ngram_size, no_repeat_ngram_scope=decoding.NO_REPEAT_NGRAM_SCOPE,
        )  # fmt: skip
        return jobs.open_session(self._opened, list(persona), chosen)


def open_run(run: AnyPath, *, adapter: str = ADAPTER, overrides: Sequence[str] = ()) -> Run:
    """Load a run's base model and adapter.

    Args:
        run: the folder that training wrote.
        adapter: a folder inside the run: "adapter" (the best) or "checkpoints/last".
        overrides: `model.device=...`, `model.dtype=...` or `model.path=...`, if they should differ from training.

    Raises:
        FalconerError: the folder contains no run, or its adapter is missing or damaged.
    """
    folder = _path("run", run)
    config = for_chat(read_config(folder), _texts("overrides", overrides))
    _quiet_libraries()
    from falconer import jobs

    return Run(jobs.open_run(folder, _text("adapter", adapter), config))


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
        _path("predictions", predictions),
        None if reference is None else _path("reference", reference),
        None if against is None else _path("against", against),
        language=_text("language", language),
    )


def compare(*systems: AnyPath, reference: AnyPath | None = None, language: str = "auto") -> "Comparison":
    """Test runs or predictions files against the first one, by paired bootstrap with Holm's correction.

    Raises:
        FalconerError: there are fewer than two systems, or they replied to different turns.
    """
    from falconer.evaluate.text.compare import comparison, read_systems

    paths = [_path("each system", system) for system in systems]
    gold = None if reference is None else _path("reference", reference)
    return comparison(read_systems(paths, gold, _text("language", language)))


def _path(name: str, value: object) -> Path:
    """Return a path that a user gave; an empty one is none, though `Path("")` is the current folder."""
    if not isinstance(value, str | PathLike) or not isinstance(path := os.fspath(value), str):
        raise _wrong(name, "a path, as text or pathlib.Path", value)
    if not path:
        raise FalconerError(f"{name} is an empty path.", "Give the name of a file or folder.")
    return Path(path)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong(name, "text", value)
    return value


def _texts(name: str, value: object) -> list[str]:
    """Return a list of texts; one text alone would be taken for a list of its letters."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise _wrong(name, "a list of texts", value)
    return [_text(f"{name}[{i}]", one) for i, one in enumerate(value)]


def _number(name: str, value: Any, least: float, most: float = math.inf, *, is_whole: bool = False) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral if is_whole else Real):
        raise _wrong(name, "a whole number" if is_whole else "a number", value)
    number: Any = value
    if not least <= number <= most or number == math.inf:
        allowed = f"{least} or more" if least in (0, 1) else "above 0"
        allowed = f"{least} to {most}" if most < math.inf else allowed
        raise FalconerError(f"{name}={number} is not allowed.", f"Give a number that is {allowed}.")


def _wrong(name: str, wanted: str, value: object) -> TypeError:
    return TypeError(f"{name} must be {wanted}, not {type(value).__name__}: {repr(value)[:60]}")


def _console(quiet: bool) -> "Console":
    console = consoles.stderr()
    console.quiet = quiet
    return console


def _quiet_libraries() -> None:
    from falconer.runtime import quiet_libraries

    quiet_libraries()
