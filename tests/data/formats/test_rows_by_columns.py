"""Lists of objects that a library stored column by column, or that a table holds as text."""

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from corpus_files import load
from falconer.data.sources import load_dialogues
from falconer.errors import FalconerError

SAID = ["hello , who are you ?", "the one with the tomatoes .", "do you live alone ?", "no , with my sister ."]
EXPECTED = [("self" if i % 2 else "partner", text) for i, text in enumerate(SAID)]
LISTS: list[tuple[str, dict[str, Any], str, list[dict[str, Any]]]] = [
    ("messages", {}, "messages", [{"role": ["user", "assistant"][i % 2], "content": t} for i, t in enumerate(SAID)]),
    ("sharegpt", {}, "conversations", [{"from": ["human", "gpt"][i % 2], "value": t} for i, t in enumerate(SAID)]),
    (
        "conv_ai_2",
        {"bot_profile": [["i grow tomatoes."]], "user_profile": [], "eval_score": 4, "dialog_id": "0x1"},
        "dialog",
        [{"id": i, "sender_class": ["Human", "Bot"][i % 2], "text": t} for i, t in enumerate(SAID)],
    ),
    (
        "transfertransfo",
        {"personality": ["i grow tomatoes."]},
        "utterances",
        [{"history": SAID[:n], "candidates": ["no .", SAID[n]]} for n in (1, 3)],
    ),
]


def said(path: Path, format: str) -> list[list[tuple[str, str]]]:
    loaded = load_dialogues(str(path))
    assert loaded.format == format
    return [[(turn.speaker, turn.text) for turn in dialogue.turns] for dialogue in loaded.dialogues]


@pytest.mark.parametrize(("format", "rest", "key", "objects"), LISTS)
def test_an_object_of_lists_is_a_list_of_objects(
    tmp_path: Path, format: str, rest: dict[str, Any], key: str, objects: list[dict[str, Any]]
) -> None:
    """As `datasets` stores what it calls a Sequence of objects; in JSON lines and in parquet."""
    columns = {name: [entry[name] for entry in objects] for name in objects[0]}
    loaded = load(tmp_path, [rest | {key: columns}])
    assert loaded.dialogues == load(tmp_path, [rest | {key: objects}]).dialogues
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([rest | {key: columns}] * 2), tmp_path / "x.parquet")
    assert said(tmp_path / "x.parquet", format) == [EXPECTED] * 2


@pytest.mark.parametrize("write", [repr, json.dumps])
@pytest.mark.parametrize(("format", "rest", "key", "objects"), LISTS)
def test_objects_in_the_cell_of_a_table(
    tmp_path: Path, write: Any, format: str, rest: dict[str, Any], key: str, objects: list[dict[str, Any]]
) -> None:
    names = [*rest, key]
    cells = [value if isinstance(value, str) else write(value) for value in [*rest.values(), objects]]
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in cells]
    (tmp_path / "x.csv").write_text(f"{','.join(names)}\n{','.join(quoted)}\n", encoding="utf-8")
    assert said(tmp_path / "x.csv", format) == [EXPECTED]


def test_lists_of_different_lengths_are_no_columns(tmp_path: Path) -> None:
    with pytest.raises(FalconerError, match="messages is an object; expected a list"):
        load(tmp_path, [{"messages": {"role": ["user", "assistant"], "content": ["hi"]}}] * 2)


def test_two_strings_without_a_comma_are_not_glued(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("persona,dialogue\ni ski.,\"[['hi' 'hello']]\"\n", encoding="utf-8")
    with pytest.raises(FalconerError, match="dialogue is text that isn't a list of strings"):
        load_dialogues(str(tmp_path / "x.csv"))
    (tmp_path / "x.csv").write_text("persona,dialogue\ni ski.,\"[['hi', 'it''s me']]\"\n", encoding="utf-8")
    with pytest.raises(FalconerError, match="dialogue is text that isn't a list of strings"):
        load_dialogues(str(tmp_path / "x.csv"))
    (tmp_path / "x.csv").write_text('persona,dialogue\ni ski.,"[[\'hi\', ""it\'s me""]]"\n', encoding="utf-8")
    assert said(tmp_path / "x.csv", "xpersona") == [[("partner", "hi"), ("self", "it's me")]]
