"""Does `falconer plan` plan what it is asked to, and is docs/serving.md's table the command's?"""

from pathlib import Path

import pytest

from command_line import falconer, ok
from falconer import runtime

DOCS = Path(__file__).parents[1] / "docs" / "serving.md"


def test_the_command_prints_the_documented_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "hub_is_reachable", lambda timeout_s=3.0: False)
    table = ok("plan", "--serve", "--preset", "falcon-7b", "--markdown").out
    assert table.count("\n") == 14 and table in DOCS.read_text(encoding="utf-8")
    shown = ok("plan", "--serve", "--preset", "falcon-7b", "--slots", "8", "--adapters", "2").out
    assert "8 replies at the same time, 2 adapters:" in shown and "8 KiB for a token" in shown
    assert falconer("plan", "--serve", "--slots", "0").code == 2


def test_cards_that_are_not_here() -> None:
    shown = ok("plan", "--preset", "quickstart", "data.max_dialogues=50", "--card", "rtx-3090,l4").out
    assert "GeForce RTX 3090" in shown and "L4" in shown and "not measured" in shown
    assert "GeForce RTX 3090" in ok("plan", "--preset", "quickstart", "data.max_dialogues=50", "--card", "rtx-3090").out
    assert "no data of a card" in falconer("plan", "--card", "gtx").err
    both = falconer("plan", "--card", "l4", "--serve")
    assert both.code == 2 and "--serve and --card are both given" in both.err
