"""The page at /docs: the OpenAPI schema as one static HTML page, without scripts, loading nothing from elsewhere."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-top: 1px solid #8886; padding-top: 1rem; font-size: 1.2rem; }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em; }
pre { overflow-x: auto; padding: 0.75rem; border: 1px solid #8886; border-radius: 6px; }
table { border-collapse: collapse; width: 100%; margin: 0.5rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: 0.25rem 0.75rem 0.25rem 0; border-bottom: 1px solid #8884; }
"""


@dataclass(frozen=True, slots=True)
class Page:
    """A page, and the headers that let a browser load nothing but its style."""

    content: str
    headers: Mapping[str, str]


def page(schema: Mapping[str, Any], names: Sequence[str]) -> Page:
    """Return the page for a schema.

    Args:
        names: of the models; none where the page may be read without the key that is needed to see them.
    """
    shown = [
        _operation(method, path, operation, names)
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    ]
    style = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; frame-ancestors 'none'"
    title = "falconer: interface of this server"
    about = _paragraph(schema["info"]["description"].replace("`", ""))
    models = _paragraph(f"Models: {', '.join(names)}.") if names else ""
    link = '<p>The same for programs: <a href="/openapi.json">/openapi.json</a>.</p>'
    return Page(
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n<body><h1>{title}</h1>{about}{models}{link}\n{''.join(shown)}</body></html>\n",
        {"Content-Security-Policy": policy},
    )


def _operation(method: str, path: str, operation: Mapping[str, Any], names: Sequence[str]) -> str:
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code></h2>", _paragraph(operation["summary"])]
    if "requestBody" in operation:
        body = operation["requestBody"]["content"]["application/json"]
        example = body["example"] if names else {**body["example"], "model": "NAME"}
        parts.append(_fields(body["schema"], names))
        sent = json.dumps(example, indent=2, ensure_ascii=False)
        command = f"curl http://HOST:PORT{path} -H 'Content-Type: application/json' -d '{sent}'"
        parts.append(f"<pre>{escape(command)}</pre>")
    rows = [(status, answer["description"]) for status, answer in operation["responses"].items()]
    parts.append(_table(("status", "meaning"), rows))
    return "\n".join(parts) + "\n"


def _fields(schema: Mapping[str, Any], names: Sequence[str]) -> str:
    required = schema.get("required", ())
    rows = []
    for name, field in schema["properties"].items():
        allowed = "the name of a model" if name == "model" and not names else _allowed(field)
        rows.append((name + (" (required)" if name in required else ""), allowed, field.get("description", "")))
    return _table(("field", "allowed", "meaning"), rows)


def _allowed(field: Mapping[str, Any]) -> str:
    """Return what a field's schema allows, in words."""
    if "enum" in field:
        return " or ".join(value if isinstance(value, str) else json.dumps(value) for value in field["enum"])
    if "anyOf" in field:
        return " or ".join(_allowed(one) for one in field["anyOf"] if one != {"type": "null"})
    kind = field.get("type", "anything")
    words = " or ".join(one for one in kind if one != "null") if isinstance(kind, list) else kind
    if kind == "array":
        words = f"list of {_allowed(field['items'])}"
    if kind == "object":
        words = f"object with {', '.join(field['properties'])}"
    start = f", above {_digits(field['exclusiveMinimum'])}" if "exclusiveMinimum" in field else ""
    start = f", from {_digits(field['minimum'])}" if "minimum" in field else start
    end = f" to {_digits(field['maximum'])}" if "maximum" in field else ""
    default = f"; default {json.dumps(field['default'])}" if "default" in field else ""
    return f"{words}{start}{end}{default}"


def _digits(number: float) -> str:
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:g}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    names = "".join(f"<th>{escape(name)}</th>" for name in head)
    cells = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    lines = "\n".join(f"<tr>{row}</tr>" for row in cells)
    return f"<table><tr>{names}</tr>\n{lines}</table>"


def _paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"
