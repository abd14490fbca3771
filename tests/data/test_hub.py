"""A data set of the hub, without a hub: which splits it has, what is tried, and what is said where it can't be had."""

import json
from pathlib import Path

import datasets
import pytest

from falconer.data.sources import load_dialogues, open_source
from falconer.errors import FalconerError

FIXTURES = Path(__file__).parent / "fixtures"


def test_rows_and_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [json.loads(line) for line in (FIXTURES / "alekseykorshuk.jsonl").read_text(encoding="utf-8").splitlines()]
    splits = {"train": datasets.Dataset.from_list(rows), "validation": datasets.Dataset.from_list(rows[1:])}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, revision: datasets.DatasetDict(splits))
    assert open_source("AlekseyKorshuk/persona-chat").splits == ("train", "valid")
    loaded = load_dialogues("AlekseyKorshuk/persona-chat", split="valid")
    expected = load_dialogues(str(FIXTURES / "alekseykorshuk.jsonl")).dialogues[1]
    assert [dialogue.turns for dialogue in loaded.dialogues] == [expected.turns]
    assert (loaded.format, loaded.paths) == ("transfertransfo", ("AlekseyKorshuk/persona-chat",))
    assert loaded.sha256 == load_dialogues("AlekseyKorshuk/persona-chat", split="valid").sha256


def test_a_loading_script_is_never_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load_dataset(name: str, revision: str | None) -> datasets.DatasetDict:
        asked.append(revision)
        if revision is None:
            raise RuntimeError("Dataset scripts are no longer supported, but found personachat_truecased.py")
        row = {"turns": [{"speaker": "self", "text": "hi ."}], "persona": ["i ski ."]}
        return datasets.DatasetDict({"train": datasets.Dataset.from_list([row])})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert len(load_dialogues("bavard/personachat_truecased").dialogues) == 1
    assert asked == [None, "refs/convert/parquet"]


def test_without_a_connection_it_says_what_was_tried() -> None:
    # The suite runs with HF_HUB_OFFLINE=1, so this asks the real library and no server.
    with pytest.raises(FalconerError) as caught:
        load_dialogues("nobody/no-such-data-set")
    assert "'nobody/no-such-data-set' is not a local file, and it could not be loaded from the hub or its cache" in str(
        caught.value
    )
    assert "persona-chat-sample" in caught.value.hint
