"""The list of configuration keys that `falconer train --keys` prints and docs/keys.md contains."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from falconer.config import Config
from falconer.wrong_settings import allowed_values

_HEAD = """# Configuration keys

Set a key as `section.key=value` on the command line of `falconer train`, `prefer`, `plan`, `evaluate` or `chat`, or in
a YAML file that you pass to `--preset`. The command line overrides the preset, and the preset overrides these defaults;
`null` means "no value". This page is generated from `src/falconer/config.py`:

    falconer train --keys --markdown > docs/keys.md
"""


@dataclass(frozen=True, slots=True)
class Key:
    """One key.

    Args:
        name: section.key, as it is typed.
        default: as it would be typed.
        allowed: the allowed values, in words.
        meaning: one or two sentences.
    """

    name: str
    default: str
    allowed: str
    meaning: str


def keys() -> Iterator[Key]:
    """Yield every key in the order of the configuration."""
    schema = Config.model_json_schema()["$defs"]
    for section, field in Config.model_fields.items():
        model: Any = field.annotation
        for name, one in schema[model.__name__]["properties"].items():
            default = _typed(one["default"])
            yield Key(f"{section}.{name}", default, allowed_values(one), one.get("description", ""))


def _typed(value: object) -> str:
    """Return a value as it is typed on the command line, or in YAML."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def as_text(width: int) -> str:
    """Return the keys for a terminal of `width` columns: a line key=default (allowed values), then its meaning."""
    lines = []
    for key in keys():
        lines.append(f"{key.name}={key.default}  ({key.allowed})")
        # A name with a hyphen stays in one piece, so that it can be copied.
        lines += textwrap.wrap(
            key.meaning, width, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
        )
    return "\n".join(lines)


def as_markdown() -> str:
    """Return docs/keys.md: a table for each section."""
    parts = [_HEAD]
    for section, field in Config.model_fields.items():
        model: Any = field.annotation
        parts.append(
            f"\n## {section}\n\n{model.__doc__.strip()}\n\n| key | default | allowed | meaning |\n|---|---|---|---|\n"
        )
        parts += [
            f"| `{key.name}` | `{key.default}` | {key.allowed} | {key.meaning} |\n"
            for key in keys()
            if key.name.startswith(f"{section}.")
        ]
    return "".join(parts)
