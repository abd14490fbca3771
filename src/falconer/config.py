"""What a run can be told, where each default comes from, and how presets and overrides are merged."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from falconer.errors import FalconerError, nearest


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


class ModelConfig(_Section):
    """Which base model, and in which numbers it is held."""

    name: str = Field("falcon-mini", description="local folder, hub name, or falcon-mini (embedded)")
    revision: str | None = Field(None, description="hub branch, tag or commit")
    quantization: Literal["nf4", "none"] = Field("nf4", description="nf4: 4 bits, double quantisation (QLoRA)")
    dtype: Literal["auto", "bf16", "fp32"] = Field("auto", description="arithmetic; auto: bf16 where it is faster")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU if there is one")
    path: Literal["auto", "generic"] = Field("auto", description="auto: Falcon's own pass where it fits the model")


class DataConfig(_Section):
    """Which dialogues, and how they become token ids."""

    train: str = Field("persona-chat-sample", description="file, hub name, or persona-chat-sample (embedded)")
    valid: str | None = Field(None, description="default: the source's own, else one held out by persona")
    test: str | None = Field(None, description="default: the source's own, else the validation split")
    format: str = Field("auto", description="input format; auto looks at the file")
    text: Literal["raw", "natural"] = Field("raw", description="as it is, or with natural case and punctuation")
    max_tokens: int = Field(1024, ge=32, description="longest example; older turns are dropped beyond it")
    max_dialogues: int | None = Field(None, ge=1, description="train on so many, chosen by the seed")
    valid_share: float = Field(0.05, gt=0, lt=0.5, description="held out where there is no validation split")
    on_bad_row: Literal["stop", "skip"] = Field("stop", description="what to do at a row that can't be read")


class LoraConfig(_Section):
    """The adapter. Defaults are the reference project's; alpha = 2r follows the QLoRA practice."""

    r: int = Field(16, ge=1)
    alpha: int = Field(32, ge=1)
    dropout: float = Field(0.05, ge=0, lt=1)
    targets: str = Field("query_key_value", description="module names, comma-separated; or auto; or all-linear")
    init_adapter: str | None = Field(None, description="folder of an adapter to continue from")


class TrainConfig(_Section):
    """The optimiser and the loop."""

    seed: int = Field(17, ge=0)
    epochs: float = Field(3, gt=0)
    max_steps: int | None = Field(None, ge=1, description="stop (and end the schedule) after so many optimiser steps")
    step_tokens: int = Field(8192, ge=1, description="tokens (pads included) of one optimiser step, over all ranks")
    micro_tokens: int = Field(8192, ge=1, description="tokens of one forward pass; smaller saves memory, same result")
    learning_rate: float = Field(2e-4, gt=0, description="2e-4: QLoRA (arXiv:2305.14314) for 7B")
    warmup_share: float = Field(0.03, ge=0, lt=1, description="share of the steps with a rising rate; 0.03: QLoRA")
    weight_decay: float = Field(0.0, ge=0)
    beta2: float = Field(0.999, gt=0, lt=1)
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm; 0.3 in QLoRA")
    compute: Literal["auto", "bf16", "fp8"] = Field("auto", description="frozen products; auto: fp8 where GPUs have it")
    memory: Literal["auto", "fast", "lean"] = Field("auto", description="lean recomputes, and offloads; auto: measured")
    validate_every: int | None = Field(None, ge=1, description="steps between validations; default: four an epoch")
    patience: int = Field(3, ge=1, description="stop after so many validations without a better loss")
    save_every: int | None = Field(None, ge=1, description="steps between checkpoints; default: at each validation")


class EvaluateConfig(_Section):
    """What is generated and measured. Greedy by default: the one decoding that needs no seed."""

    max_dialogues: int | None = Field(None, ge=1, description="evaluate the first so many test dialogues")
    max_replies: int | None = Field(None, ge=1, description="generate so many at most; perplexity uses all")
    max_ranked: int | None = Field(None, ge=0, description="rank candidates (hits@1) at so many of these; 0: none")
    max_new_tokens: int = Field(32, ge=1, description="ConvAI2's longest gold reply has 24 words")
    batch_size: int = Field(32, ge=1)
    repetition_penalty: float = Field(1.0, ge=1)
    temperature: float = Field(0.0, ge=0, description="0: greedy")
    top_k: int = Field(0, ge=0, description="draw among the so many most likely; 0: among all")
    top_p: float = Field(0.9, gt=0, le=1, description="used where temperature is above 0")
    num_samples: int = Field(20, ge=0, description="random samples shown in the report")
    resamples: int = Field(1000, ge=100, description="bootstrap resamples behind each interval and test")
    language: str = Field("auto", description="of the replies: en, zh, ...; auto: told by gold's letters and words")
    nli_model: str | None = Field(None, description="local folder of an NLI model, for the C-score")
    seed: int = Field(17, ge=0)


