"""From bytes to text: UTF-8, or UTF-16 and UTF-32 by their byte order mark; of others, a careful guess.

A wrong encoding named in a message does harm: nearly every file can be converted from WINDOWS-1252, and what comes out
is accepted and nonsense. So an encoding is named only where the text under it has the letters that its language uses
most, and then beside a line of that text, so that whoever knows the language sees at once whether it is right.
"""

import codecs
import re
from dataclasses import dataclass
from itertools import pairwise

from falconer.errors import FalconerError

_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16", "UTF-16"),
)

_HAN = (
    "我你他她它们好吗呢吧啊是不的了在有人这那个来去说会想要喜欢很也都和就没什么怎样为什谢对起今天明早"
    "上下午晚吃喝爱家里多少大小生年月日中国学工作做看听过还能可以时候自己地方知道真点因为所以朋友名字"
    "叫老师狗猫"
)
_HAN_TRADITIONAL = (
    "我你他她它們好嗎呢吧啊是不的了在有人這那個來去說會想要喜歡很也都和就沒什麼怎樣為謝對起今天明早上"
    "下午晚吃喝愛家裡多少大小生年月日中國學工作做看聽過還能可以時候自己地方知道真點因所朋友名字叫老師"
    "狗貓"
)
_KANA = (
    "あいうえおかがきぎくけげこごさしじすせそただちっつてでとどなにぬねのはばひびふへほまみむめもやゆ"
    "ょよらりるれろわをんアイウエオカキクケコサシスセソタチッツテトナニネノハヒフヘホマミムメモヤユヨ"
    "ラリルレロワンー。、"
)
_HANGUL = (
    "이다는에을의가고하를지은한도로기사나어니서시아그리해것수있게요만제자인들대안전내네세저보여부주우"
    "라면까오정장공음원무좋녕습람합까당생각말일없렇게니집강개먹"
)
_WESTERN = "äöüßéèêëàâçùûôîïñóíáúãõÄÖÜÉ¿¡"
_CENTRAL = "ąęłśżźćńóáéíýúůčšžřěďťňäöüőűâășțŁŚŻČŠŽŘÁÉÍÖ"
_QUOTES = "’‘“”„–—…«»"
_CYRILLIC = "оеаинтсрвлкмдпуяыьгзбчйх"


@dataclass(frozen=True, slots=True)
class _Encoding:
    """An encoding that old files have.

    Args:
        codec: its name in Python.
        iconv: its name for iconv.
        text: what it is used for, for the message.
        common: the letters that such text uses most, of those that are not ASCII.
        share: how much of the text these letters make up at least (0-1).
    """

    codec: str
    iconv: str
    text: str
    common: str
    share: float


_LATIN = 0.8
_ENCODINGS = (
    _Encoding("gb18030", "GB18030", "Chinese, GBK", _HAN, 0.25),
    _Encoding("cp950", "BIG5", "Chinese, Big5", _HAN_TRADITIONAL, 0.25),
    _Encoding("cp932", "CP932", "Japanese, Shift-JIS", _KANA, 0.4),
    _Encoding("euc_jp", "EUC-JP", "Japanese, EUC-JP", _KANA, 0.4),
    _Encoding("cp949", "CP949", "Korean, EUC-KR", _HANGUL, 0.25),
    _Encoding("cp1251", "WINDOWS-1251", "Cyrillic, Windows-1251", _CYRILLIC, 0.7),
    _Encoding("koi8_r", "KOI8-R", "Cyrillic, KOI8-R", _CYRILLIC, 0.7),
    _Encoding("cp866", "CP866", "Cyrillic, DOS", _CYRILLIC, 0.7),
    _Encoding("cp1252", "WINDOWS-1252", "Western European, Latin-1", _WESTERN + _QUOTES + "ìòåøæœÀÇÁÅØ€°£´§", _LATIN),
    _Encoding("cp1250", "WINDOWS-1250", "Central European, Windows-1250", _CENTRAL + _QUOTES, _LATIN),
    _Encoding("iso8859_2", "ISO-8859-2", "Central European, Latin-2", _CENTRAL, _LATIN),
    _Encoding("cp1254", "WINDOWS-1254", "Turkish, Windows-1254", "ığşüöçİĞŞÜÖÇâî" + _QUOTES, _LATIN),
    _Encoding("cp1253", "WINDOWS-1253", "Greek, Windows-1253", "αεηιοτνσςρκπυλμάέήίόύώδγθωχ", 0.7),
    _Encoding("cp1255", "WINDOWS-1255", "Hebrew, Windows-1255", "אבגדהוזחטילמנסעפצקרשתםןךףץ", 0.7),
    _Encoding("cp1256", "WINDOWS-1256", "Arabic, Windows-1256", "اليومنرتبةعدسفهكحقجشطصخذضزءأإى؟،", 0.7),
    _Encoding("iso8859_6", "ISO-8859-6", "Arabic, ISO-8859-6", "اليومنرتبةعدسفهكحقجشطصخذضزءأإى؟،", 0.7),
    _Encoding("cp874", "CP874", "Thai, TIS-620", "กขคงจชดตทนบปผพมยรลวสหอะาิีึืุูเแโใไ่้์ั็ำๆ", 0.7),
    _Encoding("mac_roman", "MACINTOSH", "Western European, old Macintosh", _WESTERN + _QUOTES, 0.9),
    _Encoding("cp850", "CP850", "Western European, DOS", _WESTERN, 0.9),
)  # fmt: skip

