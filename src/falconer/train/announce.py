"""What is printed and written to run.json when a training starts: model, precision, path, data, notes."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from falconer import runtime
from falconer.data.prompt import PromptFormat, template_sha256
from falconer.data.splits import Splits, test_note
from falconer.model.load import cost_of_nf4
from falconer.train import setup
from falconer.train.job import Job


def run_record(job: Job, splits: Splits, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Return the content of run.json.

    Args:
        notes: what else the user should know.
    """
    base, examples = job.base, job.examples
    return {
        "environment": runtime.environment(job.device),
        "data": splits.sources,
        "leakage": {"test": dataclasses.asdict(splits.leakage), "valid": dataclasses.asdict(splits.valid_leakage)},
        "num_train_dialogues": len({example.dialogue_id for example in examples.train}),
        "num_valid_dialogues": len({example.dialogue_id for example in examples.valid}),
        **job.objective.record(),
        "truncation": dataclasses.asdict(examples.truncation),
        "valid_truncation": dataclasses.asdict(examples.valid_truncation),
        "template_sha256": template_sha256(str(base.tokenizer.chat_template)),
        "prompt_format": dataclasses.asdict(job.format),
        "notes": [*_notes(job), *notes],
        "quantized_layers": base.num_quantized,
        "precision": f"{base.precision.name}: {base.precision.reason}",
        "mode": job.mode.record(),
        "head_on_targets": job.forward.head_on_targets is not None,
        "trainable_parameters": sum(parameter.numel() for parameter in job.parameters),
        "initial_adapter_sha256": job.initial_adapter,
        "num_steps": len(job.plan),
        "learning_rate": job.peak_rate,
        "num_ranks": job.ranks.count,
    }


def say_what_runs(job: Job, record: Mapping[str, Any], splits: Splits, console: Console) -> None:
    """Print the most important values of `run_record`, a line each."""
    quantized = f"{record['quantized_layers']} layers in NF4" if record["quantized_layers"] else "not quantised"
    name, shared = job.base.path.rstrip("/").rpartition("/")[2], splits.leakage
    path, matmuls, memory = job.mode.lines()
    lines = (
        f"model   {name}: {quantized}; {record['trainable_parameters']:,} trainable parameters",
        f"precision {record['precision']}",
        f"path    {path}",
        f"base    matmuls in {matmuls}",
        f"memory  {memory}",
        f"data    {record['num_train_dialogues']} training, {record['num_valid_dialogues']} validation dialogues",
        *job.objective.lines(),
        *_rate_lines(job),
        f"prompt  {setup.in_words(PromptFormat(**record['prompt_format']))}",
        f"shared  test and training: {shared.shared_persona_sets:,} of {shared.num_persona_sets:,} distinct personas, "
        f"{shared.shared_replies:,} of {shared.num_replies:,} distinct replies, {shared.shared_dialogues:,} dialogues",
        *(f"note    {note}" for note in (*record["notes"], test_note(splits.sources["test"])) if note),
    )
    for line in lines:
        console.print(line, soft_wrap=True)


def _rate_lines(job: Job) -> list[str]:
    """Return a line on the learning rate, if it was chosen here."""
    if job.config.learning_rate is not None:
        return []
    millions = job.num_parameters / 1e6
    size = f"{millions:,.0f} million" if millions >= 10 else f"{job.num_parameters:,}"
    return [f"rate    {job.peak_rate:g} at its peak, for a model of {size} parameters"]


def _notes(job: Job) -> list[str]:
    """Return what the user should know about model, prompts and data before the training starts."""
    cost = cost_of_nf4(job.num_parameters) if job.base.num_quantized else ""
    notes = [cost, *job.base.notes, *setup.bos_notes(job.base, job.format), *job.examples.notes]
    return [note for note in notes if note]
