"""Writing a merged model, or only an adapter, as a GGUF file for llama.cpp and programs based on it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, LlamaFileType

from falconer.errors import FalconerError
from falconer.files.replace import replace_file
from falconer.model.adapter_record import adapter_format
from falconer.model.export.adapter import Lora, read_adapter
from falconer.model.export.base import Base, open_base
from falconer.model.export.gguf_layout import Layout, Placed, Setting
from falconer.model.export.gguf_vocabulary import Vocabulary, vocabulary_of
from falconer.model.limits import vocabulary_of as num_rows_of
from falconer.model.tokenizer import open_tokenizer, set_template

TYPES = MappingProxyType({
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
})  # fmt: skip
# llama.cpp reads these in fp32 alone.
_FULL = ("_norm.weight", "position_embd.weight", "rope_freqs.weight")


@dataclass(frozen=True, slots=True)
class About:
    """What a GGUF file says of its model beside weights and tokenizer; None or "" is left out.

    Args:
        name: of the model, for people.
        license: as the hub names it ("apache-2.0").
        base_model: the hub's id of the model that was tuned ("tiiuae/falcon-7b").
        language: of its conversations, an ISO 639 code.
    """

    name: str
    license: str | None = None
    base_model: str | None = None
    language: str | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Written:
    """What was written.

    Args:
        pre: llama.cpp's name of how text is cut; "" for an adapter.
        notes: what its user should know: which texts llama.cpp reads otherwise, tensors that stay in f16.
    """

    path: Path
    type: str
    num_tensors: int
    num_bytes: int
    pre: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor that is made when its turn comes, so that one is in memory at a time."""

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    make: Callable[[], torch.Tensor]

    def data(self) -> np.ndarray:
        values = self.make().float()
        if self.type is GGMLQuantizationType.F16 and values.abs().max() > torch.finfo(torch.float16).max:
            raise FalconerError(f"{self.name} contains values that are too large for f16.", "Write type bf16 or q8_0.")
        return gguf.quants.quantize(np.ascontiguousarray(values.numpy()), self.type)


def check_gguf(model: str, type: str, revision: str | None = None) -> None:
    """Check that a model can be written as GGUF, before minutes of merging; no weight is read.

    Args:
        model: a folder, a hub name, or "falcon-mini".

    Raises:
        FalconerError: as `write_gguf`.
    """
    _type(type)
    base = open_base(model, revision)
    layout = Layout(base.config, is_tied=bool(base.tied))
    for name in base.stored:
        layout.place(name)
    opened = open_tokenizer(model, revision)
    vocabulary_of(opened.tokenizer, num_rows_of(base.config), opened.end_id, opened.bos)


def write_gguf(
    folder: Path, out: Path, type: str, about: About, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> Written:  # fmt: skip
    """Write a merged folder, or any plain Hugging Face one, as GGUF; an existing file is replaced when all is written.

    Args:
        folder: as `merge_adapter` writes it: weights and tokenizer; the chat template is falconer's in any case.
        type: "f32", "f16", "bf16", or "q8_0" (8 bits in blocks of 32).
        on_progress: called with (tensors written, total).

    Raises:
        FalconerError: an unknown type, an architecture or a tokenizer that llama.cpp would read otherwise (named), or
            the disk is full (what was there stays).
    """
    goal, file_type = _type(type)
    base = open_base(str(folder))
    layout = Layout(base.config, is_tied=bool(base.tied))
    opened = open_tokenizer(str(folder))
    format = adapter_format(folder)
    bos = opened.bos if format is None else format.bos
    set_template(opened.tokenizer, bos)
    vocabulary = vocabulary_of(opened.tokenizer, num_rows_of(base.config), opened.end_id, bos)
    tensors = _tensors(base, layout, goal)
    writer = gguf.GGUFWriter(None, layout.architecture)
    writer.add_type(gguf.GGUFType.MODEL)
    _add_about(writer, about, size=sum(int(np.prod(tensor.shape)) for tensor in tensors))
    for key, value in layout.settings().items():
        _add(writer, key, value)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    _add_vocabulary(writer, vocabulary, str(opened.tokenizer.chat_template))
    num_bytes = _write(writer, out, tensors, on_progress)
    odd = [tensor.name for tensor in tensors if tensor.type is GGMLQuantizationType.F16 and type == "q8_0"]
    notes = vocabulary.notes
    if odd:
        notes += (
            f"{len(odd)} tensors are f16, since the length of their rows is not a multiple of 32, for example {odd[0]}",
        )
    return Written(out, type, len(tensors), num_bytes, vocabulary.pre, notes)


def write_gguf_adapter(
    model: str, adapter: Path, out: Path, type: str, about: About, revision: str | None = None
) -> Written:
    """Write an adapter alone as GGUF: llama.cpp adds it to a GGUF of its base (`--lora`, Ollama's ADAPTER).

    Args:
        model: the base: a folder, a hub name, or "falcon-mini"; of its weights names and shapes alone are read.

    Raises:
        FalconerError: as `write_gguf`; and DoRA, layers saved whole, biases, an embedding or a tied head.
    """
    goal, file_type = _type(type)
    base = open_base(model, revision)
    layout = Layout(base.config, is_tied=bool(base.tied))
    change = read_adapter(adapter, base.skeleton)
    _check_lora_alone(change.loras, {*change.replaced, *change.base_replaced, *change.bias_changes}, base)
    # Of 0 it would make 1.
    alpha = change.alpha or 1.0
    tensors: list[_Tensor] = []
    for name, lora in change.loras.items():
        placed = layout.place(name)
        if placed is None:
            raise FalconerError(f"GGUF has no place for the adapter's {name}.", "Merge the adapter.")
        # llama.cpp knows one alpha, and divides it by each pair's own rank.
        factor = lora.scaling * len(lora.a) / alpha
        b = (lora.b.float() if placed.rows is None else lora.b.float()[placed.rows]) * factor
        for part, values in (("lora_a", lora.a), ("lora_b", b)):
            fits = _fitting(goal, int(values.shape[-1]))
            tensors.append(_Tensor(f"{placed.name}.{part}", tuple(values.shape), fits, partial(_same, values)))
    writer = gguf.GGUFWriter(None, layout.architecture)
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, alpha)
    _add_about(writer, about, size=0)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    return Written(out, type, len(tensors), _write(writer, out, tensors, lambda done, total: None), "", ())


