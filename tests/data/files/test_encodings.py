"""Text of every encoding: read, or refused without leading anybody to nonsense."""

import subprocess
from pathlib import Path

import pytest

from falconer.data.files.encodings import guess
from falconer.data.sources import load_dialogues
from falconer.errors import FalconerError

FIXTURES = Path(__file__).parents[1] / "fixtures"

# Sentences as people chat, by the encodings that files of the language come in.
SENTENCES = {
    ("gbk", "gb18030"): [
        "我喜欢猫。",
        "你好吗？我很好，谢谢。",
        "今天下午我们去公园散步，看到了很多漂亮的花。",
        "我养了一只金毛犬",
    ],
    ("big5",): ["我喜歡貓。", "你平時喜歡看什麼電影？我最喜歡科幻片。", "今天下午我們去公園散步，看到了很多漂亮的花。"],
    ("shift_jis", "euc_jp"): [
        "こんにちは、お元気ですか？",
        "私は犬を二匹飼っています。",
        "趣味は読書です。",
        "カメラが好き",
    ],
    ("euc_kr",): ["안녕하세요, 오늘 기분이 어때요?", "저는 강아지 두 마리를 키우고 있습니다."],
    ("cp1251", "koi8_r", "cp866"): ["Привет, как дела?", "У меня две собаки, и я люблю кататься на лыжах."],
    ("cp1252", "mac_roman"): [
        "Grüß dich, wie geht's dir heute?",
        "J'ai déjà été à Paris, c'était très beau.",
        "¿Qué tal?",
    ],
    ("cp1250", "iso8859-2"): [
        "Cześć, co słychać? Mam dwa psy i lubię jeździć na nartach.",
        "Ahoj, jak se máš? Mám dvě kočky.",
    ],
    ("cp1254",): ["Merhaba, nasılsın? İki köpeğim var ve kayak yapmayı çok seviyorum."],
    ("cp1253",): ["Γεια σου, τι κάνεις; Έχω δύο σκύλους και μου αρέσει το σκι."],
    ("cp1255",): ["שלום, מה שלומך? יש לי שני כלבים ואני אוהב לעשות סקי."],
    ("cp1256", "iso8859-6"): ["مرحبا، كيف حالك؟ لدي كلبان وأحب التزلج."],
    ("cp874",): ["สวัสดี เป็นอย่างไรบ้าง ฉันมีสุนัขสองตัว"],
}
SAMPLES = [(codec, text) for codecs, texts in SENTENCES.items() for codec in codecs for text in texts]


def error_of(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(FalconerError) as caught:
        load_dialogues(str(path))
    assert caught.value.hint and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("codec", "text"), SAMPLES)
def test_no_wrong_encoding_is_named(codec: str, text: str) -> None:
    found = guess(f"1 hi\t{text}\n".encode(codec))
    assert found is None or f"1 hi\t{text}\n".encode(codec).decode(found[0]) == f"1 hi\t{text}\n"


def test_nearly_every_encoding_is_named() -> None:
    assert sum(guess(f"1 hi\t{text}\n".encode(codec)) is not None for codec, text in SAMPLES) >= 0.9 * len(SAMPLES)


def test_the_message_shows_the_line_as_it_would_read(tmp_path: Path) -> None:
    message = error_of(tmp_path / "x.txt", "1 your persona: 我喜欢猫。\n2 你好吗？\t我很好，谢谢。\n".encode("gbk"))
    assert "line 1: byte 0xce is not UTF-8. It may be GB18030 (Chinese, GBK)" in message
    assert "reads '1 your persona: 我喜欢猫。'" in message and "iconv -f GB18030 -t UTF-8 FILE > NEW" in message


def test_a_long_line_is_shown_around_its_letters(tmp_path: Path) -> None:
    row = '{"messages": ["' + 200 * "x" + " Привет, как дела?" + 200 * "y" + '"]}\n'
    message = error_of(tmp_path / "x.jsonl", row.encode("cp1251"))
    assert "Привет, как дела?" in message and "WINDOWS-1251" in message and len(message) < 400


def test_where_nothing_can_be_told_nothing_is_named(tmp_path: Path) -> None:
    message = error_of(tmp_path / "x.txt", bytes([0x31, 0x20, 0x81, 0xFF, 0x9D, 0xFE, 0x0A]))
    assert "Its encoding could not be determined" in message and "WINDOWS" not in message


def test_one_wrong_line_in_utf8_is_not_converted_with_the_rest(tmp_path: Path) -> None:
    lines = [
        "1 hi\tça va très bien, merci".encode(),
        "2 où\tà Paris, près du café".encode(),
        "3 a\té".encode("latin-1"),
    ]
    message = error_of(tmp_path / "x.txt", b"\n".join(lines) + b"\n")
    assert "line 3" in message and "The rest of the file is" in message and "1252" not in message


def test_a_file_cut_inside_a_character(tmp_path: Path) -> None:
    assert "in the middle of a character: the file was cut off" in error_of(tmp_path / "x.txt", "1 a\té".encode()[:-1])


@pytest.mark.parametrize("name", ["convai2_self_original.txt", "messages.jsonl", "sharegpt.json", "kaggle.csv"])
@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_a_byte_order_mark_is_enough(tmp_path: Path, name: str, codec: str) -> None:
    text = (FIXTURES / name).read_text(encoding="utf-8").replace("\n", "\r\n")
    path = tmp_path / name
    path.write_bytes((b"\xfe\xff" if codec == "utf-16-be" else b"") + text.encode(codec))
    assert load_dialogues(str(path)).dialogues == load_dialogues(str(FIXTURES / name)).dialogues


@pytest.mark.parametrize(("codec", "name"), [("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE")])
@pytest.mark.parametrize("text", ["1 hi\thello\n", "1 你好吗？\t我很好，谢谢。\n2 再见\t再见\n", '[{"a": "Привет"}]'])
def test_utf16_without_its_mark_is_named(tmp_path: Path, codec: str, name: str, text: str) -> None:
    message = error_of(tmp_path / "x.txt", text.encode(codec))
    assert f"is {name} text without a byte order mark. Convert it: iconv -f {name} -t UTF-8" in message
    assert name in error_of(tmp_path / "x.txt", text.encode(codec) + b"\x0a")


def test_utf16_cut_off_is_one_line(tmp_path: Path) -> None:
    assert "is UTF-16 text that is broken at byte 22" in error_of(
        tmp_path / "x.txt", "1 hi\thello\n".encode("utf-16")[:-1] * 1
    )


@pytest.mark.parametrize("number", [2, 50, 5000])
def test_zero_bytes_at_the_end(tmp_path: Path, number: int) -> None:
    """As a full disk or a crash leaves them; what the message says to type is what makes the file whole."""
    path, new = tmp_path / "x.txt", tmp_path / "new.txt"
    path.write_bytes("1 your persona: i ski .\n2 ça va ?\tbien .\n".encode() + bytes(number))
    with pytest.raises(FalconerError, match=f"ends in {number:,} zero bytes") as caught:
        load_dialogues(str(path))
    command = caught.value.hint.partition("last line: ")[2].removesuffix(".")
    subprocess.run(command.replace("FILE", str(path)).replace("NEW", str(new)), shell=True, check=True)
    assert load_dialogues(str(new)).num_replies == 1
