"""The prompt format of an adapter: as recorded, of an older version, of another program, damaged."""

import json

import pytest

from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.model.adapter_record import adapter_format


def test_another_program_records_none(tmp_path):
    assert adapter_format(tmp_path) is None


@pytest.mark.parametrize(
    ("record", "found"),
    [
        ({"text": "raw"}, PromptFormat(multi_line=True)),
        ({"text": "natural"}, PromptFormat(multi_line=True, is_spaced=False)),
        ({"prompt_format": {}}, PromptFormat()),
        ({"prompt_format": {"bos": "<s>", "multi_line": True}}, PromptFormat(bos="<s>", multi_line=True)),
    ],
)
def test_what_is_recorded(tmp_path, record, found):
    (tmp_path / "falconer.json").write_text(json.dumps(record))
    assert adapter_format(tmp_path) == found


@pytest.mark.parametrize("damage", [7, "x", None, {"bos": 1}, {"colour": "red"}, {"multi_line": "yes"}])
def test_a_damaged_one_is_refused(tmp_path, damage):
    (tmp_path / "falconer.json").write_text(json.dumps({"prompt_format": damage}))
    with pytest.raises(FalconerError, match=r"falconer\.json' is damaged: its prompt_format"):
        adapter_format(tmp_path)
