"""Measures a training step of the generic path before and after: stock layers under autocast with the logits of all
targets stored; the head in chunks; falconer's own layers, too; and the micro-batch as a CUDA graph, too. All do the
same work in the same job, one after the other, each from the same adapter and the same seed of its first step.

    python benchmarks/bench_generic_training.py [--shapes gemma-270m,llama-1b] [--rows 16] [--tokens 256]
        [--runs 10] [--lean] [--profile] [--out FILE.json]

The weights are random: speed and memory do not depend on their values. LoRA r=16 on all linear layers with dropout
0.05, loss on 40 % of the positions, clipping, AdamW. "plan" is the memory that `falconer plan` predicts of the step.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
from falconer.train.padded_batch import shape_of, shapes_for
from falconer.train.ranks import Ranks
from falconer.train.recorded import Recorded, why_not_recorded
from falconer.train.step import accumulate_gradient

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


@dataclass(frozen=True)
class System:
    """One way to compute a step: which layers, what is stored, and whether the micro-batch is a CUDA graph."""

    name: str
    memory: str = "fast"
    own_layers: bool = False
    recorded: bool = False


BEFORE = System("before")
SYSTEMS = (
    BEFORE, System("stock layers"), System("own layers", own_layers=True),
    System("own layers, recorded", own_layers=True, recorded=True),
)  # fmt: skip
LEAN = (System("stock layers", "lean"), System("own layers", "lean", own_layers=True))


class Bench:
    """A random model of one shape with its adapter, and a micro-batch."""

    def __init__(self, name: str, rows: int, tokens: int, runs: int, profile: bool) -> None:
        self.name, self.runs, self.profile, self.device = name, runs, profile, runtime.pick_device("auto")
        self.config = SHAPES[name]
        self.lora = LoraConfig(r=16, alpha=32, dropout=0.05, targets="all-linear")
        torch.manual_seed(0)
        with self.device:
            model: Any = AutoModelForCausalLM.from_config(
                self.config, dtype=torch.bfloat16, attn_implementation="sdpa"
            )  # fmt: skip
        model.requires_grad_(False)
        self.model = add_adapter(model, r=16, alpha=32, dropout=0.05, targets="all-linear", seed=0).train()
        self.batch = random_batch(rows, tokens, self.config.vocab_size)
        self.parameters = list(trainable_tensors(self.model).values())
        self.begin = [parameter.detach().clone() for parameter in self.parameters]
        self.head = head_of(self.model)

    def measure(self, system: System) -> dict[str, Any]:
        """Return the row of a system; nothing of it is left afterwards."""
        recorded: Recorded | None = None
        try:
            why = self._set_up(system)
            free_memory(self.device)
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(self.device)
            started = time.perf_counter()
            if system.recorded:
                recorded, reason = self._recorded()
                if reason:
                    raise RuntimeError(f"not recorded: {reason}")
                why += f", a CUDA graph, recorded and tried in {time.perf_counter() - started:.1f} s"
            row = self._timed(system, why, recorded)
            if recorded and recorded.why_not:
                raise RuntimeError(f"not recorded any more: {recorded.why_not}")
            return row
        except Exception as error:  # the other systems are measured all the same
            text = f"{type(error).__name__}: {str(error)[:300]}"
            return {"shape": self.name, "system": system.name, "memory": system.memory, "error": text}
        finally:
            if recorded:
                recorded.free()
            for parameter, tensor in zip(self.parameters, self.begin, strict=True):
                parameter.data.copy_(tensor)
                parameter.grad = None
            free_memory(self.device)

    def _set_up(self, system: System) -> str:
        """Set the model up, and return how it computes."""
        model = self.model
        restore_layers(model)
        model.gradient_checkpointing_disable()
        if system.memory == "lean":
            model.enable_input_require_grads()
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if system.own_layers and (reason := replace_layers(model, torch.bfloat16)):
            raise RuntimeError(f"no own layers: {reason}")
        if system == BEFORE:
            return "stock layers under autocast, logits stored"
        return "head in chunks, " + ("own layers in bf16" if system.own_layers else "stock layers under autocast")

    def _recorded(self) -> tuple[Recorded | None, str]:
        """Return what records the micro-batch, or why it can't be."""
        reason = why_not_recorded(self.model, self.head, self.parameters)
        if reason or self.head is None:
            return None, reason
        shapes = shapes_for([shape_of(self.batch)])
        recorded = Recorded(self.model, self.head, self.parameters, shapes, pad_id=0)
        reason = recorded.why_not_alike(self.batch)
        return recorded, reason

    def _timed(self, system: System, why: str, recorded: Recorded | None) -> dict[str, Any]:
        device, batch, parameters = self.device, self.batch, self.parameters
        peak_before = runtime.peak_memory_gib(device) if recorded else 0.0
        free_memory(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        optimizer = torch.optim.AdamW(parameters, lr=1e-6)
        forward, objective = Forward(self.model, self.head, torch.bfloat16, recorded), LmObjective([], [], 0)
        if system == BEFORE:
            objective = Given(lambda one: stock_nll(self.model, one, torch.bfloat16))
        found: list[tuple[float, float]] = []

        def step() -> None:
            (loss,) = accumulate_gradient([batch], [batch.num_targets], objective, forward, parameters, Ranks(device))
            norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            if not found:
                found.append((loss, float(norm)))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        torch.manual_seed(0)
        step()
        seconds = runtime.median_s(step, device, runs=self.runs, warmup=3)
        row = {
            "shape": self.name, "system": system.name, "memory": system.memory, "batch": len(batch.ids),
            "tokens": batch.ids.shape[1], "tok_s": round(batch.ids.size / seconds, 1),
            "step_ms": round(1000 * seconds, 2),
            # What a graph uses counts as allocated only while it is recorded.
            "peak_gib": round(max(peak_before, runtime.peak_memory_gib(device)), 3),
            "loss": round(found[0][0], 6), "grad_norm": round(found[0][1], 6), "how": why,
        }  # fmt: skip
        if device.type == "cuda":
            free, total = torch.cuda.mem_get_info(device)
            row["reserved_gib"] = round(torch.cuda.max_memory_reserved(device) / GIB, 3)
            # With the CUDA context, the lists of kernels of graphs, and whatever other programs use.
            row["device_gib"] = round((total - free) / GIB, 3)
        if system.own_layers:
            predicted = own_layers_memory(
                measure_shape(self.config, self.lora), tokens=batch.ids.size, longest=batch.ids.shape[1],
                num_logits=batch.num_targets, checkpointing=system.memory == "lean", quantized=False, bytes_each=2,
            )  # fmt: skip
            row["plan_gib"] = round(predicted.total / GIB, 3)
        if self.profile and device.type == "cuda":
            show_profile(step)
        return row


def measure(bench: Bench, systems: Sequence[System], on_row: Callable[[dict[str, Any]], None]) -> None:
    """Measure some systems, print each row as soon as it is there, and at last how they compare."""
    name, found = bench.name, []
    for system in systems:
        found.append(bench.measure(system))
        print(json.dumps(found[-1]), flush=True)
        on_row(found[-1])
    measured = [row for row in found if "error" not in row]
    for row in measured[1:]:
        first = measured[0]
        speed, peak = row["tok_s"] / first["tok_s"], row["peak_gib"] / first["peak_gib"]
        print(
            f"{name}, {row['system']}, {row['memory']}: {speed:.2f} x the speed, {peak:.2f} of the memory of "
            f"'{first['system']}', loss {row['loss']:.5f} ({first['loss']:.5f})", flush=True,
        )  # fmt: skip


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
    parser.add_argument("--lean", action="store_true", help="measure what computes blocks again, too")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    runtime.quiet_libraries()
    rows: list[dict[str, Any]] = []

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        if given.out:
            write_result(given.out, "training on the generic path, before and after", rows)

    for name in given.shapes.split(","):
        bench = Bench(name, given.rows, given.tokens, given.runs, given.profile)
        measure(bench, SYSTEMS + LEAN if given.lean else SYSTEMS, keep)


if __name__ == "__main__":
    main()
