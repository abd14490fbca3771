"""The prompt format that is recorded with an adapter, in its falconer.json."""

import dataclasses
from pathlib import Path
from typing import Any

from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.files.json_record import is_missing, read_object
from falconer.model.lora import RECORD


def adapter_format(folder: Path) -> PromptFormat | None:
    """Return the prompt format that an adapter's record states; None where there is none, as with other programs'.

    Raises:
        FalconerError: the record is damaged.
    """
    file = folder / RECORD
    if is_missing(file):
        return None
    record = read_object(file, "Use another checkpoint.")
    if "prompt_format" in record:
        return format_from(record["prompt_format"], file)
    # Of a version whose prompts had no BOS. Whether replies have several lines is not known, so none is cut.
    return PromptFormat(multi_line=True, is_spaced=record.get("text") != "natural")


def format_from(found: Any, file: Path) -> PromptFormat:
    """Return the prompt format that a file states as a JSON object.

    Raises:
        FalconerError: it is none.
    """
    kinds = {field.name: type(field.default) for field in dataclasses.fields(PromptFormat)}
    if not isinstance(found, dict) or any(type(value) is not kinds.get(key) for key, value in found.items()):
        raise FalconerError(
            f"'{file}' is damaged: its prompt_format {found!r} is not valid.",
            "Restore the file that this run wrote.",
        )
    return PromptFormat(**found)
