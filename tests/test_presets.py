"""Each preset loads, is short, and says how to run it."""

import re
from importlib import resources
from itertools import takewhile

import pytest
import yaml

from falconer import config

PRESETS = ["any-causal-lm", "falcon-7b", "falcon-7b-all-linear", "quickstart"]


def text_of(name: str) -> str:
    return (resources.files("falconer") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def test_the_presets_are_these() -> None:
    assert config.preset_names() == PRESETS


@pytest.mark.parametrize("name", PRESETS)
def test_it_loads_and_nothing_of_it_is_lost(name: str) -> None:
    loaded = config.load(name)
    for section, values in yaml.safe_load(text_of(name)).items():
        for key, value in values.items():
            assert getattr(getattr(loaded, section), key) == value


@pytest.mark.parametrize("name", PRESETS)
def test_it_is_short_and_its_command_stands_on_top(name: str) -> None:
    lines = text_of(name).splitlines()
    assert len(lines) <= 25
    head = "\n".join(takewhile(lambda line: line.startswith("#"), lines))
    command = f"falconer train --preset {name}"
    assert re.search(rf"{command}(?![\w-])", head), f"its first lines say: {command}"


def test_the_reference_projects_figures() -> None:
    """NF4, r=16, alpha=32, dropout=0.05 on query_key_value, learning rate 2e-4: what its script says."""
    loaded = config.load("falcon-7b")
    assert loaded.model.name == "tiiuae/falcon-7b" and loaded.model.quantization == "nf4"
    assert (loaded.lora.r, loaded.lora.alpha, loaded.lora.dropout) == (16, 32, 0.05)
    assert loaded.lora.targets == "query_key_value"
    assert loaded.train.learning_rate == 2e-4
    assert config.load("falcon-7b-all-linear").lora.targets == "all-linear"
