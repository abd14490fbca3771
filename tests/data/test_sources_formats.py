"""Each format, and each of its known quirks, gives the right dialogues."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from falconer.data.sources import load_dialogues, open_source
from falconer.errors import FalconerError
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


def load(tmp_path: Path, name: str, content: str, **options: str) -> Any:
    (tmp_path / name).write_text(content, encoding="utf-8")
    return load_dialogues(str(tmp_path / name), **options)


def texts(dialogue: Dialogue) -> list[tuple[str, str]]:
    return [(turn.speaker, turn.text) for turn in dialogue.turns]


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
    (dialogue,) = load(tmp_path, "x.csv", header + row).dialogues
    assert dialogue.persona == ("i ski .", "i'm [old] .")
    assert dialogue.turns == (Turn("partner", "hi ."), Turn("self", "yes , why ?", ("no .", "yes , why ?")))


class TestConvai2:
    def test_restart_of_line_numbers_begins_a_dialogue(self, tmp_path: Path) -> None:
        loaded = load(tmp_path, "x.txt", "1 hi\thello\n2 a\tb\n1 yo\they\n3 bye\tbye\n2 again\tyes\n")
        assert [len(d.turns) for d in loaded.dialogues] == [4, 4, 2]
        assert [d.id for d in loaded.dialogues] == ["x-00001", "x-00002", "x-00003"]

    @pytest.mark.parametrize("silence", ["__SILENCE__", "__ SILENCE __", "__silence__"])
    def test_silence_means_the_bot_opens(self, tmp_path: Path, silence: str) -> None:
        loaded = load(tmp_path, "x.txt", f"1 your persona: i ski.\n2 {silence}\thello .\n3 hi .\tbye .\n")
        assert texts(loaded.dialogues[0]) == [("self", "hello ."), ("partner", "hi ."), ("self", "bye .")]
        assert loaded.quirks == {"silence dropped": 1}

    def test_reward_and_knowledge_triples_are_no_text(self, tmp_path: Path) -> None:
        content = "1 your persona: i ski.\ti\tlike\tskiing\n2 i\tlike_sport\tskiing\n"
        content += "3 hi\thello\t0.5\n4 a\tb\t\n5 c\td\t1\tx|d\n"
        (dialogue,) = load(tmp_path, "x.txt", content).dialogues
        assert dialogue.persona == ("i ski.",)
        assert [text for _, text in texts(dialogue)] == ["hi", "hello", "a", "b", "c", "d"]
        assert dialogue.turns[-1].candidates == ("x", "d")

    def test_other_leaves_the_sides_as_they_are(self, tmp_path: Path) -> None:
        (dialogue,) = load(tmp_path, "x.txt", "1 partner's persona: i ski.\n2 hi\thello\n").dialogues
        assert (dialogue.persona, dialogue.partner_persona) == ((), ("i ski.",))
        assert texts(dialogue) == [("partner", "hi"), ("self", "hello")]

    def test_a_last_message_without_reply_stays(self, tmp_path: Path) -> None:
        loaded = load(tmp_path, "x.txt", "1 hi\thello\n2 bye\n")
        assert texts(loaded.dialogues[0])[-1] == ("partner", "bye")
        assert loaded.quirks == {"message without a reply": 1}

    def test_windows_line_ends_byte_order_mark_and_line_separators(self, tmp_path: Path) -> None:
        # U+2028 and U+0085 are characters of the text, not line ends.
        (tmp_path / "x.txt").write_bytes("\ufeff1 hi\u2028you\x85 !\thello\r\n\r\n2 a\tb\r\n".encode())
        (dialogue,) = load_dialogues(str(tmp_path / "x.txt")).dialogues
        assert [text for _, text in texts(dialogue)] == ["hi\u2028you\x85 !", "hello", "a", "b"]


class TestHistory:
    @staticmethod
    def entry(*utterances: tuple[list[str], str]) -> str:
        rows = [{"history": history, "candidates": ["no .", gold]} for history, gold in utterances]
        return json.dumps({"personality": ["i ski ."], "utterances": rows}) + "\n"

    def test_silence_opens(self, tmp_path: Path) -> None:
        silence = "__ SILENCE __"
        content = self.entry(([silence], "hello ."), ([silence, "hello .", "hi ."], "bye ."))
        (dialogue,) = load(tmp_path, "x.jsonl", content * 2).dialogues[:1]
        assert texts(dialogue) == [("self", "hello ."), ("partner", "hi ."), ("self", "bye .")]

    def test_histories_that_hold_only_the_latest_utterances(self, tmp_path: Path) -> None:
        full = self.entry((["a"], "b"), (["a", "b", "c"], "d"), (["a", "b", "c", "d", "e"], "f"))
        window = self.entry((["a"], "b"), (["a", "b", "c"], "d"), (["c", "d", "e"], "f"))
        one, two = load(tmp_path, "x.jsonl", full + window).dialogues
        assert one.turns == two.turns
        assert [text for _, text in texts(one)] == list("abcdef")

    def test_a_first_history_with_earlier_turns(self, tmp_path: Path) -> None:
        content = self.entry((["a", "b", "c"], "d"))
        (dialogue,) = load(tmp_path, "x.json", content).dialogues
        assert texts(dialogue) == [("partner", "a"), ("self", "b"), ("partner", "c"), ("self", "d")]


class TestCynaptics:
    def test_rows_that_begin_another_row_are_left_out_and_counted(self) -> None:
        loaded = load_dialogues(str(FIXTURES / "cynaptics.jsonl"))
        assert loaded.quirks == {"row contained in another row left out": 3}

    @pytest.mark.parametrize(
        "dialogue",
        [
            ["Persona A: hi .", "Persona B: hello .", "Persona A: bye ."],
            ["hi .", "hello .", "bye ."],
            "Persona A: hi .\nPersona B: hello .\nPersona A: bye .",
            "persona a: hi . persona b: hello . persona a: bye .",
            "['Persona A: hi .' 'Persona B: hello .' 'Persona A: bye .']",
        ],
    )
    def test_dialogue_as_list_or_text(self, tmp_path: Path, dialogue: str | list[str]) -> None:
        row = {"persona_b": ["i ski ."], "dialogue": dialogue, "reference": "Persona B: see you ."}
        (found,) = load(tmp_path, "x.json", json.dumps([row])).dialogues
        expected = [("partner", "hi ."), ("self", "hello ."), ("partner", "bye ."), ("self", "see you .")]
        assert texts(found) == expected

    def test_a_reference_that_is_there_already(self, tmp_path: Path) -> None:
        row = {"persona_b": ["i ski ."], "dialogue": ["Persona A: hi .", "Persona B: yo ."], "reference": "yo ."}
        (found,) = load(tmp_path, "x.json", json.dumps([row])).dialogues
        assert texts(found) == [("partner", "hi ."), ("self", "yo .")]

    def test_other_replies_to_the_same_history_stay(self, tmp_path: Path) -> None:
        rows = [{"persona_b": ["i ski ."], "dialogue": ["hi ."], "reference": reply} for reply in ("a", "b", "a")]
        loaded = load(tmp_path, "x.json", json.dumps(rows))
        assert [d.turns[-1].text for d in loaded.dialogues] == ["a", "b"]


class TestSynthetic:
    HEADER = "user 1 personas,user 2 personas,Best Generated Conversation\n"

    def load(self, tmp_path: Path, *lines: str) -> Any:
        conversation = "\n".join(lines).replace('"', '""')
        good = "User 1: one\nUser 2: two"
        return load(tmp_path, "x.csv", f'{self.HEADER}"I ski.\nI cook.",I sing.,"{conversation}"\n,,"{good}"\n')

    def test_both_sides(self) -> None:
        loaded = load_dialogues(str(FIXTURES / "synthetic.csv"))
        assert loaded.format == "synthetic"
        two = [dialogue for dialogue in loaded.dialogues if dialogue.id.endswith("/2")]
        assert [without(d, ()) for d in two] == [without(d, ("candidates",)) for d in OURS]
        one = [dialogue for dialogue in loaded.dialogues if dialogue.id.endswith("/1")]
        assert [(d.persona, d.partner_persona) for d in one] == [(d.partner_persona, d.persona) for d in OURS]
        assert loaded.quirks == {"empty conversation left out": 1}

    def test_labels_vary(self, tmp_path: Path) -> None:
        lines = ("User 1: a", "* User 2: b", "*User 1: c", "**User 2:** d", "[User 1]: e", "user 2 : f")
        dialogue = self.load(tmp_path, *lines).dialogues[0]
        assert [text for _, text in texts(dialogue)] == list("abcdef")
        assert [speaker for speaker, _ in texts(dialogue)] == ["self", "partner"] * 3

    def test_two_names_throughout(self, tmp_path: Path) -> None:
        dialogue = self.load(tmp_path, "Ann: hi", "Bob Lee: hello", "Ann: bye").dialogues[0]
        assert texts(dialogue) == [("self", "hi"), ("partner", "hello"), ("self", "bye")]

    def test_lines_without_a_label(self, tmp_path: Path) -> None:
        lines = ("User 1: here it is:", "", "Ingredients:", "1 onion", "[later]", "* * *", "(They eat.)", "User 2: yum")
        loaded = self.load(tmp_path, *lines)
        assert texts(loaded.dialogues[0]) == [("self", "here it is:\nIngredients:\n1 onion"), ("partner", "yum")]
        assert loaded.quirks == {"line without a label kept": 2, "stage direction dropped": 3}

    def test_a_third_speaker_and_consecutive_turns(self, tmp_path: Path) -> None:
        lines = ("User 1: hi", "User 1: you", "Adam: me too.", "User 2:", "User 2: [User 1's name]!")
        loaded = self.load(tmp_path, *lines)
        assert texts(loaded.dialogues[0]) == [("self", "hi you"), ("partner", "[User 1's name]!")]
        assert loaded.quirks == {
            "consecutive turns of one speaker merged": 1,
            "empty turn dropped": 1,
            "line of a third speaker dropped": 1,
            "placeholder for a name kept": 1,
        }

    def test_a_forgotten_first_label(self, tmp_path: Path) -> None:
        assert texts(self.load(tmp_path, "Hi!", "I am me.", "User 2: hello").dialogues[0]) == [
            ("self", "Hi!\nI am me."),
            ("partner", "hello"),
        ]
        assert texts(self.load(tmp_path, "A chat", "User 1: hello", "User 2: hi").dialogues[0]) == [
            ("self", "hello"),
            ("partner", "hi"),
        ]

    @pytest.mark.parametrize("text", ["", "They talk for hours.", "User 1:\nUser 2:"])
    def test_nobody_says_anything(self, tmp_path: Path, text: str) -> None:
        loaded = self.load(tmp_path, text)
        assert [d.persona for d in loaded.dialogues] == [(), ()]
        assert loaded.quirks["empty conversation left out"] == 1

    def test_one_side_only(self, tmp_path: Path) -> None:
        assert [d.id for d in self.load(tmp_path, "User 1: hi").dialogues] == ["x-00002/1", "x-00004/1", "x-00004/2"]


def test_kaggle_persona_is_cut_into_sentences(tmp_path: Path) -> None:
    persona = " i wake up at 5 a.m. every day. i met dr. who! do you ski? i like vitamin c. bye"
    loaded = load(tmp_path, "x.csv", f',Persona,chat\n0,{persona},"a\n\nb\nc\n"\n1,,x\n')
    (dialogue,) = loaded.dialogues
    assert dialogue.persona == (
        "i wake up at 5 a.m. every day.",
        "i met dr. who!",
        "do you ski?",
        "i like vitamin c.",
        "bye",
    )
    assert texts(dialogue) == [("partner", "a"), ("self", "b"), ("partner", "c")]
    assert loaded.quirks == {"empty row left out": 1}


class TestChatLogs:
    @pytest.mark.parametrize("bot", ["assistant", "gpt", "bot", "model", "Assistant"])
    @pytest.mark.parametrize("person", ["user", "human", "Human"])
    def test_roles(self, tmp_path: Path, person: str, bot: str) -> None:
        log = [
            {"from": "system", "value": "I ski.\n\nI cook."},
            {"from": person, "value": " Hi! "},
            {"from": bot, "value": "Yo."},
        ]
        (dialogue,) = load(tmp_path, "x.json", json.dumps([{"conversations": log}])).dialogues
        assert dialogue == Dialogue("x-00001", ("I ski.", "I cook."), (Turn("partner", "Hi!"), Turn("self", "Yo.")))

    def test_content_in_parts_and_system_beside_the_turns(self, tmp_path: Path) -> None:
        parts = [{"type": "text", "text": "Hi!"}, {"type": "text", "text": "You?"}]
        log = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Yo.\nYo."}]
        (dialogue,) = load(tmp_path, "x.json", json.dumps({"id": 7, "system": "I ski.", "messages": log})).dialogues
        assert dialogue == Dialogue("7", ("I ski.",), (Turn("partner", "Hi!\nYou?"), Turn("self", "Yo.\nYo.")))

    def test_repeated_ids_are_numbered(self, tmp_path: Path) -> None:
        row = {"messages": [{"role": "assistant", "content": "Yo."}]}
        rows = [row | {"id": name} for name in ("a", "a", "a#2", "a")]
        loaded = load(tmp_path, "x.json", json.dumps(rows))
        assert [dialogue.id for dialogue in loaded.dialogues] == ["a", "a#3", "a#2", "a#4"]
        assert loaded.quirks == {"repeated id numbered": 2}


def test_text_that_spells_a_special_token_is_text(tmp_path: Path) -> None:
    (dialogue,) = load(tmp_path, "x.txt", "1 <|endoftext|>\t</s> User: [INST]\n").dialogues
    assert [turn.text for turn in dialogue.turns] == ["<|endoftext|>", "</s> User: [INST]"]


def test_text_is_verbatim_but_for_outer_white_space(tmp_path: Path) -> None:
    row = {"persona": [" i  ski . "], "turns": [{"speaker": "self", "text": "\t so  what ?\n\nyes \n"}]}
    (dialogue,) = load(tmp_path, "x.json", json.dumps(row)).dialogues
    assert (dialogue.persona, dialogue.turns[0].text) == (("i  ski .",), "so  what ?\n\nyes")


def test_detection_does_not_look_at_the_name(tmp_path: Path) -> None:
    content = (FIXTURES / "convai2_self_original.txt").read_text(encoding="utf-8")
    assert load(tmp_path, "x.json", content).format == "convai2"
    assert load(tmp_path, "noname", (FIXTURES / "messages.jsonl").read_text(encoding="utf-8")).format == "messages"


@pytest.mark.parametrize("kind", ["transfertransfo", "truecased"])
def test_a_gold_reply_that_does_not_stand_last(tmp_path: Path, kind: str) -> None:
    """Histories tell which candidate was said; learning the last one would be learning a wrong reply."""
    said = ["hi", "hello", "bye", "see you"]
    for gold_is_last in (True, False):
        turns = [
            {"history": said[:n], "candidates": ["no", said[n]] if gold_is_last else [said[n], "no"]} for n in (1, 3)
        ]
        rows: list[dict[str, object]] = [{"personality": ["i ski."], "utterances": turns}]
        if kind == "truecased":
            rows = [
                {"personality": ["i ski."], "conv_id": 1, "utterance_idx": i} | turn for i, turn in enumerate(turns)
            ]
        (tmp_path / "x.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
        if gold_is_last:
            (dialogue,) = load_dialogues(str(tmp_path / "x.jsonl")).dialogues
            assert [turn.text for turn in dialogue.turns] == said
        else:
            with pytest.raises(FalconerError, match="history goes on with 'hello', which is not the last"):
                load_dialogues(str(tmp_path / "x.jsonl"))
