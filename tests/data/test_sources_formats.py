"""Each format, and each of its known quirks, gives the right dialogues."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from corpus_files import load_text
from falconer.data.sources import load_dialogues, open_source
from falconer.records import Dialogue, Turn

FIXTURES = Path(__file__).parent / "fixtures"
OURS = load_dialogues(str(FIXTURES / "falconer.jsonl")).dialogues

# File, format, and what it leaves out of the story that all fixtures tell.
FILES = [
    ("falconer.jsonl", "falconer", ()),
    ("convai2_self_original.txt", "convai2", ("partner_persona",)),
    ("convai2_self_original_no_cands.txt", "convai2", ("partner_persona", "candidates")),
    ("convai2_both_original_no_cands.txt", "convai2", ("candidates",)),
    ("convai2_other_original_no_cands.txt", "convai2", ("persona", "candidates")),
    ("convai2_none_original_no_cands.txt", "convai2", ("persona", "partner_persona", "candidates")),
    ("alekseykorshuk.jsonl", "transfertransfo", ("partner_persona",)),
    ("truecased.jsonl", "truecased", ("partner_persona",)),
    ("cynaptics.jsonl", "cynaptics", ("partner_persona", "candidates")),
    ("kaggle.csv", "kaggle", ("partner_persona", "candidates")),
    ("messages.jsonl", "messages", ("partner_persona", "candidates")),
    ("sharegpt.json", "sharegpt", ("partner_persona", "candidates")),
    ("alpaca.jsonl", "alpaca", ("partner_persona", "candidates")),
]


def without(dialogue: Dialogue, missing: tuple[str, ...]) -> Dialogue:
    if "candidates" in missing:
        dialogue = replace(dialogue, turns=tuple(Turn(turn.speaker, turn.text) for turn in dialogue.turns))
    blank: dict[str, Any] = {name: () for name in missing if name != "candidates"}
    return replace(dialogue, id="", **blank)


@pytest.mark.parametrize(("name", "format", "missing"), FILES)
def test_every_format_tells_the_same_story(name: str, format: str, missing: tuple[str, ...]) -> None:
    loaded = load_dialogues(str(FIXTURES / name))
    # The order of a table of turns is that of its conversations' first rows.
    found = sorted((replace(dialogue, id="") for dialogue in loaded.dialogues), key=lambda d: -len(d.turns))
    assert found == [without(dialogue, missing) for dialogue in OURS]
    assert loaded.format == format
    assert load_dialogues(str(FIXTURES / name), format=format) == loaded
    assert len({dialogue.id for dialogue in loaded.dialogues}) == 2
    assert loaded.num_replies == 5
    assert not loaded.bad_rows


def test_gold_reply_is_the_last_of_twenty_candidates() -> None:
    loaded = load_dialogues(str(FIXTURES / "convai2_self_original.txt"))
    replies = [turn for dialogue in loaded.dialogues for turn in dialogue.turns if turn.speaker == "self"]
    assert all(len(turn.candidates) == 20 and turn.candidates[-1] == turn.text for turn in replies)


def test_transfertransfo_has_its_keys_as_splits() -> None:
    path = str(FIXTURES / "transfertransfo.json")
    assert open_source(path).splits == ("train", "valid")
    found = [load_dialogues(path, split=split).dialogues for split in ("train", "valid")]
    assert [without(d, ()) for (d,) in found] == [without(d, ("partner_persona",)) for d in OURS]


def test_row_formats_as_parquet(tmp_path: Path) -> None:
    for name in ("alekseykorshuk.jsonl", "truecased.jsonl", "cynaptics.jsonl", "messages.jsonl"):
        rows = [json.loads(line) for line in (FIXTURES / name).read_text(encoding="utf-8").splitlines()]
        path = tmp_path / "train.parquet"
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
        expected = load_dialogues(str(FIXTURES / name)).dialogues
        assert [without(d, ()) for d in load_dialogues(str(path)).dialogues] == [without(d, ()) for d in expected]


@pytest.mark.parametrize("separator", [", ", " ", "\n "])
def test_list_cells_of_a_csv(tmp_path: Path, separator: str) -> None:
    # numpy prints no commas; read as Python the two strings would become one.
    def cell(values: list[str]) -> str:
        return '"[' + separator.join(map(repr, values)).replace('"', '""') + ']"'

    header = "personality,candidates,history,conv_id,utterance_idx\n"
    row = ",".join(map(cell, (["i ski .", "i'm [old] ."], ["no .", "yes , why ?"], ["hi ."]))) + ",7,0\n"
    (dialogue,) = load_text(tmp_path, "x.csv", header + row).dialogues
    assert dialogue.persona == ("i ski .", "i'm [old] .")
    assert dialogue.turns == (Turn("partner", "hi ."), Turn("self", "yes , why ?", ("no .", "yes , why ?")))


class TestChatLogs:
    @pytest.mark.parametrize("bot", ["assistant", "gpt", "bot", "model", "Assistant"])
    @pytest.mark.parametrize("person", ["user", "human", "Human"])
    def test_roles(self, tmp_path: Path, person: str, bot: str) -> None:
        log = [
            {"from": "system", "value": "I ski.\n\nI cook."},
            {"from": person, "value": " Hi! "},
            {"from": bot, "value": "Yo."},
        ]
        (dialogue,) = load_text(tmp_path, "x.json", json.dumps([{"conversations": log}])).dialogues
        assert dialogue == Dialogue("x-00001", ("I ski.", "I cook."), (Turn("partner", "Hi!"), Turn("self", "Yo.")))

    def test_content_in_parts_and_system_beside_the_turns(self, tmp_path: Path) -> None:
        parts = [{"type": "text", "text": "Hi!"}, {"type": "text", "text": "You?"}]
        log = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Yo.\nYo."}]
        (dialogue,) = load_text(
            tmp_path, "x.json", json.dumps({"id": 7, "system": "I ski.", "messages": log})
        ).dialogues
        assert dialogue == Dialogue("7", ("I ski.",), (Turn("partner", "Hi!\nYou?"), Turn("self", "Yo.\nYo.")))

    def test_repeated_ids_are_numbered(self, tmp_path: Path) -> None:
        row = {"messages": [{"role": "assistant", "content": "Yo."}]}
        rows = [row | {"id": name} for name in ("a", "a", "a#2", "a")]
        loaded = load_text(tmp_path, "x.json", json.dumps(rows))
        assert [dialogue.id for dialogue in loaded.dialogues] == ["a", "a#3", "a#2", "a#4"]
        assert loaded.quirks == {"repeated id numbered": 2}


def test_text_that_spells_a_special_token_is_text(tmp_path: Path) -> None:
    (dialogue,) = load_text(tmp_path, "x.txt", "1 <|endoftext|>\t</s> User: [INST]\n").dialogues
    assert [turn.text for turn in dialogue.turns] == ["<|endoftext|>", "</s> User: [INST]"]


def test_text_is_verbatim_but_for_outer_white_space(tmp_path: Path) -> None:
    row = {"persona": [" i  ski . "], "turns": [{"speaker": "self", "text": "\t so  what ?\n\nyes \n"}]}
    (dialogue,) = load_text(tmp_path, "x.json", json.dumps(row)).dialogues
    assert (dialogue.persona, dialogue.turns[0].text) == (("i  ski .",), "so  what ?\n\nyes")


def test_detection_does_not_look_at_the_name(tmp_path: Path) -> None:
    content = (FIXTURES / "convai2_self_original.txt").read_text(encoding="utf-8")
    assert load_text(tmp_path, "x.json", content).format == "convai2"
    assert load_text(tmp_path, "noname", (FIXTURES / "messages.jsonl").read_text(encoding="utf-8")).format == "messages"
