"""What the files of a model or an adapter may not do: be pickled, point to other folders, or import modules."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open

from falconer.errors import FalconerError
from falconer.files.json_record import is_missing, read_object

INDEX = "model.safetensors.index.json"
_AGAIN = "Download or save the model again."
# Fields of adapter_config.json that no adapter may have here, and why.
_REFUSED = MappingProxyType({
    "megatron_config": "needs Megatron, whose module it names (megatron_core), and code that a file names is never run",
    "alora_invocation_tokens": "is an activated LoRA, whose weights apply from some token of the prompt on",
    "layer_replication": "repeats layers of its base model, which would then be another model",
})  # fmt: skip
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


def check_model_folder(folder: Path) -> None:
    """Check a local model folder before anything is loaded from it; other names are left to `no_pickle`.

    Raises:
        FalconerError: it is an adapter, its index or configuration names a file that is elsewhere or no safetensors, or
            its configuration says that its weights are quantised, and they are not.
    """
    if not os.path.isdir(folder):
        return
    if not is_missing(folder / "adapter_config.json"):
        raise FalconerError(
            f"'{folder}' contains an adapter (adapter_config.json), and its base model would be loaded from elsewhere.",
            "Give the base model's own folder or name, and lora.init_adapter=FOLDER to continue from the adapter.",
        )
    if is_missing(folder / "config.json"):
        return  # told by who loads it
    config = read_object(folder / "config.json", _AGAIN)
    explicit = config.get("transformers_weights")
    if explicit is not None:
        _check_inside(folder / "config.json", [explicit])
    if not is_missing(folder / INDEX):
        named = read_object(folder / INDEX, _AGAIN).get("weight_map")
        if not isinstance(named, dict) or not named:
            raise FalconerError(
                f"'{folder / INDEX}' is damaged: weight_map is not an object with names of files.", _AGAIN
            )
        _check_inside(folder / INDEX, [*named.values()])
    _check_quantised(folder, config)


def check_adapter_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Check what an adapter's configuration asks PEFT to do, before PEFT does it.

    Raises:
        FalconerError: it names a module to import or changes the base model, or its rank is larger than any tensor in
            its file, so that gigabytes of zeros would be made.
    """
    file = folder / "adapter_config.json"
    for key, reason in _REFUSED.items():
        if config.get(key) not in (None, False, [], {}):
            raise FalconerError(f"The adapter in '{folder}' {reason}: {key} in '{file}'.", "Use another adapter.")
    with safe_open(folder / "adapter_model.safetensors", "pt") as opened:
        shapes = [opened.get_slice(name).get_shape() for name in opened.keys()]  # noqa: SIM118  it is no dict
    largest = max((length for shape in shapes for length in shape), default=0)
    ranks = config.get("rank_pattern")
    for rank in (config.get("r"), *(ranks.values() if isinstance(ranks, dict) else ())):
        if isinstance(rank, (int, float)) and largest and rank > largest:
            raise FalconerError(
                f"'{file}' is damaged: it has a rank of {rank}, and no tensor of the adapter is so large.",
                "Use another adapter.",
            )


@contextmanager
def no_pickle() -> Iterator[None]:
    """Refuse pickled weights inside this context, whatever a file's index names: `torch.load` is not called.

    Raises:
        FalconerError: a library wants to read a pickled file.
    """

    def refuse(file: Any, *arguments: Any, **options: Any) -> NoReturn:
        raise FalconerError(
            f"'{file}' holds pickled weights, which are never loaded.",
            "Give a model whose weights are safetensors; AutoModelForCausalLM.from_pretrained(FOLDER)"
            ".save_pretrained(NEW) converts one that you trust.",
        )

    before = torch.load
    torch.load = refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.load = before


def _check_inside(file: Path, names: Sequence[Any]) -> None:
    """Refuse names that are not those of safetensors files in the same folder."""
    for name in dict.fromkeys(name if isinstance(name, str) else repr(name) for name in names):
        if Path(name).name != name or "\\" in name or "\0" in name:
            raise FalconerError(f"'{file}' names '{name}', which is not a file in its own folder.", _AGAIN)
        if not name.endswith((".safetensors", ".safetensors.index.json")):
            raise FalconerError(
                f"'{file}' names '{name}', and only safetensors are loaded (pickled weights never are).", _AGAIN
            )


def _check_quantised(folder: Path, config: Mapping[str, Any]) -> None:
    claimed = config.get("quantization_config")
    if claimed is None:
        return
    method = claimed.get("quant_method") if isinstance(claimed, dict) else None
    if not isinstance(method, str) or not method:
        raise FalconerError(f"'{folder / 'config.json'}' is damaged: quantization_config has no quant_method.", _AGAIN)
    formats = set()
    for file in sorted(path for path in folder.glob("*.safetensors") if path.is_file()):
        try:
            with safe_open(file, "pt") as opened:
                formats |= {opened.get_slice(name).get_dtype() for name in opened.keys()}  # noqa: SIM118  it is no dict
        except (SafetensorError, OSError):
            return  # told by who loads it
    if formats and formats <= _FLOATS:
        raise FalconerError(
            f"'{folder / 'config.json'}' says that the weights are quantised ({method}), but they are stored as "
            f"{', '.join(sorted(formats))}.",
            "Remove quantization_config from it, if these are the weights that you want.",
        )
