"""The certificate of an export, certificate.json: what was measured of it, and which files it is about."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from falconer.errors import FalconerError
from falconer.files.json_record import read_text
from falconer.files.replace import replace_file, sha256
from falconer.run.metrics import checked

NAME = "certificate.json"
# Another number where a field changes its meaning.
VERSION = 1
Kind = Literal["adapter", "merged", "gguf", "gguf-adapter"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure with its 95 % interval; without bounds if there are too few dialogues."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """What was exported; None where it is not known, or is only a folder of the machine that wrote the export.

    Args:
        base_model: the hub's id of the model that was tuned, or "falcon-mini".
        base_form: the weights that the adapter was added to: "bf16" (as the base stores them) or "nf4" (rounded to
            4 bits, as in QLoRA training).
        trained_on: the form of the base in training; None for an adapter of another program.
        format: of the exported weights: "bfloat16", "float32", "q8_0" ...
    """

    base_model: str | None
    base_revision: str | None
    base_license: str | None
    base_form: str
    trained_on: str | None
    adapter_sha256: str
    format: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """Conversations that were written with the exported template and tokenizer, and with falconer's own.

    Args:
        num_equal: those with the same token ids.
        first_difference: the beginning of the first one with other token ids; "" if there is none.
    """

    num_conversations: int
    num_equal: int
    first_difference: str = ""


@dataclass(frozen=True, slots=True)
class Replies:
    """Greedy replies of the export compared with those of the reference, token by token.

    Args:
        identical: the share of replies with the same tokens, 0-100.
        before_difference: the share of a reply's tokens before the first that differs, 0-100; the mean of all replies.
        decoding: in words.
    """

    num_replies: int
    num_dialogues: int
    identical: Figure
    before_difference: Figure
    decoding: str


@dataclass(frozen=True, slots=True)
class Drift:
    """What a model predicts at the tokens of gold replies, compared with the reference.

    Args:
        kl: the Kullback-Leibler divergence KL(reference || model), in nats per token.
        word_ppl: the model's word perplexity.
        word_ppl_change: by how much that is higher than the reference's, in percent.
    """

    kl: Figure
    word_ppl: Figure
    word_ppl_change: Figure


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured on dialogues.

    Args:
        reference: what the export is compared with, in words.
        how: what ran the export, and in which precision: "transformers, fp32", "llama.cpp 0.3.36" ...
        data: where the dialogues come from.
        num_tokens: target tokens: those of all gold replies, with their end tokens.
        reference_word_ppl: the reference's word perplexity.
        export: the drift of the export.
        base: that of the base model without the adapter: the tune's own effect. The export's KL must be smaller.
        others: that of alternatives, by name, such as the adapter on the other form of the base.
        replies: None if none were generated.
    """

    reference: str
    how: str
    data: str
    num_dialogues: int
    num_replies: int
    num_tokens: int
    reference_word_ppl: Figure
    export: Drift
    base: Drift
    others: Mapping[str, Drift] = field(default_factory=dict)
    replies: Replies | None = None


@dataclass(frozen=True, slots=True)
class FileHash:
    """A file of the export, by its path inside the folder."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is proved of an export.

    Args:
        tokens: None for a GGUF adapter, which has neither template nor tokenizer.
        measured: None if it was written without measuring (--no-measure).
        files: every file of the export but this one.
        versions: of falconer, Python and the libraries, and the device that measured.
        notes: what its user should know.
        is_forced: it was written although its drift is larger than the tune's own effect, or token ids differ.
    """

    kind: Kind
    origin: Origin
    tokens: Tokens | None
    measured: Measured | None
    files: tuple[FileHash, ...]
    versions: Mapping[str, str]
    notes: tuple[str, ...] = ()
    is_forced: bool = False
    version: int = VERSION

    @property
    def num_bytes(self) -> int:
        return sum(file.num_bytes for file in self.files)

    def refusal(self) -> str:
        """Return why this export should not be used; "" where nothing speaks against it."""
        tokens, measured = self.tokens, self.measured
        if tokens and tokens.num_equal < tokens.num_conversations:
            return (
                f"{tokens.num_conversations - tokens.num_equal} of {tokens.num_conversations} conversations get other "
                f"token ids from the exported tokenizer, the first one: {tokens.first_difference!r}"
            )
        if measured and measured.export.kl.value > measured.base.kl.value:
            return (
                f"its drift is larger than the tune's own effect: KL {measured.export.kl.value:.2e} nats per token "
                f"between the export and the adapter as trained, {measured.base.kl.value:.2e} between the base model "
                "without adapter and the adapter as trained"
            )
        return ""


def certificate_beside(file: Path) -> Path:
    """Return where the certificate of a GGUF file is; that of a folder is in it."""
    return file.with_name(f"{file.stem}.{NAME}")


def certificate_text(certificate: Certificate) -> str:
    """Return the content of certificate.json."""
    tree = {"version": certificate.version} | asdict(certificate)
    return json.dumps(tree, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_certificate(path: Path, certificate: Certificate) -> None:
    """Write a certificate; an earlier one is replaced."""
    with replace_file(path) as aside:
        aside.write_text(certificate_text(certificate), encoding="utf-8")


def read_certificate(path: Path) -> Certificate:
    """Return the certificate in a file.

    Raises:
        FalconerError: it is missing, damaged, or of a later version of falconer.
    """
    hint = "Export again: falconer merge or falconer gguf."
    found = checked(Certificate, read_text(path, hint), path, hint)
    if found.version > VERSION:
        raise FalconerError(f"'{path}' was written by a later version of falconer.", "Use that version, or " + hint)
    return found


def hash_files(folder: Path, names: Iterable[str]) -> tuple[FileHash, ...]:
    """Return size and SHA-256 of files in a folder."""
    return tuple(FileHash(name, (folder / name).stat().st_size, sha256(folder / name)) for name in sorted(names))


def check_hashes(folder: Path, certificate: Certificate) -> None:
    """Check that the files in a folder are those that a certificate is about.

    Raises:
        FalconerError: one is missing or has another content.
    """
    for file in certificate.files:
        path = folder / file.name
        try:
            is_same = path.stat().st_size == file.num_bytes and sha256(path) == file.sha256
        except OSError as error:
            raise FalconerError(
                f"'{path}', which the certificate names, can't be read: {error.strerror}.", "Export again."
            ) from error
        if not is_same:
            raise FalconerError(
                f"'{path}' is not the file that its certificate is about: its SHA-256 differs.", "Export again."
            )
