"""docs/data.md lists every format, and each of its examples is read as the format that it stands under."""

import re
from pathlib import Path

import pytest

from falconer.data.sources import FORMATS, load_dialogues

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL))
# Blocks of indented lines.
EXAMPLES = [
    (name, re.sub(r"^    ", "", block, flags=re.MULTILINE))
    for name, section in SECTIONS.items()
    for block in re.findall(r"(?:^    .*\n)+", section, re.MULTILINE)
]


def test_every_format_has_a_row_in_the_table_and_an_example() -> None:
    table = re.findall(r"^\| \[`(\w+)`\]\(#\1\) \|", PAGE, re.MULTILINE)
    assert set(table) == set(SECTIONS) == {name for name, _ in EXAMPLES} == set(FORMATS) - {"auto"}
    assert table == list(SECTIONS)


@pytest.mark.parametrize(("name", "example"), EXAMPLES, ids=[f"{i}-{name}" for i, (name, _) in enumerate(EXAMPLES)])
def test_examples(tmp_path: Path, name: str, example: str) -> None:
    (tmp_path / "x").write_text(example, encoding="utf-8")
    loaded = load_dialogues(str(tmp_path / "x"))
    assert loaded.format == name
    assert loaded.num_replies
    if name not in ("dailydialog", "soda", "locomo", "alpaca", "completion"):
        assert loaded.dialogues[0].persona