# Marks that belong to no language; they tell nothing about an encoding.
_NEUTRAL = re.compile(r"[\x00-\x7f\s\u3000-\u303f\uff00-\uff65]+")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ue000-\uf8ff]")
# Letters that end a word in Greek and Hebrew, inside one.
_FINAL = re.compile(r"[\u03c2\u05da\u05dd\u05df\u05e3\u05e5][\u03b1-\u03c9\u05d0-\u05ea]")
# Small letter before capital, ASCII letter beside one of another alphabet, a symbol within a word, and a Latin word
# with hardly an ASCII letter: what a wrong encoding makes of words.
_MIXED = re.compile(r"[A-Za-z][\u0370-\u0e7f]|[\u0370-\u0e7f][A-Za-z]")
_IN_WORD = re.compile(
    r"(?<=[A-Za-z])[\xa1-\xa9\xab-\xb6\xb8\xb9\xbb-\xbf\xd7\xf7\u2020-\u2022\u2122\u2500-\u25ff](?=[A-Za-z])"
)
_NOT_LATIN = re.compile(r"[\xc0-\u024f]{5,}")
_GUESS_BYTES = 20_000
_HINT = "iconv -f {} -t UTF-8 FILE > NEW"


def decode(data: bytes, path: str) -> str:
    """Return the bytes as text.

    Raises:
        FalconerError: they are neither UTF-8 nor marked as UTF-16 or UTF-32; the line of the first wrong byte is named,
            and what the encoding may be.
    """
    for mark, codec, name in _BOMS:
        if data.startswith(mark):
            try:
                return data.decode(codec)
            except UnicodeDecodeError as error:
                raise FalconerError(
                    f"'{path}' is {name} text that is broken at byte {error.start:,}.",
                    "The file is truncated or damaged; download or write it again.",
                ) from None
    if name := _unmarked_utf16(data):
        raise FalconerError(f"'{path}' is {name} text without a byte order mark.", f"Convert it: {_HINT.format(name)}.")
    if data[:1] > b"\x1f" and data.endswith(b"\0\0") and b"\0" not in data.rstrip(b"\0"):
        raise FalconerError(
            f"'{path}' ends in {len(data) - len(data.rstrip(bytes(1))):,} zero bytes: it was not written completely.",
            "Download or write it again, or drop them, and look at the last line: tr -d '\\000' < FILE > NEW.",
        )
    if data[:4096].count(0) > len(data[:4096]) / 10:
        raise FalconerError(
            f"'{path}' is not text: it contains many zero bytes.", "Give text, JSON lines, CSV or parquet."
        )
    data = data.removeprefix(codecs.BOM_UTF8)  # before decoding, so that an error counts the bytes that are left
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _not_utf8(data, error, path) from None


