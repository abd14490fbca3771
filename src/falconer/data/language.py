"""Detecting the language of a set of texts: by the script of its letters, and by py3langid where languages share one.

What depends on it must be right in every language: English rules (the capital I, articles, stop words, a stemmer) are
for English alone, and words can be told apart by spaces only where people write spaces.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache, lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING

from falconer.errors import FalconerError
from falconer.records import Dialogue

if TYPE_CHECKING:
    from py3langid.langid import LanguageIdentifier

_TURKIC = ("tr", "az")
_DOTTED = MappingProxyType(str.maketrans({"I": "ı", "İ": "i"}))
UNKNOWN, SEVERAL = "und", "mul"  # as ISO 639-2 has them
NAMES: Mapping[str, str] = MappingProxyType({
    "af": "Afrikaans", "am": "Amharic", "an": "Aragonese", "ar": "Arabic", "as": "Assamese", "az": "Azerbaijani",
    "ba": "Bashkir", "be": "Belarusian", "bg": "Bulgarian", "bn": "Bengali", "bo": "Tibetan", "br": "Breton",
    "bs": "Bosnian", "ca": "Catalan", "co": "Corsican", "cs": "Czech", "cy": "Welsh", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "eo": "Esperanto", "es": "Spanish", "et": "Estonian",
    "eu": "Basque", "fa": "Persian", "fi": "Finnish", "fo": "Faroese", "fr": "French", "fy": "Frisian",
    "ga": "Irish", "gd": "Gaelic", "gl": "Galician", "gn": "Guarani", "gu": "Gujarati", "ha": "Hausa",
    "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "ht": "Haitian", "hu": "Hungarian", "hy": "Armenian",
    "id": "Indonesian", "ig": "Igbo", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "jv": "Javanese",
    "ka": "Georgian", "kk": "Kazakh", "km": "Khmer", "kn": "Kannada", "ko": "Korean", "ku": "Kurdish",
    "ky": "Kyrgyz", "la": "Latin", "lb": "Luxembourgish", "lg": "Ganda", "ln": "Lingala", "lo": "Lao",
    "lt": "Lithuanian", "lv": "Latvian", "mg": "Malagasy", "mi": "Maori", "mk": "Macedonian", "ml": "Malayalam",
    "mn": "Mongolian", "mr": "Marathi", "ms": "Malay", "mt": "Maltese", "my": "Burmese", "ne": "Nepali",
    "nl": "Dutch", "no": "Norwegian", "oc": "Occitan", "om": "Oromo", "or": "Odia", "pa": "Punjabi", "pl": "Polish",
    "ps": "Pashto", "pt": "Portuguese", "qu": "Quechua", "ro": "Romanian", "ru": "Russian", "rw": "Kinyarwanda",
    "sa": "Sanskrit", "sd": "Sindhi", "se": "Sami", "si": "Sinhala", "sk": "Slovak", "sl": "Slovenian",
    "sn": "Shona", "so": "Somali", "sq": "Albanian", "sr": "Serbian", "st": "Sotho", "su": "Sundanese",
    "sv": "Swedish", "sw": "Swahili", "ta": "Tamil", "te": "Telugu", "tg": "Tajik", "th": "Thai", "ti": "Tigrinya",
    "tk": "Turkmen", "tl": "Tagalog", "tn": "Tswana", "tr": "Turkish", "tt": "Tatar", "ug": "Uyghur",
    "uk": "Ukrainian", "ur": "Urdu", "uz": "Uzbek", "vi": "Vietnamese", "vo": "Volapük", "wa": "Walloon",
    "wo": "Wolof", "xh": "Xhosa", "yi": "Yiddish", "yo": "Yoruba", "zh": "Chinese", "zu": "Zulu",
    UNKNOWN: "unknown", SEVERAL: "several languages",
})  # fmt: skip
# Codes that others write for one of these: old ones, those of its forms, and those of three letters.
_SAME: Mapping[str, str] = MappingProxyType({
    "nb": "no", "nn": "no", "iw": "he", "in": "id", "ji": "yi", "fil": "tl", "cmn": "zh", "yue": "zh", "wuu": "zh",
    "arz": "ar", "ary": "ar", "uzs": "uz", "sdh": "ku", "gug": "gn", "dz": "bo", "ara": "ar", "ben": "bn",
    "ces": "cs", "cze": "cs", "dan": "da", "deu": "de", "ger": "de", "ell": "el", "gre": "el", "eng": "en",
    "spa": "es", "fas": "fa", "per": "fa", "fin": "fi", "fra": "fr", "fre": "fr", "heb": "he", "hin": "hi",
    "hun": "hu", "ind": "id", "ita": "it", "jpn": "ja", "khm": "km", "kor": "ko", "nld": "nl", "dut": "nl",
    "nor": "no", "pol": "pl", "por": "pt", "ron": "ro", "rum": "ro", "rus": "ru", "swe": "sv", "tam": "ta",
    "tel": "te", "tha": "th", "tur": "tr", "ukr": "uk", "urd": "ur", "vie": "vi", "zho": "zh", "chi": "zh",
})  # fmt: skip
# Scripts by the first word of their letters' Unicode names. In these no spaces stand between words.
_SPACELESS_LANGUAGES: Mapping[str, str] = MappingProxyType({
    "CJK": "zh", "IDEOGRAPHIC": "zh", "BOPOMOFO": "zh", "HIRAGANA": "ja", "KATAKANA": "ja",
    "THAI": "th", "LAO": "lo", "KHMER": "km", "MYANMAR": "my", "TIBETAN": "bo",
})  # fmt: skip
_SPACELESS = frozenset(_SPACELESS_LANGUAGES) | {"JAVANESE", "BALINESE", "TAI", "YI"}
# Scripts that one of the languages above has for itself, as good as.
_ONE_LANGUAGE: Mapping[str, str] = MappingProxyType({
    "HANGUL": "ko", "GREEK": "el", "HEBREW": "he", "GEORGIAN": "ka", "ARMENIAN": "hy", "TAMIL": "ta", "TELUGU": "te",
    "KANNADA": "kn", "MALAYALAM": "ml", "GUJARATI": "gu", "GURMUKHI": "pa", "ORIYA": "or", "SINHALA": "si",
    "ETHIOPIC": "am",
})  # fmt: skip
# Letters that make up about a word, so that scripts can be weighed against each other in mixed text.
_LETTERS_PER_WORD = MappingProxyType({"HANGUL": 2.5} | dict.fromkeys(_SPACELESS, 1.6))
# From this share on the rules of a script without spaces count: they also fit words between spaces.
_MIN_SPACELESS = 0.2
_MIN_KANA = 0.1  # Japanese has 40 % and more of it, Chinese none
_CHUNK = 400  # letters; py3langid is never wrong about so many of Persona-Chat's
_MAX_CHUNKS = 100
_MAX_TEXTS = 5000  # evenly spaced; more tell nothing new
_MIN_CONFIDENCE = 0.5
_MANY = 20
# Common English words that are none, or rare ones, in other languages written in Latin letters; py3langid guesses at a
# handful of words, and cannot tell a mixture of languages from one.
_ENGLISH = frozenset(
    (
        "i", "i'm", "you", "she", "it", "they", "my", "your", "his", "her", "our", "their", "the", "and", "or", "but",
        "if", "of", "for", "with", "from", "by", "about", "is", "are", "were", "be", "been", "have", "has", "do",
        "don't", "does", "did", "can", "could", "will", "would", "should", "not", "yes", "what", "who", "how", "where",
        "when", "why", "which", "this", "that", "these", "those", "there", "here", "it's", "that's", "you're", "m",
        "like", "love", "just", "too", "very", "really", "know", "think", "want", "get", "go", "good", "great", "nice",
        "well", "hi", "hello", "hey", "thanks", "work", "to", "at", "let's", "some", "all", "any", "much", "more",
        "was", "am", "me", "we", "he", "out", "up", "sounds", "sure", "sorry", "ok", "fine",
    )
)  # fmt: skip
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)*")
_MIN_ENGLISH = 0.25  # share of a reply's words that makes it English: it is some 0.5 in English, below 0.1 elsewhere
_MIN_WORDS = 4


@dataclass(frozen=True, slots=True)
class Language:
    """A language by its ISO 639 code, and how it is known, in words."""

    code: str
    how: str

    def __str__(self) -> str:
        return f"{NAMES.get(self.code, 'code')} ({self.code}), {self.how}"


def resolve(asked: str, texts: Sequence[str]) -> Language:
    """Return the language of texts: the one that the user names, or for "auto" the one that is detected.

    Args:
        asked: a code of `NAMES`, also with a region ("zh-CN", "pt_BR"), or its name.

    Raises:
        FalconerError: it is neither.
    """
    given = asked.strip().lower()
    code = re.split("[-_]", given)[0]
    code = {name.lower(): code for code, name in NAMES.items()}.get(given, _SAME.get(code, code))
    if code == "auto":
        return detect(texts)
    if code not in NAMES:
        hint = f"Give auto, a code such as en or zh, or its name; und if it is none of {len(NAMES)} known ones."
        close = get_close_matches(given, [name.lower() for name in NAMES.values()], n=1, cutoff=0.75)
        raise FalconerError(f"Unknown language '{asked}'.", f"Did you mean '{close[0]}'? {hint}" if close else hint)
    found = detect(texts).code
    return Language(code, "as given" if found == code else f"as given; detection says {NAMES.get(found, found)}")


def detect(texts: Sequence[str]) -> Language:
    """Return the language that most of the texts' words are in, `UNKNOWN` where they are too few to tell.

    `SEVERAL` where English is mixed with another language in Latin letters. A script without spaces decides from a
    fifth of the words on, because what is right for it is also right for words between spaces.
    """
    texts = texts[:: -(-len(texts) // _MAX_TEXTS) or 1]
    weights = _script_weights(texts)
    total = sum(weights.values())
    if not total:
        return Language(UNKNOWN, "there are no letters")
    spaceless: Counter[str] = Counter()
    for script, weight in weights.items():
        if script in _SPACELESS:
            spaceless[_SPACELESS_LANGUAGES.get(script, UNKNOWN)] += weight
    if sum(spaceless.values()) >= _MIN_SPACELESS * total:
        if spaceless["ja"] >= _MIN_KANA * (spaceless["ja"] + spaceless["zh"]) > 0:
            spaceless["ja"] += spaceless.pop("zh", 0)  # Japanese writes Chinese characters too
        return Language(spaceless.most_common(1)[0][0], "detected by its script")
    script = max((one for one in weights if one not in _SPACELESS), key=lambda one: weights[one])
    if script in _ONE_LANGUAGE:
        return Language(_ONE_LANGUAGE[script], "detected by its script")
    if script == "LATIN" and weights[script] < 0.8 * total:
        return Language(SEVERAL, "detected by the scripts")
    return _by_words([text for text in texts if _main_script(text) == script], is_latin=script == "LATIN")


def language_of(dialogues: Iterable[Dialogue]) -> str:
    """Return the code of the language that dialogues are in, by their turns as the data has them."""
    return detect([turn.source or turn.text for dialogue in dialogues for turn in dialogue.turns]).code


def has_spaces(language: str) -> bool:
    """Say whether a language is written with spaces between its words."""
    return language not in _SPACELESS_LANGUAGES.values()


def small_i(text: str, language: str) -> str:
    """Return a text with I and İ as small ı and i where the language has both, for lower() to be right."""
    return text.translate(_DOTTED) if language in _TURKIC else text


def has_small_i(language: str) -> bool:
    """Say whether `small_i` changes anything in a language."""
    return language in _TURKIC


@lru_cache(maxsize=20_000)
def script_of(letter: str) -> str:
    """Return a letter's script as the first word of its Unicode name: "LATIN", "CJK", "HIRAGANA"."""
    # Halfwidth and fullwidth forms carry the width in their names.
    name = unicodedata.name(unicodedata.normalize("NFKC", letter)[0], "")
    if name.startswith("NEW TAI LUE"):
        return "TAI"
    return re.split("[ -]", name, maxsplit=1)[0]


