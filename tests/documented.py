"""What documents say of the command line, and whether it is so."""

import functools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from falconer import config

ROOT = Path(__file__).parents[1]
COMMAND = re.compile(
    r"(?:\S+=\S+ )*(?:(?:accelerate launch|torchrun) (?:--[\w-]+ \S+ )*-m (?:-- )?)?(?:\S*/)?falconer\b"
)


def blocks(language: str, text: str) -> list[str]:
    """Return the fenced blocks of a language in a Markdown page."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """Return the commands of the console blocks, continued lines joined, comments and what is piped on cut off."""
    found = []
    for block in blocks("console", text):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                found.append(re.split(r"\s+(?:#|\||&&|>)\s", line.removeprefix("$ "))[0].strip())
    return found


def falconer_commands(text: str) -> list[str]:
    """Return what stands behind `falconer` in each of its commands, started by a launcher or not."""
    return [command[match.end() :].strip() for command in commands(text) if (match := COMMAND.match(command))]


@functools.cache
def help_of(*words: str) -> str:
    """Return what `falconer WORDS --help` prints; "" if there is no such command."""
    result = subprocess.run(
        [sys.executable, "-m", "falconer", *words, "--help"],
        capture_output=True, text=True, env=os.environ | {"COLUMNS": "200", "PYTHONPATH": str(ROOT / "src")},
    )  # fmt: skip
    return result.stdout if result.returncode == 0 else ""


def check_parses(command: str) -> None:
    """Check that what stands behind `falconer` is a command, and that it has the options."""
    words = shlex.split(command)
    path = words[:1]
    assert help_of(*path), f"falconer {path[0]} is no command"
    if "\nCommands:" in help_of(*path):
        path = words[:2]
        assert len(path) == 2 and help_of(*path), f"falconer {' '.join(path)} is no command"
    for option in [word.split("=")[0] for word in words if word.startswith("--")]:
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", help_of(*path)), f"{option} is no option of {' '.join(path)}"


def check_settings(command: str) -> None:
    """Check that a command's preset and keys are known, and that their values are allowed."""
    words = shlex.split(command)
    preset = words[words.index("--preset") + 1] if "--preset" in words else None
    config.load(overrides=[word for word in words if re.match(r"(model|data|lora|train|evaluate)\.\w+=", word)])
    assert preset is None or preset in config.preset_names() or preset.endswith(".yaml")


def is_file(name: str) -> bool:
    """Tell whether a file or folder is there, by its path from the root or from any folder of the package."""
    package = ROOT / "src" / "falconer"
    folders = (ROOT, package, *(path for path in package.rglob("*") if path.is_dir()))
    return any((folder / name).exists() for folder in folders)
