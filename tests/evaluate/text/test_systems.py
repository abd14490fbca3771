"""Gold and the baselines as systems, and what a reader must know of figures on some turns."""

from dataclasses import replace

import pytest

from falconer.evaluate.text.metrics import score_predictions
from falconer.evaluate.text.systems import baseline_systems, bootstrap_facts, caveats_of, gold_system, system_of
from falconer.records import Prediction, Ranks


def test_a_systems_score_is_that_of_its_predictions(rows: list[Prediction]) -> None:
    assert system_of("x", rows).score == score_predictions(rows)
    assert gold_system(rows, "en").score.bleu == 100


def test_baselines_answer_the_same_turns_without_what_is_withheld(rows: list[Prediction]) -> None:
    found = baseline_systems(rows, "en", {"chrf"})
    assert list(found) == ["constant", "echo", "persona"]
    for name, system in found.items():
        assert [row.reference for row in system.predictions] == [row.reference for row in rows], name
        assert system.score.chrf is None and system.score.bleu is not None
    assert found["constant"].score.bleu == pytest.approx(1.5539, abs=1e-4)


def test_english_replies_need_no_caveat(rows: list[Prediction]) -> None:
    caveats = caveats_of(gold_system(rows, "en"), [system_of("x", rows)])
    assert (caveats.withheld, caveats.not_measured, caveats.notes) == (frozenset(), {}, ())
    assert caveats.signatures["bleu"].startswith("nrefs:1|") and "legacy" in caveats.signatures


def test_few_dialogues_and_few_ranked_ones_are_told(rows: list[Prediction]) -> None:
    few = [replace(row, dialogue_id="one") for row in rows]
    (note,) = caveats_of(gold_system(few, "en"), [system_of("x", few)]).notes
    assert note.startswith("Too few dialogues (1)") and "at least 20 dialogues are needed" in note
    ranked = [replace(rows[0], ranks=Ranks(1, 1, 20)), *rows[1:]]
    (note,) = caveats_of(gold_system(ranked, "en"), [system_of("x", ranked)]).notes
    assert note.startswith("hits@1 was measured in only 1 dialogue:")


def test_other_languages_have_no_constant_reply(rows: list[Prediction]) -> None:
    gold = gold_system(rows, "de")
    assert any("The baseline “constant” is left out" in note for note in caveats_of(gold, []).notes)
    assert not any("baseline" in note for note in caveats_of(gold, [], has_baselines=False).notes)


def test_the_bootstrap_says_what_it_resampled(rows: list[Prediction]) -> None:
    facts = bootstrap_facts(system_of("x", rows), 500, 3)
    assert (facts.resamples, facts.seed, facts.unit, facts.num_dialogues, facts.num_replies) == (
        500,
        3,
        "dialogue",
        27,
        200,
    )
