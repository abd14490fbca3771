"""The README can't rot: its commands parse, its options exist, its make targets and its files are there.

What it follows: commands stand in ```console blocks, each on a line that starts with `$ `; the file tree is a ```text
block whose first line is `falconer/`, one name a line, deeper lines indented, comments behind two spaces.
"""

import re
import shlex
import subprocess

import pytest

from documented import ROOT, blocks, check_parses, check_settings, commands, falconer_commands

README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
SET_UP = re.compile(r"^## (Set up|Two commands)\b.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL | re.IGNORECASE)


FALCONER = falconer_commands(TEXT)
MAKE = [command for command in commands(TEXT) if command.startswith("make ")]


def file_tree() -> list[tuple[int, str]]:
    """Return (column, name) of each line of the file tree below its root."""
    trees = [block for block in blocks("text", TEXT) if block.startswith("falconer/\n")]
    assert len(trees) == 1, "one ```text block starts with the line falconer/"
    lines = []
    for line in trees[0].splitlines()[1:]:
        drawn = re.sub(r"[│├└─|`]", " ", line)
        if drawn.strip():
            name = re.split(r"\s{2,}|\s#", drawn.strip())[0]
            lines.append((len(drawn) - len(drawn.lstrip()), name))
    return lines


def paths_in_tree() -> list[str]:
    """Return the paths that the tree's lines stand for, from the repository's root."""
    parents: list[tuple[int, str]] = []
    paths = []
    for column, name in file_tree():
        while parents and parents[-1][0] >= column:
            parents.pop()
        path = (parents[-1][1] if parents else "") + name
        paths.append(path)
        if name.endswith("/"):
            parents.append((column, path))
    return paths


def test_set_up_is_exactly_two_commands() -> None:
    section = SET_UP.search(TEXT)
    assert section, "the README has a section '## Set up' or '## Two commands'"
    assert commands(section.group()) == ["make quickstart", "make test"]


def test_there_is_something_to_check() -> None:
    assert {command.split()[0] for command in FALCONER} >= {"train", "evaluate", "chat", "score"}


@pytest.mark.parametrize("command", FALCONER)
def test_each_command_parses(command: str) -> None:
    check_parses(command)


@pytest.mark.parametrize("command", FALCONER)
def test_each_preset_and_key_is_known(command: str) -> None:
    check_settings(command)


@pytest.mark.parametrize("command", MAKE)
def test_each_make_target_exists(command: str) -> None:
    subprocess.run(["make", "--dry-run", *shlex.split(command)[1:]], cwd=ROOT, check=True, capture_output=True)


def test_each_path_of_the_tree_exists() -> None:
    missing = [path for path in paths_in_tree() if not list(ROOT.glob(path.rstrip("/")))]
    assert not missing


def test_the_tree_shows_every_part() -> None:
    shown = "\n".join(paths_in_tree())
    package = ROOT / "src" / "falconer"
    folders = [path.name for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"]
    missing = [name for name in folders if f"{name}/" not in shown]
    assert not missing


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#]+)", TEXT))))
def test_each_link_to_a_file_leads_somewhere(link: str) -> None:
    if not link.startswith(("https://", "http://", "mailto:")):
        assert (ROOT / link).exists()
