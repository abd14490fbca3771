"""The training loop: one adapter, the exact token-weighted loss, and nothing lost when it is interrupted."""

import dataclasses
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from rich.console import Console

from falconer import runtime
from falconer.config import Config
from falconer.curves import write_loss_curve
from falconer.data.batch import collate, micro_batches
from falconer.data.prompt import template_sha256
from falconer.errors import FalconerError
from falconer.model.load import LoadedModel, load_model
from falconer.model.lora import adapter_sha256, add_adapter, load_adapter, save_adapter, trainable_tensors
from falconer.model.score import can_use_head_on_targets
from falconer.train import setup
from falconer.train.record import Recorder, read_steps
from falconer.train.schedule import learning_rate
from falconer.train.state import Progress, load_checkpoint, save_checkpoint
from falconer.train.step import NonFiniteLoss, accumulate_gradient, nll_sum, validation_loss

ADAPTER = "adapter"
LAST = "checkpoints/last"
CURVE = "loss.png"


@dataclass(frozen=True, slots=True)
class TrainResult:
    """How a run ended: "finished", "early" (no better validation loss) or "interrupted" (it can be resumed)."""

    run: Path
    ended: str
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
    device = runtime.pick_device(config.model.device)
    accelerator = Accelerator(cpu=device.type == "cpu")
    rank, num_ranks = accelerator.process_index, accelerator.num_processes
    if accelerator.is_main_process:
        setup.prepare_run(run, config, resume)
    splits = setup.load_dialogues(config)
    base = load_model(
        config.model.name, revision=config.model.revision,
        quantization=config.model.quantization, dtype=config.model.dtype, device=config.model.device,
    )  # fmt: skip
    examples = setup.encode_splits(splits, base, config)
    model = _adapted(base, config)
    initial_adapter = adapter_sha256(model)
    head_on_targets = can_use_head_on_targets(model)
    autocast = base.precision.dtype if base.precision.dtype != torch.float32 else None
    parameters = list(trainable_tensors(model).values())
    optimizer = torch.optim.AdamW(
        parameters, lr=config.train.learning_rate, betas=(0.9, config.train.beta2), weight_decay=config.train.weight_decay
    )
    plan = setup.plan_steps(examples.lengths, config)
    valid = setup.validation_batches(examples.valid, config.train.micro_tokens, base.end_id, rank, num_ranks)
    validate_every = config.train.validate_every or max(1, len(plan) // max(1, round(4 * config.train.epochs)))
    save_every = config.train.save_every or validate_every
    warmup_steps = round(config.train.warmup_share * len(plan))

    progress = Progress()
    if resume:
        progress = load_checkpoint(run / LAST, model, optimizer, device)
    elif accelerator.is_main_process:
        record = {
            "environment": runtime.environment(device),
            "data": splits.sources,
            "num_train_dialogues": len(examples.train),
            "truncation": dataclasses.asdict(examples.truncation),
            "template_sha256": template_sha256(),
            "quantized_layers": base.num_quantized,
            "precision": f"{base.precision.name}: {base.precision.reason}",
            "path": "generic: the model's own forward; " + ("head on targets only" if head_on_targets else "head on every position"),
            "trainable_parameters": sum(parameter.numel() for parameter in parameters),
            "initial_adapter_sha256": initial_adapter,
            "num_steps": len(plan),
            "num_ranks": num_ranks,
        }
        setup.write_record(run, record)
        _say_what_runs(console, record, base, splits)

    def nll(batch: Any) -> torch.Tensor:
        return nll_sum(model, batch, head_on_targets=head_on_targets, autocast=autocast)

    def save() -> None:
        if accelerator.is_main_process:
            save_checkpoint(run / LAST, model, optimizer, progress)
            write_loss_curve(read_steps(run), run / CURVE)

    model.train()
    ended = "finished"
    with Recorder(run, len(plan), progress.step, accelerator.is_main_process, console) as recorder, _interruptible() as interrupt:
        while progress.step < len(plan):
            started = time.perf_counter()
            epoch, position, step = plan[progress.step]
            num_targets = sum(examples.train[index].num_targets for index in step)
            groups = micro_batches(step, examples.lengths, config.train.micro_tokens, rank, num_ranks)
            batches = [collate([examples.train[index] for index in group], base.end_id) for group in groups]
            rate = learning_rate(progress.step, len(plan), warmup_steps, config.train.learning_rate)
            for group in optimizer.param_groups:
                group["lr"] = rate
            try:
                loss = accumulate_gradient(batches, num_targets, nll, parameters, accelerator)
            except NonFiniteLoss as error:
                save()
                raise NonFiniteLoss(error.message, f"The state before this step is in '{run / LAST}'; try a lower train.learning_rate.") from None
            except torch.OutOfMemoryError as error:
                save()
                raise FalconerError(
                    f"The GPU ran out of memory at step {progress.step + 1}.",
                    f"Halve train.micro_tokens (now {config.train.micro_tokens}): the result stays the same. Or train.gradient_checkpointing=true.",
                ) from error
            grad_norm = float(torch.nn.utils.clip_grad_norm_(parameters, config.train.clip_norm))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            runtime.synchronize(device)
            seconds = time.perf_counter() - started
            tokens = sum(examples.lengths[index] for index in step)
            progress = dataclasses.replace(
                progress, step=progress.step + 1, epoch=epoch, position=position + 1, trained_s=progress.trained_s + seconds
            )
            recorder.step({
                "step": progress.step, "epoch": epoch + (position + 1) / sum(1 for e, _, _ in plan if e == epoch),
                "loss": loss, "lr": rate, "grad_norm": grad_norm, "target_tokens": num_targets, "tokens": tokens,
                "tok_per_s": tokens / seconds, "memory_gib": runtime.peak_memory_gib(device), "time_s": progress.trained_s,
            })  # fmt: skip
            if progress.step % validate_every == 0 or progress.step == len(plan):
                valid_loss = validation_loss(model, valid, nll, accelerator)
                is_best = valid_loss < progress.best_loss
                recorder.validation({"step": progress.step, "valid_loss": valid_loss}, is_best)
                if is_best:
                    progress = dataclasses.replace(progress, best_loss=valid_loss, best_step=progress.step, stale_validations=0)
                    if accelerator.is_main_process:
                        save_adapter(model, base.tokenizer, run / ADAPTER, config.data.text)
                else:
                    progress = dataclasses.replace(progress, stale_validations=progress.stale_validations + 1)
                if progress.stale_validations >= config.train.patience:
                    ended = "early"
            if _any_rank(accelerator, interrupt.is_set):
                ended = "interrupted"
            if ended != "finished" or progress.step % save_every == 0 or progress.step == len(plan):
                save()
            if ended != "finished":
                break
    accelerator.wait_for_everyone()
    return TrainResult(run, ended, progress, len(plan))


def _adapted(base: LoadedModel, config: Config) -> Any:
    lora = config.lora
    if lora.init_adapter:
        runtime.seed_everything(config.train.seed)
        model = load_adapter(base.model, Path(lora.init_adapter), trainable=True)
    else:
        model = add_adapter(
            base.model, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, targets=lora.targets, seed=config.train.seed
        )
    if config.train.gradient_checkpointing:
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model


def _say_what_runs(console: Console, record: dict[str, Any], base: LoadedModel, splits: Any) -> None:
    quantized = f"{record['quantized_layers']} layers in NF4" if record["quantized_layers"] else "not quantised"
    console.print(f"model   {base.path.rpartition('/')[2]}: {quantized}, {record['precision']}; {record['trainable_parameters']:,} trainable")
    console.print(f"path    {record['path']}")
    console.print(f"data    {record['num_train_dialogues']} train, {len(splits.valid)} validation, {len(splits.test)} test dialogues")


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
