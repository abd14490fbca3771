"""What a wrong setting says: an unknown key, a value that is not allowed, a key that is written as an option."""

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from falconer.errors import FalconerError

# The types of a JSON schema, and what we call them.
_TYPES = MappingProxyType({
    "integer": "whole number", "number": "number", "string": "text", "boolean": "true, false", "null": "null",
})  # fmt: skip
_BOUNDS = MappingProxyType({"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"})

# The keys of each section.
Keys = Mapping[str, Sequence[str]]


def unknown_key(section: str, key: str, keys: Keys) -> FalconerError:
    """Return the error for a key that its section does not have, with the key that was probably meant."""
    meant = (
        [name for name in _named(keys) if _own(name) == key]
        or _meant(key, {section: keys[section]})
        or [f"{section}.{name}" for name in keys[section] if name == key[:1]]
    )
    allowed = ", ".join(f"{section}.{name}" for name in sorted(keys[section]))
    return FalconerError(
        f"Unknown key '{_cut(f'{section}.{key}')}'.", f"Did you mean '{meant[0]}'?" if meant else f"Allowed: {allowed}."
    )


def wrong_value(name: str, value: object, schema: Mapping[str, Any]) -> FalconerError:
    """Return the error for a value that a key does not allow.

    Args:
        name: section.key.
        schema: the JSON schema of the key.
    """
    return FalconerError(
        f"{name}={_cut(repr(value))} is not allowed.",
        f"Allowed: {allowed_values(schema)}. falconer train --keys explains it.",
    )


def as_setting(option: str, keys: Keys) -> str:
    """Return how a setting is written that was given as an option, such as "--epochs"; "" if it is like no setting."""
    meant = _meant(option.strip("-").replace("-", "_"), keys)
    return f"Settings are given as section.key=value, without dashes: {meant[0]}=VALUE." if meant else ""


def allowed_values(schema: Mapping[str, Any]) -> str:
    """Return in words which values a key's JSON schema allows."""
    if "anyOf" in schema:
        return ", or ".join(map(allowed_values, schema["anyOf"]))
    if "enum" in schema:
        return ", ".join(schema["enum"])
    bounds = [f"{sign} {schema[name]}" for name, sign in _BOUNDS.items() if name in schema]
    return f"{_TYPES[schema['type']]} {' and '.join(bounds)}".strip()


def _cut(text: str) -> str:
    """Return a value for a message, without most of a long one."""
    return text if len(text) <= 120 else f"{text[:80]}... ({len(text):,} characters)"


def _meant(given: str, keys: Keys) -> list[str]:
    """Return the keys, as section.key, that a name may stand for: by its initials ("lr"), else by its letters."""
    if len(given) > 1 and (short := [name for name in _named(keys) if _initials(_own(name)) == given]):
        return short
    own = sorted({_own(name) for name in _named(keys)})
    close = difflib.get_close_matches(given, own, n=1, cutoff=0.6)
    return [name for name in _named(keys) if _own(name) in close]


def _named(keys: Keys) -> list[str]:
    return [f"{section}.{key}" for section, names in keys.items() for key in names]


def _own(name: str) -> str:
    return name.partition(".")[2]


def _initials(key: str) -> str:
    return "".join(word[:1] for word in key.split("_"))
