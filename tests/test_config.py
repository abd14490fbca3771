"""Presets and overrides merge, and every mistake is named with the way out."""

import re
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from falconer import config
from falconer.config import Config
from falconer.errors import FalconerError, nearest

EVERY_KEY = [
    (section, key)
    for section, field in Config.model_fields.items()
    for key in field.annotation.model_fields  # type: ignore[union-attr]
]


def write(folder: Path, text: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def fails(match: str, *overrides: str, preset: str | None = None) -> FalconerError:
    with pytest.raises(FalconerError, match=match) as caught:
        config.load(preset, overrides)
    assert caught.value.hint, "it says what to type next"
    assert "\n" not in str(caught.value), "it is one line"
    return caught.value


# What is allowed


def test_nothing_given_is_the_reference_projects_adapter() -> None:
    default = config.load()
    assert default == Config()
    assert (default.lora.r, default.lora.alpha, default.lora.dropout) == (16, 32, 0.05)
    assert default.lora.targets == "query_key_value"
    assert default.model.quantization == "nf4"


def test_about_60_fields_in_seven_sections() -> None:
    assert list(Config.model_fields) == ["model", "data", "lora", "train", "ranking", "evaluate", "prefer"]
    assert 40 <= len(EVERY_KEY) <= 70


def test_an_override_changes_its_key_alone() -> None:
    changed = config.load(overrides=["train.epochs=2"])
    assert changed.train.epochs == 2
    assert changed.model_copy(update={"train": Config().train}) == Config()


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("train.learning_rate=1e-4", "train", "learning_rate", 1e-4),
        ("train.learning_rate=2E-5", "train", "learning_rate", 2e-5),
        ("train.learning_rate=0.0003", "train", "learning_rate", 3e-4),
        ("train.seed=7", "train", "seed", 7),
        ("train.memory=lean", "train", "memory", "lean"),
        ("train.max_steps=null", "train", "max_steps", None),
        ("model.name=tiiuae/falcon-7b", "model", "name", "tiiuae/falcon-7b"),
        ("model.name=./folder=with=signs", "model", "name", "./folder=with=signs"),
        ("model.name=1e5", "model", "name", "1e5"),
        ("model.name=off", "model", "name", "off"),
        ("model.revision=12e4567", "model", "revision", "12e4567"),
        ("model.revision=null", "model", "revision", None),
        ("model.quantization=none", "model", "quantization", "none"),
        ("data.train=some/where.jsonl", "data", "train", "some/where.jsonl"),
        ("data.train=C:/a b/c.jsonl", "data", "train", "C:/a b/c.jsonl"),
        (" train.epochs =1.5", "train", "epochs", 1.5),
    ],
)
def test_values_are_read_as_written(override: str, section: str, key: str, value: object) -> None:
    assert getattr(getattr(config.load(overrides=[override]), section), key) == value


def test_the_last_override_wins() -> None:
    assert config.load(overrides=["train.seed=1", "train.seed=2"]).train.seed == 2


def test_overrides_win_over_a_preset_and_keep_the_rest(tmp_path: Path) -> None:
    preset = write(tmp_path, "train: {epochs: 5, seed: 3}\nlora: {r: 4}\n")
    loaded = config.load(preset, ["train.epochs=1"])
    assert (loaded.train.epochs, loaded.train.seed, loaded.lora.r) == (1, 3, 4)


def test_a_preset_and_overrides_change_a_given_base(tmp_path: Path) -> None:
    """A resumed run starts from its own configuration."""
    base = config.load(overrides=["train.seed=3", "lora.r=4", "data.max_dialogues=9"])
    loaded = config.load(write(tmp_path, "lora: {r: 8}\n"), ["train.epochs=1"], base)
    assert (loaded.train.seed, loaded.train.epochs, loaded.lora.r, loaded.data.max_dialogues) == (3, 1, 8, 9)
    assert (base.train.epochs, base.lora.r) == (3, 4), "the base itself stays"


def test_an_empty_preset_is_the_defaults(tmp_path: Path) -> None:
    assert config.load(write(tmp_path, "# nothing yet\n")) == Config()


def test_a_config_survives_yaml_and_json() -> None:
    """A run's folder holds the resolved configuration; from it the same run can start."""
    loaded = config.load(overrides=["train.learning_rate=1e-4", "model.name=tiiuae/falcon-7b", "data.max_dialogues=5"])
    assert config.from_tree(yaml.safe_load(yaml.safe_dump(loaded.model_dump()))) == loaded
    assert config.from_tree(loaded.model_dump(mode="json")) == loaded


def test_it_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        config.load().train.seed = 3  # type: ignore[misc]


# What is not


def test_an_unknown_key_offers_the_nearest() -> None:
    assert "learning_rate" in fails(r"train\.learning_rat\b", "train.learning_rat=1").hint
    assert "quantization" in fails(r"model\.quantisation", "model.quantisation=nf4").hint


