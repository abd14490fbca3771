"""The fields of a request: each is checked by, and described in the OpenAPI schema from, the same declaration.

A field that is null counts as not given. An integer may be written as 1.0, as JSON Schema allows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from falconer.errors import nearest
from falconer.talk.server.errors import ApiError, as_json, invalid, shown

Schema = dict[str, Any]


class Field(Protocol):
    """A field of a JSON object."""

    @property
    def name(self) -> str: ...

    def read(self, value: Any, where: str) -> Any:
        """Return a value that is not null after checking it; `where` is its path, for the message."""

    def schema(self) -> Schema:
        """Return the JSON Schema of what `read` accepts."""


@dataclass(frozen=True, slots=True)
class Number:
    """A number within bounds.

    Args:
        is_whole: only integers.
        above: `least` itself is not allowed.
        default: as the schema names it.
    """

    name: str
    meaning: str
    least: float
    most: float
    is_whole: bool = False
    above: bool = False
    default: float | None = None

    def read(self, value: Any, where: str) -> float:
        is_number = type(value) is int or (type(value) is float and (not self.is_whole or value.is_integer()))
        # NaN is on no side of a border.
        if not is_number or not (self.least <= value <= self.most) or (self.above and value == self.least):
            raise invalid(where, f"'{where}' is {shown(value)}; allowed: {self.allowed}.")
        return int(value) if self.is_whole else float(value)

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        kind = "an integer" if self.is_whole else "a number"
        start = f"above {_digits(self.least)}, at most" if self.above else f"from {_digits(self.least)} to"
        return f"{kind} {start} {_digits(self.most)}"

    def schema(self) -> Schema:
        kind = "integer" if self.is_whole else "number"
        least, most = (int(one) if float(one).is_integer() else one for one in (self.least, self.most))
        bounds = {"exclusiveMinimum" if self.above else "minimum": least, "maximum": most}
        default = {} if self.default is None else {"default": self.default}
        return {"type": [kind, "null"], **bounds, **default, "description": self.meaning}


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    name: str
    meaning: str

    def read(self, value: Any, where: str) -> bool:
        if not isinstance(value, bool):
            raise invalid(where, f"'{where}' is {shown(value)}; allowed: true or false.")
        return value

    def schema(self) -> Schema:
        return {"type": ["boolean", "null"], "default": False, "description": self.meaning}


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of a few words."""

    name: str
    meaning: str
    words: tuple[str, ...]
    default: str

    def read(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or value not in self.words:
            raise invalid(where, f"'{where}' is {shown(value)}; allowed: {', '.join(self.words)}.")
        return value

    def schema(self) -> Schema:
        return {"enum": [*self.words, None], "default": self.default, "description": self.meaning}


@dataclass(frozen=True, slots=True)
class Model:
    """The name of a model that is served."""

    names: tuple[str, ...]
    name: str = "model"

    def read(self, value: Any, where: str) -> str:
        if not isinstance(value, str):
            raise invalid(where, f"'{where}' is {shown(value)}; allowed: {', '.join(self.names)}.")
        if value not in self.names:
            raise unknown_model(value, self.names)
        return value

    def schema(self) -> Schema:
        return {"type": "string", "enum": list(self.names), "description": "The base or an adapter, by its name."}


def unknown_model(given: str, names: Sequence[str]) -> ApiError:
    """Return the error about a model that is not served; it lists those that are."""
    message = f"There is no model {shown(given)}; allowed: {', '.join(names)}."
    return ApiError(404, message, param="model", code="model_not_found")


@dataclass(frozen=True, slots=True)
class Stops:
    """Texts at which a reply stops: one, or a list."""

    name: str = "stop"
    most: int = 4
    most_characters: int = 200

    def read(self, value: Any, where: str) -> tuple[str, ...]:
        texts = [value] if isinstance(value, str) else value
        allowed = f"allowed: a text, or a list of at most {self.most}, of 1 to {self.most_characters} characters each"
        if not isinstance(texts, list) or len(texts) > self.most:
            raise invalid(where, f"'{where}' is {shown(value)}; {allowed}.")
        for text in texts:
            if not isinstance(text, str) or not 1 <= len(text) <= self.most_characters:
                raise invalid(where, f"'{where}' has {shown(text)}; {allowed}.")
        return tuple(texts)

    def schema(self) -> Schema:
        text = {"type": "string", "minLength": 1, "maxLength": self.most_characters}
        several = {"type": "array", "items": text, "maxItems": self.most}
        meaning = "Texts at which a reply stops; they are not part of it."
        return {"anyOf": [text, several, {"type": "null"}], "description": meaning}


@dataclass(frozen=True, slots=True)
class Only:
    """A field of OpenAI's interface of which only values without effect are allowed."""

    name: str
    values: tuple[Any, ...]
    meaning: str

    def read(self, value: Any, where: str) -> None:
        # As JSON, since false equals 0 in Python.
        if _canonical(value) not in map(_canonical, self.values):
            allowed = " or ".join(map(as_json, (*self.values, None)))
            raise invalid(where, f"'{where}' is {shown(value)}; allowed: {allowed}, since {self.meaning}.")

    def schema(self) -> Schema:
        return {"enum": [*self.values, None], "description": f"Without effect: {self.meaning}."}


@dataclass(frozen=True, slots=True)
class Ignored:
    """A field that clients send, and that says nothing about the reply."""

    name: str

    def read(self, value: Any, where: str) -> None:
        return None

    def schema(self) -> Schema:
        return {"description": "Accepted and ignored."}


@dataclass(frozen=True, slots=True)
class Part:
    """A field that is an object with fields of its own."""

    name: str
    meaning: str
    fields: tuple[Field, ...]

    def read(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise invalid(where, f"'{where}' is {shown(value)}; allowed: an object.")
        return read_fields(value, self.fields, where=where)

    def schema(self) -> Schema:
        return {"anyOf": [object_schema(self.fields), {"type": "null"}], "description": self.meaning}


def read_fields(
    body: Mapping[str, Any], fields: Sequence[Field], required: Sequence[str] = (), where: str = ""
) -> dict[str, Any]:
    """Return the fields of an object that are given, checked.

    Args:
        where: the object's path, "" for the body.

    Raises:
        ApiError: an unknown field (the nearest one is named), a missing one, or a value that is not allowed.
    """
    known = {field.name: field for field in fields}
    prefix = f"{where}." if where else ""
    for name in body:
        if name not in known:
            what = f"There is no field {shown(prefix + name)}. {nearest(name, known)}"
            raise invalid(prefix + name, what, "unknown_parameter")
    for name in required:
        if body.get(name) is None:
            is_null = " is null" if name in body else " is missing"
            raise invalid(prefix + name, f"The field '{prefix}{name}'{is_null}.", "missing_required_parameter")
    return {name: known[name].read(value, prefix + name) for name, value in body.items() if value is not None}


def object_schema(fields: Sequence[Field], required: Sequence[str] = ()) -> Schema:
    """Return the JSON Schema of what `read_fields` accepts."""
    properties = {field.name: field.schema() for field in fields}
    found: Schema = {"type": "object", "properties": properties, "additionalProperties": False}
    return found | ({"required": list(required)} if required else {})


def _digits(number: float) -> str:
    return f"{int(number):,}" if float(number).is_integer() else f"{number:g}"


def _canonical(value: Any) -> str:
    if type(value) is float and value.is_integer():
        value = int(value)
    return as_json(value)
