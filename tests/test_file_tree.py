"""The README's tree and docs/architecture.md name every source file with its question, and name no file that is gone.

A file's question is the first sentence of its docstring. docs/architecture.md has it in full; the README says it in a
few words. `python tests/test_file_tree.py` prints the lists of docs/architecture.md as they should be.
"""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "falconer"
PAGE = ROOT / "docs" / "architecture.md"
# In the order of the layers, the lowest first; "" is the package's own folder.
ROOMS = (
    "", "files", "run", "style", "kernels", "data", "data/files", "data/formats", "model", "model/falcon",
    "model/generate", "model/layers", "model/export", "train", "train/objectives", "evaluate",
    "evaluate/text", "evaluate/report", "talk", "talk/server", "share", "sweep", "bench",
)  # fmt: skip
WIDEST = 120


def question(path: Path) -> str:
    """Return the first paragraph of a file's docstring on one line."""
    found = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert found, f"{path} has no docstring"
    return " ".join(found.split("\n\n")[0].split())


def files(room: str) -> list[Path]:
    return sorted(path for path in (PACKAGE / room).glob("*.py") if path.name != "__init__.py")


def lists() -> str:
    """Return the lists of files as docs/architecture.md has them."""
    parts = []
    for room in ROOMS:
        about = f": {question(PACKAGE / room / '__init__.py')}" if room else ""
        lines = [f"- `{path.name}`: {question(path)}" for path in files(room)]
        parts.append("\n".join([f"### `{room or 'falconer'}/`{about}", "", *lines]).rstrip())
    return "\n\n".join(parts)


def shown_in_readme() -> dict[str, str]:
    """Return what the README's tree says of each path below src/falconer."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (tree,) = (
        block for block in re.findall(r"^```text\n(.*?)^```", text, re.M | re.S) if block.startswith("falconer/\n")
    )
    parents: list[tuple[int, str]] = []
    found = {}
    for line in tree.splitlines()[1:]:
        drawn = re.sub(r"[│├└─]", " ", line)
        column = len(drawn) - len(drawn.lstrip())
        name, _, about = drawn.strip().partition("  ")
        while parents and parents[-1][0] >= column:
            parents.pop()
        path = (parents[-1][1] if parents else "") + name
        if name.endswith("/"):
            parents.append((column, path))
        found[path.removeprefix("src/falconer/")] = about.strip()
    return found


def test_every_room_is_listed() -> None:
    rooms = {str(path.parent.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py")}
    assert {room or "." for room in ROOMS} == rooms


def test_architecture_names_every_file_with_its_question() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Every file\n")[2].partition("\n## ")[0].strip()
    assert section == lists(), f"`python tests/test_file_tree.py` prints what belongs into {PAGE.name}"


def test_each_question_is_one_sentence_of_a_line_or_two() -> None:
    long = [path.name for room in ROOMS for path in files(room) if len(question(path)) > 2 * WIDEST]
    assert not long


def test_the_readme_names_every_file_and_says_what_it_answers() -> None:
    shown = shown_in_readme()
    expected = {str(path.relative_to(PACKAGE)) for room in ROOMS for path in files(room)}
    python = {path for path in shown if path.endswith(".py")}
    assert python == expected
    assert not [path for path in shown if not shown[path] and path]


if __name__ == "__main__":
    print(lists())
