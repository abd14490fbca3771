"""Do commands that take settings say how a setting is written that was given as an option?"""

import pytest

from command_line import falconer


@pytest.mark.parametrize("command", ["plan", "train", "evaluate", "chat"])
def test_a_setting_that_is_written_as_an_option_is_explained(command: str) -> None:
    found = falconer(command, "--max-dialogues", "5")
    assert found.code == 2 and found.err.startswith("falconer: There is no option --max-dialogues.")
    assert "data.max_dialogues=" in found.err
