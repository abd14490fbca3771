"""The configuration: every key with its default and meaning, and how presets and overrides are merged."""

import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field, ValidationError

from falconer.errors import FalconerError, nearest
from falconer.evaluate_config import MAX_SEED, EvaluateConfig, Section, check_decoding
from falconer.files.json_record import read_text
from falconer.files.yaml_value import NotPlainYaml, yaml_value
from falconer.prefer_config import PreferConfig
from falconer.ranking_config import RankingConfig
from falconer.wrong_settings import unknown_key, wrong_value


class ModelConfig(Section):
    """The base model, and the precision of its weights and of the computation."""

    name: str = Field(
        "falcon-mini", description="Base model: a local folder, a name on the hub, or falcon-mini (embedded)."
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the hub; null: the default branch.")
    quantization: Literal["nf4", "none"] = Field(
        "nf4",
        description="nf4: 4-bit NormalFloat with double quantisation, as in QLoRA; none: weights in the precision of "
        "model.dtype.",
    )
    dtype: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="Precision of the computation; auto: bf16 where the hardware computes it faster, else fp32."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: a GPU if there is one, else the CPU.")
    path: Literal["auto", "generic"] = Field(
        "auto",
        description="auto: the fast path if it supports the model; generic: the model's own forward and backward pass.",
    )


class DataConfig(Section):
    """The dialogues, and how they are encoded."""

    train: str = Field(
        "persona-chat-sample",
        description="Training dialogues: a file, an archive, a data set on the hub, or persona-chat-sample (embedded).",
    )
    valid: str | None = Field(
        None,
        description="Validation dialogues; null: the validation split of data.train or, if it has none, dialogues held "
        "out by persona.",
    )
    test: str | None = Field(
        None,
        description="Test dialogues; null: the test split of data.train or, if it has none, the validation dialogues.",
    )
    format: str = Field(
        "auto", description="Input format, one of those in docs/data.md; auto: recognised from the content."
    )
    text: Literal["raw", "natural"] = Field(
        "raw", description="raw: the text as it is; natural: case, punctuation and apostrophes restored."
    )
    learned_turns: Literal["self", "both"] = Field(
        "self",
        description="Whose turns are learned: self: the replies; both: also the partner's, as a second source of the "
        "same language. Validation and evaluation measure the replies in either case.",
    )
    max_tokens: int = Field(
        1024,
        ge=32,
        description="Maximum length of an example, in tokens. Of longer dialogues the oldest turns are dropped, never "
        "the persona or the last reply.",
    )
    max_dialogues: int | None = Field(
        None, ge=1, description="Train on at most this many dialogues, chosen at random with train.seed; null: on all."
    )
    valid_share: float = Field(
        0.05, gt=0, lt=0.5, description="Share of the dialogues that is held out if there is no validation split."
    )
    on_bad_row: Literal["stop", "skip"] = Field(
        "stop", description="What to do with a row that can't be read: stop with an error, or skip it and report it."
    )
    max_gib: float = Field(2, gt=0, le=1024, description="Largest size of unpacked data, in GiB: a limit on bombs.")


class LoraConfig(Section):
    """The LoRA adapter. The defaults are those of the reference project; alpha = 2r follows QLoRA practice."""

    r: int = Field(16, ge=1, le=65_536, description="Rank of the adapter: a higher rank has more parameters.")
    alpha: int = Field(
        32, ge=1, le=1_000_000, description="Scale of the adapter: its output is multiplied by alpha / r."
    )
    dropout: float = Field(0.05, ge=0, lt=1, description="Dropout on the adapter's input during training.")
    targets: str = Field(
        "query_key_value",
        description="Layers that get an adapter: module names, separated by commas; auto: PEFT's choice for the model; "
        "all-linear: every linear layer except the output head.",
    )
    init_adapter: str | None = Field(
        None, description="Folder of an adapter to continue from; null: start with a new one."
    )


class TrainConfig(Section):
    """The objective, the optimiser and the training loop."""

    objective: Literal["lm", "lm+ranking"] = Field(
        "lm", description="lm: the likelihood of the replies; lm+ranking: also to rank them above distractors."
    )
    seed: int = Field(
        17, ge=0, le=MAX_SEED, description="Seed of the adapter's initial weights, the order of the dialogues, "
        "held-out splits and dropout."
    )  # fmt: skip
    epochs: float = Field(3, gt=0, le=10_000, description="Passes over the training dialogues; 0.5 is half of one.")
    max_steps: int | None = Field(
        None,
        ge=1,
        description="End training, and the learning-rate schedule, after this many optimiser steps; null: train.epochs "
        "decides.",
    )
    step_tokens: int = Field(
        8192, ge=1, description="Tokens in one optimiser step, padding included, summed over all ranks."
    )
    micro_tokens: int = Field(
        8192,
        ge=1,
        description="Tokens in one micro-batch (one forward pass), padding included; up to a sixteenth more "
        "where that saves a micro-batch. Smaller values use less memory.",
    )
    learning_rate: float | None = Field(
        2e-4, gt=0, description="Peak learning rate, AdamW's; 2e-4 is QLoRA's for 7B (arXiv:2305.14314). null: by the "
        "model's size, from 2e-3 for up to 17 million parameters to 2e-4 for 7 billion.",
    )  # fmt: skip
    warmup_share: float = Field(
        0.03, ge=0, lt=1, description="Share of the steps in which the learning rate rises to its peak, before it "
        "falls along a cosine; 0.03 is QLoRA's.",
    )  # fmt: skip
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay.")
    beta2: float = Field(
        0.999, gt=0, lt=1, description="AdamW's decay rate for the running average of squared gradients."
    )
    clip_norm: float = Field(
        1.0, gt=0, description="Largest norm of the gradient; a larger one is scaled down to it. QLoRA's is 0.3."
    )
    compute: Literal["auto", "bf16", "fp8"] = Field(
        "auto",
        description="Precision of the base matmuls in training; auto: fp8 on the fast path if the GPU supports it, "
        "else the precision of model.dtype.",
    )
    memory: Literal["auto", "fast", "lean"] = Field(
        "auto",
        description="fast: store what the backward pass needs; lean: recompute it, and offload block inputs to host "
        "memory; auto: fast if the largest micro-batch fits, which is tried before the first step.",
    )
    validate_every: int | None = Field(
        None, ge=1, description="Optimiser steps between validations; null: four validations per epoch."
    )
    patience: int = Field(
        3, ge=1, description="Stop early after this many validations in a row without a better validation loss."
    )
    save_every: int | None = Field(
        None, ge=1, description="Optimiser steps between checkpoints; null: one at each validation."
    )


class Config(Section):
    """Everything a run depends on."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    lora: LoraConfig = LoraConfig()
    train: TrainConfig = TrainConfig()
    ranking: RankingConfig = RankingConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    prefer: PreferConfig = PreferConfig()


# Keys that say how a model is computed. They may differ between training, evaluation and chat.
USED_ANYHOW = frozenset(("model.device", "model.dtype", "model.path"))
# Renamed keys: old name -> new name.
MOVED = MappingProxyType({("train", "path"): ("model", "path")})


def preset_names() -> list[str]:
    """Return the names of the presets that the package carries."""
    return sorted(file.name.removesuffix(".yaml") for file in (resources.files("falconer") / "presets").iterdir())


def load(preset: str | None = None, overrides: Sequence[str] = (), base: Config | None = None) -> Config:
    """Merge defaults (or `base`), a preset (a name, or the path of a YAML file) and `section.key=value` overrides.

    Raises:
        FalconerError: unknown preset, section or key (the nearest name is offered), or a value that is not allowed.
    """
    tree = base.model_dump() if base else {}
    differences = _with_moved_keys(_read_preset(preset)) if preset else {}
    _check_tree(differences)
    for section, values in differences.items():
        tree[section] = tree.get(section, {}) | values
    for override in overrides:
        path, separator, value = override.partition("=")
        section, dot, key = path.strip().partition(".")
        if not (separator and dot and section and key):
            raise FalconerError(
                f"'{override[:120]}' is not of the form section.key=value.",
                "Write a setting as, for example, train.epochs=2.",
            )
        _check_key(section, key)
        # Passed on as text: pydantic converts it if the key is a number, and a commit such as "12e4567" stays a name.
        tree.setdefault(section, {})[key] = None if value == "null" else value
    return from_tree(tree)


def for_evaluation(trained: Config, overrides: Sequence[str]) -> Config:
    """Return a run's configuration with the overrides of an evaluation; values equal to the run's are no change.

    Raises:
        FalconerError: as `load`; or an override would only have an effect in training.
    """
    config = load(None, overrides, base=trained)
    changed = differences(trained, config)
    has_test = "data.test" in changed and config.data.test is not None
    with_test = ("data.test", "data.format", "data.on_bad_row") if has_test else ()
    allowed = USED_ANYHOW | {"data.max_gib", *with_test}
    refused = [
        key
        for key in changed
        if not (key.startswith("evaluate.") or key in allowed or may_have_moved(key, trained, config))
    ]
    if refused:
        raise FalconerError(
            f"An evaluation can't change {', '.join(refused)}: the run was trained with its own value.",
            "You can set evaluate.*, model.device, model.dtype, model.path, data.max_gib, data.test=FILE (with "
            "data.format and data.on_bad_row), and data.train=FILE or data.valid=FILE if the run's own file has "
            "moved. For other settings, train another run.",
        )
    return config


def for_chat(trained: Config, overrides: Sequence[str]) -> Config:
    """Return a run's configuration with the overrides of a chat.

    Raises:
        FalconerError: as `load`; or an override has no effect in a chat.
    """
    config = load(None, overrides, base=trained)
    refused = [key for key in differences(trained, config) if key not in USED_ANYHOW]
    if refused:
        raise FalconerError(
            f"A chat can't change {', '.join(refused)}.", f"You can set {', '.join(sorted(USED_ANYHOW))}."
        )
    return config


def differences(one: Config, other: Config) -> list[str]:
    """Return the keys, as section.key, in which two configurations differ."""
    before, now = one.model_dump(), other.model_dump()
    return [f"{section}.{key}" for section in now for key in now[section] if before[section][key] != now[section][key]]


def may_have_moved(key: str, before: Config, now: Config) -> bool:
    """Return whether a changed key may only name a new path of the run's own file, which its content then decides."""
    section, _, name = key.partition(".")
    is_path = section == "data" and name in ("train", "valid", "test")
    return is_path and None not in (getattr(before.data, name), getattr(now.data, name))


def from_recorded(tree: dict[str, Any]) -> Config:
    """Validate the configuration that a run of any version wrote; see `load` for the errors."""
    return from_tree(_with_moved_keys(tree))


def from_tree(tree: dict[str, Any]) -> Config:
    """Validate a nested dict (from YAML or JSON) into a Config; see `load` for the errors."""
    _check_tree(tree)
    try:
        config = Config.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        section, key = (str(part) for part in first["loc"][:2])
        schema = Config.model_fields[section].annotation.model_json_schema()["properties"][key]  # type: ignore[union-attr]
        raise wrong_value(f"{section}.{key}", first["input"], schema) from None
    check_decoding(config.evaluate)
    return config


def _with_moved_keys(tree: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration written by any version, with renamed keys under their current names."""
    tree = {section: dict(values) if isinstance(values, dict) else values for section, values in tree.items()}
    for (section, key), (new_section, new_key) in MOVED.items():
        before, now = tree.get(section), tree.setdefault(new_section, {})
        if isinstance(before, dict) and isinstance(now, dict) and key in before:
            now.setdefault(new_key, before.pop(key))
    return tree


def _check_tree(tree: dict[str, Any]) -> None:
    for section, values in tree.items():
        _check_section(section)
        if not isinstance(values, dict):
            allowed = ", ".join(_keys(section))
            raise FalconerError(
                f"Section '{section}' is {repr(values)[:120]}, not a mapping.", f"Its keys are: {allowed}."
            )
        for key in values:
            _check_key(section, key)


def all_keys() -> dict[str, list[str]]:
    """Return the keys of each section."""
    return {section: _keys(section) for section in Config.model_fields}


def _keys(section: str) -> list[str]:
    return list(Config.model_fields[section].annotation.model_fields)  # type: ignore[union-attr]


def _check_section(section: str) -> None:
    if section not in Config.model_fields:
        raise FalconerError(f"Unknown section '{str(section)[:120]}'.", nearest(str(section), Config.model_fields))


def _check_key(section: str, key: str) -> None:
    _check_section(section)
    if (section, key) in MOVED:
        now = ".".join(MOVED[section, key])
        raise FalconerError(f"The key {section}.{key} has been renamed to {now}.", f"Write {now}=VALUE.")
    if key not in _keys(section):
        raise unknown_key(section, str(key), all_keys())


def _read_preset(preset: str) -> dict[str, Any]:
    if preset.endswith((".yaml", ".yml")):
        path = Path(preset)
        # os.path, because pathlib fails on names that no file can have (too long, a NUL).
        if not os.path.isfile(path):
            raise FalconerError(
                f"There is no file '{preset}'.", "Give the name of a preset or the path of a YAML file."
            )
        text = read_text(path, "A preset is a YAML file in UTF-8.")
    elif preset in preset_names():
        text = (resources.files("falconer") / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")
    else:
        raise FalconerError(f"Unknown preset '{preset}'.", nearest(preset, preset_names()))
    try:
        tree = yaml_value(text) or {}
    except NotPlainYaml as error:
        raise FalconerError(
            f"'{preset}' is not usable: {error}.", "See presets/quickstart.yaml for an example."
        ) from None
    if not isinstance(tree, dict):
        raise FalconerError(f"'{preset}' does not contain sections.", f"Allowed: {', '.join(Config.model_fields)}.")
    return tree
