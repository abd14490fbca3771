"""What a run is made of before its first step: its folder, its dialogues turned into examples, its plan of steps."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from falconer.config import Config, from_tree
from falconer.data.batch import collate, micro_batches, plan_epoch, split_by_tokens
from falconer.data.encode import Encoder, Truncation, check_examples
from falconer.data.language import language_of
from falconer.data.prompt import PromptFormat
from falconer.data.splits import Splits, load_splits
from falconer.data.text import is_spaced, restyle
from falconer.errors import FalconerError
from falconer.files import replace_file
from falconer.model.load import LoadedModel
from falconer.records import Batch, Dialogue, Example

CONFIG = "config.yaml"
RECORD = "run.json"


@dataclass(frozen=True, slots=True)
class Examples:
    """The encoded splits; `lengths` are the training examples' tokens."""

    train: list[Example]
    valid: list[Example]
    lengths: list[int]
    truncation: Truncation


def check_run(run: Path, config: Config, resume: bool) -> None:
    """Refuse a folder that this run must not write into.

    Raises:
        FalconerError: a run is there already and `resume` is off, there is none to resume, or it had other settings.
    """
    if not resume:
        if (run / CONFIG).exists():
            raise FalconerError(
                f"'{run}' holds a run already.", "Go on with --resume, or name another folder with --run."
            )
        return
    before, now = read_config(run).model_dump(), config.model_dump()
    changed = [
        f"{section}.{key}" for section in now for key in now[section] if before[section][key] != now[section][key]
    ]
    if changed:
        raise FalconerError(
            f"'{run}' was started with other settings: {', '.join(changed)} differ.",
            f"Resume it as it is (falconer train --run {run} --resume), or start anew with another --run.",
        )


def check_same_data(run: Path, splits: Splits) -> None:
    """Refuse to go on with a run whose training or validation files have changed since it began.

    Raises:
        FalconerError: naming the files.
    """
    before = read_record(run)["data"]
    changed = [split for split in ("train", "valid") if before[split]["sha256"] != splits.sources[split]["sha256"]]
    if changed:
        paths = ", ".join(path for split in changed for path in splits.sources[split]["paths"])
        raise FalconerError(
            f"The data of '{run}' has changed since it began: {paths}.",
            "Put the files back as they were, or start anew with another --run.",
        )


def read_config(run: Path) -> Config:
    """Return the resolved configuration of a run.

    Raises:
        FalconerError: the folder holds no run, or a damaged configuration.
    """
    path = run / CONFIG
    if not path.is_file():
        raise FalconerError(
            f"'{run}' holds no run ({CONFIG} is missing).", "Give the folder that falconer train --run wrote."
        )
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        what = str(error).splitlines()[0]
        raise FalconerError(f"'{path}' is damaged: {what}.", "Put back the file that this run wrote.") from error
    if not isinstance(tree, dict):
        raise FalconerError(f"'{path}' is damaged: it holds no sections.", "Put back the file that this run wrote.")
    return from_tree(tree)


def write_run(run: Path, config: Config, record: dict[str, Any]) -> None:
    """Write the resolved configuration, and what can only be known at run time: versions, hashes, which path runs."""
    with replace_file(run / RECORD) as aside:
        aside.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    with replace_file(run / CONFIG) as aside:
        aside.write_text(yaml.safe_dump(config.model_dump(), sort_keys=False), encoding="utf-8")


def load_dialogues(config: Config) -> Splits:
    """Load the splits that a configuration names, in its text style."""
    data = config.data
    splits = load_splits(
        data.train, data.valid, data.test,
        format=data.format, valid_share=data.valid_share, seed=config.train.seed, on_bad_row=data.on_bad_row,
    )  # fmt: skip
    if data.text == "raw":
        return splits
    language = language_of(splits.train)
    train, valid, test = (
        tuple(restyle(dialogue, data.text, language) for dialogue in split)
        for split in (splits.train, splits.valid, splits.test)
    )
    return dataclasses.replace(splits, train=train, valid=valid, test=test)


def prompt_format(splits: Splits) -> PromptFormat:
    """Return what the prompts of a new run look like; its training dialogues decide."""
    replies = (dialogue.turns[index].text for dialogue in splits.train for index in dialogue.replies)
    return PromptFormat(
        multi_line=any("\n" in text.strip() for text in replies),
        is_spaced=is_spaced(turn.text for dialogue in splits.train for turn in dialogue.turns),
    )


