"""A run in training: its model, adapter and optimiser, and its steps, validations and checkpoints."""

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from falconer import runtime
from falconer.config import Config, LoraConfig
from falconer.curves import write_loss_curve
from falconer.data.batch import micro_batches
from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.files.durable import sync_file
from falconer.model.load import LoadedModel
from falconer.model.lora import adapter_sha256, add_adapter, load_adapter, save_adapter, trainable_tensors
from falconer.model.output_head import head_of
from falconer.model.probe import check_causal
from falconer.run.folder import ADAPTER, CURVE, LAST, STEPS, read_steps
from falconer.train import steps
from falconer.train.checkpoint import Progress, save_checkpoint
from falconer.train.mode import choose_mode, free_memory
from falconer.train.objectives.objective import Forward, Objective, figures_of, loss_of
from falconer.train.padded_batch import shape_of, shapes_for
from falconer.train.ranks import Ranks
from falconer.train.recorded import Recorded, why_not_recorded
from falconer.train.recorder import Recorder
from falconer.train.schedule import learning_rate, peak_for
from falconer.train.setup import Examples
from falconer.train.step import NonFiniteLoss, accumulate_gradient, validation_terms, without_gradient
from falconer.train.ways import Asked, Mode

# So many micro-batches show which shapes a run has; those of a large run would take long to make.
MOST_SURVEYED = 2000
# Drawing takes longer than a step of a small model.
_CURVE_EVERY_S = 60.0


@dataclass(frozen=True, slots=True)
class Materials:
    """What a run is trained with.

    Args:
        examples: the encoded dialogues.
        objective: what is learned of them.
        format: of the prompts.
    """

    base: LoadedModel
    examples: Examples
    objective: Objective
    format: PromptFormat


