"""The glossary says what was measured of agreement with people."""

import json
from pathlib import Path

from falconer.evaluate.report.people import people_note
from falconer.evaluate.report.score_table import METRICS

RESULTS = Path(__file__).parents[3] / "benchmarks" / "results" / "human-ratings.json"


def test_each_note_says_what_the_results_say():
    sets = json.loads(RESULTS.read_text(encoding="utf-8"))["sets"]
    quality, coherence = sets["usr"]["metrics"], sets["grade"]["metrics"]
    assert {one["num_replies"] for one in quality.values()} == {180}
    assert {one["num_replies"] for one in coherence.values()} == {600}
    noted = {metric.key for metric in METRICS if people_note(metric.key)}
    assert noted == set(quality)
    for key in noted:
        for found in filter(None, (quality[key], coherence.get(key))):
            low, high = found["spearman_interval"]
            shown = f"{found['spearman']:.2f} (95 %: {low:.2f} to {high:.2f})".replace("-", "−")
            assert shown in people_note(key)


def test_a_note_is_a_part_of_the_definition():
    by_key = {metric.key: metric for metric in METRICS}
    assert "180 replies rated for quality, 0." in by_key["f1"].explained
    assert "600 rated" not in by_key["persona_use"].explained
    assert by_key["word_ppl"].explained == by_key["word_ppl"].meaning
