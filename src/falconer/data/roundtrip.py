"""Does a tokenizer decode texts to what it has encoded? What it loses is lost in training and in replies.

A folder without tokenizer files still loads a tokenizer: transformers makes up one of a few tokens, useless for text.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from tokenizers import Tokenizer, models

from falconer.data.prompt import TAGS
from falconer.data.sources import SAMPLE, load_dialogues

# So many sentences of the embedded dialogues, which take some 20 ms.
_NUM_SENTENCES = 300
# A vocabulary that was made of little text may lack rare letters; a tokenizer that loses more is the wrong one.
_MOST_LOST = 0.1
# A tokenizer that was converted wrongly encodes common words in parts although its vocabulary has them.
_MOST_SPLIT_WORDS, _FEWEST_WORDS = 0.05, 40
# What may get lost in a text; white space counts in the first two alone.
_LINE_BREAK, _SPACES = "one line\nanother line", "two  spaces"
_KINDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "capital letters": ("Anna lives in Rome.",),
        "accents": ("Voilà, un café crème.", "Ähre, Übel, größer."),
        "full-width and other compatibility forms": ("Ｆｕｌｌ　ｗｉｄｔｈ", "½ ﬁne ①"),
        "typographic quotes and dashes": ("“it’s fine” – she said…",),
        "Greek": ("Γεια σου κόσμε",),
        "Cyrillic": ("Привет, как дела?",),
        "Arabic": ("مرحبا كيف حالك",),
        "Hebrew": ("שלום מה שלומך",),
        "Devanagari": ("नमस्ते, आप कैसे हैं",),
        "Thai": ("สวัสดีครับ",),
        "Chinese": ("你好，你今天怎么样？",),
        "Japanese": ("こんにちは、元気ですか",),
        "Korean": ("안녕하세요 잘 지내세요",),
        "emoji": ("😀 👍🏽",),
    }
)


@dataclass(frozen=True, slots=True)
class Roundtrip:
    """What was found.

    Args:
        fault: why no model should be trained with this tokenizer; "" where it may.
        notes: what it loses or does oddly, each a sentence.
    """

    fault: str
    notes: tuple[str, ...]


def check_roundtrip(tokenizer: Tokenizer, end_id: int | None) -> Roundtrip:
    """Encode and decode a few hundred sentences, and short texts of many kinds.

    Args:
        end_id: the token that ends a reply, None where there is none.
    """
    sentences = _sentences()
    failed = [(text, back) for text, back in zip(sentences, _back(tokenizer, sentences), strict=True) if back != text]
    lost = [(text, back) for text, back in failed if _letters(text) - _letters(back)]
    tags = [tokenizer.encode(tag, add_special_tokens=False).ids for tag in TAGS.values()]
    gone = sum((_letters(text) - _letters(back)).total() for text, back in lost)
    share = gone / sum(_letters(text).total() for text in sentences)
    if share > _MOST_LOST:
        text, back = lost[0]
        decoded = f"'{back}'" if back else "nothing"
        return Roundtrip(
            f"it loses {100 * share:.0f} % of the letters in {len(sentences)} plain sentences: '{text}' is decoded to "
            f"{decoded}",
            (),
        )
    if not all(tags) or tags[0] == tags[1]:
        return Roundtrip(f"it encodes '{TAGS['partner']}' and '{TAGS['self']}' as the same tokens, or as none", ())
    notes = []
    if failed:
        text, back = (lost or failed)[0]
        what = f"{len(lost)} of them lose letters" if lost else "they keep their letters, but not their form"
        number = f"{len(failed)} of {len(sentences)}"
        notes.append(f"it does not decode {number} plain sentences to the same text; {what}: '{text}' becomes '{back}'")
    if kinds := _lost_kinds(tokenizer):
        notes.append(f"it loses, also in replies: {', '.join(kinds)}")
    return Roundtrip("", (*notes, *_split_words(tokenizer, sentences), *_unlike_whole(tokenizer, end_id)))


def _sentences() -> list[str]:
    dialogues = load_dialogues(SAMPLE, split="valid").dialogues
    texts = (text for d in dialogues for text in (*d.persona, *(turn.text for turn in d.turns)))
    found: dict[str, None] = {}
    for text in texts:
        found[text.strip()] = None
        if len(found) == _NUM_SENTENCES:
            break
    return list(found)


def _back(tokenizer: Tokenizer, texts: Sequence[str]) -> list[str]:
    encoded = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    return [text.strip() for text in tokenizer.decode_batch([one.ids for one in encoded], skip_special_tokens=False)]


def _letters(text: str) -> Counter[str]:
    """Return a text's letters and digits without case and accents."""
    plain = unicodedata.normalize("NFKD", text.casefold())
    return Counter(letter for letter in plain if letter.isalnum())


def _lost_kinds(tokenizer: Tokenizer) -> list[str]:
    lines, spaces = _back(tokenizer, [_LINE_BREAK, _SPACES])
    kinds = [name for name, kept in (("line breaks", "\n" in lines), ("runs of spaces", "  " in spaces)) if not kept]
    for name, texts in _KINDS.items():
        # Capital letters are a kind of their own; composed and decomposed accents are one text.
        same = str if name == "capital letters" else str.casefold
        pairs = [
            [same(unicodedata.normalize("NFC", "".join(one.split()))) for one in pair]
            for pair in zip(texts, _back(tokenizer, texts), strict=True)
        ]
        if any(given != back for given, back in pairs):
            kinds.append(name)
    return kinds


def _split_words(tokenizer: Tokenizer, sentences: Sequence[str]) -> list[str]:
    """Tell of words that the vocabulary has whole and that are encoded in parts, as after a wrong conversion."""
    if not isinstance(tokenizer.model, models.BPE):
        return []
    words = sorted({word for sentence in sentences for word in re.findall(r"[a-z]{3,}", sentence)})
    whole = {word: [tokenizer.token_to_id(mark + word) for mark in ("Ġ", "▁")] for word in words}
    known = [word for word in words if any(token is not None for token in whole[word])]
    encoded = tokenizer.encode_batch_fast([f"and {word}" for word in known], add_special_tokens=False)
    split = [(word, one) for word, one in zip(known, encoded, strict=True) if not set(whole[word]) & set(one.ids)]
    if len(known) < _FEWEST_WORDS or len(split) <= _MOST_SPLIT_WORDS * len(known):
        return []
    word, one = split[0]
    parts = " ".join(str(tokenizer.id_to_token(token)) for token in one.ids[1:])
    return [
        f"it splits {len(split)} of {len(known)} common words into several tokens although its vocabulary contains "
        f"them ('{word}' as {parts}), so its merges may have been converted wrongly"
    ]


def _unlike_whole(tokenizer: Tokenizer, end_id: int | None) -> list[str]:
    """Tell where the prompt's ids, which are cut behind a tag and behind an end token, differ from the whole text's."""
    tag = TAGS["self"]
    starts = ["hello", "i", "7", "(well", ": a", "- no", ". . .", '"so', "é", "你好", "😀", "_x", "'s", "Yes", "<b>"]
    encoded = tokenizer.encode_batch_fast([tag, *(f"{tag} {start}" for start in starts)], add_special_tokens=False)
    first, *others = [one.ids for one in encoded]
    end = tokenizer.encode(f"a{tokenizer.id_to_token(end_id or 0)}\nb", add_special_tokens=False).ids
    if (end_id is None or end_id in end) and all(ids[: len(first)] == first for ids in others):
        return []
    return [
        "it has tokens that cross the borders of a reply, so prompts are encoded in pieces: always in the same way, "
        "but not as it would encode the whole text"
    ]
