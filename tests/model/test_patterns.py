"""Regular expressions of strangers: those that people use are matched, those that never end are refused in time."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from falconer.errors import FalconerError
from falconer.model import patterns
from falconer.model.patterns import check_patterns

NAMES = [f"transformer.h.{layer}.self_attention.query_key_value" for layer in range(32)]

ENDLESS = "(([a-z_.0-9])+)+X"


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"rank_pattern": {ENDLESS: 4}}, "rank_pattern"),
        ({"alpha_pattern": {ENDLESS: 4}}, "alpha_pattern"),
        ({"target_modules": ENDLESS}, "target_modules"),
        ({"exclude_modules": ENDLESS}, "exclude_modules"),
        ({"layers_pattern": [ENDLESS]}, "layers_pattern"),
    ],
)
def test_a_regular_expression_that_does_not_end(
    config: dict[str, Any], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patterns, "_MOST_S", 0.3)
    start = time.monotonic()
    with pytest.raises(FalconerError, match=f"a regular expression in {key} takes more than"):
        check_patterns(Path("adapter_config.json"), config, NAMES)
    assert time.monotonic() - start < 10


def test_a_text_that_is_no_regular_expression() -> None:
    with pytest.raises(FalconerError, match=r"rank_pattern is not a regular expression: missing \)"):
        check_patterns(Path("adapter_config.json"), {"rank_pattern": {"(": 4}}, NAMES)


def test_patterns_that_people_use() -> None:
    config = {
        "rank_pattern": {"query_key_value": 8, r"h\.[0-3]\.mlp\.dense": 4}, "alpha_pattern": {}, "layers_pattern": "h",
        "target_modules": r".*\.(self_attention|mlp)\.(query_key_value|dense)", "exclude_modules": None,
    }  # fmt: skip
    check_patterns(Path("adapter_config.json"), config, NAMES)
    check_patterns(Path("adapter_config.json"), {"target_modules": ["a", "b"], "rank_pattern": None}, NAMES)


def test_in_another_thread_it_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns, "_MOST_S", 0.3)
    said: list[str] = []

    def check() -> None:
        try:
            check_patterns(Path("adapter_config.json"), {"target_modules": ENDLESS}, NAMES)
        except FalconerError as error:
            said.append(str(error))

    thread = threading.Thread(target=check)
    thread.start()
    thread.join(30)
    assert len(said) == 1 and "target_modules takes more than 0.3 s" in said[0]


def test_names_need_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns.subprocess, "run", None)
    config = {
        "rank_pattern": {"h.0.mlp": 8, r"h\.1\.mlp": 4}, "target_modules": "query_key_value", "layers_pattern": ["h"],
    }  # fmt: skip
    check_patterns(Path("adapter_config.json"), config, NAMES)


def test_the_wrong_one_of_several_is_named() -> None:
    config = {"rank_pattern": {"a|b": 1}, "alpha_pattern": {"(?P<x>a": 1}, "target_modules": "c|d"}
    with pytest.raises(FalconerError, match="alpha_pattern is not a regular expression"):
        check_patterns(Path("adapter_config.json"), config, NAMES)
