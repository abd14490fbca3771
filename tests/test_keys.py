"""Every key is explained: on the command line, and in docs/keys.md, which says the same."""

import re
from pathlib import Path

import pytest

from command_line import falconer, falconer_process
from falconer.config import Config, load
from falconer.errors import FalconerError
from falconer.keys import as_markdown, as_text, keys

PAGE = Path(__file__).parents[1] / "docs" / "keys.md"
ALL = list(keys())


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == as_markdown(), "falconer train --keys --markdown > docs/keys.md"


def test_the_command_that_the_page_names_writes_it(tmp_path: Path) -> None:
    (command,) = re.findall(r"^    falconer (.*) > docs/keys\.md$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    result = falconer_process(*command.split(), cwd=tmp_path)
    assert (result.code, result.err) == (0, "")
    assert result.out == PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("key", ALL, ids=[key.name for key in ALL])
def test_each_key_has_a_meaning_in_whole_sentences(key) -> None:
    assert key.meaning.endswith(".") and len(key.meaning) > 15
    assert "so many" not in key.meaning and "numbers" not in key.meaning and "arithmetic" not in key.meaning
    if key.default == "null":
        assert re.search(r"\bnull\b", key.meaning), "it says what null stands for"


@pytest.mark.parametrize("key", ALL, ids=[key.name for key in ALL])
def test_what_the_page_says_of_a_key_is_what_the_configuration_does(key) -> None:
    assert load(None, [f"{key.name}={key.default}"]) == Config(), "the default, as it is shown, is the default"
    for sign, bound in re.findall(r"([≥>≤<]) ([\d.]+)", key.allowed):
        too_far = str(int(bound) - 1) if sign == "≥" else bound if sign in "<>" else str(float(bound) + 1)
        with pytest.raises(FalconerError, match=re.escape(key.name)):
            load(None, [f"{key.name}={too_far}"])
    if key.allowed.endswith("null"):
        load(None, [f"{key.name}=null"])
    else:
        with pytest.raises(FalconerError, match=re.escape(key.name)):
            load(None, [f"{key.name}=null"])


def test_choices_are_listed() -> None:
    allowed = {key.name: key.allowed for key in ALL}
    assert allowed["model.quantization"] == "nf4, none"
    assert allowed["data.valid_share"] == "number > 0 and < 0.5"
    assert allowed["train.max_steps"] == "whole number ≥ 1, or null"
    assert allowed["data.test"] == "text, or null"
    assert allowed["prefer.length_normalised"] == "true, false"


@pytest.mark.parametrize("width", [40, 79, 120])
def test_the_terminals_list_fits(width: int) -> None:
    lines = as_text(width).splitlines()
    assert max(len(line) for line in lines if line.startswith(" ")) <= width
    assert sum(not line.startswith(" ") for line in lines) == len(ALL)


def test_a_terminals_list_says_what_the_page_says() -> None:
    shown = " ".join(falconer("train", "--keys").out.split())
    for key in ALL:
        assert f"{key.name}={key.default} ({key.allowed}) {key.meaning}" in shown
