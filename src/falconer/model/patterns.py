"""The regular expressions of an adapter's configuration: whether they come to an end on a model's layers.

PEFT matches them with the names of all layers, and one can take longer than anybody lives. Unusual ones are tried
before, in a process of their own, which can be stopped from any thread. The names of layers, as most adapters have
them, need none.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from falconer.errors import FalconerError

_HINT = "Use another adapter, or write the names of the layers there."
# Seconds of computing for all of them; matching a model's layers takes milliseconds.
_MOST_S = 2.0
# Beside it, for starting Python on a busy machine.
_START_S = 60.0
# A name, or the end of one: such an expression takes time that grows with the name alone.
_PLAIN = re.compile(r"(?:[\w-]|\\?\.)*")
_TRY = """
import json, re, signal, sys
most, patterns, names = json.load(sys.stdin)
signal.setitimer(signal.ITIMER_PROF, most)
for number, text in enumerate(patterns):
    print(number, flush=True)
    try:
        compiled = re.compile(text)
        for name in names:
            compiled.match(name)
    except (re.error, RecursionError, OverflowError) as error:
        print("error", error, flush=True)
        break
else:
    print("done", flush=True)
"""


def check_patterns(file: Path, config: Mapping[str, Any], names: Sequence[str]) -> None:
    """Check the regular expressions of an adapter's configuration on the names of its model's layers, within 2 s.

    Raises:
        FalconerError: they take longer, or one is not a regular expression.
    """
    patterns = list(_unusual(config))
    if not patterns:
        return
    given = json.dumps([_MOST_S, [text for _, text in patterns], list(names)])
    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _TRY], input=given, capture_output=True, text=True, timeout=_START_S,
            check=False,
        )  # fmt: skip
        said = done.stdout.splitlines()
        is_too_long = done.returncode == -signal.SIGPROF
    except subprocess.TimeoutExpired:
        said, is_too_long = [], True
    if said[-1:] == ["done"]:
        return
    key = patterns[next((int(line) for line in reversed(said) if line.isdecimal()), 0)][0]
    if said and said[-1].startswith("error "):
        reason = said[-1].removeprefix("error ")
        raise FalconerError(f"'{file}' is damaged: {key} is not a regular expression: {reason}.", _HINT)
    how = f"takes more than {_MOST_S:g} s to match" if is_too_long else "can't be matched"
    raise FalconerError(f"'{file}' can't be used: a regular expression in {key} {how}.", _HINT)


def _unusual(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what PEFT makes of each expression that is not just a name, with its key."""
    for key in ("rank_pattern", "alpha_pattern"):
        found = config.get(key)
        for text in found if isinstance(found, dict) else ():
            if not _PLAIN.fullmatch(text):
                yield key, rf"(.*\.)?({text})$"
    for key in ("target_modules", "exclude_modules"):
        text = config.get(key)
        if isinstance(text, str) and not _PLAIN.fullmatch(text):
            yield key, rf"(?:{text})\Z"
    layers = config.get("layers_pattern") or ()
    for text in [layers] if isinstance(layers, str) else layers if isinstance(layers, list) else ():
        if not _PLAIN.fullmatch(str(text)):
            yield "layers_pattern", rf"(?:^|.*?\.){text}\.(?P<idx>\d+)\."
