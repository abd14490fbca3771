"""Measures a training step of the generic path before and after: stock layers under autocast with the logits of all
targets stored, and falconer's own layers and head. Both do the same work in the same job, one after the other.

    python benchmarks/bench_generic_training.py [--shapes gemma-270m,llama-1b] [--rows 16] [--tokens 256]
        [--profile] [--out FILE.json]

The weights are random: speed and memory do not depend on their values. LoRA r=16 on all linear layers with dropout
0.05, loss on 40 % of the positions, clipping, AdamW. "plan" is the memory that `falconer plan` predicts of the step.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig

from falconer import runtime
from falconer.bench.result import write_result
from falconer.config import LoraConfig
from falconer.model.layers.replace import replace_layers, restore_layers
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.model.output_head import head_of
from falconer.records import Batch
from falconer.train.cost import measure_shape, own_layers_memory
from falconer.train.mode import free_memory
from falconer.train.objectives.lm import LmObjective
from falconer.train.objectives.objective import Forward
from falconer.train.ranks import Ranks
from falconer.train.step import accumulate_gradient, nll_sum

TARGET_SHARE, CHUNK, GIB = 0.4, 1024, 2**30
IDS = {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
SHAPES = {
    # google/gemma-3-270m's and meta-llama/Llama-3.2-1B's config.json.
    "gemma-270m": Gemma3TextConfig(
        **IDS, vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4,
        num_key_value_heads=1, head_dim=256, sliding_window=512, query_pre_attn_scalar=256,
        layer_types=["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(18)],
    ),
    "llama-1b": LlamaConfig(
        **IDS, vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16,
        num_attention_heads=32, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
    ),
    "tiny": LlamaConfig(
        **IDS, vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
    ),
}  # fmt: skip


def random_batch(rows: int, tokens: int, vocabulary: int) -> Batch:
    ids = np.random.default_rng(0).integers(3, vocabulary, (rows, tokens))
    is_target = np.zeros(ids.shape, dtype=bool)
    is_target[:, np.arange(tokens) % 10 >= 10 - 10 * TARGET_SHARE] = True
    is_target[:, 0] = False
    return Batch(ids, is_target, np.full(rows, tokens), ("random",) * rows)


def stock_nll(model: Any, batch: Batch, autocast: torch.dtype) -> torch.Tensor:
    """Return the loss as falconer 0.5.0 computed it: the head at targets, its logits stored."""
    base = model.get_base_model()
    device = next(model.parameters()).device
    with torch.autocast(device.type, dtype=autocast):
        ids, is_target = torch.from_numpy(batch.ids).to(device), torch.from_numpy(batch.is_target).to(device)
        predicts = torch.zeros_like(is_target)
        predicts[:, :-1] = is_target[:, 1:]
        hidden = base.base_model(input_ids=ids, use_cache=False).last_hidden_state[predicts]
        pairs = zip(hidden.split(CHUNK), ids[is_target].split(CHUNK), strict=True)
        head = base.get_output_embeddings()
        return torch.cat([F.cross_entropy(head(h).float(), labels, reduction="none") for h, labels in pairs]).sum()


class Given(LmObjective):
    """The language modelling objective with a given way to compute the sum of a batch."""

    def __init__(self, nll: Callable[[Batch], torch.Tensor]) -> None:
        super().__init__([], [], 0)
        self._nll = nll

    def sums(self, forward: Forward, batch: Batch) -> torch.Tensor:
        return self._nll(batch).unsqueeze(0)


def measure(name: str, rows: int, tokens: int, runs: int, profile: bool) -> list[dict[str, Any]]:
    device = runtime.pick_device("auto")
    config, lora = SHAPES[name], LoraConfig(r=16, alpha=32, dropout=0.05, targets="all-linear")
    torch.manual_seed(0)
    with device:
        model: Any = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    model.requires_grad_(False)
    model = add_adapter(model, r=16, alpha=32, dropout=0.05, targets="all-linear", seed=0).train()
    batch, parameters = random_batch(rows, tokens, config.vocab_size), list(trainable_tensors(model).values())
    head, found = head_of(model), []
    forward = Forward(model, head, torch.bfloat16)

    def own(batch: Batch) -> torch.Tensor:
        return nll_sum(model, batch, head_on_targets=head, autocast=torch.bfloat16)

    def before(batch: Batch) -> torch.Tensor:
        return stock_nll(model, batch, torch.bfloat16)

    systems = (
        ("before", "fast", before), ("stock layers", "fast", own), ("stock layers", "lean", own),
        ("own layers", "fast", own), ("own layers", "lean", own),
    )  # fmt: skip
    for system, memory, nll in systems:
        optimizer = torch.optim.AdamW(parameters, lr=1e-6)

        def step(nll: Callable[[Batch], torch.Tensor] = nll, optimizer: Any = optimizer) -> None:
            accumulate_gradient([batch], [batch.num_targets], Given(nll), forward, parameters, Ranks(device))
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        why = "stock layers under autocast, logits stored"
        restore_layers(model)
        if system != "before":
            model.gradient_checkpointing_disable()
            if memory == "lean":
                model.enable_input_require_grads()
                model.gradient_checkpointing_enable({"use_reentrant": False})
            reason = replace_layers(model, torch.bfloat16) if system != "stock layers" else "as they are"
            why = f"head in chunks, stock layers: {reason}" if reason else "head in chunks, own layers in bf16"
        model.eval()
        with torch.no_grad():
            loss = float(nll(batch)) / batch.num_targets
        model.train()
        free_memory(device)
        step()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        seconds = runtime.median_s(step, device, runs=runs, warmup=3)
        peak = runtime.peak_memory_gib(device)
        if profile and device.type == "cuda":
            show_profile(step)
        row = {
            "shape": name, "system": system, "memory": memory, "batch": rows, "tokens": tokens,
            "tok_s": round(batch.ids.size / seconds, 1), "step_ms": round(1000 * seconds, 2),
            "peak_gib": round(peak, 3), "loss": round(loss, 6), "how": why,
        }  # fmt: skip
        if system.startswith("own layers"):
            predicted = own_layers_memory(
                measure_shape(config, lora), tokens=batch.ids.size, longest=tokens,
                num_logits=batch.num_targets, checkpointing=memory == "lean", quantized=False, bytes_each=2,
            )  # fmt: skip
            row["plan_gib"] = round(predicted.total / GIB, 3)
        found.append(row)
        print(json.dumps(row), flush=True)
        optimizer.zero_grad(set_to_none=True)
        del optimizer
        free_memory(device)
    for row in found[1:]:
        speed, peak = row["tok_s"] / found[0]["tok_s"], row["peak_gib"] / found[0]["peak_gib"]
        print(
            f"{name}, {row['system']}, {row['memory']}: {speed:.2f} x the speed, {peak:.2f} of the memory", flush=True
        )
    return found


def show_profile(step: Callable[[], None]) -> None:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    with profiler(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
        step()
        torch.cuda.synchronize()
    events = found.key_averages()
    kernels = [one for one in events if one.device_type == torch.autograd.DeviceType.CUDA]
    milliseconds = sum(one.self_device_time_total for one in kernels) / 1000
    print(f"{sum(one.count for one in kernels)} kernels, {milliseconds:.1f} ms")
    print(events.table(sort_by="self_cuda_time_total", row_limit=14, max_name_column_width=70))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="gemma-270m,llama-1b")
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    runtime.quiet_libraries()
    rows = [
        row for name in given.shapes.split(",")
        for row in measure(name, given.rows, given.tokens, given.runs, given.profile)
    ]  # fmt: skip
    if given.out:
        write_result(given.out, "training on the generic path, before and after", rows)


if __name__ == "__main__":
    main()
