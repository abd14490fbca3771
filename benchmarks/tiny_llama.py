"""A small Llama that has learned a little English, as a base for measurements where no model can be downloaded.

    python benchmarks/tiny_llama.py models/tiny-llama
    falconer train --preset any-causal-lm --run runs/tiny-llama model.name=models/tiny-llama

Four layers of width 256 with falcon-mini's tokenizer, trained as a whole on the embedded training dialogues. With
random weights alone every token is nearly as likely as every other, and the smallest rounding changes a greedy reply.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from falconer.data.batch import collate, plan_epoch
from falconer.data.encode import Encoder
from falconer.data.sources import load_dialogues
from falconer.files.replace import replace_folder
from falconer.model.tokenizer import load_tokenizer
from falconer.runtime import quiet_libraries

STEP_TOKENS, MAX_TOKENS, PEAK_RATE = 4096, 512, 2e-3


def new_model(num_tokens: int, end_id: int) -> LlamaForCausalLM:
    """Return the model with random weights, two key heads for eight query heads."""
    config = LlamaConfig(
        vocab_size=num_tokens, hidden_size=256, intermediate_size=688, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=end_id, eos_token_id=end_id,
    )  # fmt: skip
    torch.manual_seed(17)
    return LlamaForCausalLM(config)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    quiet_libraries()
    tokenizer, end_id = load_tokenizer("falcon-mini")
    encoder = Encoder(tokenizer.backend_tokenizer.to_str(), end_id, MAX_TOKENS)
    examples, _ = encoder.encode(load_dialogues("persona-chat-sample", split="train").dialogues)
    lengths = [len(example.ids) for example in examples]
    plan = [step for epoch in range(20) for step in plan_epoch(lengths, STEP_TOKENS, 17, epoch)][: given.steps]
    model = new_model(len(tokenizer), end_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=len(plan), pct_start=0.1)
    for number, step in enumerate(plan, start=1):
        batch = collate([examples[index] for index in step], end_id)
        # All text is learned, the partner's too: this is a base model.
        is_text = np.arange(batch.ids.shape[1]) < batch.lengths[:, None]
        labels = torch.from_numpy(np.where(is_text, batch.ids, -100))
        loss = model(input_ids=torch.from_numpy(batch.ids), labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if number % 20 == 0 or number == len(plan):
            print(f"step {number} of {len(plan)}  loss {float(loss.detach()):.3f}", flush=True)
    with replace_folder(given.folder) as aside:
        model.to(torch.bfloat16).save_pretrained(aside)
        tokenizer.save_pretrained(aside)


if __name__ == "__main__":
    main()
