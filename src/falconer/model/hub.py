"""The Hugging Face hub: names of repositories, adapters downloaded from it, and its errors in one sentence."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx2
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from falconer import runtime
from falconer.errors import FalconerError

# The hub's own rule, of which `huggingface_hub` checks the same.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
# What an adapter's folder may hold that is of use here; pickled weights are never loaded.
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
_FILES = (*_ADAPTER, "config.json", "falconer.json", "tokenizer*.json", "*.jinja")
# What a token looks like. None is ever passed to a message, but a library's error may quote a header.
TOKEN = re.compile(r"\b(?:hf|api_org)_[A-Za-z0-9]{16,}")
_LOG_IN = "Log in with hf auth login, or set HF_TOKEN to a token from https://huggingface.co/settings/tokens."


class Repository(NamedTuple):
    """A repository of the hub, and a branch, tag or commit of it; None: the default branch."""

    name: str
    revision: str | None = None


def as_repository(text: str) -> Repository | None:
    """Return what OWNER/NAME or OWNER/NAME@REVISION names; None if the text has another form."""
    name, _, revision = text.partition("@")
    return Repository(name, revision or None) if is_repository(name) else None


def is_repository(name: str) -> bool:
    """Return whether a text has the form OWNER/NAME."""
    return _NAME.fullmatch(name) is not None and ".." not in name and "--" not in name


def find_adapter(given: str) -> Path:
    """Return the folder of an adapter, see `find_folder`.

    Raises:
        FalconerError: see `find_folder`; or the repository contains no LoRA in safetensors.
    """
    folder = find_folder(given)
    missing = next((name for name in _ADAPTER if not (folder / name).is_file()), None)
    if missing and not os.path.isdir(given):
        raise FalconerError(
            f"'{given}' on the hub contains no adapter that can be loaded: it has no {missing}.",
            "Give the name of a LoRA in safetensors; weights that are pickled (.bin) are never loaded.",
        )
    return folder


def find_folder(given: str) -> Path:
    """Return a folder with an adapter, or with a model's small files: the given one, or that of a hub repository.

    Args:
        given: a folder, or OWNER/NAME, or OWNER/NAME@REVISION. A folder of that name takes precedence.

    Raises:
        FalconerError: there is neither, or the hub can't be reached.
    """
    if os.path.isdir(given):
        return Path(given)
    repository = as_repository(given)
    if repository is None:
        raise FalconerError(
            f"There is no folder '{given}', and it is not a name on the hub.",
            "Give an adapter's folder, or OWNER/NAME as on huggingface.co.",
        )
    with _beside_no_folder(given), explain_hub(repository.name):
        return _download(repository)


def _download(repository: Repository) -> Path:
    """Return the folder of a repository's files; what was downloaded before is used if the hub can't be reached."""
    for is_local in (False, False, True):
        try:
            return Path(
                snapshot_download(
                    repository.name,
                    revision=repository.revision,
                    allow_patterns=list(_FILES),
                    local_files_only=is_local,
                )
            )
        except (HfHubHTTPError, httpx2.HTTPError) as error:
            status = status_of(error)
            if status is not None and status < 500:
                raise
            unreached = error
        except LocalEntryNotFoundError:
            if not is_local:
                raise
    raise unreached


@contextmanager
def _beside_no_folder(given: str) -> Iterator[None]:
    try:
        yield
    except FalconerError as error:
        raise FalconerError(f"There is no folder '{given}'. {error.message}", error.hint) from error


@contextmanager
def explain_hub(name: str) -> Iterator[None]:
    """Turn the hub's and the network's errors into a message of one sentence, which never contains a token.

    Args:
        name: of the repository.

    Raises:
        FalconerError: what happened, and what to type.
    """
    try:
        yield
    except (HfHubHTTPError, OfflineModeIsEnabled, EntryNotFoundError, httpx2.HTTPError) as error:
        raise _explained(name, error) from error


def status_of(error: Exception) -> int | None:
    """Return the HTTP status of an error of the hub; None if there was no answer."""
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def without_tokens(text: str) -> str:
    """Return a text in which nothing looks like an access token."""
    return TOKEN.sub("(token)", text)


def _explained(name: str, error: Exception) -> FalconerError:
    status = status_of(error)
    if isinstance(error, OfflineModeIsEnabled) or (isinstance(error, LocalEntryNotFoundError) and runtime.is_offline()):
        return FalconerError(
            f"'{name}' is not in the local cache, and the hub was not contacted because HF_HUB_OFFLINE is set.",
            "Unset HF_HUB_OFFLINE, or give a local folder.",
        )
    if isinstance(error, GatedRepoError):
        return FalconerError(
            f"'{name}' is gated: its owner gives access on request.",
            f"Ask for access on https://huggingface.co/{name}, then log in with hf auth login.",
        )
    if isinstance(error, RevisionNotFoundError):
        return FalconerError(f"'{name}' has no such revision on the hub.", "Check what stands after the @.")
    if status == 401 and not isinstance(error, RepositoryNotFoundError):
        return FalconerError("The hub does not accept this machine's access token (401).", _LOG_IN)
    if isinstance(error, RepositoryNotFoundError):
        return FalconerError(
            f"The hub has no repository '{name}', or it is private and this machine's account may not see it.",
            f"Check the name. {_LOG_IN}",
        )
    if status == 403:
        return FalconerError(
            f"The account of this machine's access token may not do this with '{name}' (403).",
            "Use a token with the right to write to this repository; under OWNER/NAME, OWNER must be you or an "
            "organisation of yours.",
        )
    if status == 429:
        return FalconerError("The hub asks to wait: too many requests (429).", f"{_wait(error)} Then run this again.")
    if status is not None and status >= 500:
        return FalconerError(f"The hub has a problem of its own ({status}).", "Run this again later.")
    if status is not None:
        return FalconerError(f"The hub refused this for '{name}' ({status}): {_first_line(error)}", "")
    return FalconerError(
        f"The hub could not be reached for '{name}': {_first_line(error)}",
        "Check the network connection and run this again, or give a local folder.",
    )


def _wait(error: Exception) -> str:
    response = getattr(error, "response", None)
    seconds = "" if response is None else str(response.headers.get("retry-after", ""))
    return f"Wait {seconds} seconds." if seconds.isdigit() else "Wait a few minutes."


def _first_line(error: Exception) -> str:
    lines = without_tokens(str(error)).strip().splitlines()
    text = (lines[0] if lines else type(error).__name__).rstrip(".")
    return f"{text[:200]}."