def test_an_unknown_section_offers_the_nearest() -> None:
    assert "'train'" in fails("Unknown section 'trian'", "trian.epochs=1").hint


def test_a_far_off_name_lists_what_is_allowed() -> None:
    hint = fails("Unknown section 'zzzz'", "zzzz.epochs=1").hint
    assert all(section in hint for section in Config.model_fields)


def test_an_unknown_preset_offers_the_nearest() -> None:
    assert "'falcon-7b'" in fails("Unknown preset 'falcon-7'", preset="falcon-7").hint


@pytest.mark.parametrize("override", ["epochs=2", "train.epochs", "train=2", ".epochs=2", "train.=2", "", "=", "--all"])
def test_what_is_no_override_shows_how_one_looks(override: str) -> None:
    assert "train.epochs=2" in fails("not of the form section.key=value", override).hint


@pytest.mark.parametrize(
    "override",
    [
        "lora.r=0",
        "lora.dropout=1",
        "train.epochs=-1",
        "train.epochs=many",
        "train.epochs=",
        "train.learning_rate=0",
        "train.learning_rate=nan",
        "train.learning_rate=inf",
        "train.learning_rate=.nan",
        "train.learning_rate=.inf",
        "train.max_steps=1.5",
        "train.memory=perhaps",
        "data.valid_share=0.9",
        "data.on_bad_row=ignore",
        "model.quantization=int8",
        "model.dtype=fp16",
        "data.max_tokens=1",
        "train.seed=[1, 2]",
        "train.seed={a: 1}",
        "evaluate.top_p=0",
    ],
)
def test_a_value_out_of_range_names_its_key(override: str) -> None:
    fails(override.partition("=")[0].replace(".", r"\."), override)


@pytest.mark.parametrize("value", ["[1, 2", "{", "'open", "a: b: c", "@x", "*x", "%x"])
def test_a_value_that_is_not_yaml_is_a_users_mistake(value: str) -> None:
    with pytest.raises(FalconerError):
        config.load(overrides=[f"train.seed={value}"])


@given(st.sampled_from(EVERY_KEY), st.text(max_size=20))
def test_whatever_is_typed_ends_in_a_config_or_in_our_error(where: tuple[str, str], value: str) -> None:
    try:
        loaded = config.load(overrides=[f"{where[0]}.{where[1]}={value}"])
    except FalconerError as error:
        assert error.hint
    else:
        assert isinstance(loaded, Config)


@given(st.text(max_size=40))
def test_whatever_stands_for_an_override_ends_likewise(text: str) -> None:
    try:
        config.load(overrides=[text])
    except FalconerError as error:
        assert error.hint


def test_a_preset_file_that_is_not_there(tmp_path: Path) -> None:
    fails("There is no file", preset=str(tmp_path / "none.yaml"))


@pytest.mark.parametrize("text", ["train: [", "\t- x: :", "a: b: c"])
def test_a_preset_file_that_is_not_yaml(tmp_path: Path, text: str) -> None:
    fails("is not YAML", preset=write(tmp_path, text))


@pytest.mark.parametrize("text", ["- train", "7", "just words"])
def test_a_preset_file_without_sections(tmp_path: Path, text: str) -> None:
    assert "train" in fails("does not contain sections", preset=write(tmp_path, text)).hint


def test_a_section_that_holds_a_value(tmp_path: Path) -> None:
    assert "epochs" in fails("Section 'train' is 3", preset=write(tmp_path, "train: 3")).hint


def test_a_section_that_holds_a_value_and_is_overridden(tmp_path: Path) -> None:
    fails("Section 'train' is 3", "train.epochs=1", preset=write(tmp_path, "train: 3"))


def test_an_empty_section(tmp_path: Path) -> None:
    fails("Section 'train' is None", preset=write(tmp_path, "train:\n"))


def test_names_that_are_not_text(tmp_path: Path) -> None:
    fails("Unknown section", preset=write(tmp_path, "1: {epochs: 1}"))
    fails("Unknown key", preset=write(tmp_path, "train: {1: 1}"))


def test_a_preset_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00train")
    fails("mine.yaml", preset=str(path))


# The two helpers of errors.py


def test_the_error_is_one_line_of_message_and_hint() -> None:
    assert str(FalconerError("It broke.", "Mend it.")) == "It broke. Mend it."
    assert str(FalconerError("It broke.")) == "It broke."


def test_nearest() -> None:
    assert nearest("nf5", ["nf4", "none"]) == "Did you mean 'nf4'?"
    assert nearest("xyzzy", ["b", "a"]) == "Allowed: a, b."


