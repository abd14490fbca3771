"""Who spoke before a reply: kept through files, read as others write it, assumed only where nobody says it."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.errors import FalconerError
from falconer.evaluate.text.history import alternating, written
from falconer.evaluate.text.predictions import read_predictions, write_predictions
from falconer.records import Prediction, Turn

TWICE = (Turn("self", "hi"), Turn("self", "who is there ?"), Turn("partner", "me"), Turn("partner", "and my dog"))


def read(tmp_path: Path, history: Any) -> tuple[Turn, ...]:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prediction": "p", "reference": "r", "history": history}), encoding="utf-8")
    return read_predictions(path)[0].history


def test_two_turns_of_one_speaker_come_back_from_a_file(tmp_path: Path) -> None:
    rows = [Prediction("d", 4, "p", "r", (), TWICE)]
    write_predictions(rows, tmp_path / "a.jsonl")
    assert read_predictions(tmp_path / "a.jsonl") == rows
    assert json.loads((tmp_path / "a.jsonl").read_text(encoding="utf-8"))["history"][0] == {
        "speaker": "self", "text": "hi",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("who", "what", "names"),
    [
        ("speaker", "text", ("self", "partner")),
        ("role", "content", ("assistant", "user")),
        ("from", "value", ("gpt", "human")),
        ("speaker", "text", ("Bot", "USER")),
    ],
)
def test_turns_as_others_write_them(tmp_path: Path, who: str, what: str, names: tuple[str, str]) -> None:
    history = [{who: names[turn.speaker == "partner"], what: turn.text} for turn in TWICE]
    assert read(tmp_path, history) == TWICE


def test_a_table_holds_them_as_python_and_json_print_them(tmp_path: Path) -> None:
    for cell in (repr(written(TWICE)), json.dumps(written(TWICE))):
        quoted = cell.replace('"', '""')
        (tmp_path / "a.csv").write_text(f'prediction,reference,history\np,r,"{quoted}"\n', encoding="utf-8")
        assert read_predictions(tmp_path / "a.csv")[0].history == TWICE


def test_texts_alone_alternate_and_the_partner_spoke_last(tmp_path: Path) -> None:
    assert read(tmp_path, ["a", "b"]) == (Turn("self", "a"), Turn("partner", "b"))
    assert read(tmp_path, ["a", "b", "c"]) == (Turn("partner", "a"), Turn("self", "b"), Turn("partner", "c"))
    assert read(tmp_path, []) == read(tmp_path, None) == ()


@given(st.lists(st.text(max_size=3), min_size=1))
def test_the_last_is_always_the_partners(texts: list[str]) -> None:
    turns = alternating(texts)
    assert [turn.text for turn in turns] == texts and turns[-1].speaker == "partner"
    assert all(one.speaker != two.speaker for one, two in zip(turns, turns[1:], strict=False))


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ("hi", "field 'history' is text, not a list of turns"),
        ([1], "field 'history[0]' is a number, but other turns are objects"),
        ([{"speaker": "self", "text": "a"}, "b"], "field 'history[1]' is text, but other turns are objects"),
        ([{"speaker": "self"}], "field 'history[0]' has no speaker or no text; its keys are 'speaker'"),
        ([{"text": "a"}], "field 'history[0]' has no speaker or no text; its keys are 'text'"),
        ([{"speaker": "self", "text": 3}], "field 'history[0]' has no speaker or no text"),
        ([{"speaker": "selv", "text": "a"}], "field 'history[0]' is 'selv', an unknown role. Did you mean 'self'?"),
        ([{"role": "system", "content": "a"}], "field 'history[0]' is 'system', an unknown role"),
        ([{"speaker": "self", "text": "\ud800"}], "half of a surrogate pair"),
    ],
)
def test_what_names_no_speakers_is_refused(tmp_path: Path, history: Any, message: str) -> None:
    with pytest.raises(FalconerError) as caught:
        read(tmp_path, history)
    assert message in caught.value.message and "line 1" in caught.value.message
    assert caught.value.hint
