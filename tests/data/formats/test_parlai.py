"""ParlAI's text and conversations."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpus_files import FIXTURES, bad, check_bad, counts, load, said
from falconer.data.formats.parlai import _choices, _unescape
from falconer.data.sources import load_dialogues
from falconer.errors import FalconerError
from falconer.records import Turn


def test_counts_of_the_text_against_another_parse() -> None:
    lines = (FIXTURES / "parlai.txt").read_text(encoding="utf-8").splitlines()
    fields = [dict(column.split(":", 1) for column in line.split("\t")) for line in lines if line]
    ends = sum(line.get("episode_done") == "True" for line in fields)
    replies = sum("labels" in line or "eval_labels" in line for line in fields)
    loaded = load_dialogues(str(FIXTURES / "parlai.txt"))
    # The last episode ends with the file.
    assert counts(loaded) == (ends + 1, replies, "".join(lines).count("your persona:"), 1)
    assert loaded.quirks == {"further labels left out": 1, "message without a reply": 1, "silence dropped": 1}


def test_escapes_candidates_and_silence() -> None:
    one, two, three = load_dialogues(str(FIXTURES / "parlai.txt")).dialogues
    gold = "the one with the tomatoes ."
    assert one.turns[1] == Turn("self", gold, ("no .", gold, "maybe | not"))
    assert said(two) == [("self", "first line\nsecond line"), ("partner", "a\tb|c"), ("self", "yes | no")]
    assert said(three) == [("partner", "well ?"), ("self", "well ."), ("partner", "goodbye .")]


def test_lines_of_a_message_stay_together(tmp_path: Path) -> None:
    (dialogue,) = load(
        tmp_path, r"text:your persona: i ski.\nfirst\nsecond" + "\tlabels:yes\tepisode_done:True\n"
    ).dialogues
    assert (dialogue.persona, said(dialogue)[0]) == (("i ski.",), ("partner", "first\nsecond"))


def test_personas_that_each_message_repeats(tmp_path: Path) -> None:
    line = r"text:your persona: i ski.\nhi" + "\tlabels:yes\n"
    (dialogue,) = load(tmp_path, line * 3).dialogues
    assert (dialogue.persona, len(dialogue.turns)) == (("i ski.",), 6)


def test_the_opening_turns_of_blended_skill_talk(tmp_path: Path) -> None:
    text = (
        r"text:your persona: i ski.\nSkiing\nwhat now ?\nwe ski .\nwhere ?"
        + "\tlabels:up there .\tcontext_dataset:wizard_of_wikipedia\n"
    )
    loaded = load(
        tmp_path, text + "text:well .\tlabels:well .\tcontext_dataset:wizard_of_wikipedia\tepisode_done:True\n"
    )
    assert said(loaded.dialogues[0]) == [
        ("partner", "what now ?"), ("self", "we ski ."), ("partner", "where ?"), ("self", "up there ."),
        ("partner", "well ."), ("self", "well ."),
    ]  # fmt: skip
    assert loaded.quirks == {"topic or situation left out": 1}


def test_a_log_without_replies_is_refused_as_such(tmp_path: Path) -> None:
    line = "text:Hello\tlabels:__ok__\tepisode_done:True\tspeaker_to_eval:human\tbot_persona:your persona: i ski.\\n\n"
    with pytest.raises(FalconerError, match="a log of the messages to a bot, without its replies") as caught:
        load(tmp_path, line)
    assert "line 1: labels" in str(caught.value)


def test_the_bots_persona_in_a_field(tmp_path: Path) -> None:
    line = (
        r"text:Hello" + "\tlabels:Hi\tepisode_done:True\t" + r"bot_persona:your persona: i ski.\nyour persona: i cook."
    )
    assert load(tmp_path, line).dialogues[0].persona == ("i ski.", "i cook.")


@pytest.mark.parametrize(
    ("wrong", "field", "message"),
    [
        ("text:a\tlabels:b\tlabel_candidates:c|d", "label_candidates", "do not include the reply 'b'"),
        ("labels:b\treward:1", "text", "The line has 'labels', 'reward'"),
        ("text:a\tb\tlabels:c", "line", "not 'name:value'"),
        ("text:a", "labels", "no reply to learn"),
        (r"text:bot persona: i ski.\nhi" + "\tlabels:c", "text", "its label is unknown"),
        ("text: \tlabels: ", "labels", "no reply to learn"),
    ],
)
def test_bad_lines_leave_out_their_episode(tmp_path: Path, wrong: str, field: str, message: str) -> None:
    good = "text:hi\tlabels:hello\tepisode_done:True\n"
    loaded = load(tmp_path, f"{good}{wrong}\ntext:more\tepisode_done:True\n{good}", on_bad_row="skip")
    assert [(row.line, row.field) for row in loaded.bad_rows] == [(2, field)]
    assert message in loaded.bad_rows[0].message
    assert [said(dialogue) for dialogue in loaded.dialogues] == [[("partner", "hi"), ("self", "hello")]] * 2


# ParlAI's escapes leave a backslash as it is, so a text with one can't come back.
PLAIN = st.text(st.characters(codec="utf-8", exclude_characters="\\")).filter(lambda text: "__PIPE__" not in text)


@given(st.lists(PLAIN.map(str.strip).filter(bool), min_size=1))
def test_escaped_texts_come_back(texts: list[str]) -> None:
    def escape(text: str) -> str:
        return text.replace("\t", "\\t").replace("\n", "\\n").replace("|", "\\|")

    assert [_unescape(escape(text)) for text in texts] == texts
    assert _choices("|".join(map(escape, texts))) == texts


def test_counts_of_conversations_against_another_parse() -> None:
    rows = [json.loads(line) for line in (FIXTURES / "parlai_conversations.jsonl").read_text("utf-8").splitlines()]
    spoken = [pair[1]["text"] for row in rows for pair in row["dialog"]]
    loaded = load_dialogues(str(FIXTURES / "parlai_conversations.jsonl"))
    assert counts(loaded) == (len(rows), sum(text != "__SILENCE__" for text in spoken), 2 + 1 + 1, 1)
    assert loaded.quirks == {"silence dropped": 1}
    # Of two contexts, the first is that of the speaker who opens.
    assert (loaded.dialogues[2].persona, loaded.dialogues[2].partner_persona) == (("i sing.",), ("i cook.",))
    # A persona within the text is the reader's.
    assert said(loaded.dialogues[1])[0] == ("partner", "hello")


def test_acts_without_exchanges(tmp_path: Path) -> None:
    row = {"dialog": [{"id": "human", "text": "hi"}, {"id": "human", "text": "you ?"}, {"id": "model_2", "text": "yo"}]}
    loaded = load(tmp_path, [row, row])
    assert (loaded.format, said(loaded.dialogues[0])) == ("parlai", [("partner", "hi you ?"), ("self", "yo")])


def test_who_learns_in_a_conversation(tmp_path: Path) -> None:
    def acts(*names: str) -> list[dict[str, object]]:
        return [{"dialog": [[{"id": name, "text": name} for name in names]]}]

    assert said(load(tmp_path, acts("model", "human")).dialogues[0]) == [("self", "model"), ("partner", "human")]
    assert said(load(tmp_path, acts("x", "y")).dialogues[0]) == [("partner", "x"), ("self", "y")]
    good, wrong = acts("a", "b")[0], acts("a", "b", "c")[0]
    assert "has 3 speakers, 'a', 'b', 'c'" in bad(tmp_path, good, wrong)[0][2]


def test_bad_conversations(tmp_path: Path) -> None:
    good = {"dialog": [[{"id": "a", "text": "hi"}, {"id": "b", "text": "yo"}]]}
    check_bad(
        tmp_path,
        good,
        ({"dialog": [[{"id": "a", "text": "hi"}, "yo"]]}, "dialog[0][1]"),
        ({"dialog": [[{"id": "a"}]]}, "dialog[0][0].text"),
        ({"dialog": [[{"text": "hi"}]]}, "dialog[0][0].id"),
        ({"dialog": [[{"id": "a", "text": 4}]]}, "dialog[0][0].text"),
        ({"dialog": [[]]}, "dialog"),
    )


@pytest.mark.parametrize("mark", ["True", "true", "1", "yes", " True "])
def test_every_spelling_of_the_end(tmp_path: Path, mark: str) -> None:
    line = "text:hi\tlabels:hello\tepisode_done:"
    loaded = load(tmp_path, f"{line}False\n{line}{mark}\n{line}{mark}\n")
    assert [len(dialogue.turns) for dialogue in loaded.dialogues] == [4, 2]
