"""Loading a causal language model and its tokenizer, in 4-bit NF4 or whole, from a folder or the hub."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedTokenizerFast,
)

from falconer import runtime
from falconer.errors import FalconerError
from falconer.model.bnb import bnb
from falconer.model.limits import check_token
from falconer.model.tokenizer import LoadedTokenizer, explain_missing, open_tokenizer, resolve

# Below it 4 bits are felt: a model of 270 million parameters lost a quarter of its word perplexity, and a large one has
# room for the error (QLoRA, arXiv:2305.14314, measured none at 7 to 65 billion).
SMALL_PARAMETERS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A frozen base model, ready for an adapter.

    Args:
        model: the `transformers` model, in evaluation mode, without gradients.
        tokenizer: its fast tokenizer, carrying our chat template.
        end_id: the end-of-text token's id.
        num_quantized: layers held in 4 bits.
        precision: number format of the arithmetic.
        path: what `from_pretrained` was given.
        bos: what the tokenizer puts before every text, as text.
        stop_ids: end tokens that the model's files name beside `end_id`: a reply stops there too.
        notes: what its user should know of the tokenizer.
    """

    model: Any
    tokenizer: PreTrainedTokenizerFast
    end_id: int
    num_quantized: int
    precision: runtime.Precision
    path: str
    bos: str = ""
    stop_ids: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def load_model(
    name: str, *, revision: str | None = None, quantization: str = "nf4", dtype: str = "auto", device: str = "auto"
) -> LoadedModel:
    """Load a base model and freeze it.

    Args:
        name: a local folder, a hub name, or "falcon-mini".
        quantization: "nf4" (4-bit NormalFloat, double quantisation, QLoRA arXiv:2305.14314) or "none".
        dtype, device: as in the configuration ("auto" decides from the hardware).

    Raises:
        FalconerError: the model can't be found or read, weights are missing or of another shape than config.json says,
            it has no embedding for the end token, or 4 bits were asked for and nothing was quantised.
    """
    target = runtime.pick_device(device)
    precision = runtime.pick_precision(dtype, target)
    opened = open_tokenizer(name, revision)
    end_id = opened.end_id
    options: dict[str, Any] = {}
    if quantization == "nf4":
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision.dtype,
        )
    path = resolve(name)
    with explain_missing(name, revision):
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        check_token(
            end_id, config, f"The end token of '{name}', whose tokenizer has {len(opened.tokenizer):,} entries,"
        )
        with _falcon_linear_is_linear(config.model_type == "falcon" and quantization == "nf4"):
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path,
                output_loading_info=True,
                revision=revision,
                config=config,
                dtype=precision.dtype,
                device_map={"": target},
                use_safetensors=True,
                trust_remote_code=False,
                **options,
            )
    model, found = loaded
    _check_complete(sorted(found["missing_keys"]), name)
    stop_ids = _other_ends(model, opened)
    # A folder's own habits of decoding (sampling, beams, penalties) would mix with what our configuration says.
    model.generation_config = GenerationConfig(eos_token_id=end_id)
    model.requires_grad_(False)
    model.eval()
    num_quantized = _count_quantized(model, name) if quantization == "nf4" else 0
    return LoadedModel(
        model, opened.tokenizer, end_id, num_quantized, precision, path, opened.bos, stop_ids, opened.notes
    )


def _check_complete(missing: Sequence[str], name: str) -> None:
    # transformers fills what is missing with random numbers and only warns.
    if missing:
        raise FalconerError(
            f"The weights of '{name}' are incomplete: {len(missing)} tensors are missing, {missing[0]} among them.",
            "Fetch or save the model again.",
        )


def _other_ends(model: Any, opened: LoadedTokenizer) -> tuple[int, ...]:
    """Return the special tokens that generation_config.json and config.json call ends, without the tokenizer's own."""
    special = {token for token, added in opened.tokenizer.added_tokens_decoder.items() if added.special}
    named: set[int] = set()
    for source in (model.generation_config, model.config):
        ends: Any = getattr(source, "eos_token_id", None)
        named |= set(ends) if isinstance(ends, (list, tuple)) else {ends}
    return tuple(sorted((named & special) - {opened.end_id}))


def cost_of_nf4(num_parameters: int) -> str:
    """Return what 4 bits cost a model of so many parameters, for whoever chose them; "" for a large one."""
    if num_parameters >= SMALL_PARAMETERS:
        return ""
    return (
        "4 bits cost a small model accuracy (falcon-mini 2 % of its word perplexity, a Gemma of 270 million "
        "parameters 21 %); model.quantization=none avoids it"
    )


@contextmanager
def _falcon_linear_is_linear(active: bool) -> Iterator[None]:
    # transformers replaces layers whose type is exactly nn.Linear; Falcon's are a subclass that computes the same, so
    # stock 4-bit loading quantises none of them and only warns.
    if not active:
        yield
        return
    falcon: Any = importlib.import_module("transformers.models.falcon.modeling_falcon")
    subclass = falcon.FalconLinear
    falcon.FalconLinear = nn.Linear
    try:
        yield
    finally:
        falcon.FalconLinear = subclass


def _count_quantized(model: Any, name: str) -> int:
    layers = [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]
    head = model.get_output_embeddings()
    whole = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear) and module is not head and not isinstance(module, bnb.nn.Linear4bit)
    ]
    unpacked = [layer for layer in layers if layer.weight.quant_state is None]
    if not layers or unpacked or (whole and model.config.model_type == "falcon"):
        raise FalconerError(
            f"4-bit was asked for, but {len(layers)} layers of '{name}' were quantised and {len(whole)} were not.",
            "Use model.quantization=none, or report the model's type.",
        )
    wrong = [
        layer for layer in layers if tuple(layer.weight.quant_state.shape) != (layer.out_features, layer.in_features)
    ]
    if wrong:
        raise FalconerError(
            f"{len(wrong)} weights of '{name}' have another shape than its config.json says.",
            "Put back the config.json that belongs to them.",
        )
    for layer in layers:
        # In evaluation mode bitsandbytes repacks weights on such CPUs for an inference kernel without a backward pass;
        # training that goes on after a validation would then silently lose gradients.
        layer.support_avx512bf16_for_cpu = False
    return len(layers)
