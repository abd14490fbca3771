"""What a row of messages, instructions or a prompt holds beside them: whose persona, and whether it is learned."""

from pathlib import Path
from typing import Any

import pytest

from corpus_files import bad, load

USER: dict[str, Any] = {"role": "user", "content": "hi"}
REPLY: dict[str, Any] = {"role": "assistant", "content": "hello"}
BESIDE = "persona beside the messages read"
ROWS: list[dict[str, Any]] = [
    {"messages": [USER, REPLY]},
    {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]},
    {"instruction": "hi", "input": "", "output": "hello"},
    {"prompt": "hi", "completion": "hello"},
    {"prompt": [USER], "completion": [REPLY]},
]


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize(
    ("beside", "expected"),
    [
        ({"system": "i ski.\ni sing."}, ("i ski.", "i sing.")),
        ({"system": [{"type": "text", "text": "i ski."}, {"type": "text", "text": "i sing."}]}, ("i ski.", "i sing.")),
        ({"system_message": "i ski."}, ("i ski.",)),
        ({"persona": ["i ski.", "i sing."]}, ("i ski.", "i sing.")),
        ({"persona": "i ski.\ni sing."}, ("i ski.", "i sing.")),
        ({"personality": ["i ski."]}, ("i ski.",)),
        ({"bot_persona": ["i ski."]}, ("i ski.",)),
        ({"system": "i ski.", "persona": ["i sing."]}, ("i ski.", "i sing.")),
        ({"persona": None, "system": ""}, ()),
    ],
)
def test_the_persona_is_never_dropped(
    tmp_path: Path, row: dict[str, Any], beside: dict[str, Any], expected: tuple[str, ...]
) -> None:
    loaded = load(tmp_path, [row | beside])
    (dialogue,) = loaded.dialogues
    assert (dialogue.persona, dialogue.partner_persona) == (expected, ())
    assert [(turn.speaker, turn.text) for turn in dialogue.turns] == [("partner", "hi"), ("self", "hello")]
    is_named = any(beside.get(key) for key in ("persona", "personality", "bot_persona"))
    assert loaded.quirks.get(BESIDE, 0) == is_named


@pytest.mark.parametrize("row", ROWS)
def test_the_partner_s_persona_too(tmp_path: Path, row: dict[str, Any]) -> None:
    (dialogue,) = load(tmp_path, [row | {"persona": ["i ski."], "partner_persona": ["i cook."]}]).dialogues
    assert (dialogue.persona, dialogue.partner_persona) == (("i ski.",), ("i cook.",))


def test_a_system_message_that_the_row_repeats_counts_once(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "i ski.\ni cook."}, USER, REPLY]
    (dialogue,) = load(tmp_path, [{"system": "i ski.\ni sing.", "messages": chat}]).dialogues
    assert dialogue.persona == ("i ski.", "i sing.", "i cook.")


@pytest.mark.parametrize("row", ROWS)
def test_two_personas_of_nobody_knows_whom(tmp_path: Path, row: dict[str, Any]) -> None:
    ((line, field, message),) = bad(tmp_path, row, row | {"personas": [["i ski."], ["i cook."]]})
    assert (line, field) == (2, "personas") and "'persona'" in message and "'partner_persona'" in message


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"is_learned": False}])
def test_a_row_that_is_marked_as_a_whole(tmp_path: Path, row: dict[str, Any], mark: dict[str, Any]) -> None:
    ((line, field, message),) = bad(tmp_path, row, row | mark)
    assert (line, field) == (2, next(iter(mark))) and "marked as not to be learned" in message


@pytest.mark.parametrize("beside", [{"weight": 0.5}, {"weight": 1}, {"train": True}, {"loss": 0.0}, {"weight": None}])
def test_other_figures_of_a_row_are_no_marks(tmp_path: Path, beside: dict[str, Any]) -> None:
    assert load(tmp_path, [ROWS[0] | beside]).num_replies == 1


def test_a_mask_that_means_two_things(tmp_path: Path) -> None:
    ((_, field, message),) = bad(tmp_path, ROWS[0], {"messages": [USER, REPLY | {"mask": 1}]})
    assert field == "messages[1].mask" and "'train': true or false" in message
