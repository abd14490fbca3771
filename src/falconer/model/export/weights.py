"""Reading and writing a model's safetensors files: one tensor at a time, and shard by shard."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from falconer.errors import FalconerError
from falconer.files.disk_errors import rust_disk_errors
from falconer.files.json_record import read_object

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
# Small enough that a 7B model's shards, of which one is in memory, take little of it.
SHARD_BYTES = 2 * 2**30
_DTYPES = MappingProxyType({
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
})  # fmt: skip
_HINT = "Download or save the model again."


@dataclass(frozen=True, slots=True)
class Stored:
    """Where a tensor is kept, and what it looks like."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


class Weights:
    """The tensors of a folder, by the names in its files.

    Args:
        folder: holds an index and its shards, one file, or several files without an index.

    Raises:
        FalconerError: no safetensors files, damaged ones, one that the index names is missing, a tensor that two of
            them hold, or one of a format that weights of a model that can be trained do not have (FP8, packed 4 bits).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stored: dict[str, Stored] = {}
        for file in _files(folder):
            try:
                self._add(file)
            except (SafetensorError, OSError) as error:
                raise FalconerError(f"'{file}' can't be read: {str(error).splitlines()[0]}.", _HINT) from error

    def _add(self, file: Path) -> None:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118  it is no dict
                part = opened.get_slice(name)
                if name in self.stored:
                    raise FalconerError(f"'{file}' and '{self.stored[name].file.name}' both contain {name}.", _HINT)
                if part.get_dtype() not in _DTYPES:
                    raise FalconerError(
                        f"{name} in '{file}' is stored as {part.get_dtype()}.",
                        "Give a folder whose weights are fp32, fp16 or bf16.",
                    )
                self.stored[name] = Stored(file, tuple(part.get_shape()), _DTYPES[part.get_dtype()])

    def read(self, name: str) -> torch.Tensor:
        """Return one tensor, as it is stored."""
        # Opened for each tensor anew: what was read of a file stays mapped, and so counts as memory, while it is open.
        with safe_open(self.stored[name].file, "pt") as opened:
            return opened.get_tensor(name)


def write_shards(
    folder: Path, plan: Sequence[tuple[str, int]], make: Callable[[str], torch.Tensor], max_bytes: int
) -> list[Path]:
    """Write tensors into a folder as `transformers` does: one file, or shards with an index.

    Args:
        plan: name and bytes of each tensor, in the order in which they are made.
        make: gives the tensor of a name; those of one shard are in memory together.

    Raises:
        OSError: the disk is full.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, num_bytes in plan:
        if shards[-1] and filled + num_bytes > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += num_bytes
    files = [
        folder / (WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors")
        for number in range(1, len(shards) + 1)
    ]
    for file, names in zip(files, shards, strict=True):
        with rust_disk_errors():
            save_file({name: make(name).contiguous() for name in names}, file, metadata={"format": "pt"})
        # safetensors lets nobody but the owner read it; a model is given the rights that its other files have.
        shutil.copymode(folder / "config.json", file)
    if len(files) > 1:
        where = {name: file.name for file, names in zip(files, shards, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(num_bytes for _, num_bytes in plan)}, "weight_map": where}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return files


def _files(folder: Path) -> list[Path]:
    # In the order in which `from_pretrained` looks for them.
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        try:
            named = read_object(folder / INDEX, _HINT)["weight_map"].values()
            files = sorted({folder / str(name) for name in named})
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise FalconerError(f"'{folder / INDEX}' is damaged: {error}.", _HINT) from error
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise FalconerError(f"'{folder}' lacks {', '.join(missing)}, which {INDEX} names.", _HINT)
        return files
    # "consolidated" is Mistral's own second copy of the weights. A pipe would be waited for until someone writes to it.
    others = [
        path for path in sorted(folder.glob("*.safetensors"))
        if not path.name.startswith(("adapter_", "consolidated")) and path.is_file()
    ]  # fmt: skip
    if not others:
        raise FalconerError(
            f"'{folder}' contains no safetensors weights (pickled .bin weights are never loaded).",
            "Give a folder with model.safetensors, or with shards.",
        )
    return others