def test_every_choice_can_be_chosen() -> None:
    for section, key in EVERY_KEY:
        model = Config.model_fields[section].annotation
        choices = get_args(model.model_fields[key].annotation)  # type: ignore[union-attr]
        for choice in [choice for choice in choices if isinstance(choice, str)]:
            assert getattr(getattr(config.load(overrides=[f"{section}.{key}={choice}"]), section), key) == choice


def _is_taken(override: str) -> bool:
    try:
        config.load(None, [override])
    except FalconerError:
        return False
    return True


def test_a_key_that_has_moved_is_told_and_an_old_runs_is_read(tmp_path: Path) -> None:
    assert "Write model.path=VALUE" in str(fails(r"train\.path has been renamed to model\.path", "train.path=generic"))
    old_file = config.load(write(tmp_path, "train: {path: generic, epochs: 2}"))
    assert (old_file.model.path, old_file.train.epochs) == ("generic", 2)
    tree = Config().model_dump()
    del tree["model"]["path"]
    old = tree | {"train": tree["train"] | {"path": "generic"}}
    assert config.from_recorded(old).model.path == "generic" and old["train"]["path"] == "generic"
    assert config.from_recorded(tree) == Config()


class TestForEvaluation:
    trained = config.load("quickstart", ["data.train=a.jsonl", "data.test=b.jsonl"])

    @pytest.mark.parametrize("key", [f"{section}.{key}" for section, key in EVERY_KEY if section != "evaluate"])
    def test_only_what_can_be_applied_may_differ(self, key: str) -> None:
        """Every key of the configuration but evaluation's own is either refused or on this list."""
        other = {
            "quantization": "none", "dtype": "fp32", "device": "cpu", "text": "natural", "on_bad_row": "skip",
            "path": "generic", "compute": "bf16", "memory": "lean", "beta2": "0.5", "dropout": "0.5",
            "valid_share": "0.4", "warmup_share": "0.5", "objective": "lm+ranking", "share": "0.5",
            "length_normalised": "true", "learned_turns": "both", "num_samples": "9", "gold_share": "0.5",
        }.get(key.partition(".")[2], "99")  # fmt: skip
        override = f"{key}={other}"
        if key in ("model.dtype", "model.device", "model.path", "data.train", "data.test", "data.max_gib"):
            section, _, name = key.partition(".")
            assert str(getattr(getattr(config.for_evaluation(self.trained, [override]), section), name)) in (
                other,
                f"{other}.0",
            )
            return
        with pytest.raises(FalconerError, match=f"An evaluation can't change {key}:") as caught:
            config.for_evaluation(self.trained, [override])
        assert "evaluate.*" in caught.value.hint

    def test_a_format_goes_with_a_test_file_of_its_own(self) -> None:
        found = config.for_evaluation(self.trained, ["data.test=c.txt", "data.format=convai2", "data.on_bad_row=skip"])
        assert (found.data.test, found.data.format, found.data.on_bad_row) == ("c.txt", "convai2", "skip")
        with pytest.raises(FalconerError, match=r"can't change data\.test:"):
            config.for_evaluation(self.trained, ["data.test=null"])

    def test_equal_values_are_no_change(self) -> None:
        same = ["lora.r=16", "train.learning_rate=0.002", "data.valid=null", "data.test=b.jsonl", "data.text=raw"]
        assert config.for_evaluation(self.trained, same) == self.trained

    def test_unknown_keys_are_told_as_ever(self) -> None:
        with pytest.raises(FalconerError, match=r"Unknown key 'evaluate\.max_reply'"):
            config.for_evaluation(self.trained, ["evaluate.max_reply=3"])

    @pytest.mark.parametrize("key", [f"{section}.{key}" for section, key in EVERY_KEY])
    def test_a_chat_takes_how_the_model_computes_and_nothing_else(self, key: str) -> None:
        other = {"dtype": "fp32", "device": "cpu", "path": "generic"}.get(key.partition(".")[2])
        if other:
            section, _, name = key.partition(".")
            assert getattr(getattr(config.for_chat(self.trained, [f"{key}={other}"]), section), name) == other
            return
        value = next(
            value
            for value in (
                "99",
                "999",
                "0.4",
                "none",
                "natural",
                "skip",
                "bf16",
                "lean",
                "lm+ranking",
                "9",
                "own",
                "both",
                "x.jsonl",
                "true",
            )
            if _is_taken(f"{key}={value}") and config.load(None, [f"{key}={value}"], base=self.trained) != self.trained
        )
        with pytest.raises(FalconerError, match=rf"A chat can't change {re.escape(key)}\. You can set model\.device"):
            config.for_chat(self.trained, [f"{key}={value}"])

    def test_what_differs_is_named(self) -> None:
        other = config.load(None, ["lora.r=3", "evaluate.seed=1"], base=self.trained)
        assert config.differences(self.trained, other) == ["lora.r", "evaluate.seed"]
