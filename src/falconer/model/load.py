"""Loading a base model and its tokenizer from a folder or the hub, in 4-bit NF4 or unquantised."""

import importlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
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
from falconer.model.guards import check_model_folder, no_pickle
from falconer.model.limits import check_numbers, check_token, end_tokens
from falconer.model.tokenizer import LoadedTokenizer, explain_missing, open_tokenizer, resolve

# Below it 4-bit quantisation costs accuracy: the word perplexity of a model of 270 million parameters became a quarter
# worse. At 7 to 65 billion parameters QLoRA (arXiv:2305.14314) measured no loss.
SMALL_PARAMETERS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A frozen base model, ready for an adapter.

    Args:
        model: the `transformers` model, in evaluation mode, without gradients.
        tokenizer: its fast tokenizer, carrying our chat template.
        end_id: the end-of-text token's id.
        num_quantized: number of 4-bit layers.
        precision: precision of the computation.
        path: the argument of `from_pretrained`.
        bos: what the tokenizer puts before every text, as text.
        stop_ids: further end tokens named in the model's files, at which a reply stops, too.
        notes: notes on the tokenizer for the user.
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
        FalconerError: the model can't be found or read, weights are missing or differ in shape from config.json, it has
            no embedding for the end token, or NF4 is configured and no layer was quantised.
    """
    target = runtime.pick_device(device)
    check_model_folder(Path(resolve(name)))
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
    with no_pickle(), explain_missing(name, revision):
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        check_numbers(config, name)
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
    stop_ids = _other_ends(model, opened, name)
    # Decoding defaults of the folder (sampling, beams, penalties) would interfere with our configuration.
    model.generation_config = GenerationConfig(eos_token_id=end_id)
    model.requires_grad_(False)
    model.eval()
    num_quantized = _count_quantized(model, name) if quantization == "nf4" else 0
    return LoadedModel(
        model, opened.tokenizer, end_id, num_quantized, precision, path, opened.bos, stop_ids, opened.notes
    )


def _check_complete(missing: Sequence[str], name: str) -> None:
    # transformers initialises missing weights at random and only warns.
    if missing:
        raise FalconerError(
            f"The weights of '{name}' are incomplete: {len(missing)} tensors are missing, including {missing[0]}.",
            "Download or save the model again.",
        )


def _other_ends(model: Any, opened: LoadedTokenizer, name: str) -> tuple[int, ...]:
    """Return the special end tokens in generation_config.json and config.json, without the tokenizer's end token."""
    special = {token for token, added in opened.tokenizer.added_tokens_decoder.items() if added.special}
    named = end_tokens(model.generation_config, name) | end_tokens(model.config, name)
    return tuple(sorted((named & special) - {opened.end_id}))


def cost_of_nf4(num_parameters: int) -> str:
    """Return a note on the accuracy that 4 bits cost a model of this size; "" for a large one."""
    if num_parameters >= SMALL_PARAMETERS:
        return ""
    return (
        "4-bit weights make a small model less accurate (word perplexity is 2 % higher for falcon-mini, 21 % for a "
        "Gemma of 270 million parameters); model.quantization=none avoids this"
    )


@contextmanager
def _falcon_linear_is_linear(active: bool) -> Iterator[None]:
    # transformers only quantises layers whose type is exactly nn.Linear. Falcon's layers are of a subclass that
    # computes the same, so stock 4-bit loading quantises none of them and only warns.
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
    unquantised = [layer for layer in layers if layer.weight.quant_state is None]
    if not layers or unquantised or (whole and model.config.model_type == "falcon"):
        raise FalconerError(
            f"model.quantization=nf4, but {len(layers)} layers of '{name}' were quantised and {len(whole)} were not.",
            "Use model.quantization=none, or report this with the type of the model.",
        )
    wrong = [
        layer for layer in layers if tuple(layer.weight.quant_state.shape) != (layer.out_features, layer.in_features)
    ]
    if wrong:
        raise FalconerError(
            f"{len(wrong)} weights of '{name}' differ in shape from its config.json.",
            "Restore the config.json that belongs to the weights.",
        )
    for layer in layers:
        # In evaluation mode bitsandbytes repacks weights on such CPUs for an inference kernel without a backward pass,
        # so that training after a validation would silently lose gradients.
        layer.support_avx512bf16_for_cpu = False
    return len(layers)
