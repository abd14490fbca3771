"""A model card as a page, as the hub shows it: for a look at it in a browser.

As a program it writes the page of a card: python tests/card_page.py README.md PAGE.html
"""

import base64
import sys
from pathlib import Path

import yaml
from markdown_it import MarkdownIt

STYLE = """
body { font: 16px/1.6 system-ui, sans-serif; color: #222; max-width: 900px; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { border-bottom: 1px solid #ddd; padding-bottom: .3rem; } h1 { font-size: 1.9rem; } h2 { margin-top: 2rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-size: .82rem; }
th, td { border: 1px solid #ddd; padding: .3rem .55rem; } tr:nth-child(even) td { background: #f7f7f8; }
blockquote { margin: 1rem 0; padding: .2rem 1rem; border-left: 4px solid #ddd; color: #444; }
pre { background: #f4f4f6; padding: .8rem; overflow-x: auto; font-size: .85rem; } img { max-width: 100%; }
.tags span { background: #eef; border-radius: 9px; padding: .1rem .6rem; margin-right: .4rem; font-size: .8rem; }
"""


def write_page(card: str, path: Path, pictures: Path | None = None) -> Path:
    """Write the page of a card; its pictures are taken from a folder."""
    _, head, body = card.split("---\n", 2)
    data = yaml.safe_load(head)
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    for picture in pictures.glob("*.png") if pictures else ():
        content = base64.b64encode(picture.read_bytes()).decode("ascii")
        html = html.replace(f'src="{picture.name}"', f'src="data:image/png;base64,{content}"')
    shown = [data.get("library_name"), *data.get("tags", []), f"license: {data.get('license')}", data.get("base_model")]
    tags = "".join(f"<span>{tag}</span>" for tag in shown if tag)
    path.write_text(
        f"<!doctype html><meta charset=utf-8><style>{STYLE}</style><p class=tags>{tags}</p>{html}", encoding="utf-8"
    )
    return path


if __name__ == "__main__":
    source = Path(sys.argv[1])
    write_page(source.read_text(encoding="utf-8"), Path(sys.argv[2]), source.parent)
