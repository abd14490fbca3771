"""CONTRIBUTING.md names files and commands that are there."""

import re

import pytest

from documented import ROOT, check_parses, is_file

TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SPANS = re.findall(r"`([^`\n]+)`", TEXT)


@pytest.mark.parametrize(
    "name", sorted({span for span in SPANS if re.fullmatch(r"[\w./-]+(/|\.(py|md|toml|txt|yml))", span)})
)
def test_each_file_that_is_named_is_there(name: str) -> None:
    assert is_file(name)


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:`|^    )make ([\w-]+)", TEXT, re.MULTILINE))))
def test_each_make_target_is_there(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"(?:`|^    )falconer ([\w -]+)", TEXT, re.MULTILINE))))
def test_each_command_is_there(command: str) -> None:
    check_parses(re.sub(r"\b[A-Z]+\b", "", command))


def test_there_is_something_to_check() -> None:
    assert len(SPANS) > 40
