"""The training loop: one adapter, the exact token-weighted loss, and nothing lost when it is interrupted."""

import dataclasses
import itertools
import math
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from rich.console import Console

from falconer import runtime
from falconer.config import Config
from falconer.curves import write_loss_curve
from falconer.data.batch import collate, micro_batches
from falconer.data.prompt import PromptFormat, template_sha256
from falconer.data.recorded import pack
from falconer.data.splits import Splits
from falconer.disk_errors import explain_disk_errors
from falconer.durable import sync_file
from falconer.errors import FalconerError
from falconer.files import recover_folder
from falconer.locks import lock_run
from falconer.model.likelihood import can_use_head_on_targets
from falconer.model.load import LoadedModel, cost_of_nf4, load_model
from falconer.model.lora import adapter_sha256, add_adapter, load_adapter, save_adapter, trainable_tensors
from falconer.model.probe import check_causal
from falconer.model.tokenizer import set_template
from falconer.records import Batch
from falconer.run_folder import ADAPTER, CURVE, LAST, STEPS, read_steps, write_config, write_run, write_splits
from falconer.run_state import How, training, write_training
from falconer.train import setup
from falconer.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from falconer.train.mode import Mode, choose_mode, free_memory
from falconer.train.recorder import Recorder
from falconer.train.schedule import learning_rate
from falconer.train.step import NonFiniteLoss, accumulate_gradient, nll_sum, validation_loss, without_gradient


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended: "finished", "early" (no better validation loss) or "interrupted" (it can be resumed)."""

    run: Path
    ended: How
    progress: Progress
    num_steps: int


def train(config: Config, run: Path, *, resume: bool, console: Console) -> TrainResult:
    """Train an adapter as `config` says; everything it leaves is in the folder `run`.

    Args:
        resume: go on from the last checkpoint, bit for bit as if there had been no interruption (on the CPU).
        console: where progress is shown.

    Raises:
        FalconerError: anything its user can mend; a non-finite loss after a checkpoint was saved.
    """
    accelerator = Accelerator(cpu=runtime.pick_device(config.model.device).type == "cpu")
    console.quiet = console.quiet or not accelerator.is_main_process
    with lock_run(run) if accelerator.is_main_process else nullcontext():
        return _train(config, run, accelerator, resume, console)


def _train(config: Config, run: Path, accelerator: Accelerator, resume: bool, console: Console) -> TrainResult:
    device = runtime.pick_device(config.model.device)
    if accelerator.is_main_process:
        setup.check_run(run, config, resume)
    moved: list[str] = []
    if resume:
        splits, moved = setup.resume_dialogues(run, config)
        if accelerator.is_main_process:
            recover_folder(run / LAST)
            recover_folder(run / ADAPTER)
        accelerator.wait_for_everyone()
    else:
        splits = setup.load_dialogues(config)
    base = load_model(
        config.model.name, revision=config.model.revision,
        quantization=config.model.quantization, dtype=config.model.dtype, device=config.model.device,
    )  # fmt: skip
    if resume:
        format = setup.recorded_format(run, config)
    else:
        format = setup.continued_format(setup.prompt_format(splits, base.bos), config.lora.init_adapter)
    set_template(base.tokenizer, format.bos)
    examples = setup.encode_splits(splits, base, config, format)
    job = _Job(config, run, accelerator, device, base, examples, format, console)
    for line in moved:
        console.print(f"data    {line}", markup=False, soft_wrap=True)
    if moved and accelerator.is_main_process:
        write_config(run, config)
    if resume and (run / LAST).is_dir():
        job.progress = load_checkpoint(run / LAST, job.model, job.optimizer)
    elif resume and accelerator.is_main_process:
        # Killed before its first checkpoint: everything follows from the seed, so it simply begins again.
        console.print(f"'{run}' has no checkpoint yet: it begins again with its first step.", soft_wrap=True)
    elif not resume and accelerator.is_main_process:
        record = _record(job, splits)
        write_splits(run, pack(splits))
        write_run(run, config, record)
        _say_what_runs(console, record, base, splits)
    job.model.train()
    ended: How = "early" if job.is_stale else "finished"
    recorder = Recorder(run, len(job.plan), job.progress.step, accelerator.is_main_process, console)
    with explain_disk_errors(run), training(run, accelerator.is_main_process), recorder, _interruptible() as interrupt:
        while job.progress.step < len(job.plan) and ended == "finished":
            recorder.step(job.step())
            is_last = job.progress.step == len(job.plan)
            if is_last or job.progress.step % job.validate_every == 0:
                job.validate(recorder)
                if job.is_stale:
                    ended = "early"
            if _any_rank(accelerator, interrupt.is_set):
                ended = "interrupted"
            if is_last or ended != "finished" or job.progress.step % job.save_every == 0:
                job.save()
        if accelerator.is_main_process:
            done = job.progress
            write_training(run, ended, done.step, len(job.plan), done.best_loss, done.best_step)
    accelerator.wait_for_everyone()
    return TrainResult(run, ended, job.progress, len(job.plan))


class _Job:
    """What one run works with. After it is built only `progress`, the adapter and the optimiser change."""

    def __init__(
        self, config: Config, run: Path, accelerator: Accelerator, device: torch.device, base: LoadedModel,
        examples: setup.Examples, format: PromptFormat, console: Console,
    ) -> None:  # fmt: skip
        self.config, self.run, self.accelerator, self.device = config.train, run, accelerator, device
        self.console = console
        self.base, self.examples, self.text_style, self.format = base, examples, config.data.text, format
        self.model = _adapted(base, config)
        check_causal(self.model)
        self.initial_adapter = adapter_sha256(self.model)
        self.head_on_targets = can_use_head_on_targets(self.model)
        self.micro_tokens = config.train.micro_tokens
        self.parameters = list(trainable_tensors(self.model).values())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=config.train.learning_rate, betas=(0.9, config.train.beta2),
            weight_decay=config.train.weight_decay,
        )  # fmt: skip
        self.plan = setup.plan_steps(examples.lengths, config)
        # After each step, in passes over the data: a plan may end amid an epoch.
        num_seen = itertools.accumulate(len(step) for _, _, step in self.plan)
        self.epochs_done = [seen / len(examples.train) for seen in num_seen]
        rank, num_ranks = accelerator.process_index, accelerator.num_processes
        self.valid = setup.validation_batches(examples.valid, config.train.micro_tokens, base.end_id, rank, num_ranks)
        self.validate_every = setup.validation_interval(self.plan, len(examples.train), config)
        self.save_every = config.train.save_every or self.validate_every
        self.progress = Progress()
        largest = setup.largest_micro_batch(self.plan, examples.lengths, self.micro_tokens, rank, num_ranks)
        self.mode = choose_mode(
            self.model.train(), base.precision, device, path=config.model.path, compute=config.train.compute,
            memory=config.train.memory, try_batch=lambda: self._try(largest),
            num_tokens=sum(examples.lengths[index] for index in largest),
        )  # fmt: skip
        self._check_gradients()

    @property
    def is_stale(self) -> bool:
        """Whether so many validations brought no better loss that the run ends."""
        return self.progress.stale_validations >= self.config.patience

    def nll(self, batch: Batch) -> torch.Tensor:
        return nll_sum(self.model, batch, head_on_targets=self.head_on_targets, autocast=self.base.precision.autocast)

    def _try(self, group: list[int]) -> None:
        batch = collate([self.examples.train[index] for index in group], self.base.end_id)
        self.nll(batch).backward()
        self.optimizer.zero_grad(set_to_none=True)

    def _check_gradients(self) -> None:
        """Refuse to train a tensor that the loss does not depend on; the shortest dialogue tells at once.

        Raises:
            FalconerError: naming such tensors.
        """
        batch = collate([min(self.examples.train, key=lambda example: len(example.ids))], self.base.end_id)
        self.nll(batch).backward()
        idle = without_gradient(trainable_tensors(self.model))
        self.optimizer.zero_grad(set_to_none=True)
        if idle:
            modules = sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in idle})
            others = " and others" if len(idle) > 1 else ""
            raise FalconerError(
                f"{len(idle)} of {len(self.parameters)} trainable tensors get no gradient from this model's loss and "
                f"would never change: {idle[0]}{others}.",
                f"Set lora.targets to layers that take part in its forward pass, without {', '.join(modules)}.",
            )

    def step(self) -> dict[str, float]:
        """Do one optimiser step and return its row for steps.jsonl."""
        started = time.perf_counter()
        epoch, position, step = self.plan[self.progress.step]
        examples, lengths = self.examples.train, self.examples.lengths
        num_targets = sum(examples[index].num_targets for index in step)
        warmup_steps = round(self.config.warmup_share * len(self.plan))
        rate = learning_rate(self.progress.step, len(self.plan), warmup_steps, self.config.learning_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        loss = self._gradient(step, num_targets)
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        runtime.synchronize(self.device)
        seconds = time.perf_counter() - started
        tokens = sum(lengths[index] for index in step)
        self.progress = dataclasses.replace(
            self.progress, step=self.progress.step + 1, epoch=epoch, position=position + 1,
            trained_s=self.progress.trained_s + seconds,
        )  # fmt: skip
        return {
            "step": self.progress.step, "epoch": self.epochs_done[self.progress.step - 1], "loss": loss, "lr": rate,
            "grad_norm": grad_norm, "target_tokens": num_targets, "tokens": tokens,
            "tok_per_s": tokens / seconds, "memory_gib": runtime.peak_memory_gib(self.device),
            "time_s": self.progress.trained_s,
        }  # fmt: skip

    def validate(self, recorder: Recorder) -> None:
        """Measure the validation loss and keep the adapter if it is the best so far.

        Raises:
            NonFiniteLoss: nothing is saved, so that the checkpoint before stays.
        """
        loss = validation_loss(self.model, self.valid, self.nll, self.accelerator)
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"The validation loss after step {self.progress.step} is not finite ({loss}).",
                "Try a lower train.learning_rate.",
            )
        is_best = loss < self.progress.best_loss
        recorder.validation({"step": self.progress.step, "valid_loss": loss}, is_best)
        if not is_best:
            stale = self.progress.stale_validations + 1
            self.progress = dataclasses.replace(self.progress, stale_validations=stale)
            return
        self.progress = dataclasses.replace(
            self.progress, best_loss=loss, best_step=self.progress.step, stale_validations=0
        )
        if self.accelerator.is_main_process:
            save_adapter(self.model, self.base.tokenizer, self.run / ADAPTER, self.text_style, self.format)

    def save(self) -> None:
        """Write the last checkpoint and the loss curve."""
        if self.accelerator.is_main_process:
            sync_file(self.run / STEPS)  # first the rows of the steps that the checkpoint has behind it
            save_checkpoint(self.run / LAST, self.model, self.optimizer, self.progress)
            if rows := read_steps(self.run):
                write_loss_curve(rows, self.run / CURVE)

    def _gradient(self, step: list[int], num_targets: int) -> float:
        try:
            return self._pass(step, num_targets)
        except NonFiniteLoss as error:
            self.save()
            # A rank that ends makes the launcher stop the others, the one that saves among them.
            self.accelerator.wait_for_everyone()
            hint = f"The state before this step is in '{self.run / LAST}'; try a lower train.learning_rate."
            raise NonFiniteLoss(error.message, hint) from None

    def _pass(self, step: list[int], num_targets: int) -> float:
        rank, num_ranks = self.accelerator.process_index, self.accelerator.num_processes
        # Dropout is a function of the seed, the step and the rank, so a resumed run needs no generator's state.
        runtime.seed_everything(_mixed_seed(self.config.seed, self.progress.step, rank))
        groups = micro_batches(step, self.examples.lengths, self.micro_tokens, rank, num_ranks)
        batches = [collate([self.examples.train[index] for index in group], self.base.end_id) for group in groups]
        try:
            return accumulate_gradient(batches, num_targets, self.nll, self.parameters, self.accelerator)
        except torch.OutOfMemoryError as error:
            self.optimizer.zero_grad(set_to_none=True)
            if self.micro_tokens < self.config.micro_tokens:
                self.save()
                raise FalconerError(
                    f"The GPU ran out of memory at step {self.progress.step + 1}, with {self.micro_tokens} tokens too.",
                    "Free the GPU's memory, or start anew with train.memory=lean or "
                    f"train.micro_tokens={self.micro_tokens // 2}; the result stays the same.",
                ) from error
        free_memory(self.device)
        self.micro_tokens //= 2
        self.console.print(
            f"step {self.progress.step + 1}  out of memory: from here on {self.micro_tokens:,} tokens at a time; "
            "the step stays the same",
            soft_wrap=True,
        )
        return self._pass(step, num_targets)


def _mixed_seed(seed: int, step: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])


def _adapted(base: LoadedModel, config: Config) -> Any:
    lora = config.lora
    if lora.init_adapter:
        runtime.seed_everything(config.train.seed)
        model = load_adapter(base.model, Path(lora.init_adapter), trainable=True)
        held: Any = model.peft_config["default"]
        if held.peft_type != "LORA":
            raise FalconerError(
                f"The adapter in '{lora.init_adapter}' is of PEFT's type {held.peft_type.value}, and this trains LoRA.",
                "Leave lora.init_adapter out, or name the folder of a LoRA.",
            )
        if (held.r, held.lora_alpha, held.lora_dropout) != (lora.r, lora.alpha, lora.dropout):
            raise FalconerError(
                f"The adapter in '{lora.init_adapter}' was made with other settings than this run's.",
                f"Set lora.r={held.r} lora.alpha={held.lora_alpha} lora.dropout={held.lora_dropout}.",
            )
    else:
        model = add_adapter(
            base.model, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, seed=config.train.seed
        )
    return model


def _record(job: _Job, splits: Splits) -> dict[str, Any]:
    return {
        "environment": runtime.environment(job.device),
        "data": splits.sources,
        "leakage": {"test": dataclasses.asdict(splits.leakage), "valid": dataclasses.asdict(splits.valid_leakage)},
        "num_train_dialogues": len(job.examples.train),
        "num_valid_dialogues": len(job.examples.valid),
        "truncation": dataclasses.asdict(job.examples.truncation),
        "valid_truncation": dataclasses.asdict(job.examples.valid_truncation),
        "template_sha256": template_sha256(str(job.base.tokenizer.chat_template)),
        "prompt_format": dataclasses.asdict(job.format),
        "notes": _notes(job),
        "quantized_layers": job.base.num_quantized,
        "precision": f"{job.base.precision.name}: {job.base.precision.reason}",
        "mode": job.mode.record(),
        "head_on_targets": job.head_on_targets,
        "trainable_parameters": sum(parameter.numel() for parameter in job.parameters),
        "initial_adapter_sha256": job.initial_adapter,
        "num_steps": len(job.plan),
        "num_ranks": job.accelerator.num_processes,
    }


def _notes(job: _Job) -> list[str]:
    """Return what the user should know of model, prompts and data before minutes are spent."""
    cost = cost_of_nf4(job.base.model.num_parameters()) if job.base.num_quantized else ""
    notes = [cost, *job.base.notes, *setup.bos_notes(job.base, job.format), *job.examples.notes]
    return [note for note in notes if note]


def _say_what_runs(console: Console, record: dict[str, Any], base: LoadedModel, splits: Splits) -> None:
    quantized = f"{record['quantized_layers']} layers in NF4" if record["quantized_layers"] else "not quantised"
    name, shared = base.path.rstrip("/").rpartition("/")[2], splits.leakage
    path, products, memory = Mode(**record["mode"]).lines()
    lines = (
        f"model   {name}: {quantized}; {record['trainable_parameters']:,} trainable parameters",
        f"numbers {record['precision']}",
        f"path    {path}",
        f"frozen  products in {products}",
        f"memory  {memory}",
        f"data    {record['num_train_dialogues']} training, {record['num_valid_dialogues']} validation dialogues",
        f"prompt  {setup.in_words(PromptFormat(**record['prompt_format']))}",
        f"shared  test and training: {shared.shared_persona_sets} of {shared.num_persona_sets} personas, "
        f"{shared.shared_replies} of {shared.num_replies} replies, {shared.shared_dialogues} dialogues",
        *(f"note    {note}" for note in record["notes"]),
    )
    for line in lines:
        console.print(line, soft_wrap=True)


class _Interrupt:
    def __init__(self) -> None:
        self.is_set = False

    def __call__(self, number: int, frame: Any) -> None:
        # The first signal ends the run after the current step; a second one takes effect at once.
        self.is_set = True
        signal.signal(number, signal.default_int_handler)


@contextmanager
def _interruptible() -> Iterator[_Interrupt]:
    interrupt = _Interrupt()
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupt
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _any_rank(accelerator: Accelerator, flag: bool) -> bool:
    if accelerator.num_processes == 1:
        return flag
    total = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), reduction="sum")
    return bool(total > 0)
