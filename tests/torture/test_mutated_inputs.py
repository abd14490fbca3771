"""A short campaign: mutated inputs of the kinds that need no model; and a failing one is found and made small."""

import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from mutated_inputs import Kind, attempt, campaign, smallest

NONE = dict.fromkeys(("data", "shown", "commands", "predictions", "presets", "overrides", "records", "models"), 0)


def test_a_short_campaign_finds_nothing(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(2**32)
    counts = NONE | {"data": 30, "predictions": 8, "presets": 60, "overrides": 60}
    results = campaign(counts, seed, tmp_path / "failing", 60)
    for kind in ("data", "predictions", "presets", "overrides"):
        assert results[kind]["failed"] == 0, (seed, kind, sorted((tmp_path / "failing").iterdir()))
        assert results[kind]["read"] + results[kind]["refused"] == results[kind]["inputs"] == counts[kind]


def test_a_failing_input_is_found_and_made_small() -> None:
    def read(content: bytes) -> str:
        if b"bad" in content:
            raise KeyError("a bug")
        return "read"

    kind = Kind(lambda dice: b"", read)
    assert attempt(kind, b"good") == ""
    assert "KeyError" in attempt(kind, b"x" * 500 + b"bad" + b"y" * 500)
    assert smallest(kind, b"x" * 500 + b"bad" + b"y" * 500) == b"bad"
