"""Turn the corpora into token files for pretrain.py: clean, hold out, check for forbidden text, tokenise, compress.

    python recipes/falcon-mini/prepare.py --corpora CORPORA --tokenizer src/falconer/assets/falcon-mini --out DATA \\
        --forbid persona_chat_train.jsonl.gz --forbid persona_chat_valid.txt.gz

Writes DATA/<corpus>.<train|valid>.npy.xz (uint16 token ids, the end token in front of each document) and
DATA/manifest.json (counts, licences, hashes, and what the text shares with the forbidden files).
"""

import argparse
import csv
import gzip
import hashlib
import io
import json
import lzma
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from corpora import CORPORA, Corpus, cleaned, documents, is_held_out
from tokenizers import Tokenizer

NGRAM = 8  # words that two texts must share in a row before we call it overlap
FICTION_CHARACTERS = 100_000_000  # of the plain fiction: the books with most talk in them


def words(text: str) -> list[str]:
    """Return the lower-cased words of a text, punctuation and apostrophes left out."""
    return re.findall(r"[a-z0-9]+", text.lower().replace("'", ""))


def ngrams(tokens: list[str]) -> Iterator[int]:
    """Yield a hash of each run of NGRAM words."""
    for start in range(len(tokens) - NGRAM + 1):
        yield hash(tuple(tokens[start : start + NGRAM]))


def strings(value: Any) -> Iterator[str]:
    """Yield every string inside a parsed JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def utterances(path: Path) -> Iterator[str]:
    """Yield the utterances of a file that must not be trained on: JSONL, CSV or lines split at tabs and bars."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text, name = raw.decode("utf-8"), path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        for line in text.splitlines():
            yield from strings(json.loads(line))
    elif name.endswith(".csv"):
        for row in csv.reader(io.StringIO(text)):
            yield from (line for cell in row for line in cell.splitlines())
    else:
        for line in text.splitlines():
            yield from re.split(r"[\t|]", re.sub(r"^\d+ (your persona: |partner's persona: )?", "", line))


def dialogue_share(text: str) -> float:
    """Return the share of paragraphs that hold quoted speech."""
    lines = text.splitlines()
    return sum('"' in line for line in lines) / len(lines)


def talkative(books: list[str], characters: int) -> list[str]:
    """Keep the books with the largest share of quoted speech, up to a number of characters; order as before."""
    ranked, total, kept = sorted(books, key=dialogue_share, reverse=True), 0, set()
    for book in ranked:
        if total + len(book) <= characters:
            kept.add(book)
            total += len(book)
    return [book for book in books if book in kept]


def overlap(texts: Iterable[str], forbidden: dict[str, list[int]]) -> dict[str, Any]:
    """Count what the documents share with forbidden utterances of at least NGRAM words.

    Returns:
        utterances: forbidden utterances all of whose 8-grams occur somewhere in the documents.
        most_in_one_document: the most forbidden utterances that one document shares an 8-gram with.
        examples: up to ten of the utterances counted.
    """
    owner: dict[int, int] = {}
    for number, grams in enumerate(forbidden.values()):
        for gram in grams:
            owner.setdefault(gram, number)
    found: set[int] = set()
    most = 0
    for text in texts:
        here: set[int] = set()
        for line in text.splitlines():
            here.update(gram for gram in ngrams(words(line[3:] if line[1:3] == ": " else line)) if gram in owner)
        found |= here
        most = max(most, len({owner[gram] for gram in here}))
    whole = [text for text, grams in forbidden.items() if all(gram in found for gram in grams)]
    return {"utterances": len(whole), "most_in_one_document": most, "examples": whole[:10]}


