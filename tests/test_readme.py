"""The README can't rot: its commands parse, its options exist, its make targets and its files are there.

What it follows: commands stand in ```console blocks, each on a line that starts with `$ `; the file tree is a ```text
block whose first line is `falconer/`, one name a line, deeper lines indented, comments behind two spaces.
"""

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from falconer import config

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8") if README.exists() else ""
SET_UP = re.compile(r"^## (Set up|Two commands)\b.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL | re.IGNORECASE)


def blocks(language: str, text: str = TEXT) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str = TEXT) -> list[str]:
    """Return the commands of the console blocks, continued lines joined, comments and what is piped on cut off."""
    found = []
    for block in blocks("console", text):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                found.append(re.split(r"\s+(?:#|\||&&|>)\s", line.removeprefix("$ "))[0].strip())
    return found


FALCONER = [command for command in commands() if re.match(r"(\S*/)?falconer\b", command)]
MAKE = [command for command in commands() if command.startswith("make ")]


@functools.cache
def help_of(*words: str) -> str:
    """Return what `falconer WORDS --help` prints; "" if there is no such command."""
    result = subprocess.run(
        [sys.executable, "-m", "falconer", *words, "--help"],
        capture_output=True,
        text=True,
        env=os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT / "src")},
    )
    return result.stdout if result.returncode == 0 else ""


def file_tree() -> list[tuple[int, str]]:
    """Return (column, name) of each line of the file tree below its root."""
    trees = [block for block in blocks("text") if block.startswith("falconer/\n")]
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
    assert {command.split()[1] for command in FALCONER} >= {"train", "evaluate", "chat", "score"}


@pytest.mark.parametrize("command", FALCONER)
def test_each_command_parses(command: str) -> None:
    words = shlex.split(command)[1:]
    path = words[:1]
    assert help_of(*path), f"falconer {path[0]} is no command"
    if "\nCommands:" in help_of(*path):
        path = words[:2]
        assert len(path) == 2 and help_of(*path), f"falconer {' '.join(path)} is no command"
    for option in [word.split("=")[0] for word in words if word.startswith("--")]:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", help_of(*path)), f"{option} is no option of {' '.join(path)}"


@pytest.mark.parametrize("command", FALCONER)
def test_each_preset_and_key_is_known(command: str) -> None:
    words = shlex.split(command)[1:]
    preset = words[words.index("--preset") + 1] if "--preset" in words else None
    overrides = [word for word in words if re.match(r"(model|data|lora|train|evaluate)\.\w+=", word)]
    config.load(overrides=overrides)
    assert preset is None or preset in config.preset_names() or preset.endswith(".yaml")


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
