"""The files of a base model: their SHA-256, recorded when a training starts, compared whenever its adapter is used."""

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from falconer.errors import FalconerError
from falconer.model.tokenizer import resolve

# What is read of a model's folder: weights, their index, configuration, tokenizer.
_PATTERNS = (
    "*.safetensors", "*.safetensors.index.json", "config.json", "tokenizer*.json", "tokenizer.model", "vocab.json",
    "vocab.txt", "merges.txt", "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
_MAX_THREADS = 8
_PIECE = 2**22


class BaseFiles:
    """The hashes of a base model's files, computed by threads while the model is loaded."""

    def __init__(self, pool: ThreadPoolExecutor, name: str, revision: str | None) -> None:
        self._pool, self._name, self._revision = pool, name, revision
        self._running: dict[str, Future[str]] = {}
        self._is_over = threading.Event()
        self.start()

    def start(self) -> None:
        """Start with the files that are on this machine; before a download there are none."""
        folder = _folder(self._name, self._revision)
        if folder and not self._running:
            files = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()})
            self._running = {path.name: self._pool.submit(self._sha256, path) for path in files}

    def stop(self) -> None:
        """Let the threads end soon; their hashes are not wanted."""
        self._is_over.set()

    def hashes(self) -> dict[str, str]:
        """Return the hashes by file name."""
        self.start()
        return {name: one.result() for name, one in self._running.items()}

    def check(self, recorded: Mapping[str, str]) -> None:
        """Compare the files with those that a run was trained with.

        Raises:
            FalconerError: one is missing, new, or has other content; the message names it.
        """
        found = self.hashes()
        if not found:  # the model could not be loaded, and the error of that says why
            return
        changed = sorted(name for name in found.keys() | recorded.keys() if found.get(name) != recorded.get(name))
        if not changed:
            return
        name, more = changed[0], len(changed) - 1
        how = "is missing" if name not in found else "was added" if name not in recorded else "has another hash"
        others = f" (and {more} more)" if more else ""
        raise FalconerError(
            f"The base model '{self._name}' has changed since this run was trained: {name} {how}{others}.",
            "Restore its files, or train again: the adapter belongs to the base that it was trained on.",
        )

    def _sha256(self, path: Path) -> str:
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                if self._is_over.is_set():
                    raise CancelledError
                digest.update(piece)
        return digest.hexdigest()


@contextmanager
def hashed_base(name: str, revision: str | None) -> Iterator[BaseFiles]:
    """Hash the files of a base model while it is loaded inside this context; Ctrl-C does not wait for the hashes."""
    with ThreadPoolExecutor(_MAX_THREADS) as pool:
        files = BaseFiles(pool, name, revision)
        try:
            yield files
        finally:
            files.stop()


@contextmanager
def same_base(record: Mapping[str, Any], name: str, revision: str | None) -> Iterator[None]:
    """Load a run's base model inside this context, which checks that it is the one that the run was trained with.

    Args:
        record: the run's run.json; those of older versions have no hashes, and nothing is checked.

    Raises:
        FalconerError: see `BaseFiles.check`. It replaces an error of loading, since a changed file explains that.
    """
    recorded = record.get("base_files")
    if not isinstance(recorded, dict):
        yield
        return
    with hashed_base(name, revision) as files:
        try:
            yield
        except Exception:
            files.check(recorded)
            raise
        files.check(recorded)


def _folder(name: str, revision: str | None) -> Path | None:
    """Return the local folder of a model, for one of the hub in its cache; None before it was downloaded."""
    path = Path(resolve(name))
    if os.path.isdir(path):
        return path
    try:
        config = try_to_load_from_cache(str(path), "config.json", revision=revision)
    except ValueError:  # the name is not one that the hub allows
        return None
    return Path(config).parent if isinstance(config, str) else None