class Config(_Section):
    """Everything a run depends on."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    lora: LoraConfig = LoraConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()


# How a model computes, which may differ each time that it is used.
USED_ANYHOW = frozenset(("model.device", "model.dtype", "model.path"))
# Keys that have moved, and where to.
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
            raise FalconerError(f"'{override}' is not an override.", "Write section.key=value, e.g. train.epochs=2.")
        _check_key(section, key)
        # Text as typed: pydantic makes numbers of it where the key takes one, and a commit "12e4567" stays a name.
        tree.setdefault(section, {})[key] = None if value == "null" else value
    return from_tree(tree)


def for_evaluation(trained: Config, overrides: Sequence[str]) -> Config:
    """Return a run's configuration with what may differ when it is evaluated; a value equal to the run's is no change.

    Raises:
        FalconerError: as `load`; or a key that only training can apply.
    """
    config = load(None, overrides, base=trained)
    changed = differences(trained, config)
    has_test = "data.test" in changed and config.data.test is not None
    allowed = USED_ANYHOW | (frozenset(("data.test", "data.format", "data.on_bad_row")) if has_test else frozenset())
    refused = [
        key
        for key in changed
        if not (key.startswith("evaluate.") or key in allowed or may_have_moved(key, trained, config))
    ]
    if refused:
        raise FalconerError(
            f"An evaluation can't change {', '.join(refused)}: the run was trained as it is.",
            "It takes evaluate.*, model.device, model.dtype, model.path, data.test=FILE (with it data.format and "
            "data.on_bad_row), and data.train=FILE or data.valid=FILE where the run's own file has moved. For other "
            "settings train another run.",
        )
    return config


def for_chat(trained: Config, overrides: Sequence[str]) -> Config:
    """Return a run's configuration with what may differ when its model is talked to.

    Raises:
        FalconerError: as `load`; or a key that a conversation can't apply.
    """
    config = load(None, overrides, base=trained)
    refused = [key for key in differences(trained, config) if key not in USED_ANYHOW]
    if refused:
        raise FalconerError(
            f"A chat can't change {', '.join(refused)}.", f"It takes {', '.join(sorted(USED_ANYHOW))}, and its options."
        )
    return config


def differences(one: Config, other: Config) -> list[str]:
    """Return the keys, as section.key, in which two configurations differ."""
    before, now = one.model_dump(), other.model_dump()
    return [f"{section}.{key}" for section in now for key in now[section] if before[section][key] != now[section][key]]


def may_have_moved(key: str, before: Config, now: Config) -> bool:
    """Say whether a key that differs names a file of the run in another place; its content tells whether it is so."""
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
        return Config.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = f"{where}={first['input']!r} is not allowed: {first['msg']}."
        raise FalconerError(message, "See falconer train --keys.") from None


def _with_moved_keys(tree: dict[str, Any]) -> dict[str, Any]:
    """Return what a file of any version says, under today's keys."""
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
            raise FalconerError(f"Section '{section}' holds {values!r}.", f"It takes keys: {allowed}.")
        for key in values:
            _check_key(section, key)


def _keys(section: str) -> list[str]:
    return list(Config.model_fields[section].annotation.model_fields)  # type: ignore[union-attr]


def _check_section(section: str) -> None:
    if section not in Config.model_fields:
        raise FalconerError(f"Unknown section '{section}'.", nearest(str(section), Config.model_fields))


def _check_key(section: str, key: str) -> None:
    _check_section(section)
    if (section, key) in MOVED:
        now = ".".join(MOVED[section, key])
        raise FalconerError(f"{section}.{key} is called {now} now.", f"Write {now}=VALUE.")
    if key not in _keys(section):
        raise FalconerError(f"Unknown key '{section}.{key}'.", nearest(str(key), _keys(section)))


def _read_preset(preset: str) -> dict[str, Any]:
    if preset.endswith((".yaml", ".yml")):
        path = Path(preset)
        if not path.is_file():
            raise FalconerError(f"There is no file '{preset}'.", "Give a preset's name or the path of a YAML file.")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise FalconerError(f"'{preset}' can't be read: {error}.", "A preset is a YAML file in UTF-8.") from None
    elif preset in preset_names():
        text = (resources.files("falconer") / "presets" / f"{preset}.yaml").read_text(encoding="utf-8")
    else:
        raise FalconerError(f"Unknown preset '{preset}'.", nearest(preset, preset_names()))
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        what = str(error).splitlines()[0]
        raise FalconerError(f"'{preset}' is not YAML: {what}.", "Compare with presets/quickstart.yaml.") from None
    if not isinstance(tree, dict):
        raise FalconerError(f"'{preset}' holds no sections.", f"Allowed: {', '.join(Config.model_fields)}.")
    return tree
