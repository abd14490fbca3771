"""Which language a set of texts is in: told right where it matters, and said to be unknown where it can't be told."""

import random
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.data.language import (
    _SAME,
    NAMES,
    SEVERAL,
    UNKNOWN,
    _identifier,
    detect,
    has_spaces,
    is_spaceless,
    language_of,
    resolve,
)
from falconer.data.sources import load_dialogues
from falconer.errors import FalconerError
from falconer.records import Dialogue, Turn
from many_languages import REPLIES


@pytest.fixture(scope="module")
def english() -> list[str]:
    found = load_dialogues("persona-chat-sample", split="test").dialogues
    return [turn.text for dialogue in found for turn in dialogue.turns]


@pytest.mark.parametrize("code", REPLIES)
def test_eight_replies_tell_their_language(code: str) -> None:
    assert detect(REPLIES[code]).code == code
    assert detect(REPLIES[code][::-1]).code == code
    assert code in NAMES


@pytest.mark.parametrize("code", ["ko", "vi", "fr", "ja", "hi"])
def test_composed_and_decomposed_letters_are_the_same_language(code: str) -> None:
    assert detect([unicodedata.normalize("NFD", text) for text in REPLIES[code]]).code == code


@pytest.mark.parametrize("code", [code for code in REPLIES if code != "en"])
def test_no_single_reply_of_another_language_is_english(code: str) -> None:
    """English is what rules are made for that would damage others."""
    assert [text for text in REPLIES[code] if detect([text]).code == "en"] == []


@pytest.mark.parametrize("number", [2, 4, 8, 20])
def test_a_few_replies_of_persona_chat_are_english(english: list[str], number: int) -> None:
    rng = random.Random(number)
    found = [detect(rng.sample(english, number)).code for _ in range(300)]
    assert found.count("en") >= 0.98 * len(found)


def test_all_of_persona_chat_is_english(english: list[str]) -> None:
    assert detect(english).code == "en"
    assert detect([text.upper() for text in english]).code == "en"


@pytest.mark.parametrize("texts", [["hi !"], ["i like dogs .", "me too"], ["ok", "hello", "i'm fine ."], ["I LOVE IT"]])
def test_the_smallest_english_files_are_english(texts: list[str]) -> None:
    assert detect(texts).code == "en"


@pytest.mark.parametrize("texts", [[], [""], ["?!", "😀"], ["12", "3.5"], ["a b"], ["no"], ["xq zv"]])
def test_what_cannot_be_told_is_unknown(texts: list[str]) -> None:
    assert detect(texts).code == UNKNOWN


@pytest.mark.parametrize("code", ["de", "es", "it", "tr", "ru"])
def test_english_and_another_language_by_halves_are_several(code: str) -> None:
    mixed = [text for pair in zip(REPLIES["en"], REPLIES[code], strict=True) for text in pair]
    assert detect(mixed * 5).code == SEVERAL
    assert detect(REPLIES["en"] * 5 + REPLIES[code] * 5).code == SEVERAL


def test_a_script_without_spaces_decides_in_mixed_text() -> None:
    assert detect(["我想吃 pizza and pasta 你呢", "那个 meeting 改到明天了吗", "ok 没问题 see you"]).code == "zh"
    assert detect([*REPLIES["en"], *REPLIES["zh"]]).code == "zh"
    assert detect([*REPLIES["en"] * 10, "你好"]).code == "en"  # one greeting in eighty replies
    assert detect(["ジョンさんは東京に住んでいます"]).code == "ja"  # with Chinese characters
    assert detect([*REPLIES["ko"], "나는 facebook 을 봐요"]).code == "ko"


def test_full_width_and_half_width_letters_keep_their_script() -> None:
    assert detect(["Ｈｅｌｌｏ　ｈｏｗ　ａｒｅ　ｙｏｕ　ｔｏｄａｙ"]).code == UNKNOWN
    assert detect(["ｺﾝﾆﾁﾊ ｹﾞﾝｷﾃﾞｽｶ"]).code == "ja"


def test_the_user_decides_and_hears_what_was_detected() -> None:
    assert resolve("auto", REPLIES["fr"]).code == "fr"
    assert str(resolve("fr", REPLIES["fr"])) == "French (fr), as given"
    assert str(resolve("ZH-cn", REPLIES["en"])) == "Chinese (zh), as given; detection says English"
    assert resolve("pt_BR", []).code == "pt"
    with pytest.raises(FalconerError, match="Unknown language 'klingon'. Give auto, a code such as en or zh"):
        resolve("klingon", REPLIES["en"])
    with pytest.raises(FalconerError, match="Did you mean 'german'"):
        resolve("germann", REPLIES["en"])


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ("English", "en"), ("chinese", "zh"), (" German ", "de"), ("deu", "de"), ("yue", "zh"), ("zho", "zh"),
        ("nb", "no"), ("nn-NO", "no"), ("iw", "he"), ("fil", "tl"), ("dz", "bo"), ("lb", "lb"), ("mt", "mt"),
        ("unknown", "und"),
    ],
)  # fmt: skip
def test_a_language_has_several_names(asked: str, code: str) -> None:
    assert resolve(asked, []).code == code


def test_every_code_that_is_detected_has_a_name() -> None:
    """Deseret letters are what py3langid calls no language."""
    identifier = _identifier()
    forms = [_SAME.get(code, code) for code in identifier.nb_classes]
    assert sum(code in NAMES for code in forms) > 110
    assert set(_SAME.values()) <= set(NAMES)
    found = detect(["𐐐𐐯𐑊𐐬 𐐶𐐲𐑉𐑊𐐼 𐐮𐐻 𐐮𐑆", "𐐨𐑆𐐨 𐐪𐑉 𐐺𐐨 𐐻𐐭"])
    assert (found.code, str(found)) == (UNKNOWN, "unknown (und), it is none that is known here")


def test_the_language_of_dialogues_is_that_of_their_turns() -> None:
    turns = tuple(Turn("self", text) for text in REPLIES["it"])
    assert language_of([Dialogue("1", ("i like dogs .",), turns)]) == "it"


@pytest.mark.parametrize(
    ("letter", "spaceless"), list(zip("aéя한你のก々ーཀ", [0, 0, 0, 0, 1, 1, 1, 1, 1, 1], strict=True))
)
def test_scripts_without_spaces(letter: str, spaceless: int) -> None:
    assert is_spaceless(letter) == bool(spaceless)


def test_languages_without_spaces() -> None:
    assert [code for code in REPLIES if not has_spaces(code)] == ["zh", "ja", "th"]


@given(st.lists(st.text(max_size=20), max_size=5))
def test_any_texts_have_a_language_whatever_their_order(texts: list[str]) -> None:
    found = detect(texts)
    assert found.how and str(found)
    assert detect(texts).code == found.code