def _type(type: str) -> tuple[GGMLQuantizationType, LlamaFileType]:
    if type not in TYPES:
        more = " The k-types are made from an f16 file by llama.cpp's llama-quantize." if "_k" in type.lower() else ""
        raise FalconerError(f"GGUF of type {type} can't be written here.", f"Allowed: {', '.join(TYPES)}.{more}")
    return TYPES[type]


def _tensors(base: Base, layout: Layout, goal: GGMLQuantizationType) -> list[_Tensor]:
    found = []
    sources = {name: name for name in base.stored}
    if layout.writes_head and base.head in base.tied:
        sources[base.head] = base.tied[base.head]
    for name, source in sources.items():
        placed = layout.place(name)
        if placed is None:
            continue
        shape = base.weights.stored[base.stored[source]].shape
        shape = shape[::-1] if placed.transposed else shape
        small = len(shape) == 1 or placed.name.endswith(_FULL)
        kind = GGMLQuantizationType.F32 if small else _fitting(goal, shape[-1])
        found.append(_Tensor(placed.name, shape, kind, partial(_placed, base, source, placed)))
    factors = layout.rotary_factors()
    if factors is not None:
        found.append(
            _Tensor("rope_freqs.weight", tuple(factors.shape), GGMLQuantizationType.F32, partial(_same, factors))
        )
    return found


def _placed(base: Base, source: str, placed: Placed) -> torch.Tensor:
    return placed.put(base.read(source))


def _same(values: torch.Tensor) -> torch.Tensor:
    return values


def _fitting(goal: GGMLQuantizationType, columns: int) -> GGMLQuantizationType:
    block, _ = gguf.GGML_QUANT_SIZES[goal]
    return goal if columns % block == 0 else GGMLQuantizationType.F16


def _check_lora_alone(loras: dict[str, Lora], whole: set[str], base: Base) -> None:
    reason = ""
    if whole:
        reason = f"{sorted(whole)[0]} was trained and saved whole"
    elif any(lora.magnitude is not None for lora in loras.values()):
        reason = "it is DoRA"
    else:
        embedding = id(base.skeleton.get_input_embeddings())
        for name in loras:
            if id(base.skeleton.get_submodule(name.removesuffix(".weight"))) == embedding:
                reason = f"it changes the embedding ({name})"
            elif name in base.tied:
                reason = f"it changes the head ({name}), which shares its weight with the embedding"
    if reason:
        raise FalconerError(
            f"llama.cpp can't apply this adapter: {reason}.", "Merge it, and write the merged folder as GGUF."
        )


def _add_about(writer: gguf.GGUFWriter, about: About, *, size: int) -> None:
    writer.add_name(about.name)
    writer.add_description(about.description)
    if about.license:
        writer.add_license(about.license)
    if about.language:
        writer.add_languages([about.language])
    if size:
        writer.add_size_label(gguf.size_label(size, size, 0, 0))
    if about.base_model:
        organisation, _, name = about.base_model.rpartition("/")
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, name)
        if organisation:
            writer.add_base_model_organization(0, organisation)
            writer.add_base_model_repo_url(0, f"https://huggingface.co/{about.base_model}")


def _add(writer: gguf.GGUFWriter, key: str, value: Setting) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary, template: str) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    if vocabulary.merges:
        writer.add_token_merges(vocabulary.merges)
    if vocabulary.scores:
        writer.add_token_scores(vocabulary.scores)
    for name, number in vocabulary.special.items():
        writer.add_uint32(f"tokenizer.ggml.{name}_token_id", number)
    writer.add_add_bos_token(vocabulary.adds_bos)
    writer.add_add_eos_token(False)
    writer.add_add_space_prefix(vocabulary.adds_space)
    writer.add_chat_template(template)


def _write(writer: gguf.GGUFWriter, out: Path, tensors: list[_Tensor], on_progress: Callable[[int, int], None]) -> int:
    for tensor in tensors:
        shape = gguf.quant_shape_to_byte_shape(tensor.shape, tensor.type)
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=tensor.type)
    with replace_file(out) as aside:
        try:
            writer.write_header_to_file(aside)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            assert writer.fout is not None
            (file,) = writer.fout
            writer.write_padding(file, file.tell())
            on_progress(0, len(tensors))
            for number, tensor in enumerate(tensors, start=1):
                # Not by numpy's tofile, whose error does not say that the disk is full.
                data = np.ascontiguousarray(tensor.data()).view(np.uint8)
                file.write(data.data)
                writer.write_padding(file, data.nbytes)
                on_progress(number, len(tensors))
            file.flush()
        finally:
            writer.close()
        return aside.stat().st_size
