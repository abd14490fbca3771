"""Tiny models of many kinds for the running batch on the generic path, with adapters."""

from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    JambaConfig,
    LlamaConfig,
    Mamba2Config,
    MambaConfig,
    OpenAIGPTConfig,
    OPTConfig,
    RwkvConfig,
)

from falconer.model.generate.generic_pass import GenericPass

VOCAB, PAD = 97, 0
UNKNOWN = torch.tensor([5, 6, 7])
STOPS = (11, 12, 13, 14)
IDS = {"vocab_size": VOCAB, "bos_token_id": 11, "eos_token_id": 11, "pad_token_id": PAD}
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CONFIGS = {
    "llama": LlamaConfig(**IDS, **SIZES, num_key_value_heads=1),
    "gpt2": GPT2Config(**IDS, n_embd=16, n_layer=2, n_head=2, n_positions=128),
    "opt": OPTConfig(**IDS, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=2,
                     word_embed_proj_dim=16, max_position_embeddings=128),
    "bloom": BloomConfig(**IDS, hidden_size=16, n_layer=2, n_head=2),
    "gemma": Gemma3TextConfig(**IDS, **SIZES, head_dim=8, num_key_value_heads=1, sliding_window=6,
                              layer_types=["sliding_attention", "full_attention"]),
    "neox": GPTNeoXConfig(**IDS, **SIZES),
    "mamba": MambaConfig(**IDS, hidden_size=16, num_hidden_layers=2, state_size=4),
    "mamba2": Mamba2Config(**IDS, hidden_size=16, num_hidden_layers=1, num_heads=4, head_dim=8, state_size=4,
                           n_groups=1, chunk_size=8),
    "jamba": JambaConfig(**IDS, **SIZES, num_key_value_heads=1, attn_layer_period=2, attn_layer_offset=1,
                         num_experts=1, mamba_d_state=4, mamba_dt_rank=4),
    "rwkv": RwkvConfig(**IDS, hidden_size=16, num_hidden_layers=2, attention_hidden_size=16),
    "openai": OpenAIGPTConfig(**IDS, n_embd=16, n_layer=2, n_head=2, n_positions=128),
}  # fmt: skip
WAYS = {"mamba": "stepwise", "mamba2": "alone", "jamba": "stepwise", "rwkv": "alone", "openai": "uncached"}
TARGETS = {"llama": ["q_proj", "down_proj"], "opt": ["fc1", "q_proj"], "mamba": ["in_proj"]}


def model_of(kind: str, num_adapters: int = 0, **lora: Any) -> Any:
    """Return a model whose weights are large enough that the prompt decides what it says.

    In fp64, but for Bloom, which does not support padding in it.
    """
    torch.manual_seed(1)
    model: Any = AutoModelForCausalLM.from_config(CONFIGS[kind])
    for number in range(num_adapters):
        config = LoraConfig(r=2, target_modules=TARGETS[kind], init_lora_weights=False, **lora)
        if number == 0:
            model = get_peft_model(model, config, adapter_name="a0")
        else:
            model.add_adapter(f"a{number}", config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(3)
    return model.to(torch.float32 if kind == "bloom" else torch.float64).eval().requires_grad_(False)


def pass_of(model: Any) -> GenericPass:
    return GenericPass(model, None, PAD, UNKNOWN.device)


def numbers(length: int, start: int = 30) -> list[int]:
    """Return some tokens, which differ by where they start."""
    return [(start + 7 * place) % VOCAB for place in range(length)]
