"""What is known of a run before any weight is loaded: the configuration of its model, and the work of its data."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

from transformers import AutoConfig, FalconConfig, PreTrainedConfig

from falconer import runtime
from falconer.config import Config, ModelConfig
from falconer.data.batch import micro_batches
from falconer.data.branches import Unit
from falconer.data.distractors import Distractors
from falconer.errors import FalconerError
from falconer.model.falcon.layout import why_other_layout
from falconer.model.load import LoadedModel
from falconer.model.random_falcon import FALCON_7B, FALCON_11B, FALCON_40B
from falconer.model.tokenizer import EMBEDDED_MODEL, LoadedTokenizer, explain_missing, open_tokenizer, resolve
from falconer.records import Example
from falconer.train import setup
from falconer.train.steps import plan_steps, validation_interval

KNOWN_SHAPES: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "tiiuae/falcon-7b": FALCON_7B, "tiiuae/falcon-7b-instruct": FALCON_7B, "tiiuae/falcon-11B": FALCON_11B,
    "tiiuae/falcon-40b": FALCON_40B, "tiiuae/falcon-40b-instruct": FALCON_40B,
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Work:
    """The amount of work that a run's data require.

    Args:
        num_steps, num_micro: optimiser steps, and the micro-batches in them.
        positions: tokens including padding, of all steps and of one epoch; `validation_positions` of all validations.
        longest, largest_micro: positions of the longest example and of the largest micro-batch.
        usual_micro: rows of a micro-batch from the middle of the run, and the tokens of its longest one.
        note: how the tokens were counted, if not with the tokenizer of the model.
    """

    tokens_per_epoch: int
    num_steps: int
    num_micro: int
    positions: int
    epoch_positions: int
    validation_positions: int
    longest: int
    largest_micro: int
    usual_micro: tuple[int, int]
    target_share: float
    note: str


def architecture_of(model: ModelConfig) -> tuple[PreTrainedConfig, str]:
    """Return a model's configuration, and where it is from; no weight is loaded.

    Raises:
        FalconerError: the model can't be found, and its shape is not known.
    """
    is_here = os.path.isdir(resolve(model.name))
    from_cache = not is_here and not runtime.hub_is_reachable()
    try:
        with explain_missing(model.name, model.revision):
            found = AutoConfig.from_pretrained(
                resolve(model.name), revision=model.revision, trust_remote_code=False, local_files_only=from_cache
            )
    except FalconerError:
        if model.name not in KNOWN_SHAPES:
            raise
        return FalconConfig(**KNOWN_SHAPES[model.name]), "the hub can't be reached; planned from its known shape"
    return found, "local" if is_here else "from the hub's cache" if from_cache else "from the hub"


def work_of(
    config: Config, architecture: PreTrainedConfig, precision: runtime.Precision, on_gpu: bool
) -> tuple[Work | None, str]:
    """Count the work that a run's data require; None, and why, if they can't be reached.

    Of distractors those of the first epoch are counted.

    Args:
        on_gpu: where the kernels of the fast path compute each distractor with its prompt.

    Raises:
        FalconerError: a setting does not fit the data, or there is no such file.
    """
    source, name = config.data.train, config.model.name
    unknown = f"the data set '{source}' can't be reached"
    if not _is_here(source) and not _can_ask_hub():
        return None, unknown
    try:
        splits = setup.load_dialogues(config)
    except FalconerError:
        if _is_here(source):
            raise
        return None, unknown
    opened, note = _tokenizer(name, config.model.revision)
    # Encoding needs only the configuration of the model.
    base = LoadedModel(SimpleNamespace(config=architecture), opened.tokenizer, opened.end_id, 0, precision, name)
    format = setup.continued_format(setup.prompt_format(splits, opened.bos), config.lora.init_adapter)
    examples = setup.encode_splits(splits, base, config, format)
    steps = plan_steps(examples.lengths, config.train)
    as_tree = not (on_gpu and config.model.path == "auto" and not why_other_layout(architecture))
    lengths, micro_tokens = examples.lengths, config.train.micro_tokens
    train, valid = _units(examples.train, examples.distractors), _units(examples.valid, examples.valid_distractors)
    sizes = [unit.size(as_tree) for unit in train]
    groups = [group for step in steps for group in micro_batches(step.dialogues, sizes, micro_tokens, 0, 1)]
    padded = [len(group) * max(sizes[index] for index in group) for group in groups]
    longest = max(sizes) if as_tree else max(max(unit.longest_row for unit in train), max(lengths))
    usual = groups[len(groups) // 2]
    validate_every = validation_interval(steps, len(lengths), config.train)
    num_tokens, positions = sum(unit.num_tokens(as_tree) for unit in train), sum(padded)
    padding = positions / sum(train[index].num_tokens(as_tree) for step in steps for index in step.dialogues)
    work = Work(
        tokens_per_epoch=num_tokens, num_steps=len(steps), num_micro=len(groups), positions=positions,
        epoch_positions=round(num_tokens * padding),
        validation_positions=sum(one.num_tokens(as_tree) for one in valid) * -(-len(steps) // validate_every),
        longest=longest, largest_micro=max(padded),
        usual_micro=_rows_and_length([train[index] for index in usual], as_tree),
        target_share=sum(unit.num_targets for unit in train) / num_tokens, note=note,
    )  # fmt: skip
    return work, ""


def _units(examples: Sequence[Example], distractors: Distractors | None) -> list[Unit]:
    return [
        Unit(example, () if distractors is None else distractors.draw(0, index))
        for index, example in enumerate(examples)
    ]  # fmt: skip


def _rows_and_length(units: Sequence[Unit], as_tree: bool) -> tuple[int, int]:
    if as_tree:
        return len(units), max(unit.num_tokens(True) for unit in units)
    return sum(unit.num_rows for unit in units), max(unit.longest_row for unit in units)


def _is_here(name: str) -> bool:
    # Anything that is not a path is a name on the hub.
    return os.path.exists(name) or os.path.isdir(Path(name).parent)


def _can_ask_hub() -> bool:
    # Without a network the hub's libraries retry for about 20 seconds per file, unless they are set to be offline.
    return runtime.is_offline() or runtime.hub_is_reachable()


def _tokenizer(name: str, revision: str | None) -> tuple[LoadedTokenizer, str]:
    if os.path.isdir(resolve(name)) or _can_ask_hub():
        try:
            return open_tokenizer(name, revision), ""
        except FalconerError:
            if name not in KNOWN_SHAPES:
                raise
    return open_tokenizer(EMBEDDED_MODEL), f" (approximate, counted with the tokenizer of {EMBEDDED_MODEL})"