def encode(tokenizer: Tokenizer, texts: list[str], end: int) -> np.ndarray:
    """Return the ids of all documents in one array, the end token in front of each."""
    pieces: list[np.ndarray] = []
    for text in texts:
        # A book is encoded in pieces so that all cores work on it; the cut stands at a line break, a token of its own.
        lines = text.splitlines(keepends=True)
        chunks = ["".join(lines[i : i + 400]) for i in range(0, len(lines), 400)]
        pieces.append(np.array([end], np.uint16))
        pieces += [np.array(e.ids, np.uint16) for e in tokenizer.encode_batch_fast(chunks, add_special_tokens=False)]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.uint16)


def split(corpus: Corpus, texts: list[str], held_out_grams: set[int]) -> tuple[list[str], list[str], int]:
    """Return (training documents, held-out documents, number of lines left out because held-out books hold them too).

    Books are quoted in other books of the collection and in `books_dialogue`. A run of dialogue that shares 8 words
    with a held-out book belongs to the held-out part; a paragraph of a training book that does so is left out.
    """
    train: list[str] = []
    valid: list[str] = []
    dropped = 0
    for text in texts:
        if is_held_out(text, corpus):
            valid.append(text)
        elif corpus.name == "books_dialogue":
            inside = any(g in held_out_grams for line in text.splitlines() for g in ngrams(words(line[3:])))
            (valid if inside else train).append(text)
        elif corpus.name.startswith("books_") or corpus.name == "fairy":
            kept = [x for x in text.splitlines() if not any(g in held_out_grams for g in ngrams(words(x)))]
            dropped += len(text.splitlines()) - len(kept)
            if 2 * len(kept) > len(text.splitlines()):
                train.append("\n".join(kept))  # a book that is mostly left out is another edition: all of it goes
        else:
            train.append(text)
    return train, valid, dropped


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True, help="folder with the *.txt.zst files")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--forbid", type=Path, action="append", default=[], help="a file that must not be in the text")
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(args.tokenizer / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # "<|endoftext|>" in the data is text
    end = tokenizer.get_vocab()["<|endoftext|>"]
    forbidden: dict[str, list[int]] = {}
    for path in args.forbid:
        for text in utterances(path):
            key = words(text)
            if len(key) >= NGRAM:
                forbidden[" ".join(key)] = list(ngrams(key))

    loaded: dict[str, list[str]] = {}
    manifest: dict[str, Any] = {"forbidden_utterances": len(forbidden), "corpora": {}}
    held_out_grams: set[int] = set()
    for corpus in CORPORA:
        found = documents(args.corpora, corpus)
        texts = list(cleaned(found, corpus))
        if corpus.name == "books_fiction_plain":
            texts = talkative(texts, FICTION_CHARACTERS)
        loaded[corpus.name] = texts
        manifest["corpora"][corpus.name] = {
            "kind": corpus.kind,
            "licence": corpus.licence,
            "weight": corpus.weight,
            "sha256": hashlib.sha256((args.corpora / f"{corpus.name}.txt.zst").read_bytes()).hexdigest(),
            "documents": len(found),
            "documents_kept": len(texts),
        }
        if corpus.kind == "prose":
            for text in texts:
                if is_held_out(text, corpus):
                    for line in text.splitlines():
                        held_out_grams.update(ngrams(words(line)))

    for corpus in CORPORA:
        row = manifest["corpora"][corpus.name]
        train, valid, row["lines_left_out"] = split(corpus, loaded.pop(corpus.name), held_out_grams)
        if forbidden:
            row["overlap"] = overlap(train, forbidden)
        for part, texts in (("train", train), ("valid", valid)):
            ids = encode(tokenizer, texts, end)
            row[part] = {
                "documents": len(texts),
                "tokens": len(ids),
                "words": sum(len(text.split()) for text in texts),
                "characters": sum(map(len, texts)),
            }
            buffer = io.BytesIO()
            np.save(buffer, ids)
            (args.out / f"{corpus.name}.{part}.npy.xz").write_bytes(lzma.compress(buffer.getvalue(), preset=6))
        print(json.dumps({corpus.name: row}), flush=True)
    (args.out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
