"""The text that falcon-mini learns from: which corpora, under which licence, how they are cleaned and held out."""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import zstandard

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Corpus:
    """One source of text.

    Args:
        name: file name without `.txt.zst`.
        kind: "dialogue" (turns as "A: " / "B: " lines) or "prose" (a paragraph a line); a blank line ends a document.
        licence: as stated by the source.
        weight: how often it is read, relative to the other corpora of its kind.
        held_out: share of the documents (conversations, books, stories) that is never trained on.
        modern: written by today's users, so crude language is filtered; in old books only slurs are.
    """

    name: str
    kind: str
    licence: str
    weight: float
    held_out: float
    modern: bool


CORPORA = (
    Corpus("selfdial", "dialogue", "BSD-3-Clause", 1.0, 0.02, True),
    Corpus("chitchat", "dialogue", "MIT", 1.0, 0.03, True),
    Corpus("topical", "dialogue", "CDLA-Sharing-1.0", 1.0, 0.03, True),
    Corpus("multiwoz", "dialogue", "MIT", 0.5, 0.03, True),
    Corpus("tm4", "dialogue", "CC-BY-4.0", 0.5, 0.03, True),
    Corpus("chatterbot", "dialogue", "BSD-3-Clause", 1.0, 0.05, True),
    Corpus("books_dialogue", "dialogue", "public domain", 0.6, 0.0, False),  # held out: what stems from held-out books
    Corpus("books_children", "prose", "public domain", 1.5, 0.08, False),
    Corpus("books_fiction_plain", "prose", "public domain", 1.0, 0.01, False),
    Corpus("fairy", "prose", "Apache-2.0", 1.5, 0.03, False),
    Corpus("asp", "prose", "CC-BY-4.0", 1.5, 0.05, False),
)


def _pattern(section: str) -> re.Pattern[str]:
    """Compile one section of crude_words.txt; `word*` also matches what begins with `word`."""
    words, current = [], ""
    for line in (HERE / "crude_words.txt").read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("["):
            current = line.strip("[]")
        elif line and not line.startswith("#") and current == section:
            words.append(re.escape(line.rstrip("*")) + (r"\w*" if line.endswith("*") else ""))
    return re.compile(r"\b(?:" + "|".join(words) + r")\b", re.IGNORECASE)


CRUDE, SLURS = _pattern("crude"), _pattern("slurs")


def documents(folder: Path, corpus: Corpus) -> list[str]:
    """Return the corpus' distinct documents as they are: conversations, books or stories."""
    path = folder / f"{corpus.name}.txt.zst"
    with path.open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file).read().decode("utf-8")
    return list(dict.fromkeys(block.strip() for block in text.split("\n\n") if block.strip()))


def cleaned(found: list[str], corpus: Corpus) -> Iterator[str]:
    """Yield the documents without crude language.

    A modern conversation that holds a crude word or a slur is dropped as a whole. From an old book only the paragraphs
    with a slur are dropped; an old conversation is dropped as a whole.
    """
    for text in found:
        if corpus.kind == "prose":
            text = "\n".join(line for line in text.splitlines() if not SLURS.search(line))
        elif SLURS.search(text) or (corpus.modern and CRUDE.search(text)):
            continue
        if text:
            yield text


def is_held_out(text: str, corpus: Corpus) -> bool:
    """Say whether a document is held out: by a hash of its first 2,000 characters, so that it never changes."""
    digest = hashlib.sha256(f"{corpus.name}\n{text[:2000]}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64 < corpus.held_out