class Job:
    """The state of one run. Once built, only `progress`, the adapter, the optimiser, when the loss curve was drawn and,
    after running out of memory, `micro_tokens` change."""

    def __init__(self, config: Config, run: Path, ranks: Ranks, materials: Materials, console: Console) -> None:
        self.config, self.run, self.ranks, self.console = config.train, run, ranks, console
        self.base, self.examples, self.format = materials.base, materials.examples, materials.format
        self.objective = materials.objective
        self.text_style, self.device = config.data.text, runtime.pick_device(config.model.device)
        # Before the adapter adds its own.
        self.num_parameters = int(self.base.model.num_parameters())
        self.peak_rate = config.train.learning_rate or peak_for(self.num_parameters)
        self.model = _adapted(self.base, config.lora, config.train.seed)
        check_causal(self.model)
        self.initial_adapter = adapter_sha256(self.model)
        self.forward = Forward(self.model, head_of(self.model), self.base.precision.autocast)
        self.micro_tokens = config.train.micro_tokens
        self.parameters = list(trainable_tensors(self.model).values())
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=self.peak_rate, betas=(0.9, config.train.beta2),
            weight_decay=config.train.weight_decay,
        )  # fmt: skip
        lengths = self.objective.lengths
        self.plan = steps.plan_steps(lengths, config.train)
        # After each step, in passes over the data: a plan may end within an epoch.
        self.epochs_done = [n / len(lengths) for n in itertools.accumulate(len(step.dialogues) for step in self.plan)]
        self.validate_every = steps.validation_interval(self.plan, len(lengths), config.train)
        self.save_every = config.train.save_every or self.validate_every
        self.progress = Progress()
        self._drawn = time.monotonic()
        self.mode = self._choose_mode(config.model.path)
        self.objective.adapt_to(self.forward)
        self._check_gradients()

    @property
    def is_done(self) -> bool:
        """Whether all planned steps are done."""
        return self.progress.step == len(self.plan)

    @property
    def is_stale(self) -> bool:
        """Whether `train.patience` validations in a row brought no better loss, so that the run stops early."""
        return self.progress.stale_validations >= self.config.patience

    def file_sizes(self) -> list[int]:
        """Return the sizes in bytes of the large files that saving adds to the run: adapter, checkpoint, optimiser."""
        adapter = sum(parameter.numel() * parameter.element_size() for parameter in self.parameters)
        # AdamW has two moments for each parameter. A new folder is complete before it replaces the old one.
        return [adapter, adapter, 2 * adapter]

    def step(self) -> dict[str, float]:
        """Do one optimiser step and return its row for steps.jsonl."""
        started = time.perf_counter()
        step = self.plan[self.progress.step]
        warmup_steps = round(self.config.warmup_share * len(self.plan))
        rate = learning_rate(self.progress.step, len(self.plan), warmup_steps, self.peak_rate)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # Ascending, as micro-batches put items of the same size in this order.
        items = self.objective.items(sorted(step.dialogues), step.epoch)
        figures = self._gradient(items)
        grad_norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        runtime.synchronize(self.device)
        seconds = time.perf_counter() - started
        facts = self.objective.facts(items)
        self.progress = dataclasses.replace(
            self.progress, step=self.progress.step + 1, epoch=step.epoch, position=step.position + 1,
            trained_s=self.progress.trained_s + seconds,
        )  # fmt: skip
        return {
            "step": self.progress.step, "epoch": self.epochs_done[self.progress.step - 1], **figures,
            "lr": rate, "grad_norm": grad_norm, **facts, "tok_per_s": facts["tokens"] / seconds,
            "memory_gib": runtime.peak_memory_gib(self.device), "time_s": self.progress.trained_s,
        }  # fmt: skip

    def validate(self, recorder: Recorder) -> None:
        """Measure the validation loss, and save the adapter if it is the best so far.

        Raises:
            NonFiniteLoss: nothing is saved, so that the previous checkpoint is kept.
        """
        objective, items = self.objective, self.objective.validation_items()
        batches, counts = [objective.batch(group) for group in self._cut(items)], objective.counts(items)
        terms = validation_terms(objective, self.forward, batches, counts, self.ranks, recorder.validating)
        figures = {f"valid_{name}": value for name, value in figures_of(objective, terms, counts).items()}
        figures |= objective.measured(self.forward, self.ranks)
        loss = figures["valid_loss"]
        if not math.isfinite(loss):
            raise NonFiniteLoss(
                f"The validation loss after step {self.progress.step} is not finite ({loss}).",
                "Try a lower train.learning_rate.",
            )
        is_best = loss < self.progress.best_loss
        recorder.validation({"step": self.progress.step, **figures}, is_best)
        if not is_best:
            stale = self.progress.stale_validations + 1
            self.progress = dataclasses.replace(self.progress, stale_validations=stale)
            return
        self.progress = dataclasses.replace(
            self.progress, best_loss=loss, best_step=self.progress.step, stale_validations=0
        )
        if self.ranks.is_first:
            save_adapter(self.model, self.base.tokenizer, self.run / ADAPTER, self.text_style, self.format)

    def save(self) -> None:
        """Write the last checkpoint and, once a minute, the loss curve."""
        if self.ranks.is_first:
            sync_file(self.run / STEPS)  # before the checkpoint, so that the rows of all its steps are on the disk
            save_checkpoint(self.run / LAST, self.model, self.optimizer, self.progress, self.run / STEPS)
            if time.monotonic() > self._drawn + _CURVE_EVERY_S:
                self.draw()

    def draw(self) -> None:
        """Draw the loss curve from the rows of steps.jsonl."""
        self._drawn = time.monotonic()
        if self.ranks.is_first and (rows := read_steps(self.run)):
            write_loss_curve(rows, self.run / CURVE)

    def _choose_mode(self, path: str) -> Mode:
        largest: list[Any] = []

        def try_largest() -> None:
            self.objective.adapt_to(self.forward)
            largest[:] = self._largest()
            self._backward(largest)
            self.optimizer.zero_grad(set_to_none=True)

        return choose_mode(
            self.model.train(), self.base.precision, self.device,
            Asked(path, self.config.compute, self.config.memory), try_batch=try_largest,
            num_tokens=lambda: sum(self.objective.sizes(largest or self._largest())), record=self._record,
            forget=self._forget_recorded,
        )  # fmt: skip

    def _record(self) -> str:
        """Let micro-batches be recorded from now on; return why they can't be, "" if they are."""
        reason = why_not_recorded(self.model, self.forward.head_on_targets, self.parameters)
        if reason:
            return reason
        batches = [self.objective.rows(self.objective.batch(group)) for group in self._first_epoch()[:MOST_SURVEYED]]
        batches = [batch for batch in batches if Recorded.takes(batch)]
        shapes = shapes_for([shape_of(batch) for batch in batches])
        head = self.forward.head_on_targets
        assert head is not None, "see why_not_recorded"
        recorded = Recorded(self.model, head, self.parameters, shapes, self.base.end_id)
        reason = recorded.why_not_alike(max(batches, key=recorded.positions)) if batches else "rows have branches"
        if not reason:
            self.forward = dataclasses.replace(self.forward, recorded=recorded)
        return reason

    def _first_epoch(self) -> list[list[Any]]:
        """Return the micro-batches of the first epoch on this rank."""
        first = [self.objective.items(sorted(step.dialogues), 0) for step in self.plan if step.epoch == 0]
        # With more ranks than dialogues a rank may have none; it then tries an arbitrary dialogue.
        return [group for items in first for group in self._cut(items)] or [first[0][:1]]

    def _largest(self) -> list[Any]:
        """Return the micro-batch with the most positions in the first epoch on this rank."""
        return max(self._first_epoch(), key=lambda group: sum(self.objective.sizes(group)))

    def _cut(self, items: Sequence[Any]) -> list[list[Any]]:
        """Return this rank's micro-batches of some items."""
        sizes = self.objective.sizes(items)
        groups = micro_batches(range(len(items)), sizes, self.micro_tokens, self.ranks.number, self.ranks.count)
        return [[items[place] for place in group] for group in groups]

    def _check_gradients(self) -> None:
        """Check with the shortest example that the loss depends on every trainable tensor.

        Raises:
            FalconerError: it does not; the message names these tensors.
        """
        lengths = self.objective.lengths
        self._backward(self.objective.items([lengths.index(min(lengths))], 0))
        idle = without_gradient(trainable_tensors(self.model))
        self.optimizer.zero_grad(set_to_none=True)
        if idle:
            modules = sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in idle})
            others = " and others" if len(idle) > 1 else ""
            raise FalconerError(
                f"{len(idle)} of {len(self.parameters)} trainable tensors get no gradient, so training would not "
                f"change them: {idle[0]}{others}.",
                f"Remove {', '.join(modules)} from lora.targets: these layers are not used in the forward pass.",
            )

    def _backward(self, items: list[Any]) -> None:
        """Compute the gradient of the loss of some items alone."""
        sums = self.objective.sums(self.forward, self.objective.batch(items))
        loss_of(sums, self.objective.counts(items), self.objective.weights).backward()

    def _gradient(self, items: list[Any]) -> dict[str, float]:
        try:
            return self._pass(items)
        except NonFiniteLoss as error:
            self.save()
            self.draw()
            # When a rank ends, the launcher stops the others, including the one that saves.
            self.ranks.wait()
            hint = f"The state before this step is saved in '{self.run / LAST}'. Try a lower train.learning_rate."
            raise NonFiniteLoss(error.message, hint) from None

    def _pass(self, items: list[Any]) -> dict[str, float]:
        ranks, objective = self.ranks, self.objective
        # Dropout is a function of the seed, the step and the rank, so no generator state has to be saved.
        runtime.seed_everything(mixed_seed(self.config.seed, self.progress.step, ranks.number))
        try:
            batches, counts = [objective.batch(group) for group in self._cut(items)], objective.counts(items)
            terms = accumulate_gradient(batches, counts, objective, self.forward, self.parameters, ranks)
            if self.forward.recorded and self.forward.recorded.why_not:
                self._stop_recording()
            return figures_of(objective, terms, counts)
        except torch.OutOfMemoryError as error:
            self.optimizer.zero_grad(set_to_none=True)
            if not self.forward.recorded and self.micro_tokens < self.config.micro_tokens:
                self.save()
                self.draw()
                raise FalconerError(
                    f"The GPU ran out of memory at step {self.progress.step + 1} even with {self.micro_tokens} tokens.",
                    "Free memory on the GPU, or start a new run with train.memory=lean or "
                    f"train.micro_tokens={self.micro_tokens // 2}; the result is the same.",
                ) from error
        if self.forward.recorded:
            self._stop_recording()
            free_memory(self.device)
            return self._pass(items)
        free_memory(self.device)
        self.micro_tokens //= 2
        self.console.print(
            f"step {self.progress.step + 1}  out of memory: continuing with micro-batches of {self.micro_tokens:,} "
            "tokens; the result is the same",
            soft_wrap=True,
        )
        return self._pass(items)

    def _stop_recording(self) -> None:
        """Compute micro-batches as usual from now on, and say so."""
        recorded = self.forward.recorded
        if recorded is None:
            return
        self._forget_recorded()
        reason = recorded.why_not or "memory is needed"
        self.console.print(
            f"step {self.progress.step + 1}  micro-batches are not CUDA graphs any more: {reason}; the result is the "
            "same",
            soft_wrap=True,
        )

    def _forget_recorded(self) -> None:
        if self.forward.recorded:
            self.forward.recorded.free()
        self.forward = dataclasses.replace(self.forward, recorded=None)


def mixed_seed(seed: int, step: int, rank: int) -> int:
    """Return the seed of one rank's dropout in one step."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])


def _adapted(base: LoadedModel, lora: LoraConfig, seed: int) -> Any:
    """Return the base with a new adapter, or with the one that the run continues from.

    Raises:
        FalconerError: that adapter is not a LoRA, or has other settings than the run.
    """
    if not lora.init_adapter:
        return add_adapter(
            base.model, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, seed=seed
        )
    runtime.seed_everything(seed)
    model = load_adapter(base.model, Path(lora.init_adapter), trainable=True)
    found: Any = model.peft_config["default"]
    if found.peft_type != "LORA":
        raise FalconerError(
            f"The adapter in '{lora.init_adapter}' is of PEFT type {found.peft_type.value}; only LoRA can be trained.",
            "Remove lora.init_adapter, or give the folder of a LoRA adapter.",
        )
    if (found.r, found.lora_alpha, found.lora_dropout) != (lora.r, lora.alpha, lora.dropout):
        raise FalconerError(
            f"The adapter in '{lora.init_adapter}' has other settings than this run.",
            f"Set lora.r={found.r} lora.alpha={found.lora_alpha} lora.dropout={found.lora_dropout}.",
        )
    return model
