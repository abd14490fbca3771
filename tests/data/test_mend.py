"""What every dialogue can be relied on for, whatever format it comes from."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from falconer.data.sources import SAMPLE, Loaded, load_dialogues, open_source
from falconer.records import Dialogue, Turn

FIXTURES = Path(__file__).parent / "fixtures"
MERGED = "consecutive turns of one speaker merged"


def load(tmp_path: Path, *rows: object, **options: str) -> Loaded:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return load_dialogues(str(path), **options)


def alternates(dialogue: Dialogue) -> bool:
    return all(one.speaker != two.speaker for one, two in pairwise(dialogue.turns))


@pytest.mark.parametrize(
    "path", sorted(path for path in FIXTURES.iterdir() if path.suffix != ".md"), ids=lambda p: p.name
)
def test_turns_alternate_in_every_format(path: Path) -> None:
    for split in open_source(str(path)).splits:
        loaded = load_dialogues(str(path), split=split)
        assert all(alternates(dialogue) and dialogue.replies for dialogue in loaded.dialogues)


def test_nothing_is_merged_in_the_embedded_sample() -> None:
    for split in open_source(SAMPLE).splits:
        loaded = load_dialogues(SAMPLE, split=split)
        assert loaded.quirks == {} and all(map(alternates, loaded.dialogues))


def test_messages_in_a_row_are_one_turn_and_counted(tmp_path: Path) -> None:
    chat = [("user", "hi"), ("user", "you"), ("assistant", "one"), ("assistant", "two\nthree")]
    loaded = load(tmp_path, {"messages": [{"role": role, "content": text} for role, text in chat]})
    assert loaded.dialogues[0].turns == (Turn("partner", "hi you"), Turn("self", "one\ntwo\nthree"))
    assert loaded.quirks == {MERGED: 2}
    path = tmp_path / "x.txt"
    path.write_text("1 hi\n2 you\thello\n", encoding="utf-8")
    assert load_dialogues(str(path)).quirks == {MERGED: 1, "message without a reply": 1}


@pytest.mark.parametrize("name", ["x.csv", "x.jsonl"])
def test_a_persona_has_one_sentence_a_line(tmp_path: Path, name: str) -> None:
    row = {"Persona": "I ski\nI run\r\n\r\nI cook", "chat": "hi\nyo"}
    csv_text = 'Persona,chat\n"I ski\nI run\r\n\r\nI cook","hi\nyo"\n'
    (tmp_path / name).write_text(csv_text if name == "x.csv" else json.dumps(row), encoding="utf-8", newline="")
    assert load_dialogues(str(tmp_path / name)).dialogues[0].persona == ("I ski", "I run", "I cook")


CONTROL = "text with control characters, which were removed"


def test_control_characters_are_removed_and_counted(tmp_path: Path) -> None:
    noise = "\x1b[31m\x00\x07\x9b\x7f"
    row = {
        "id": f"a{noise}",
        "persona": [f"i {noise}ski"],
        "turns": [{"speaker": "self", "text": f"h{noise}i\tyou\x0bthere"}],
    }
    loaded = load(tmp_path, row)
    (dialogue,) = loaded.dialogues
    assert (dialogue.id, dialogue.persona, dialogue.turns) == (
        "a[31m",
        ("i [31mski",),
        (Turn("self", "h[31mi\tyou there"),),
    )
    assert loaded.quirks == {CONTROL: 3}
    (tmp_path / "x.txt").write_text("1 h\x1b[0mi\thel\x00lo\r\n", encoding="utf-8")
    assert load_dialogues(str(tmp_path / "x.txt")).dialogues[0].turns == (
        Turn("partner", "h[0mi"),
        Turn("self", "hello"),
    )
    only = row | {"turns": [{"speaker": "self", "text": "\x00\x1b"}]}
    bad = load(tmp_path, row, only, on_bad_row="skip").bad_rows
    assert [(row.line, row.field) for row in bad] == [(2, "turns[0].text")]


@pytest.mark.parametrize(
    "row",
    [
        {"persona": "\ud800", "chat": "hi\nyo"},
        {"persona": "i ski.", "chat": "hi\nyo", "id": "\ud83d"},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}], "id": "\udfff"},
        {"user 1 personas": "\ud800", "user 2 personas": "", "Best Generated Conversation": "User 1: a\nUser 2: b"},
    ],
)
def test_half_a_surrogate_pair_is_a_bad_row_wherever_it_stands(tmp_path: Path, row: dict[str, object]) -> None:
    good = {"persona": [], "turns": [{"speaker": "self", "text": "hi"}]}
    loaded = load(tmp_path, row, {key: "a\nb" for key in row} | good, on_bad_row="skip", format="falconer")
    assert [bad.line for bad in loaded.bad_rows] == [1]
    assert "contains half of a surrogate pair" in loaded.bad_rows[0].message


@pytest.mark.parametrize(
    ("text", "is_wrong"),
    [
        ("cafÃ©", True), ("itâ€™s", True), ("ðŸ˜€", True), ("Â°", True), ("Ð¿Ñ€Ð¸Ð²ÐµÑ‚", True), ("ä½\u00a0å¥½", True),
        ("РїСЂРёРІРµС‚", True), ("锟斤拷", True), ("ÄãºÃÂð£¿", True), ("Ïðèâåò", True), ("¾È³çÇÏ¼¼¿ä", True),
        ("ñññññ", False), ("été où ça", False),
        ("café", False), ("it’s", False), ("😀 20 °C", False), ("привет, Россия", False), ("你好", False),
        ("Spaß“", False), ("NÃO, É", False), ("« café\u00a0» à\u00a0» â", False), ("„Ö“", False), ("Рівне", False),
    ],
)  # fmt: skip
def test_wrongly_decoded_letters_are_counted(tmp_path: Path, text: str, is_wrong: bool) -> None:
    loaded = load(tmp_path, {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": text}]})
    assert loaded.quirks == ({"dialogue with letters of a wrong encoding kept": 1} if is_wrong else {})


def test_the_examples_of_wrong_letters_are_what_a_wrong_encoding_makes() -> None:
    for right, codec, wrong in (
        ("é", "cp1252", "Ã©"),
        ("’", "cp1252", "â€™"),
        ("привет", "cp1252", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚"),
        ("привет", "cp1251", "РїСЂРёРІРµС‚"),
    ):
        assert right.encode().decode(codec) == wrong


def test_replacement_characters_are_counted(tmp_path: Path) -> None:
    loaded = load(
        tmp_path, {"messages": [{"role": "user", "content": "caf\ufffd"}, {"role": "assistant", "content": "ok"}]}
    )
    assert loaded.quirks == {"dialogue with replacement characters (U+FFFD) kept": 1}
