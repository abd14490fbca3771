"""What a wrong setting says: the key that was meant, and which values are allowed."""

import pytest

from falconer.wrong_settings import allowed_values, as_setting, unknown_key, wrong_value

KEYS = {"train": ["learning_rate", "epochs", "step_tokens"], "lora": ["r", "alpha"], "data": ["max_tokens"]}


@pytest.mark.parametrize(
    ("section", "key", "hint"),
    [
        ("train", "epoch", "Did you mean 'train.epochs'?"),
        ("train", "lr", "Did you mean 'train.learning_rate'?"),
        ("train", "alpha", "Did you mean 'lora.alpha'?"),
        ("lora", "rank", "Did you mean 'lora.r'?"),
        ("lora", "xyz", "Allowed: lora.alpha, lora.r."),
    ],
)
def test_the_key_that_was_meant_is_offered_with_its_section(section: str, key: str, hint: str) -> None:
    error = unknown_key(section, key, KEYS)
    assert (error.message, error.hint) == (f"Unknown key '{section}.{key}'.", hint)


@pytest.mark.parametrize(
    ("option", "key"),
    [("--lr", "train.learning_rate"), ("--max-tokens", "data.max_tokens"), ("--epoch", "train.epochs"), ("--run", "")],
)
def test_an_option_that_is_like_a_setting(option: str, key: str) -> None:
    expected = f"Settings are given as section.key=value, without dashes: {key}=VALUE." if key else ""
    assert as_setting(option, KEYS) == expected


def test_allowed_values_in_words() -> None:
    assert allowed_values({"enum": ["nf4", "none"]}) == "nf4, none"
    assert allowed_values({"type": "number", "exclusiveMinimum": 0, "maximum": 1}) == "number > 0 and ≤ 1"
    assert allowed_values({"type": "boolean"}) == "true, false"
    number = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "null"}]}
    assert str(wrong_value("train.save_every", "x", number)) == (
        "train.save_every='x' is not allowed. Allowed: whole number ≥ 1, or null. falconer train --keys explains it."
    )
