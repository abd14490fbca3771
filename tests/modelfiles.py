"""Reading Modelfiles as Ollama does: what stands behind their commands, and the text of a template."""

import re
from collections.abc import Mapping, Sequence


def quoted(text: str, command: str) -> list[str]:
    """Return what Ollama reads behind a command between three quotation marks."""
    return re.findall(rf'^{command} """(.*?)"""$', text, re.S | re.M)


def render(template: str, rows: Sequence[Mapping[str, str]]) -> str:
    """Render the few of Go's actions that the template uses, each in its one place."""
    head, body, tail = re.fullmatch(
        r"(.*?)\{\{ range \$place, \$message := \.Messages \}\}(.*)\{\{ end \}\}(\nAssistant:)", template, re.S
    ).groups()
    between, system, own, other = re.fullmatch(
        r'\{\{ if \$place \}\}(.*?)\{\{ end \}\}\{\{ if eq \$message\.Role "system" \}\}(.*?)'
        r'\{\{ else if eq \$message\.Role "assistant" \}\}(.*?)\{\{ else \}\}(.*?)\{\{ end \}\}', body, re.S,
    ).groups()  # fmt: skip
    pieces = [head]
    for place, row in enumerate(rows):
        form = {"system": system, "assistant": own}.get(row["role"], other)
        pieces += [between if place else "", form.replace("{{ $message.Content }}", row["content"])]
    return "".join([*pieces, tail])
