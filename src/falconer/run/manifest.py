"""Manifests: the SHA-256 of files that were written together, and records that carry their own, checked when read.

A folder that is replaced as one (adapter/, checkpoints/last/) has its own manifest.json, so that a kill between two
renames never separates files from their hashes. That of the run's folder lists what was written when training started.
evaluation.json has the hashes of an evaluation's files. Runs of versions without manifests are read unchecked.
"""

import hashlib
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from falconer.errors import FalconerError
from falconer.files.json_record import check_is_file, read_object
from falconer.files.replace import replace_file, sha256

MANIFEST = "manifest.json"
_SEAL = "sha256"
# Meant for people, who may edit it: PEFT's description of an adapter.
_FOR_PEOPLE = (".md",)

Hashes = Mapping[str, Collection[str]]


def sealed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with the hash of its content as the last entry."""
    return {**tree, _SEAL: _digest(tree)}


def check_seal(tree: object, file: Path, hint: str) -> None:
    """Check the hash that a record carries of itself; records of older versions have none.

    Raises:
        FalconerError: the content is not what was written.
    """
    if not isinstance(tree, dict):
        return
    rest = {name: value for name, value in tree.items() if name != _SEAL}
    # Where the seal's own name is damaged, its value is still there.
    is_damaged = tree[_SEAL] != _digest(rest) if _SEAL in tree else any(map(_looks_like_a_hash, rest.values()))
    if is_damaged:
        raise FalconerError(f"'{file}' is damaged: it was changed after it was written (its hash differs).", hint)


def write_folder_manifest(folder: Path) -> None:
    """Write the manifest of a new folder, of all files in it, before the folder takes its place."""
    names = sorted(one.name for one in folder.iterdir() if one.name != MANIFEST and one.suffix not in _FOR_PEOPLE)
    text = manifest_text({name: [sha256(folder / name)] for name in names})
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def check_folder(folder: Path, hint: str, *, is_required: bool = False) -> None:
    """Compare the files in a folder with its manifest; without one, they are of an older version or another program.

    Args:
        hint: what to do if a file is damaged.
        is_required: refuse a folder without a manifest.

    Raises:
        FalconerError: a file is missing, can't be read, or is not what was written; the message names it.
    """
    hashes = read_manifest(folder, hint)
    if hashes is None:
        if is_required:
            raise FalconerError(f"'{folder}' is damaged: {MANIFEST} is missing.", hint)
        return
    for name in hashes:
        check_content(folder / name, hashes, hint)


def check_content(path: Path, hashes: Hashes | None, hint: str) -> None:
    """Compare one file with the manifest of its folder; passed if it is not listed.

    Raises:
        FalconerError: see `check_folder`.
    """
    accepted = (hashes or {}).get(path.name)
    if accepted is None:
        return
    if file_sha256(path, hint) not in accepted:
        raise FalconerError(
            f"'{path}' is damaged: the hash of {path.name} differs from the recorded one in {MANIFEST}.", hint
        )


def file_sha256(path: Path, hint: str) -> str:
    """Return the SHA-256 of a file.

    Raises:
        FalconerError: it is missing, can't be read, or is not a file.
    """
    check_is_file(path, hint)
    try:
        return sha256(path)
    except OSError as error:
        raise FalconerError(f"'{path}' can't be read: {error.strerror}.", hint) from error


def read_manifest(folder: Path, hint: str) -> dict[str, list[str]] | None:
    """Return the accepted hashes of each file in a folder's manifest; None without a manifest.

    Raises:
        FalconerError: the manifest is damaged or can't be read.
    """
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return None
    tree = read_object(path, hint)
    if tree.keys() != {"files", _SEAL} or not _are_hashes(tree["files"]):
        raise FalconerError(f"'{path}' is damaged: it is not a list of files and hashes.", hint)
    check_seal(tree, path, hint)
    return dict(tree["files"])


def replace_manifest(folder: Path, hashes: Hashes) -> None:
    """Write the manifest of a folder whose files are replaced one by one.

    A file that is about to be replaced has two accepted hashes, so that whatever stops the process, it is valid.

    Raises:
        FalconerError: no space, or the folder can't be written to.
    """
    with replace_file(folder / MANIFEST) as aside:
        aside.write_text(manifest_text(hashes), encoding="utf-8")


def manifest_text(hashes: Hashes) -> str:
    """Return the content of a manifest."""
    files = {name: list(accepted) for name, accepted in hashes.items()}
    return json.dumps(sealed({"files": files}), indent=2) + "\n"


def text_sha256(text: str) -> str:
    """Return the SHA-256 of a text file's future content."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def hashes_of(texts: Mapping[str, str]) -> dict[str, list[str]]:
    """Return the entries of a manifest for texts that are about to be written, by name."""
    return {name: [text_sha256(text)] for name, text in texts.items()}


def _digest(tree: Mapping[str, Any]) -> str:
    return text_sha256(json.dumps(tree, sort_keys=True))


def _looks_like_a_hash(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _are_hashes(files: object) -> bool:
    return isinstance(files, dict) and all(
        isinstance(accepted, list) and all(isinstance(one, str) for one in accepted) for accepted in files.values()
    )
