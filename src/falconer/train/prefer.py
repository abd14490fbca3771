"""A preference training in the training loop: its pairs are encoded, and where the model starts is remembered."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from falconer.config import Config
from falconer.consoles import counted
from falconer.data.encode import Truncation
from falconer.data.prompt import PromptFormat, template_sha256
from falconer.errors import FalconerError
from falconer.files.replace import sha256
from falconer.model.load import LoadedModel
from falconer.records import PreferencePair
from falconer.run.folder import PAIRS
from falconer.train import setup
from falconer.train.job import Job, Materials
from falconer.train.objectives.drift import Start
from falconer.train.objectives.preference import PreferenceObjective, Settings, encode_pairs
from falconer.train.objectives.reference import key_of, reference_of


def pair_materials(
    base: LoadedModel, pairs: Sequence[PreferencePair], config: Config, format: PromptFormat
) -> Materials:
    """Return what a preference training is trained with; its examples are the chosen replies.

    Raises:
        FalconerError: no pair fits into the model's context.
    """
    encoder = setup.make_encoder(base, config.data.max_tokens, format)
    train, num_train = encode_pairs([pair for pair in pairs if not pair.is_validation], encoder)
    valid, num_valid = encode_pairs([pair for pair in pairs if pair.is_validation], encoder)
    if not (train and valid):
        raise FalconerError(
            f"None of the pairs for {'validation' if train else 'training'} fits into {encoder.max_tokens} tokens.",
            "Train a run with a larger data.max_tokens, and start from that.",
        )
    asked = config.prefer
    settings = Settings(asked.beta, asked.length_normalised, asked.sft_weight)
    objective = PreferenceObjective(train, valid, settings, base.end_id)
    notes = tuple(
        f"{counted(number, f'{name} pair')} left out: persona and reply do not fit into {encoder.max_tokens} tokens"
        for name, number in (("training", num_train), ("validation", num_valid))
        if number
    )
    examples = setup.Examples(
        [pair.chosen for pair in train], [pair.chosen for pair in valid], objective.lengths,
        Truncation(num_left_out=num_train), Truncation(num_left_out=num_valid), notes,
    )  # fmt: skip
    return Materials(base, examples, objective, format)


def begin_preference(job: Job, record: Mapping[str, Any], base_files: Mapping[str, str]) -> None:
    """Remember the model that training starts from, before a checkpoint is loaded.

    Args:
        record: run.json of a run that is resumed; {} for a new one, and on all ranks but the first.
        base_files: hashes of the base model's files; {} on all ranks but the first.

    Raises:
        FalconerError: the adapter that the run started from has changed, or see `reference_of`.
    """
    objective = job.objective
    assert isinstance(objective, PreferenceObjective), "a run with pairs has this objective"
    if record.get("initial_adapter_sha256", job.initial_adapter) != job.initial_adapter:
        raise FalconerError(
            f"The adapter that '{job.run}' started from has changed since then.",
            "Restore the adapter that lora.init_adapter names, or start a new run with another --out.",
        )
    rows = [row for pair in (*objective.train, *objective.valid) for row in pair.rows]
    base, mode = job.base, job.mode
    key = key_of({
        "adapter": job.initial_adapter, "base": dict(base_files), "pairs": sha256(job.run / PAIRS),
        "template": template_sha256(str(base.tokenizer.chat_template)), "format": dataclasses.asdict(job.format),
        "rows": len(rows), "longest": max(len(row.ids) for row in rows),
        "computed": [base.precision.name, base.num_quantized, mode.path, mode.compute, torch.__version__],
    })  # fmt: skip
    found = reference_of(
        job.run, key, job.forward, rows, job.config.micro_tokens, base.end_id, job.ranks,
        lambda: job.console.print(f"start   computing what the tuned model thinks of {len(rows):,} replies"),
    )  # fmt: skip
    border = 2 * len(objective.train)
    objective.begin((found[:border], found[border:]), Start.of(job.model, base.precision))
