"""The folder for the hub: which files it has, and writing it; nothing in it says anything of this machine."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from falconer.errors import FalconerError
from falconer.files.json_record import read_object
from falconer.files.replace import replace_folder, sha256
from falconer.files.together import finish_together
from falconer.model.lora import RECORD, WEIGHTS, check_adapter_files
from falconer.model.tokenizer import EMBEDDED_MODEL
from falconer.run.folder import CURVE
from falconer.run.manifest import MANIFEST, manifest_text
from falconer.share.certificate import NAME as CERTIFICATE
from falconer.share.certificate import Certificate, certificate_beside, check_hashes, read_certificate
from falconer.share.origin import Origin

# In the run's folder; one folder for each kind.
SHARED = "share"
README = "README.md"
RESULTS = ".eval_results/falconer.yaml"
_CONFIG = "adapter_config.json"
_ADAPTER_FILES = (WEIGHTS, _CONFIG, RECORD, "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
# How this machine came by a tokenizer; of no meaning elsewhere.
_LOCAL = ("is_local", "local_files_only", "name_or_path")


@dataclass(frozen=True, slots=True)
class Contents:
    """What a folder for the hub will hold, by the names of its files.

    Args:
        copied: files that are taken as they are.
        written: files that are written for it.
        certificates: of the exports, or of the adapter if it has one.
    """

    copied: Mapping[str, Path]
    written: Mapping[str, bytes]
    certificates: tuple[Certificate, ...] = ()

    @property
    def sizes(self) -> dict[str, int]:
        """Each file's number of bytes, in the order of their names."""
        sizes = {name: path.stat().st_size for name, path in self.copied.items()}
        sizes |= {name: len(content) for name, content in self.written.items()}
        return dict(sorted(sizes.items()))


def adapter_contents(adapter: Path, origin: Origin, base: Mapping[str, str | int]) -> Contents:
    """Return the files of an adapter, with the base model's name on the hub in place of a folder of this machine.

    Args:
        base: what is recorded of the use of the base model: its quantisation, the most tokens of a prompt.

    Raises:
        FalconerError: the adapter is incomplete or damaged, or was not saved by falconer.
    """
    check_adapter_files(adapter)
    if missing := [name for name in _ADAPTER_FILES if not (adapter / name).is_file()]:
        raise FalconerError(
            f"The adapter in '{adapter}' has no {', '.join(missing)}, so others could not use it.",
            "Share an adapter that falconer has trained.",
        )
    config = _read(adapter / _CONFIG) | {"base_model_name_or_path": origin.base or EMBEDDED_MODEL}
    config["revision"] = origin.base_revision
    tokenizer = {name: value for name, value in _read(adapter / "tokenizer_config.json").items() if name not in _LOCAL}
    if tokenizer.get("tokenizer_class") == "TokenizersBackend":
        # transformers 5 names a class that 4 does not know.
        tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    record = _read(adapter / RECORD) | {"base": dict(base)}
    written = {_CONFIG: _json(config), "tokenizer_config.json": _json(tokenizer), RECORD: _json(record)}
    copied = {name: adapter / name for name in _ADAPTER_FILES if name not in written}
    # Whoever loads it with falconer learns of a damaged copy.
    hashes = {name: [sha256(path)] for name, path in copied.items()}
    hashes |= {name: [hashlib.sha256(content).hexdigest()] for name, content in written.items()}
    written[MANIFEST] = manifest_text(dict(sorted(hashes.items()))).encode("utf-8")
    return Contents(copied, written, _proof_of(adapter))


def _proof_of(adapter: Path) -> tuple[Certificate, ...]:
    """Return the certificate that falconer certify has written for an adapter, if it is about these weights.

    Its figures stand in the card; the file stays, since it also names files that are written anew for the hub.
    """
    if not (adapter / CERTIFICATE).is_file():
        return ()
    certificate = read_certificate(adapter / CERTIFICATE)
    return (certificate,) if certificate.origin.adapter_sha256 == sha256(adapter / WEIGHTS) else ()