def guess(data: bytes) -> tuple[str, str, str] | None:
    """Return (Python's codec, iconv's name, a description) of the encoding of a text, None if unsure."""
    lines = b"\n".join(line for line in data[: 100 * _GUESS_BYTES].split(b"\n") if not line.isascii())
    sample = lines if len(lines) <= _GUESS_BYTES else lines[:_GUESS_BYTES].rpartition(b"\n")[0]
    scores = sorted(((_score(sample, encoding), -number) for number, encoding in enumerate(_ENCODINGS)), reverse=True)
    (best, number), (second, _) = scores[:2]
    encoding = _ENCODINGS[-number]
    # Two encodings that give the same text are one; otherwise the best has to be clearly the best.
    is_sure = best >= 1 and (best > 1.1 * second or _same_text(sample, *(_ENCODINGS[-n] for _, n in scores[:2])))
    return (encoding.codec, encoding.iconv, encoding.text) if is_sure else None


def _score(data: bytes, encoding: _Encoding) -> float:
    """Return the share of common letters, 1 where it is just enough, less for words that no language has.

    0 means that the bytes can't have this encoding.
    """
    try:
        text = data.decode(encoding.codec)
    except UnicodeDecodeError:
        return 0
    letters = _NEUTRAL.sub("", text)
    if not letters or _CONTROL.search(text):
        return 0
    odd = sum(len(pattern.findall(text)) for pattern in (_MIXED, _IN_WORD, _FINAL))
    odd += sum(map(len, _NOT_LATIN.findall(text)))
    odd += sum(one.islower() and two.isupper() for one, two in pairwise(text))
    share = sum(letters.count(char) for char in set(encoding.common)) / len(letters)
    return share / encoding.share * max(1 - 3 * odd / len(letters), 0)


def _same_text(data: bytes, one: _Encoding, other: _Encoding) -> bool:
    return data.decode(one.codec) == data.decode(other.codec)


def _not_utf8(data: bytes, error: UnicodeDecodeError, path: str) -> FalconerError:
    line = data.count(b"\n", 0, error.start) + 1
    what = f"'{path}', line {line}: byte 0x{data[error.start]:02x} is not UTF-8."
    if error.end >= len(data) and "unexpected end" in error.reason:
        return FalconerError(
            f"'{path}', line {line} ends in the middle of a character: the file was cut off.",
            "Download or write it again.",
        )
    replaced = data.decode("utf-8", "replace")
    num_wrong = replaced.count("\ufffd")
    num_right = sum(char > "\x7f" for char in replaced) - num_wrong
    if num_right > 3 * num_wrong:
        return FalconerError(
            f"{what} The rest of the file is, so this line probably came from another file.",
            f"Write line {line} again, or drop the wrong bytes: iconv -c -f UTF-8 -t UTF-8 FILE > NEW.",
        )
    found = guess(data)
    if found is None:
        return FalconerError(
            f"{what} Its encoding could not be determined.",
            f"Ask the author of the file for its encoding, then convert it ({_HINT.format('ENCODING')}), "
            "and read the result before using it: a wrong encoding gives wrong letters, not an error.",
        )
    codec, name, description = found
    text_line = data.decode(codec, "replace").split("\n")[line - 1].strip()
    shown = text_line if len(text_line) <= 60 else _around(text_line)
    return FalconerError(
        f"{what} It may be {name} ({description}): then line {line} reads {shown!r}.",
        f"If that is right, convert it: {_HINT.format(name)}. If not, ask the author of the file.",
    )


def _around(line: str) -> str:
    """Return the part of a long line around its first character that is not ASCII."""
    place = next((i for i, char in enumerate(line) if char > "\x7f"), 0)
    start = max(0, place - 20)
    return f"{'...' if start else ''}{line[start : start + 60]}..."


def _unmarked_utf16(data: bytes) -> str:
    """Return "UTF-16LE" or "UTF-16BE" if every other byte is often zero, as in no other text; else ""."""
    sample = data[:4096]
    if not sample:
        return ""
    zeros = (sample[0::2].count(0), sample[1::2].count(0))
    share = sum(zeros) / len(sample)
    # Spaces, digits, line breaks and markup are ASCII even where the language is not.
    if share >= 0.02 and min(zeros) <= 0.02 * max(zeros) and (share > 0.2 or not _is_utf8(sample)):
        return "UTF-16LE" if zeros[1] else "UTF-16BE"
    return ""


def _is_utf8(data: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(data)
    except UnicodeDecodeError:
        return False
    return True
