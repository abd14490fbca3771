"""The process in which the training benchmark runs a peer: it loads a checkpoint, trains it and times the steps.

It is started as a script, by a Python that may have no falconer, and so imports nothing of it. It gets an order as JSON
and answers with JSON lines through a pipe of its own, as libraries print to stdout what they like.
"""

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

LEARNING_RATE = 2e-4
MAX_GRAD_NORM = 1.0


def main(order: dict[str, Any], pipe: TextIO) -> None:
    """Load the model, and answer with the time and the memory of a step for each of the order's sizes.

    Args:
        order: the peer's name, the checkpoint's folder, the adapter's settings, whether it uses checkpointing, the
            files of rows, and the numbers of steps; see `bench.peers.Order`.
        pipe: gets a line for each size, and a last one if nothing went wrong.
    """

    def answer(**line: Any) -> None:
        pipe.write(json.dumps(line) + "\n")
        pipe.flush()

    try:
        train = with_trl(order) if order["peer"] == "trl" else with_unsloth(order)
        for path in order["rows"]:
            answer(**measured(train, path, order))
        answer(done=True)
    except Exception as error:
        traceback.print_exc()
        answer(error=f"{type(error).__name__}: {error}")


def measured(train: Callable[..., tuple[list[float], float]], path: str, order: dict[str, Any]) -> dict[str, Any]:
    """Return the median time of a step on some rows, its peak of memory, and the loss of the first step.

    Running out of memory is a result, too.
    """
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        seconds, loss = train(path, order["warmup"] + order["runs"])
    except torch.OutOfMemoryError:
        return {"rows": path, "seconds": None, "peak_gib": None, "loss": None}
    timed = sorted(seconds[order["warmup"] :])
    return {"rows": path, "seconds": timed[len(timed) // 2], "peak_gib": peak_gib(), "loss": loss}


def with_trl(order: dict[str, Any]) -> Callable[[str, int], tuple[list[float], float]]:
    """Load the model as TRL does for QLoRA; return what trains it with TRL's trainer."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import ModelConfig, SFTConfig, SFTTrainer, get_peft_config, get_quantization_config

    on_gpu = torch.cuda.is_available()
    settings = ModelConfig(
        dtype="bfloat16", load_in_4bit=True, bnb_4bit_quant_type="nf4", use_bnb_nested_quant=True, use_peft=True,
        lora_r=order["r"], lora_alpha=order["alpha"], lora_dropout=order["dropout"],
        # TRL makes a list of one a regular expression.
        lora_target_modules=[rf".*\.({'|'.join(order['targets'])})"], lora_task_type="CAUSAL_LM",
    )  # fmt: skip
    linear_layers_can_be_quantised()
    tokenizer = AutoTokenizer.from_pretrained(order["model"])

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(
            order["model"], dtype=torch.bfloat16, quantization_config=get_quantization_config(settings),
            device_map={"": "cuda:0" if on_gpu else "cpu"}, attn_implementation="sdpa",
        )  # fmt: skip

    class Clock(TrainerCallback):
        """Takes the time of each step, without loading its rows."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            synchronize()
            self.started = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            synchronize()
            self.seconds.append(time.perf_counter() - self.started)

    def train(path: str, num_steps: int) -> tuple[list[float], float]:
        ids, labels = read_rows(path)
        clock = Clock()
        trainer = SFTTrainer(
            load(),
            args=SFTConfig(
                output_dir="trl", per_device_train_batch_size=len(ids), gradient_accumulation_steps=1,
                max_steps=num_steps, learning_rate=LEARNING_RATE, lr_scheduler_type="constant", optim="adamw_torch",
                max_grad_norm=MAX_GRAD_NORM, bf16=True, use_cpu=not on_gpu, max_length=None,
                gradient_checkpointing=order["checkpointing"], dataset_kwargs={"skip_prepare_dataset": True},
                report_to="none", save_strategy="no", logging_first_step=True, logging_steps=10**6, disable_tqdm=True,
            ),
            # As many rows as all steps see, since an epoch's end is no part of a step.
            train_dataset=Dataset.from_dict({"input_ids": ids * num_steps, "labels": labels * num_steps}),
            processing_class=tokenizer, peft_config=get_peft_config(settings), callbacks=[clock],
        )  # fmt: skip
        check(trainer.model, order)
        reset_peak()
        trainer.train()
        return clock.seconds, next(row["loss"] for row in trainer.state.log_history if "loss" in row)

    return train


def with_unsloth(order: dict[str, Any]) -> Callable[[str, int], tuple[list[float], float]]:
    """Load the model with Unsloth, which compiles its layers; return what trains it in a plain loop."""
    # It has to be imported before what it changes.
    from unsloth import FastModel

    # isort: split
    import torch

    linear_layers_can_be_quantised()
    checkpointing = "unsloth" if order["checkpointing"] else False
    model, _ = FastModel.from_pretrained(
        order["model"], max_seq_length=2048, dtype=torch.bfloat16, load_in_4bit=True,
        use_gradient_checkpointing=checkpointing,
    )  # fmt: skip
    model = FastModel.get_peft_model(
        model, r=order["r"], lora_alpha=order["alpha"], lora_dropout=order["dropout"], bias="none",
        target_modules=order["targets"], use_gradient_checkpointing=checkpointing, random_state=0,
    )  # fmt: skip
    check(model, order)
    FastModel.for_training(model, use_gradient_checkpointing=checkpointing)
    device = next(model.parameters()).device
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def train(path: str, num_steps: int) -> tuple[list[float], float]:
        rows = {name: torch.tensor(values, device=device) for name, values in zip(
            ("input_ids", "labels"), read_rows(path), strict=True
        )}  # fmt: skip
        rows["attention_mask"] = torch.ones_like(rows["input_ids"])
        optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE)
        seconds, losses = [], []
        reset_peak()
        for _ in range(num_steps):
            synchronize()
            started = time.perf_counter()
            with torch.autocast(device.type, dtype=torch.bfloat16):
                loss = model(**rows).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            synchronize()
            seconds.append(time.perf_counter() - started)
            losses.append(loss.detach())
        return seconds, float(losses[0])

    return train


def linear_layers_can_be_quantised() -> None:
    """Let Falcon use torch's linear layers, which compute what its own ones do, and which alone are quantised."""
    import torch
    from transformers.models.falcon import modeling_falcon

    falcon: Any = modeling_falcon
    falcon.FalconLinear = torch.nn.Linear


def check(model: Any, order: dict[str, Any]) -> None:
    """Check that as many layers are quantised and adapted as falconer quantises and adapts.

    Raises:
        RuntimeError: they are not, so that the figures would be those of other work.
    """
    weights = [parameter for parameter in model.parameters() if type(parameter).__name__ == "Params4bit"]
    quantised = sum(weight.quant_state is not None for weight in weights)
    adapted = sum(name.endswith("lora_A.default") for name, _ in model.named_modules())
    found, expected = (quantised, adapted), (order["num_quantised"], order["num_adapted"])
    if found != expected:
        raise RuntimeError(
            f"{found[0]} layers are quantised and {found[1]} adapted, instead of {expected[0]} and {expected[1]}"
        )


def read_rows(path: str) -> tuple[list[list[int]], list[list[int]]]:
    """Return the token ids and the labels of rows."""
    with open(path, encoding="utf-8") as file:
        rows = json.load(file)
    return rows["input_ids"], rows["labels"]


def synchronize() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def reset_peak() -> None:
    """Forget the peak of loading the model, which is no part of a step."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_gib() -> float:
    """Return the peak so far in GiB: of tensors on a GPU, of the whole process on the CPU."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated()) / 2**30
    import resource

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 2**20


if __name__ == "__main__":
    # No process that a library starts holds the pipe open after this one has ended.
    os.set_inheritable(int(sys.argv[1]), False)
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as answers:
        main(json.loads(sys.stdin.read()), answers)