def is_spaceless(letter: str) -> bool:
    """Say whether a letter belongs to a script without spaces between words."""
    return letter > "\u0e00" and script_of(letter) in _SPACELESS


def _script_weights(texts: Iterable[str]) -> Counter[str]:
    """Return about how many words of the texts are in each script."""
    letters: Counter[str] = Counter()
    for text in texts:
        letters.update(char for char in unicodedata.normalize("NFC", text) if char.isalpha())
    weights: Counter[str] = Counter()
    for letter, number in letters.items():
        script = script_of(letter)
        weights[script] += number / _LETTERS_PER_WORD.get(script, 5)  # type: ignore[assignment]
    return weights


def _main_script(text: str) -> str:
    weights = _script_weights([text])
    return weights.most_common(1)[0][0] if weights else ""


def _by_words(texts: Sequence[str], is_latin: bool) -> Language:
    """Return the language of texts in one script that several languages share."""
    identifier = _identifier()
    chunks = _chunks(texts)
    chunks = chunks[:: -(-len(chunks) // _MAX_CHUNKS)]
    likely: Counter[str] = Counter()
    for chunk in chunks:
        for code, share in identifier.rank(chunk):
            # Nigerian Pidgin is what py3langid takes short and careless English for.
            likely["en" if code == "pcm" else _SAME.get(code, code)] += share / len(chunks)
    code, confidence = likely.most_common(1)[0]
    english, num_long = _english_share(texts) if is_latin else (0.0, 0)
    if len(chunks) == 1 and confidence < 0.8 and english >= 0.5:
        return Language("en", "detected by its common words")
    if confidence < _MIN_CONFIDENCE:
        few = Language(UNKNOWN, "there is too little text to tell")
        return few if len(chunks) == 1 else Language(SEVERAL, "as py3langid sees it")
    # A language without spaces would have been told by its script: full-width Latin letters look Chinese to py3langid.
    if code not in NAMES or not has_spaces(code):
        return Language(UNKNOWN, "it is none that is known here")
    # A few replies may well be names and numbers.
    is_mixed = english < (0.7 if num_long >= _MANY else 0.4) if code == "en" else english > 0.2 and num_long > 4
    if is_latin and num_long and is_mixed:
        return Language(SEVERAL, f"detected: {100 * english:.0f} % of the replies are English")
    return Language(code, "detected by py3langid")


def _english_share(texts: Sequence[str]) -> tuple[float, int]:
    """Return the share of texts that are English by their common words, and how many were long enough to tell.

    Where none is, all are read as one.
    """
    words = [_WORD.findall(text.lower().replace("\u2019", "'")) for text in texts]
    long = [some for some in words if len(some) >= _MIN_WORDS]
    if not long:
        every = [word for some in words for word in some]
        return (sum(word in _ENGLISH for word in every) / len(every) if every else 0.0), 0
    shares = [sum(word in _ENGLISH for word in some) / len(some) for some in long]
    return sum(share >= _MIN_ENGLISH for share in shares) / len(shares), len(long)


def _chunks(texts: Sequence[str]) -> list[str]:
    """Return the texts joined to pieces of some `_CHUNK` letters; a last one that is short joins the one before."""
    chunks: list[str] = []
    for text in texts:
        if chunks and len(chunks[-1]) < _CHUNK:
            chunks[-1] += f" {text}"
        else:
            chunks.append(text)
    if len(chunks) > 1 and len(chunks[-1]) < _CHUNK // 2:
        last = chunks.pop()
        chunks[-1] += f" {last}"
    return chunks


@cache
def _identifier() -> "LanguageIdentifier":
    # A constant that is made when it is first needed: many texts are told by their script, and this model of 97
    # languages takes a while to load. It has no state, so one serves all.
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
