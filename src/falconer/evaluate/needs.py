"""Checks before an evaluation starts: are its packages and files there, and can its results be written?"""

import os
from importlib.util import find_spec
from pathlib import Path

from falconer.data.language import resolve
from falconer.errors import FalconerError
from falconer.files.replace import recover_folder
from falconer.files.room import check_room
from falconer.run.folder import ADAPTER, LAST, read_steps
from falconer.run.state import best_loss, read_training

# What is imported, and what pip calls it. Each is loaded where it is used, most of them after the replies are there.
_PACKAGES = (
    ("sacrebleu", "sacrebleu"), ("rouge_score", "rouge-score"), ("nltk", "nltk"), ("py3langid", "py3langid"),
    ("jinja2", "jinja2"),
)  # fmt: skip

# Those of 240 replies of a quickstart took 1 MB; with ablations, there are five predictions files in place of two.
_RESULTS = 16 * 2**20


def check_packages() -> None:
    """Refuse to evaluate where a package is missing, or is there and can't be loaded.

    Raises:
        FalconerError: naming all that are missing, and what to type.
    """
    missing = [name for module, name in _PACKAGES if find_spec(module) is None]
    if missing:
        word, verb = ("package", "is") if len(missing) == 1 else ("packages", "are")
        raise FalconerError(
            f"An evaluation needs the {word} {', '.join(missing)}, which {verb} not installed.",
            f"Run: pip install {' '.join(missing)}",
        )
    try:
        # One that is there may lack what it needs itself, or be broken.
        import jinja2  # noqa: F401
        import nltk  # noqa: F401
        import py3langid  # noqa: F401
        import rouge_score.rouge_scorer  # noqa: F401
        import sacrebleu  # noqa: F401
    except ImportError as error:
        raise FalconerError(
            f"A package that an evaluation needs can't be loaded: {error}.",
            f"Run: pip install --force-reinstall {' '.join(name for _, name in _PACKAGES)}",
        ) from error


def check_needs(run: Path, adapter: str, nli_model: str | None, language: str) -> None:
    """Refuse what would stop an evaluation of a run later: packages, adapter, NLI model, language, the folder itself.

    Args:
        adapter: its folder in the run.
        nli_model, language: as `evaluate.nli_model` and `evaluate.language`.

    Raises:
        FalconerError: naming what is missing, and what to type.
    """
    check_packages()
    resolve(language, [])
    check_adapter(run, adapter)
    if not os.access(run, os.W_OK):
        raise FalconerError(
            f"'{run}' is not writable, and an evaluation writes its figures and its report there.",
            "Copy the run to a folder that you can write to, and pass that with --run.",
        )
    check_room(run, [_RESULTS], "An evaluation")
    if nli_model:
        from falconer.model.nli import check_nli

        check_nli(Path(nli_model))


def check_adapter(run: Path, adapter: str) -> None:
    """Refuse an adapter's folder that a run does not have.

    Raises:
        FalconerError: it has none of that name, none yet, or none any more; the message says what can be used.
    """
    recover_folder(run / adapter)
    if (run / adapter).is_dir():
        return
    if adapter not in (ADAPTER, LAST):
        raise FalconerError(f"'{run}' has no folder '{adapter}'.", f"Use {ADAPTER} (the best) or {LAST} (the last).")
    other = LAST if adapter == ADAPTER else ADAPTER
    instead = f", or use the {'last checkpoint' if other == LAST else 'best adapter'} with --adapter {other}"
    instead = instead if (run / other).is_dir() else ""
    if _was_written(run, adapter):
        raise FalconerError(
            f"'{run}' has no '{adapter}' any more: training wrote this folder, and it has been removed.",
            f"Restore the folder from a copy{instead or ', or train another run'}.",
        )
    raise FalconerError(
        f"'{run}' has no '{adapter}' yet: its training has not reached the first "
        f"{'validation' if adapter == ADAPTER else 'checkpoint'}.",
        f"Continue training: falconer train --run {run} --resume{instead}.",
    )


def _was_written(run: Path, adapter: str) -> bool:
    """Return whether a run's training has come so far that it wrote an adapter's folder."""
    written = read_training(run)
    has_ended = written is not None and written.how in ("finished", "early")
    return has_ended or (adapter == ADAPTER and best_loss(read_steps(run))[1] > 0)