def in_words(format: PromptFormat) -> str:
    """Return what a prompt format means for the model's replies, in one line."""
    text = "lower case and spaced punctuation, as in Persona-Chat" if format.is_spaced else "text as the data has it"
    lines = "replies may have several lines" if format.multi_line else "a line break ends a reply"
    return f"{text}; {lines}"


def recorded_format(run: Path, config: Config) -> PromptFormat:
    """Return what the prompts of an existing run look like; a run that did not record it was trained without BOS.

    Raises:
        FalconerError: run.json is missing or damaged.
    """
    found = read_record(run).get("prompt_format")
    return PromptFormat(**found) if found else PromptFormat(is_spaced=config.data.text == "raw")


def read_record(run: Path) -> dict[str, Any]:
    """Return what a run wrote down when it began.

    Raises:
        FalconerError: run.json is missing or damaged.
    """
    path = run / RECORD
    hint = "Put back the file that this run wrote."
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FalconerError(f"'{path}' can't be read: {error.strerror}.", hint) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FalconerError(f"'{path}' is damaged: {error}.", hint) from error
    if not isinstance(record, dict):
        raise FalconerError(f"'{path}' is damaged: it holds no record.", hint)
    return record


def make_encoder(base: LoadedModel, max_tokens: int, format: PromptFormat) -> Encoder:
    """Return the encoder of a model; no example is longer than the model's own context."""
    context = getattr(base.model.config, "max_position_embeddings", None) or max_tokens
    return Encoder(base.tokenizer.backend_tokenizer.to_str(), base.end_id, min(max_tokens, context), format)


def encode_splits(splits: Splits, base: LoadedModel, config: Config, format: PromptFormat) -> Examples:
    """Encode training and validation dialogues and refuse what could not be learned from."""
    encoder = make_encoder(base, config.data.max_tokens, format)
    train, truncation = encoder.encode(_subset(splits.train, config.data.max_dialogues, config.train.seed))
    valid, _ = encoder.encode(splits.valid)
    check_examples(train, base.end_id)
    check_examples(valid, base.end_id)
    return Examples(train, valid, [len(example.ids) for example in train], truncation)


def plan_steps(lengths: Sequence[int], config: Config) -> list[tuple[int, int, list[int]]]:
    """Return every optimiser step of a run as (epoch, position, example indices)."""
    plan: list[tuple[int, int, list[int]]] = []
    epochs, epoch = config.train.epochs, 0
    while epochs > 1e-9:
        steps = plan_epoch(lengths, config.train.step_tokens, config.train.seed, epoch)
        kept = steps[: max(1, round(min(1.0, epochs) * len(steps)))]
        plan += [(epoch, position, step) for position, step in enumerate(kept)]
        epochs, epoch = epochs - 1, epoch + 1
        if config.train.max_steps and len(plan) >= config.train.max_steps:
            return plan[: config.train.max_steps]
    return plan


def largest_micro_batch(
    plan: Sequence[tuple[int, int, list[int]]], lengths: Sequence[int], micro_tokens: int, rank: int, num_ranks: int
) -> list[int]:
    """Return the micro-batch of the first epoch that has the most tokens on this rank, as example indices."""
    first = [step for epoch, _, step in plan if epoch == plan[0][0]]
    groups = [group for step in first for group in micro_batches(step, lengths, micro_tokens, rank, num_ranks)]
    # With more ranks than dialogues a rank may have nothing to do; any dialogue serves to try.
    return max(groups, key=lambda group: sum(lengths[index] for index in group), default=[0])


def validation_interval(plan: Sequence[tuple[int, int, list[int]]], num_examples: int, config: Config) -> int:
    """Return the steps between validations: as configured, else so that there are four an epoch."""
    epochs = sum(len(step) for _, _, step in plan) / num_examples
    # Rounded up: a remainder of a few steps is no reason for one more validation just before the last.
    return config.train.validate_every or -(-len(plan) // max(1, round(4 * epochs)))


def validation_batches(
    examples: Sequence[Example], micro_tokens: int, pad_id: int, rank: int, num_ranks: int
) -> list[Batch]:
    """Return this rank's validation batches."""
    lengths = [len(example.ids) for example in examples]
    order = sorted(range(len(examples)), key=lambda index: lengths[index])
    groups = split_by_tokens(order, lengths, micro_tokens)
    return [collate([examples[index] for index in group], pad_id) for group in groups[rank::num_ranks]]


def _subset(dialogues: Sequence[Dialogue], limit: int | None, seed: int) -> Sequence[Dialogue]:
    if limit is None or limit >= len(dialogues):
        return dialogues
    chosen = np.random.default_rng(seed).permutation(len(dialogues))[:limit]
    return [dialogues[index] for index in chosen]
