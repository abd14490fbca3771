"""Adapters of random values on tiny models, for tests of what is made of them."""

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

IDS = torch.arange(1, 25).unsqueeze(0)
LINEAR = {
    "falcon": ["query_key_value", "dense"], "falcon-40b": ["query_key_value", "dense"], "gpt2": ["c_attn", "c_proj"],
    "llama": ["q_proj", "k_proj", "down_proj"],
}  # fmt: skip
EMBEDDING = {
    "falcon": "word_embeddings", "falcon-40b": "word_embeddings", "gpt2": "wte", "llama": "embed_tokens",
}  # fmt: skip


def save_adapter_on(base: Path, folder: Path, **settings: Any) -> PeftModel:
    """Save an adapter of random values (seed 1) as PEFT does, and return the model with it, in fp32."""
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(**({"r": 4, "lora_alpha": 8, "task_type": "CAUSAL_LM"} | settings))
    with warnings.catch_warnings():
        # Of tied heads, of Conv1D, and of embeddings that are saved whole.
        warnings.simplefilter("ignore")
        model = get_peft_model(plain, config)
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.05)
        model.save_pretrained(folder, save_embedding_layers=False)
    return model.eval()


def logits_of(folder: Path, ids: torch.Tensor = IDS) -> torch.Tensor:
    """Return what transformers makes of a folder, in fp32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(input_ids=ids).logits
