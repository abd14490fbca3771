"""What the report and the chat page look like: their colours and type, and the choice between light and dark."""

from importlib import resources


def text(name: str) -> str:
    """Return a file of this folder, base.css or theme.js, which both pages have in common."""
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
