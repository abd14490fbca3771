"""Reading a GGUF file back into a model and a tokenizer, to check what was written."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import TokenType
from tokenizers import Tokenizer

from falconer.errors import FalconerError
from falconer.model.export.base import Base, open_base
from falconer.model.export.gguf_layout import Layout, Placed
from falconer.model.export.gguf_split import SentencePiece, byte_level


class GgufFile:
    """A GGUF file that is read tensor by tensor.

    Raises:
        FalconerError: it can't be read.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._reader = gguf.GGUFReader(path)
        except (OSError, ValueError) as error:
            raise FalconerError(f"'{path}' can't be read as GGUF: {error}.", "Export it again.") from error
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}

    @property
    def names(self) -> frozenset[str]:
        """The names of all tensors."""
        return frozenset(self._tensors)

    def value(self, key: str) -> Any:
        """Return a value of the metadata; None if there is none of that name."""
        field = self._reader.get_field(key)
        return None if field is None else field.contents()

    def tensor(self, name: str) -> torch.Tensor:
        """Return a tensor, dequantised to fp32."""
        stored = self._tensors[name]
        return torch.from_numpy(gguf.quants.dequantize(stored.data, stored.tensor_type).copy())


@torch.no_grad()
def put_weights(file: GgufFile, folder: Path, model: Any) -> None:
    """Replace every parameter of a model by the one in a GGUF file.

    Args:
        folder: the Hugging Face folder that the file was made from.
        model: that folder's model, with the weights of anything.

    Raises:
        FalconerError: the file lacks a tensor of the model, or holds another one.
    """
    base, layout, places = _places(folder)
    used = {name for name in ("rope_freqs.weight",) if layout.rotary_factors() is not None}
    for name, placed in places.items():
        _check(placed.name in file.names, f"has no tensor {placed.name}")
        model.get_parameter(name).copy_(_taken(placed, file.tensor(placed.name)))
        used.add(placed.name)
    parameters = {name for name, _ in model.named_parameters()} - set(base.tied)
    _check(parameters <= set(places), f"has no place for {sorted(parameters - set(places))[:1]}")
    _check(used == file.names, f"holds a tensor that the model does not have: {sorted(file.names - used)[:1]}")


@torch.no_grad()
def add_lora(file: GgufFile, folder: Path, model: Any) -> None:
    """Add a GGUF adapter to the weights of its base model, as llama.cpp does.

    Args:
        folder: of the base model.
        model: the base model, whose weights are changed.

    Raises:
        FalconerError: the file holds a tensor that belongs to no weight of the model.
    """
    _, _, places = _places(folder)
    alpha = float(file.value(gguf.Keys.Adapter.LORA_ALPHA))
    used: set[str] = set()
    for name, placed in places.items():
        pair = (f"{placed.name}.lora_a", f"{placed.name}.lora_b")
        if file.names.isdisjoint(pair):
            continue
        a, b = map(file.tensor, pair)
        weight = model.get_parameter(name)
        change = _taken(Placed(placed.name, placed.rows, placed.transposed, 0.0), b @ a) * (alpha / len(a))
        weight.copy_(weight.float() + change.to(weight.device))
        used.update(pair)
    _check(used == file.names, f"changes a weight that the model does not have: {sorted(file.names - used)[:1]}")


def encoder_of(file: GgufFile) -> Callable[[str], list[int]]:
    """Return what gives a text the token ids that llama.cpp gives it, made from the file's metadata alone.

    Special tokens are found where they are spelled, and the begin token is put before a text that does not have it, as
    llama.cpp does with the text of a chat template.
    """
    tokens = [str(token) for token in file.value("tokenizer.ggml.tokens")]
    types = [int(kind) for kind in file.value("tokenizer.ggml.token_type")]
    marked = (TokenType.CONTROL, TokenType.USER_DEFINED)
    special = {token: number for number, token in enumerate(tokens) if types[number] in marked}
    encode: Callable[[str], list[int]]
    if file.value("tokenizer.ggml.model") == "gpt2":
        merges, pre = file.value("tokenizer.ggml.merges"), str(file.value("tokenizer.ggml.pre"))
        encode = partial(_ids, byte_level(_tree(tokens, merges, special), pre))
    else:
        scores = [float(score) for score in file.value("tokenizer.ggml.scores")]
        has_space = bool(file.value("tokenizer.ggml.add_space_prefix"))
        encode = SentencePiece(tokens, scores, special, prefix=has_space).encode
    begin = file.value("tokenizer.ggml.bos_token_id") if file.value("tokenizer.ggml.add_bos_token") else None
    return encode if begin is None else partial(_begun, encode, int(begin))


def _begun(encode: Callable[[str], list[int]], begin: int, text: str) -> list[int]:
    ids = encode(text)
    return ids if ids[:1] == [begin] else [begin, *ids]


def _tree(tokens: list[str], merges: list[str], special: Mapping[str, int]) -> dict[str, Any]:
    """Return a byte-level tokenizer as tokenizer.json has it."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    model = {
        "type": "BPE", "vocab": {token: number for number, token in enumerate(tokens)}, "merges": list(merges),
        "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
        "fuse_unk": False, "byte_fallback": False,
    }  # fmt: skip
    added = [{"id": number, "content": token, **flags} for token, number in special.items()]
    return {"version": "1.0", "model": model, "added_tokens": added, "decoder": None}


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def _places(folder: Path) -> tuple[Base, Layout, dict[str, Placed]]:
    base = open_base(str(folder))
    layout = Layout(base.config, is_tied=bool(base.tied))
    # A head that GGUF writes although it is tied is the embedding's copy.
    found = {name: placed for name in base.stored if (placed := layout.place(name)) is not None}
    if layout.writes_head and base.head in base.tied:
        head = layout.place(base.head)
        assert head is not None
        found[base.head] = head
    return base, layout, found


def _taken(placed: Placed, stored: torch.Tensor) -> torch.Tensor:
    """Return a weight as the model has it: the inverse of `Placed.put`."""
    ordered = stored - placed.offset if placed.offset else stored
    if placed.rows is not None:
        ordered = torch.empty_like(ordered).index_copy_(0, placed.rows, ordered)
    return ordered.T if placed.transposed else ordered


def _check(is_right: bool, what: str) -> None:
    if not is_right:
        raise FalconerError(f"The GGUF file {what}.", "Report this with the type of the model.")
