"""docs/walkthrough.md shows real values: its examples are run one after the other, as its reader may paste them."""

import doctest
import re

import pytest

from documented import ROOT, is_file

PACKAGE = ROOT / "src" / "falconer"
PAGE = ROOT / "docs" / "walkthrough.md"
TEXT = PAGE.read_text(encoding="utf-8")

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_value_on_the_page_is_what_the_code_gives(capsys: pytest.CaptureFixture[str]) -> None:
    found = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert not found.failed, capsys.readouterr().out
    assert found.attempted > 60


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([\w/]+(?:\.py|/))`", TEXT))))
def test_every_file_that_is_named_is_there(name: str) -> None:
    assert is_file(name)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(\w+)`", TEXT)) - {"kernels", "ended", "python", "replies"}))
def test_every_function_that_is_named_is_there(name: str) -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    assert re.search(rf"\b(def|class) {name}\b|^    {name}: ", sources, re.MULTILINE), name
