"""Tiny real models of several architectures with falcon-mini's tokenizer, as folders that any program can load."""

from pathlib import Path

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

ARCHITECTURES = ("falcon", "gpt2", "llama", "gpt_neox")


def config_of(architecture: str, vocab_size: int, end_id: int) -> PreTrainedConfig:
    """Return a two-layer, 128-wide configuration; Falcon's has the 7B's layout (one key/value head, one norm)."""
    ends = {"bos_token_id": end_id, "eos_token_id": end_id}
    if architecture == "falcon":
        return FalconConfig(
            vocab_size=vocab_size, hidden_size=128, num_hidden_layers=2, num_attention_heads=2, ffn_hidden_size=512,
            multi_query=True, parallel_attn=True, new_decoder_architecture=False, bias=False, alibi=False, **ends,
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


def save_tiny_model(folder: Path, architecture: str = "falcon") -> Path:
    """Write a tiny model with random weights (seed 0) and falcon-mini's tokenizer into `folder`."""
    tokenizer, end_id = load_tokenizer("falcon-mini")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(architecture, len(tokenizer), end_id))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
