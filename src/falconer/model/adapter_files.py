"""Whether an adapter's folder is whole: it has both files, those of its manifest, and every tensor that is expected."""

from collections.abc import Collection
from pathlib import Path

from safetensors import safe_open

from falconer.errors import FalconerError
from falconer.run.manifest import check_folder

WEIGHTS = "adapter_model.safetensors"


def check_adapter_files(folder: Path) -> None:
    """Refuse a folder that lacks one of an adapter's two files, or whose files are not those of its manifest.

    Raises:
        FalconerError: naming those that are missing or damaged.
    """
    names = (WEIGHTS, "adapter_config.json")
    missing = [name for name in names if not (folder / name).is_file()]
    if len(missing) == 1:
        raise FalconerError(
            f"The adapter in '{folder}' is incomplete: {missing[0]} is missing.",
            "Restore this file from a copy, use another adapter, or train again.",
        )
    if missing:
        raise FalconerError(
            f"'{folder}' contains no adapter ({' and '.join(names)} are missing).", "Train one, or check the path."
        )
    check_folder(folder, "Restore this file from a copy, use another adapter, or train again.")


def check_tensors(folder: Path, expected: Collection[str]) -> None:
    """Refuse an adapter's file that lacks some of the tensors that a model expects.

    Raises:
        FalconerError: naming one of them.
    """
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        missing = sorted(set(expected) - set(file.keys()))
    if missing:
        raise FalconerError(
            f"The adapter in '{folder}' is incomplete: {WEIGHTS} lacks {len(missing)} of {len(expected)} tensors, "
            f"including {missing[0]}.",
            "Use another checkpoint, or train again.",
        )
