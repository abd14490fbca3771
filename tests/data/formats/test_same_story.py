"""One conversation, written in every format there is, gives the same turns, and the same personas where it has them."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from falconer.data.sources import FORMATS, load_dialogues, open_source
from falconer.errors import FalconerError

FIXTURES = Path(__file__).parents[1] / "fixtures"

SAID = ["hello , who are you ?", "the one with the tomatoes .", "do you live alone ?", "no , with my sister ."]
OWN = ["i grow tomatoes.", "i have a twin sister."]
OTHER = ["i cook.", "i drive a tram."]
PAIRS = [SAID[:2], SAID[2:]]
HISTORY = [
    {"history": SAID[:1], "candidates": ["no .", SAID[1]]},
    {"history": SAID[:3], "candidates": ["no .", SAID[3]]},
]


def labelled(*names: str, key: str = "text", who: str = "id") -> list[dict[str, str]]:
    return [{who: names[i % 2], key: text} for i, text in enumerate(SAID)]


PERSONA_LINES = [f"your persona: {line}" for line in OWN]
BOTH_LINES = [f"partner's persona: {line}" for line in OTHER] + PERSONA_LINES

# Format, what it is, its content (rows or text), and which personas it holds.
STORIES: list[tuple[str, str, Any, str]] = [
    (
        "convai2",
        "self",
        "".join(f"{n} {line}\n" for n, line in enumerate([*PERSONA_LINES, *map("\t".join, PAIRS)], 1)),
        "own",
    ),
    ("convai2", "none", "".join(f"{n} {line}\n" for n, line in enumerate(map("\t".join, PAIRS), 1)), ""),
    (
        "convai2",
        "an utterance a line",
        "".join(f"{line}\t['i', 'have', 'it']\n" for line in BOTH_LINES)
        + "".join(f"{n}\t{text}\n" for n, text in enumerate(SAID, 1)),
        "both",
    ),
    (
        "parlai",
        "text",
        "text:" + "\\n".join([*PERSONA_LINES, SAID[0]]) + f"\tlabels:{SAID[1]}\tlabel_candidates:no .|{SAID[1]}\n"
        f"text:{SAID[2]}\tlabels:{SAID[3]}\tepisode_done:True\n",
        "own",
    ),
    (
        "parlai",
        "conversations",
        [
            {
                "dialog": [labelled("a", "b")[:2], labelled("a", "b")[2:]],
                "context": [{"id": "context", "text": "\n".join(PERSONA_LINES)}],
            }
        ],
        "own",
    ),
    ("dailydialog", "text", " __eou__ ".join(SAID) + " __eou__\n", ""),
    ("dailydialog", "hub", [{"dialog": SAID, "act": [1] * 4, "emotion": [0] * 4}], ""),
    ("xpersona", "persona", [{"persona": OWN, "dialogue": PAIRS}], "own"),
    ("xpersona", "meta", [{"meta": OWN, "dialogue": PAIRS}], "own"),
    (
        "msc",
        "session",
        [{"personas": [OTHER, OWN], "dialog": labelled("Speaker 1", "Speaker 2"), "previous_dialogs": []}],
        "both",
    ),
    (
        "msc",
        "hub",
        [{"persona1": OTHER, "persona2": OWN, "dialogue": SAID, "speaker": ["Speaker 1", "Speaker 2"] * 2}],
        "both",
    ),
    (
        "blended",
        "ParlAI",
        [
            {
                "personas": [OTHER, OWN],
                "free_turker_utterance": SAID[0],
                "guided_turker_utterance": SAID[1],
                "dialog": [[0, SAID[2]], [1, SAID[3]]],
            }
        ],
        "both",
    ),
    (
        "blended",
        "hub",
        [{"personas": OWN, "previous_utterance": SAID[:2], "free_messages": SAID[2:3], "guided_messages": SAID[3:]}],
        "own",
    ),
    (
        "conv_ai_2",
        "hub",
        [
            {
                "dialog": labelled("Human", "Bot", who="sender_class"),
                "bot_profile": [[line] for line in OWN],
                "user_profile": [[line] for line in OTHER],
            }
        ],
        "both",
    ),
    (
        "dulemon",
        "both",
        [
            {
                "bot_persona": [f"B{i}: {line}" for i, line in enumerate(OWN, 1)],
                "user_said_persona": [f"U1: {OTHER[0]}"],
                "user_no_said_persona": [f"U2: {OTHER[1]}"],
                "conversation": [f"{who}: {text}" for who, text in zip(["Usr", "Bot"] * 2, SAID, strict=True)],
            }
        ],
        "both",
    ),
    (
        "focus",
        "entries",
        [{"dialogID": "X1", "persona": OWN, "utterance": [{"dialogue1": SAID[:2]}, {"dialogue2": SAID}]}],
        "own",
    ),
    ("soda", "rows", [{"narrative": "Two people meet.", "dialogue": SAID, "speakers": ["Ben", "Ana"] * 2}], ""),
    (
        "locomo",
        "sessions",
        [
            {
                "sample_id": "c1",
                "conversation": {
                    "speaker_a": "Ben",
                    "speaker_b": "Ana",
                    "session_1": labelled("Ben", "Ana", who="speaker"),
                    "session_1_date_time": "noon",
                },
            }
        ],
        "",
    ),
    (
        "cynaptics",
        "rows",
        [
            {
                "conv_id": 0,
                "persona_b": OWN,
                "dialogue": [f"Persona {'AB'[i % 2]}: {text}" for i, text in enumerate(SAID[:3])],
                "reference": SAID[3],
            }
        ],
        "own",
    ),
    ("transfertransfo", "entries", [{"personality": OWN, "utterances": HISTORY}], "own"),
    (
        "truecased",
        "turns",
        [{"personality": OWN, "conv_id": 3, "utterance_idx": i} | item for i, item in enumerate(HISTORY)],
        "own",
    ),
    (
        "messages",
        "rows",
        [
            {
                "messages": [
                    {"role": "system", "content": "\n".join(OWN)},
                    *labelled("user", "assistant", key="content", who="role"),
                ]
            }
        ],
        "own",
    ),
    (
        "sharegpt",
        "rows",
        [{"conversations": labelled("human", "gpt", key="value", who="from"), "system": "\n".join(OWN)}],
        "own",
    ),
    (
        "falconer",
        "rows",
        [{"id": "1", "persona": OWN, "partner_persona": OTHER, "turns": labelled("partner", "self", who="speaker")}],
        "both",
    ),
    ("kaggle", "table", "Persona,chat\n" + f'"{" ".join(OWN)}","' + "\n".join(SAID) + '"\n', "own"),
]
NAMES = [f"{format}-{what}" for format, what, _, _ in STORIES]
ROWS = [story for story in STORIES if not isinstance(story[2], str)]


def check(path: Path, personas: str, found: str, **options: str) -> None:
    loaded = load_dialogues(str(path), **options)
    (dialogue,) = loaded.dialogues
    assert [(turn.speaker, turn.text) for turn in dialogue.turns] == list(
        zip(["partner", "self"] * 2, SAID, strict=True)
    )
    assert dialogue.persona == (tuple(OWN) if personas else ())
    assert dialogue.partner_persona == (tuple(OTHER) if personas == "both" else ())
    assert (loaded.format, loaded.num_replies, loaded.bad_rows) == (found, 2, ())


@pytest.mark.parametrize(("format", "what", "content", "personas"), STORIES, ids=NAMES)
def test_found_and_named(tmp_path: Path, format: str, what: str, content: Any, personas: str) -> None:
    path = tmp_path / "x"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    check(path, personas, format)
    check(path, personas, format, format=format)


@pytest.mark.parametrize(("format", "what", "rows", "personas"), ROWS, ids=[f"{f}-{w}" for f, w, _, _ in ROWS])
def test_json_lines_splits_and_capital_fields(
    tmp_path: Path, format: str, what: str, rows: list[dict[str, Any]], personas: str
) -> None:
    path = tmp_path / "x"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    check(path, personas, format)
    path.write_text(json.dumps({"train": rows, "valid": rows}, indent=2), encoding="utf-8")
    assert open_source(str(path)).splits == ("train", "valid")
    check(path, personas, format, split="valid")
    path.write_text(json.dumps({"data": rows}), encoding="utf-8")
    check(path, personas, format)
    path.write_text(
        json.dumps([{key.capitalize(): value for key, value in row.items()} for row in rows]), encoding="utf-8"
    )
    check(path, personas, format)


# A list of a number and a text, as in ParlAI's BlendedSkillTalk, has no place in parquet.
IN_PARQUET = [story for story in ROWS if story[:2] != ("blended", "ParlAI")]


@pytest.mark.parametrize(
    ("format", "what", "rows", "personas"), IN_PARQUET, ids=[f"{f}-{w}" for f, w, _, _ in IN_PARQUET]
)
def test_parquet(tmp_path: Path, format: str, what: str, rows: list[dict[str, Any]], personas: str) -> None:
    path = tmp_path / "x.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    check(path, personas, format)


def test_every_format_tells_the_story_or_has_its_own_test() -> None:
    # alpaca and completion rows are single exchanges without a persona; of a vote, one reply is learned.
    others = {"auto", "synthetic", "alpaca", "completion", "votes"}
    assert {format for format, _, _, _ in STORIES} | others == set(FORMATS)


def test_every_format_has_a_fixture() -> None:
    found = set()
    for path in FIXTURES.iterdir():
        if path.name != "README.md":
            split = open_source(str(path)).splits[0]
            found.add(load_dialogues(str(path), split=split).format)
    assert found >= set(FORMATS) - {"auto"}


# Fields that two formats share: the row goes to the one whose other fields it has too.
@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"persona": OWN, "dialogue": SAID[:3], "persona_b": OWN, "reference": "x"}, "cynaptics"),
        ({"personas": [OTHER, OWN], "dialog": SAID}, "msc"),
        ({"personality": OWN, "utterances": HISTORY}, "transfertransfo"),
        ({"id": "7", "utterances": SAID}, "dailydialog"),
        ({"turns": 4, "messages": labelled("user", "assistant", key="content", who="role")}, "messages"),
        ({"turns": None, "conversations": labelled("human", "gpt", key="value", who="from")}, "sharegpt"),
        ({"messages": None, "conversations": labelled("human", "gpt", key="value", who="from")}, "sharegpt"),
        ({"chat": None, "Persona": "i ski.", "messages": labelled("user", "assistant", who="role")}, "messages"),
    ],
)
def test_a_row_that_fits_two(tmp_path: Path, row: dict[str, Any], format: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps([row]), encoding="utf-8")
    loaded = load_dialogues(str(tmp_path / "x.json"), on_bad_row="skip")
    assert (loaded.format, len(loaded.dialogues)) == (format, 1)


def error_of(path: Path, content: str, **options: str) -> str:
    path.write_text(content, encoding="utf-8")
    with pytest.raises(FalconerError) as caught:
        load_dialogues(str(path), **options)
    assert caught.value.hint
    assert "\n" not in str(caught.value)
    return str(caught.value)


class TestRefused:
    def test_tables_of_single_replies(self, tmp_path: Path) -> None:
        for content in (
            "persona\tquery\tresponse\n['i ski.']\t hi\thello\n",
            "persona,query,response\ni ski.,hi,hello\n",
            json.dumps([{"persona": ["i ski."], "query": "hi", "response": "hello"}] * 2),
        ):
            message = error_of(tmp_path / "x", content)
            assert "the columns 'persona', 'query', 'response'" in message
            assert "LMEDR" in message and "falconer score" in message and "ConvAI2" in message

    def test_kvpi(self, tmp_path: Path) -> None:
        line = "{'constellation': 'Leo', 'loc': 'Porto', 'gender': 'male'} <SEP> i am from porto\t0\t1\tx\t0\ti\t1\n"
        table = "id\tpost\tresponse\tprofile\tdomain\tlabel\n1\twhere ?\tin porto\t{'loc': 'Porto'}\tloc\t0\n"
        bare = "7\twhere ?\tin porto\t{'gender': 'male', 'loc': 'Porto'}\tloc\t0\n"
        parts = "{'loc': 'Porto'} [sep] where ? [sep] in porto\n"
        for content in (line * 2, table, bare, parts, json.dumps([{"profile": {}, "post": "hi", "response": "hello"}])):
            message = error_of(tmp_path / "x", content)
            assert "KvPI" in message and "classifying" in message

    def test_rows_of_other_corpora_are_not_taken_for_a_known_one(self, tmp_path: Path) -> None:
        empathetic = {"conv_id": "hit:0", "utterance_idx": 1, "context": "sad", "prompt": "x", "utterance": "hi"}
        message = error_of(tmp_path / "x", json.dumps([empathetic]))
        assert "is not in a known format. Its rows hold 'conv_id', 'utterance_idx'" in message

    def test_the_nearest_format_is_named(self, tmp_path: Path) -> None:
        message = error_of(tmp_path / "x", json.dumps([{"persona": OWN, "dialogues": PAIRS}]))
        assert (
            "Its rows hold 'persona', 'dialogues'. The closest format is \"xpersona\", but the field 'dialogue' is "
            "missing." in message
        )
        message = error_of(tmp_path / "x", json.dumps([{"speaker": ["a"], "dialog_id": 3}]))
        assert "The nearest" not in message and "Its rows hold 'speaker', 'dialog_id'" in message
