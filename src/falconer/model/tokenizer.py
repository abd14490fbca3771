"""Loading the tokenizer of a model, checking it, and setting falconer's chat template."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from falconer import runtime
from falconer.data.pieces import puts_before, written_before
from falconer.data.prompt import CHAT_TEMPLATE, chat_template
from falconer.data.roundtrip import check_roundtrip
from falconer.errors import FalconerError

EMBEDDED_MODEL = "falcon-mini"
# Files that a tokenizer can be loaded from; without any, transformers makes one with a few tokens.
_TOKENIZER_ENDINGS = ("tokenizer.json", "vocab.json", "vocab.txt", "tekken.json", ".model", ".tiktoken")
# What is not due to the files of a model.
_OURS = (
    FalconerError, MemoryError, torch.OutOfMemoryError, ModuleNotFoundError, KeyboardInterrupt, SystemExit,
    GeneratorExit,
)  # fmt: skip


def resolve(name: str) -> str:
    """Return the folder of the embedded model if that is named; other names are returned unchanged."""
    if name == EMBEDDED_MODEL and not os.path.isdir(name):
        return str(resources.files("falconer") / "assets" / EMBEDDED_MODEL)
    return name


@dataclass(frozen=True, slots=True)
class LoadedTokenizer:
    """A fast tokenizer with our chat template.

    Args:
        end_id: the token that ends a reply.
        bos: what it puts before every text, as text; "" where it puts nothing there.
        notes: notes for the user, such as characters that it loses, or that its own chat template is not used.
    """

    tokenizer: PreTrainedTokenizerFast
    end_id: int
    bos: str
    notes: tuple[str, ...]


def load_tokenizer(name: str, revision: str | None = None) -> tuple[PreTrainedTokenizerFast, int]:
    """Return the tokenizer and its end token's id; see `open_tokenizer`."""
    opened = open_tokenizer(name, revision)
    return opened.tokenizer, opened.end_id


def open_tokenizer(name: str, revision: str | None = None) -> LoadedTokenizer:
    """Load a fast tokenizer, check it, and set our chat template.

    Raises:
        FalconerError: there is no such model, no fast tokenizer, no end token, or decoding does not restore the text.
    """
    _check_folder(Path(resolve(name)))
    with explain_missing(name, revision), _explain_conversion(Path(resolve(name))):
        tokenizer: Any = AutoTokenizer.from_pretrained(resolve(name), revision=revision, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise FalconerError(
            f"The tokenizer of '{name}' has no fast (tokenizer.json) form.", "Convert it, or choose another model."
        )
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    end_id = tokenizer.eos_token_id
    found = check_roundtrip(backend, end_id)
    if found.fault:
        is_made_up = os.path.isdir(resolve(name)) and not os.path.isfile(Path(resolve(name), "tokenizer.json"))
        missing = "; the folder has no tokenizer.json" if is_made_up else ""
        raise FalconerError(
            f"The tokenizer of '{name}' can't be used: {found.fault}{missing}.",
            "Add the tokenizer.json that belongs to the weights, or choose another model.",
        )
    if end_id is None:
        raise FalconerError(
            f"The tokenizer of '{name}' has no end token, so a model could not learn to end a reply.",
            "Set eos_token in its tokenizer_config.json.",
        )
    bos = puts_before(backend)
    template = chat_template(written_before(backend, bos))
    notes = found.notes
    if tokenizer.chat_template and not str(tokenizer.chat_template).endswith(CHAT_TEMPLATE):
        notes = (
            "the tokenizer's own chat template is not used: falconer trains, chats and saves with its own template",
            *notes,
        )
    tokenizer.chat_template = template
    return LoadedTokenizer(tokenizer, int(end_id), bos, notes)


def _check_folder(folder: Path) -> None:
    files = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    if "config.json" in files and not any(file.endswith(_TOKENIZER_ENDINGS) for file in files):
        raise FalconerError(
            f"'{folder}' contains no tokenizer: tokenizer.json is missing (or tokenizer.model, or vocab.json with "
            "merges.txt).",
            "Add the tokenizer.json and tokenizer_config.json that belong to the weights.",
        )


@contextmanager
def _explain_conversion(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if not (folder / "config.json").is_file() or (folder / "tokenizer.json").is_file():
            raise
        raise FalconerError(
            f"'{folder}' has no tokenizer.json, and its other files can't be converted to one: {_first_line(error)}",
            "Add tokenizer.json; if sentencepiece is installed, "
            "AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) creates it.",
        ) from error


def set_template(tokenizer: Any, bos: str) -> None:
    """Set our chat template on the tokenizer, for prompts that begin with `bos`."""
    tokenizer.chat_template = chat_template(written_before(tokenizer.backend_tokenizer, bos))


@contextmanager
def explain_missing(name: str, revision: str | None) -> Iterator[None]:
    """Turn library errors on a model that can't be found or read into a one-line message with a hint."""
    try:
        yield
    except BaseException as error:
        # What a stranger's files contain can raise anything in the libraries that read them: tokenizers raises bare
        # exceptions and panics, which are no `Exception`; a model without heads divides by zero.
        if isinstance(error, _OURS):
            raise
        path = Path(resolve(name))
        if path.is_dir():
            tried = f"the folder '{path}' can't be read as a model: {_first_line(error)}"
            hint = (
                "It must contain config.json, tokenizer.json and *.safetensors (pickled .bin weights are never loaded)."
            )
        elif runtime.is_offline():
            tried = f"there is no folder '{name}', and the hub was not contacted because HF_HUB_OFFLINE is set"
            hint = "Give a local folder, unset HF_HUB_OFFLINE, or use model.name=falcon-mini."
        else:
            at = f" at revision '{revision}'" if revision else ""
            hub = f"the hub has no such model{at} or could not be reached: {_first_line(error)}"
            tried = f"there is no folder '{name}', and {hub}"
            hint = "Check the name and the connection (hf auth login for gated models), or use model.name=falcon-mini."
        raise FalconerError(f"Model '{name}' was not found: {tried.rstrip('.')}.", hint) from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return f"{type(error).__name__}: {text}" if isinstance(error, (KeyError, TypeError)) or not text else text
