"""Uploading a folder to the hub in one commit: it arrives as a whole or not at all, and a second try continues."""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx2
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from falconer import runtime
from falconer.errors import FalconerError
from falconer.model.hub import explain_hub, is_repository, status_of, without_tokens

# Seconds before the second try, the third, ... The library itself repeats all requests but the commit.
WAITS = (2.0, 10.0, 30.0)
_TRANSIENT = frozenset({408, 409, 412, 429, 500, 502, 503, 504})
# What tells an adapter, a whole model and GGUF files apart; a repository holds one of the first two.
_SIGNS = ("adapter_config.json", "config.json")


@dataclass(frozen=True, slots=True)
class Pushed:
    """What became of an upload.

    Args:
        url: of the repository; `commit` is the hash of its newest commit.
        is_new: whether anything was sent; False if the repository already had these files.
        notes: what the hub remarks on the card's metadata.
    """

    url: str
    commit: str
    is_new: bool
    is_private: bool
    notes: tuple[str, ...] = ()


def check_name(repository: str) -> None:
    """Refuse what can't be the name of a repository.

    Raises:
        FalconerError: it is not of the form OWNER/NAME.
    """
    if not is_repository(repository):
        raise FalconerError(
            f"--repo {repository} is not a name on the hub.",
            "Write OWNER/NAME, e.g. alice/falcon-persona: letters, digits and the characters - _ . alone.",
        )


def check_ready() -> None:
    """Refuse to push where nothing can be: offline, or without an access token.

    Raises:
        FalconerError: see above.
    """
    if runtime.is_offline():
        raise FalconerError("The hub can't be reached because HF_HUB_OFFLINE is set.", "Unset it: HF_HUB_OFFLINE=0.")
    if get_token() is None:
        raise FalconerError(
            "There is no access token for the hub.",
            "Log in with hf auth login, or set HF_TOKEN to a token that may write "
            "(https://huggingface.co/settings/tokens).",
        )


def push(folder: Path, repository: str, *, public: bool = False, message: str = "Share with falconer") -> Pushed:
    """Upload all files of a folder; nothing happens if the repository already has them.

    Files of other names stay in the repository, except shards of an earlier merged model.

    Args:
        public: also of a new repository; a repository that is public already is only written to if this is set.

    Raises:
        FalconerError: see `check_ready`; the hub refuses it or can't be reached; or the repository is public, or holds
            a model of another kind.
    """
    check_name(repository)
    check_ready()
    api = HfApi()
    # A fault in the middle of a commit leaves unknown whether it arrived. Everything is compared anew, so that a
    # commit that did arrive is found, and large files that were sent are not sent again.
    for wait in (*WAITS, None):
        try:
            with _metadata_errors(), warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always", UserWarning)
                pushed = _push(api, folder, repository, public, message)
            return replace(pushed, notes=_remarks(heard))
        except (HfHubHTTPError, httpx2.HTTPError, RuntimeError) as error:
            # What sends large files puts an error of its own around the one that says what happened.
            found = error.__cause__ if isinstance(error, RuntimeError) else error
            if not isinstance(found, (HfHubHTTPError, httpx2.HTTPError)):
                raise _failed(error) from error
            status = status_of(found)
            if wait is None or (status is not None and status not in _TRANSIENT):
                with explain_hub(repository):
                    raise found from error
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _failed(error: Exception) -> FalconerError:
    said = without_tokens(f"{error} {error.__cause__ or ''}").split()
    return FalconerError(
        f"The upload failed: {' '.join(said)[:300]}",
        "Run the same command again: what has arrived is not sent twice.",
    )


def _push(api: HfApi, folder: Path, repository: str, public: bool, message: str) -> Pushed:
    try:
        info = api.model_info(repository)
    except RepositoryNotFoundError as error:
        if status_of(error) == 401 and "Invalid" in str(error):
            raise
        api.create_repo(repository, private=not public, exist_ok=True)
        info = api.model_info(repository)
    if not info.private and not public:
        raise FalconerError(
            f"'{repository}' exists and is public.", "Give another --repo, or --public if everybody may see this."
        )
    there = {one.rfilename for one in info.siblings or ()}
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    _check_kind(repository, there, names)
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, folder / name) for name in names
    ]
    operations += [CommitOperationDelete(name) for name in _replaced(there, names)]
    done = api.create_commit(repository, operations, commit_message=message, parent_commit=info.sha)
    return Pushed(f"{api.endpoint}/{repository}", done.oid, done.oid != info.sha, bool(info.private))


def _check_kind(repository: str, there: set[str], names: list[str]) -> None:
    for ours, theirs in (_SIGNS, _SIGNS[::-1]):
        if ours in names and theirs in there:
            kinds = {"adapter_config.json": "an adapter", "config.json": "a whole model"}
            raise FalconerError(
                f"'{repository}' already holds {kinds[theirs]}, and this is {kinds[ours]}; programs would load the "
                "wrong one.",
                "Give another --repo.",
            )


def _replaced(there: set[str], names: list[str]) -> list[str]:
    """Return the shards of an earlier merged model, whose number may have been another one."""
    if "config.json" not in names:
        return []
    return sorted(
        name
        for name in there - set(names)
        if name.startswith("model") and name.endswith((".safetensors", ".safetensors.index.json"))
    )


def _remarks(heard: Sequence[warnings.WarningMessage]) -> tuple[str, ...]:
    """Return the hub's remarks on the card, which its library gives as a warning of several lines."""
    lines = [line for one in heard for line in str(one.message).splitlines() if issubclass(one.category, UserWarning)]
    return tuple(line.removeprefix("- ") for line in lines if line.startswith("- "))


@contextmanager
def _metadata_errors() -> Iterator[None]:
    """Explain what the hub, and its library, raise for metadata that the hub does not accept."""
    try:
        yield
    except HfHubHTTPError:
        raise
    except ValueError as error:
        said = " ".join(without_tokens(str(error)).split())
        raise FalconerError(
            f"The hub does not accept this folder: {said[:300]}",
            "Licences are spelt as on https://huggingface.co/docs/hub/repositories-licenses.",
        ) from error
