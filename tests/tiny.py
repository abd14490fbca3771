"""Tiny real models of several architectures with falcon-mini's tokenizer, as folders that any program can load."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PreTrainedConfig,
)

from falconer.model.tokenizer import load_tokenizer

# What each of Falcon's layouts changes of the 7B's; heads and groups are fewer than the real ones.
FALCONS: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "falcon": {},
    "falcon-40b": {"new_decoder_architecture": True, "num_attention_heads": 4, "num_kv_heads": 2},
    "falcon-11b": {
        "new_decoder_architecture": True, "num_attention_heads": 4, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1,
        "hidden_size": 256, "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500042.0},
    },
})  # fmt: skip
ARCHITECTURES = (*FALCONS, "gpt2", "llama", "gpt_neox")


def config_of(architecture: str, vocab_size: int, end_id: int) -> PreTrainedConfig:
    """Return a two-layer, 128-wide configuration; "falcon" has the 7B's layout (one key/value head, one norm)."""
    ends = {"bos_token_id": end_id, "eos_token_id": end_id}
    if architecture in FALCONS:
        shape = {"hidden_size": 128, "num_attention_heads": 2, "ffn_hidden_size": 512} | FALCONS[architecture]
        return FalconConfig(
            vocab_size=vocab_size, num_hidden_layers=2, multi_query=True, parallel_attn=True, bias=False, alibi=False,
            **shape, **ends,
        )  # fmt: skip
    if architecture == "gpt2":
        return GPT2Config(vocab_size=vocab_size, n_embd=128, n_layer=2, n_head=2, n_positions=512, **ends)
    if architecture == "llama":
        return LlamaConfig(
            vocab_size=vocab_size, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=512, **ends,
        )  # fmt: skip
    return GPTNeoXConfig(
        vocab_size=vocab_size, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=512, **ends,
    )  # fmt: skip


def make_two_norms_unlike(model: Any) -> None:
    """Change the norms of Falcon-40B's layout: new ones are all alike, and one of two could stand for the other."""
    for name, parameter in model.named_parameters():
        if ".ln_attn." in name or ".ln_mlp." in name:
            parameter.data += 0.1 * torch.randn_like(parameter)


def save_tiny_model(folder: Path, architecture: str = "falcon") -> Path:
    """Write a tiny model with random weights (seed 0) and falcon-mini's tokenizer into `folder`."""
    tokenizer, end_id = load_tokenizer("falcon-mini")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(architecture, len(tokenizer), end_id))
    make_two_norms_unlike(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
