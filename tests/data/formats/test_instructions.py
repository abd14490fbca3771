"""Rows of one task and its answer: alpaca, prompt and completion, as texts and as messages."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from falconer.data.sources import Loaded, load_dialogues
from falconer.errors import FalconerError
from falconer.records import Turn

FIXTURES = Path(__file__).parents[1] / "fixtures"


def load(tmp_path: Path, *rows: dict[str, Any], **options: str) -> Loaded:
    path = tmp_path / "x.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    loaded = load_dialogues(str(path), **options)
    names = {name for row in rows for name in row}
    table = pyarrow.Table.from_pylist([dict.fromkeys(names) | row for row in rows])
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    assert load_dialogues(str(tmp_path / "x.parquet"), **options).dialogues == loaded.dialogues
    return loaded


def turns(loaded: Loaded) -> list[list[tuple[str, str]]]:
    return [[(turn.speaker, turn.text) for turn in dialogue.turns] for dialogue in loaded.dialogues]


def error_of(tmp_path: Path, row: dict[str, Any]) -> str:
    with pytest.raises(FalconerError) as caught:
        load(tmp_path, row)
    return str(caught.value)


def test_alpaca(tmp_path: Path) -> None:
    plain = {"instruction": "Translate.", "input": "", "output": "Ja.", "text": "### Instruction: ..."}
    loaded = load(
        tmp_path,
        plain,
        plain | {"input": "yes"},
        plain | {"instruction": "", "input": "yes", "system": "i help .", "history": [["a", "b"], ["c", "d"]]},
    )
    assert turns(loaded) == [
        [("partner", "Translate."), ("self", "Ja.")],
        [("partner", "Translate.\nyes"), ("self", "Ja.")],
        [("partner", "a"), ("self", "b"), ("partner", "c"), ("self", "d"), ("partner", "yes"), ("self", "Ja.")],
    ]
    assert loaded.format == "alpaca"
    assert [dialogue.persona for dialogue in loaded.dialogues] == [(), (), ("i help .",)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"instruction": "a", "output": ""}, "output is empty"),
        ({"instruction": "a", "output": None}, "output is null"),
        ({"instruction": "a", "response": "b"}, "output is missing. The row has 'instruction', 'response'"),
        ({"instruction": "", "input": "", "output": "b"}, "instruction is empty, and so is the input"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, "history[0] has 1 entries"),
        ({"prompt": "a", "completion": " "}, "completion is empty"),
        ({"prompt": [], "completion": "b"}, "prompt is empty"),
        ({"completion": "b"}, "prompt is missing"),
        ({"prompt": "a", "completion": "b", "label": False}, "label says whether the completion is desirable"),
        ({"prompt": "a", "completion": [{"role": "user", "content": "b"}]}, "completion contain no reply"),
        ({"prompt": "a", "completion": [{"role": "system", "content": "b"}]}, "completion contains a system message"),
    ],
)
def test_rows_that_miss_something(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    assert reason in error_of(tmp_path, row)


def test_prompt_and_completion_as_texts(tmp_path: Path) -> None:
    loaded = load(tmp_path, {"prompt": "hi\n", "completion": " hello", "id": "a"})
    assert turns(loaded) == [[("partner", "hi"), ("self", "hello")]]
    assert (loaded.format, loaded.dialogues[0].id, loaded.quirks) == ("completion", "a", {})


def test_prompt_and_completion_as_messages_learn_the_completion() -> None:
    loaded = load_dialogues(str(FIXTURES / "completion.jsonl"))
    story = load_dialogues(str(FIXTURES / "messages.jsonl"))
    for found, whole in zip(loaded.dialogues, story.dialogues, strict=True):
        # TRL's loss is on the completion alone: the replies in the prompt are context.
        learned = [
            replace(turn, is_learned=turn.speaker == "partner" or i == len(whole.turns) - 1)
            for i, turn in enumerate(whole.turns)
        ]
        assert (found.persona, list(found.turns)) == (whole.persona, learned)
    assert loaded.quirks == {"reply in a prompt kept as context": 3}
    assert loaded.num_replies == 2


def test_a_prompt_of_text_with_a_completion_of_messages(tmp_path: Path) -> None:
    answer = [
        {"role": "assistant", "content": "hello"},
        {"role": "user", "content": "bye"},
        {"role": "assistant", "content": "no", "weight": 0},
    ]
    loaded = load(tmp_path, {"prompt": "hi", "completion": answer})
    assert loaded.dialogues[0].turns == (
        Turn("partner", "hi"), Turn("self", "hello"), Turn("partner", "bye"), Turn("self", "no", is_learned=False),
    )  # fmt: skip