def export_contents(exports: Sequence[Path], what: str, adapter: Path) -> Contents:
    """Return the files of exports: those that their certificates name.

    Args:
        exports: a merged folder, or one or several GGUF files.
        what: "merged" or "gguf".
        adapter: the folder of the run's adapter, of which they must have been made.

    Raises:
        FalconerError: no certificate, one of another kind or adapter, or a file that it is not about.
    """
    if what == "merged" and len(exports) > 1:
        raise FalconerError("A repository holds one merged model.", "Give --export once.")
    copied: dict[str, Path] = {}
    certificates = []
    for export in exports:
        if what == "gguf":
            finish_together(export.parent, export.name)
        proof = export / CERTIFICATE if what == "merged" else certificate_beside(export)
        certificate = _checked(export, proof, what, adapter)
        copied |= {file.name: proof.parent / file.name for file in certificate.files if file.name != README}
        copied[proof.name] = proof
        beside = export.with_suffix(".Modelfile")
        if what == "gguf" and beside.is_file():
            copied[beside.name] = beside
        certificates.append(certificate)
    return Contents(copied, {}, tuple(certificates))


def _checked(export: Path, proof: Path, what: str, adapter: Path) -> Certificate:
    again = f"falconer {'gguf' if what == 'gguf' else 'merge'} writes both."
    if what == "merged" and not os.path.isdir(export):
        raise FalconerError(f"'{export}' is not a folder.", f"Give what falconer merge --out wrote. {again}")
    if not os.path.isfile(proof):
        raise FalconerError(f"'{export}' has no certificate ('{proof}' is missing).", again)
    certificate = read_certificate(proof)
    if certificate.kind.partition("-")[0] != what:
        kind = certificate.kind.partition("-")[0]
        raise FalconerError(f"'{export}' is an export of kind '{kind}', not '{what}'.", f"Give --what {kind}.")
    if certificate.origin.adapter_sha256 != sha256(adapter / WEIGHTS):
        raise FalconerError(
            f"'{export}' was made of another adapter than '{adapter}' holds now.", "Export the adapter again."
        )
    check_hashes(proof.parent, certificate)
    return certificate


def with_card(contents: Contents, run: Path, card: str, results: Sequence[Mapping[str, Any]]) -> Contents:
    """Return the files with the card, its picture, and the hub's evaluation results if there are any."""
    written = {**contents.written, README: card.encode("utf-8")}
    if results:
        written[RESULTS] = yaml.safe_dump(list(results), sort_keys=False).encode("utf-8")
    picture = {CURVE: run / CURVE} if has_curve(run) else {}
    return Contents({**contents.copied, **picture}, written, contents.certificates)


def has_curve(run: Path) -> bool:
    """Return whether a run has the picture of its losses."""
    return (run / CURVE).is_file()


def write_folder(folder: Path, contents: Contents) -> None:
    """Write a folder for the hub; an earlier one is replaced when all is written.

    Large files get a second name (a hard link) where the file system allows it, so that they take no space twice.

    Raises:
        FalconerError: the disk is full (the earlier folder stays), or the folder can't be written to.
    """
    with replace_folder(folder) as aside:
        for name, path in contents.copied.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            _link(path, aside / name)
        for name, content in contents.written.items():
            (aside / name).parent.mkdir(parents=True, exist_ok=True)
            (aside / name).write_bytes(content)


def _link(source: Path, target: Path) -> None:
    # The run's adapter may be readable for its owner alone, and a hard link would share what is set for the copy.
    if source.name != WEIGHTS:
        try:
            os.link(source, target)
            return
        except OSError:
            pass  # another disk, or a file system without hard links
    shutil.copyfile(source, target)


def _read(path: Path) -> dict[str, Any]:
    return read_object(path, "Use another checkpoint.")


def _json(tree: dict[str, Any]) -> bytes:
    return (json.dumps(tree, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
