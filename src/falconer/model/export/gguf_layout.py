"""The layout of a model in GGUF: the names of its weights, the order of their rows, and its settings.

The facts come from llama.cpp (MIT): its converter's conversion/*.py, the tensor names in gguf-py, and src/models/*.cpp,
as llama-cpp-python 0.3.36 carries them. An architecture stands here if its tensors keep their values but for the order
of rows and Gemma's norms.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import gguf
import torch
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from falconer.errors import FalconerError

Setting = int | float | bool | str | list[bool]
# What transformers' model types are called in GGUF.
ARCHITECTURES = MappingProxyType({
    "falcon": gguf.MODEL_ARCH.FALCON, "llama": gguf.MODEL_ARCH.LLAMA, "mistral": gguf.MODEL_ARCH.LLAMA,
    "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3, "gemma": gguf.MODEL_ARCH.GEMMA,
    "gemma2": gguf.MODEL_ARCH.GEMMA2, "gemma3_text": gguf.MODEL_ARCH.GEMMA3, "gpt2": gguf.MODEL_ARCH.GPT2,
    "gpt_neox": gguf.MODEL_ARCH.GPTNEOX,
})  # fmt: skip
# What llama.cpp computes for each; Falcon's and GPT-NeoX's exact GELU it approximates by tanh, as it does for all.
_ACTIVATIONS = MappingProxyType({
    "falcon": ("gelu",), "llama": ("silu",), "mistral": ("silu",), "qwen2": ("silu",), "qwen3": ("silu",),
    "gemma": ("gelu", "gelu_pytorch_tanh"), "gemma2": ("gelu_pytorch_tanh",), "gemma3_text": ("gelu_pytorch_tanh",),
    "gpt2": ("gelu_new", "gelu"), "gpt_neox": ("gelu", "gelu_new", "gelu_fast"),
})  # fmt: skip
_SLIDING = ("gemma2", "gemma3_text")
_ALWAYS_TIED = ("gemma", "gemma2")
# Buffers that old files hold beside the weights.
_NO_WEIGHTS = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias")


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a parameter goes.

    Args:
        name: its name in GGUF.
        rows: which of its rows comes where; None where they stay.
        transposed: the base keeps it as [in, out].
        offset: what is added to it.
    """

    name: str
    rows: torch.Tensor | None
    transposed: bool
    offset: float

    def put(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the weight as GGUF has it."""
        laid = weight.T if self.transposed else weight
        ordered = laid if self.rows is None else laid[self.rows]
        return ordered if self.offset == 0 else ordered.float() + self.offset


class Layout:
    """One model's place in GGUF.

    Args:
        config: the model's configuration.
        is_tied: head and embedding share one weight.

    Raises:
        FalconerError: llama.cpp, or this file, does not know such a model; the reason is named.
    """

    def __init__(self, config: Any, *, is_tied: bool) -> None:
        self.kind: str = config.model_type
        if self.kind not in ARCHITECTURES:
            raise FalconerError(
                f"Models of type {self.kind} can't be written as GGUF here.",
                f"Allowed: {', '.join(ARCHITECTURES)}; for others run llama.cpp's converter on the merged folder.",
            )
        self.config = config
        self.num_heads = int(config.num_attention_heads)
        self.num_kv_heads = _num_kv_heads(config)
        self.head_size = int(getattr(config, "head_dim", None) or config.hidden_size // self.num_heads)
        self.architecture: str = gguf.MODEL_ARCH_NAMES[ARCHITECTURES[self.kind]]
        reason = self._refusal(is_tied)
        if reason:
            raise FalconerError(
                f"This model of type {self.kind} can't be written as GGUF: {reason}.",
                "Use the merged folder, with transformers or vLLM.",
            )
        self.writes_head = not is_tied or self.kind == "gpt_neox"
        self._names = gguf.get_tensor_name_map(ARCHITECTURES[self.kind], int(config.num_hidden_layers))

    def place(self, name: str) -> Placed | None:
        """Return where a parameter goes; None for what GGUF does without.

        Raises:
            FalconerError: llama.cpp has no tensor of that kind.
        """
        if name.endswith(_NO_WEIGHTS):
            return None
        found = self._names.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise FalconerError(
                f"llama.cpp's {self.architecture} has no tensor for {name}.",
                "Use the merged folder, with transformers.",
            )
        is_conv = self.kind == "gpt2" and re.search(r"\.(c_attn|c_proj|c_fc)\.weight$", name) is not None
        offset = 1.0 if self.kind.startswith("gemma") and name.endswith("norm.weight") else 0.0
        return Placed(found, self._rows(name), is_conv, offset)

    def settings(self) -> dict[str, Setting]:
        """Return the model's settings by GGUF's key."""
        config = self.config
        sizes = (getattr(config, key, None) for key in ("ffn_hidden_size", "intermediate_size", "n_inner"))
        feed_forward = next(filter(None, sizes), 4 * config.hidden_size)
        found: dict[str, Setting] = {
            "context_length": int(config.max_position_embeddings),
            "embedding_length": int(config.hidden_size),
            "block_count": int(config.num_hidden_layers),
            "feed_forward_length": int(feed_forward),
            "attention.head_count": self.num_heads,
            "attention.head_count_kv": self.num_kv_heads,
            "vocab_size": int(config.vocab_size),
        }
        if hasattr(config, "rms_norm_eps"):
            found["attention.layer_norm_rms_epsilon"] = float(config.rms_norm_eps)
        else:
            eps = getattr(config, "layer_norm_epsilon", None) or config.layer_norm_eps
            found["attention.layer_norm_epsilon"] = float(eps)
        if self.kind == "falcon":
            found["tensor_data_layout"] = "jploski"
        if self.kind == "gpt_neox":
            found["use_parallel_residual"] = bool(config.use_parallel_residual)
        if self.kind != "gpt2":
            found |= self._rotary()
            found |= {"attention.key_length": self.head_size, "attention.value_length": self.head_size}
        if self.kind in _SLIDING:
            found["attention.sliding_window"] = int(config.sliding_window)
            found["attention.sliding_window_pattern"] = [kind == "sliding_attention" for kind in config.layer_types]
        for key in ("attn_logit_softcapping", "final_logit_softcapping"):
            if getattr(config, key, None):
                found[key] = float(getattr(config, key))
        return {f"{self.architecture}.{key}": value for key, value in found.items()}

    def rotary_factors(self) -> torch.Tensor | None:
        """Return what each frequency is divided by (Llama 3.1's scaling), [head size / 2]; None where nothing is."""
        parameters = self._rope().get("full_attention", self._rope())
        if parameters.get("rope_type", "default") != "llama3":
            return None
        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](self.config, torch.device("cpu"))
        steps = torch.arange(0, self.head_size, 2, dtype=torch.int64).float() / self.head_size
        return 1.0 / (parameters["rope_theta"] ** steps) / scaled.float()

    def _rotary(self) -> dict[str, Setting]:
        every = self._rope()
        parameters = every.get("full_attention", every)
        part = parameters.get("partial_rotary_factor", 1.0)
        found: dict[str, Setting] = {
            "rope.freq_base": float(parameters["rope_theta"]), "rope.dimension_count": int(self.head_size * part),
        }  # fmt: skip
        if parameters.get("rope_type") == "linear":
            found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(parameters["factor"])}
        if "sliding_attention" in every:
            found["rope.freq_base_swa"] = float(every["sliding_attention"]["rope_theta"])
        return found

    def _rope(self) -> Mapping[str, Any]:
        return getattr(self.config, "rope_parameters", None) or {}

    def _rows(self, name: str) -> torch.Tensor | None:
        heads, kv_heads, size = self.num_heads, self.num_kv_heads, self.head_size
        if self.kind == "falcon" and name.endswith("query_key_value.weight"):
            # In each group the queries, then one key, then one value; wanted are all queries, all keys, all values.
            groups = torch.arange((heads + 2 * kv_heads) * size).view(kv_heads, heads // kv_heads + 2, size)
            return torch.cat([groups[:, :-2].reshape(-1), groups[:, -2].reshape(-1), groups[:, -1].reshape(-1)])
        if self.kind == "gpt_neox" and ".query_key_value." in name:
            # In each head its query, key and value.
            return torch.arange(3 * heads * size).view(heads, 3, size).transpose(0, 1).reshape(-1)
        projection = re.search(r"\.([qk])_proj\.(weight|bias)$", name)
        if self.architecture == "llama" and projection:
            # transformers turns the first half of a head against the second, llama.cpp each value against the next.
            count = heads if projection[1] == "q" else kv_heads
            return torch.arange(count * size).view(count, 2, size // 2).transpose(1, 2).reshape(-1)
        return None

    def _refusal(self, is_tied: bool) -> str:
        """Return why llama.cpp would compute something else; "" where it does not."""
        config = self.config
        activation = next(
            (
                value
                for key in ("hidden_activation", "hidden_act", "activation_function", "activation")
                if (value := getattr(config, key, None))
            ),
            "",
        )
        if activation not in _ACTIVATIONS[self.kind]:
            return f"its activation is {activation}, llama.cpp's {_ACTIVATIONS[self.kind][0]}"
        if self.kind == "falcon":
            if config.alibi or config.bias:
                return "llama.cpp's Falcon has neither ALiBi nor biases"
            if not (config.new_decoder_architecture or config.parallel_attn):
                return "llama.cpp's Falcon has attention and MLP in parallel"
        rope = self._rope()
        for parameters in (rope.get("full_attention", rope), rope.get("sliding_attention", {})):
            kind = parameters.get("rope_type", "default")
            if kind not in ("default", "linear", "llama3") or (kind == "llama3" and self.architecture != "llama"):
                return f"its rotary positions are scaled by '{kind}'"
        if self.kind not in _SLIDING and "sliding_attention" in (getattr(config, "layer_types", None) or ()):
            return "its attention slides over a window"
        window = getattr(config, "sliding_window", None) if self.kind == "mistral" else None
        if window is not None and window < config.max_position_embeddings:
            return "its attention slides over a window"
        if self.kind in _ALWAYS_TIED and not is_tied:
            return f"its head is not its embedding, which llama.cpp's {self.kind} can't have"
        if self.kind in _SLIDING and config.query_pre_attn_scalar != self.head_size:
            return f"its attention is scaled by {config.query_pre_attn_scalar}, not by the size of a head"
        if self.kind == "gpt2" and config.scale_attn_by_inverse_layer_idx:
            return "its attention is scaled by the layer's number"
        return ""


def _num_kv_heads(config: Any) -> int:
    if config.model_type == "falcon":
        if not config.new_decoder_architecture:
            return 1 if config.multi_query else int(config.num_attention_heads)
        return int(config.num_kv_heads)
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)
