"""Altered contexts: what is taken away is gone, what is compared stays the same turn."""

from falconer.evaluate.ablations import ABLATIONS, altered, run_ablations
from falconer.evaluate.measure import Evaluated, reply_turns
from falconer.records import Dialogue, Likelihood, Prediction, Turn

TURNS = (Turn("partner", "hi"), Turn("self", "hello"), Turn("partner", "and ?"), Turn("self", "well"))
DIALOGUES = [Dialogue(f"d{i}", (f"line {'abcdefgh'[i]}",), TURNS) for i in range(6)] + [Dialogue("bare", (), TURNS)]


def test_no_persona_takes_only_the_persona() -> None:
    shown = altered(DIALOGUES, "no_persona", 17)
    assert shown is not None and not any(dialogue.persona for dialogue in shown)
    assert [dialogue.turns for dialogue in shown] == [TURNS] * 7


def test_no_history_leaves_each_reply_alone_in_the_same_order() -> None:
    shown = altered(DIALOGUES, "no_history", 17)
    assert shown is not None
    assert [d.turns[i].text for d, i in reply_turns(shown)] == [d.turns[i].text for d, i in reply_turns(DIALOGUES)]
    assert all(len(dialogue.turns) == 1 for dialogue in shown)
    assert shown[0].persona == ("line a",)


def test_everybody_gets_another_persona_that_the_seed_fixes() -> None:
    shown = altered(DIALOGUES, "shuffled_persona", 17)
    assert shown is not None and shown == altered(DIALOGUES, "shuffled_persona", 17)
    assert shown != altered(DIALOGUES, "shuffled_persona", 18)
    assert sorted(d.persona for d in shown) == sorted(d.persona for d in DIALOGUES)
    assert not any(new.persona == old.persona for new, old in zip(shown[:6], DIALOGUES, strict=False))
    assert shown[6].persona == ()


def test_the_same_persona_elsewhere_is_not_another_one() -> None:
    twins = [Dialogue("x", ("I ski .",), TURNS), Dialogue("y", ("i ski",), TURNS), Dialogue("z", ("i sing",), TURNS)]
    shown = altered(twins, "shuffled_persona", 1)
    assert shown is not None
    assert [dialogue.persona[0] for dialogue in shown[:2]] == ["i sing", "i sing"]
    assert altered(twins[:2], "shuffled_persona", 1) is None


def test_nothing_to_alter_is_left_out() -> None:
    bare = [Dialogue("x", (), (Turn("self", "hi"),))]
    assert [altered(bare, name, 1) for name in ABLATIONS] == [None] * 3


def test_rows_keep_their_true_context_and_only_shared_replies_count() -> None:
    def measure(name: str, shown: list[Dialogue]) -> Evaluated:
        turns = reply_turns(shown)
        rows = [Prediction(d.id, i, name, d.turns[i].text, d.persona) for d, i in turns]
        return Evaluated(rows, [Likelihood(1, 1, 1, 1, 1)] * len(turns), [d.id for d, _ in turns])

    true = [
        Prediction(d.id, i, "x", d.turns[i].text, d.persona, tuple(turn.text for turn in d.turns[:i]))
        for d, i in reply_turns(DIALOGUES)
    ]
    dropped = [None, *([Likelihood(1, 1, 1, 1, 1)] * (len(true) - 1))]
    found = run_ablations(measure, DIALOGUES, Evaluated(true, dropped, [row.dialogue_id for row in true]), 17)
    assert list(found) == list(ABLATIONS)
    for name, evaluated in found.items():
        assert {row.prediction for row in evaluated.predictions} == {name.replace("_", " ")}
        for field in ("dialogue_id", "turn", "reference", "persona", "history"):
            assert [getattr(row, field) for row in evaluated.predictions] == [getattr(row, field) for row in true]
        assert evaluated.likelihoods == dropped
