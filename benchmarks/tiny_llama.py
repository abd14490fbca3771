"""A small Llama that has learned a little English, as a base for measurements where no model can be downloaded.

    python benchmarks/tiny_llama.py models/tiny-llama
    falconer train --preset any-causal-lm --run runs/tiny-llama model.name=models/tiny-llama model.quantization=nf4 \\
        train.max_steps=240 train.step_tokens=4096 train.learning_rate=4e-3 data.max_tokens=512
    python benchmarks/bench_export.py --run runs/tiny-llama --out FILE --conversations 50 --replies 100

Four layers of width 192 with falcon-mini's tokenizer, trained as a whole on the sentences of the embedded training
dialogues in random order, so that what a dialogue is, and what a persona, is left for the tune. With random weights
alone every token is nearly as likely as every other, and the smallest rounding changes a greedy reply.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from falconer.data.encode import Encoder
from falconer.data.sources import load_dialogues
from falconer.files.replace import replace_folder
from falconer.model.tokenizer import load_tokenizer
from falconer.runtime import autocast, pick_precision, quiet_libraries

ROW_TOKENS, STEP_ROWS, PEAK_RATE = 128, 8, 3e-3


def new_model(num_tokens: int, end_id: int) -> LlamaForCausalLM:
    """Return the model with random weights, two key heads for six query heads."""
    config = LlamaConfig(
        vocab_size=num_tokens, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=end_id, eos_token_id=end_id,
    )  # fmt: skip
    torch.manual_seed(17)
    return LlamaForCausalLM(config)


def sentences(encoder: Encoder) -> np.ndarray:
    """Return all turns and persona sentences of the training dialogues, shuffled: int64 [rows, ROW_TOKENS]."""
    dialogues = load_dialogues("persona-chat-sample", split="train").dialogues
    texts = [text for one in dialogues for text in (*one.persona, *(turn.text for turn in one.turns))]
    np.random.default_rng(17).shuffle(texts)
    ids = [number for text in texts for number in encoder.encode_reply(text)]
    return np.array(ids[: len(ids) // ROW_TOKENS * ROW_TOKENS], dtype=np.int64).reshape(-1, ROW_TOKENS)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=240)
    given = parser.parse_args()
    quiet_libraries()
    tokenizer, end_id = load_tokenizer("falcon-mini")
    rows = sentences(Encoder(tokenizer.backend_tokenizer.to_str(), end_id, ROW_TOKENS))
    rng = np.random.default_rng(17)
    precision = pick_precision("auto", torch.device("cpu"))
    model = new_model(len(tokenizer), end_id)
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=given.steps, pct_start=0.1)
    for number in range(1, given.steps + 1):
        ids = torch.from_numpy(rows[rng.integers(len(rows), size=STEP_ROWS)])
        with autocast("cpu", precision.autocast):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if number % 20 == 0 or number == given.steps:
            print(f"step {number} of {given.steps}  loss {float(loss.detach()):.3f}", flush=True)
    with replace_folder(given.folder) as aside:
        model.to(torch.bfloat16).save_pretrained(aside)
        tokenizer.save_pretrained(aside)


if __name__ == "__main__":
    main()
