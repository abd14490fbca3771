"""What the page draws and lists is what the predictions and steps say, and survives any text."""

import json
import math
import statistics
from dataclasses import replace

import numpy as np
import pytest

from falconer.curves import moving_median
from falconer.evaluate.report import data as report_data
from falconer.evaluate.text.failures import FAILURES, find_failures
from falconer.evaluate.text.history import alternating
from falconer.evaluate.text.pairs import word_f1
from falconer.records import Prediction, Turn


def unpack(packed: dict) -> dict[str, list[Prediction]]:
    """Read `pack`'s lists back, as the page's script does."""
    systems: dict[str, list[Prediction]] = {name: [] for name in packed["systems"]}
    for context, turn, length, gold, *rest in packed["rows"]:
        dialogue_id, persona, texts, speakers = packed["contexts"][context]
        history = tuple(
            Turn("self" if letter == "s" else "partner", text)
            for letter, text in zip(speakers[:length], texts, strict=False)
        )
        for position, name in enumerate(packed["systems"]):
            said = rest[3 * position]
            systems[name].append(Prediction(dialogue_id, turn, said, gold, tuple(persona), history))
    return systems


@pytest.fixture
def base(rows: list[Prediction]) -> list[Prediction]:
    """Replies of a worse system: each says what was gold one turn earlier."""
    return [replace(row, prediction=before.reference) for row, before in zip(rows, rows[-1:] + rows[:-1], strict=True)]


def test_packing_loses_nothing_and_stores_each_dialogue_once(rows: list[Prediction], base: list[Prediction]) -> None:
    packed = report_data.pack({"base": base, "tuned": rows})
    assert packed
    plain = {name: [replace(row, ended=None) for row in each] for name, each in (("base", base), ("tuned", rows))}
    assert unpack(json.loads(report_data.wire_json(packed))) == plain
    assert len(packed["contexts"]) == len({row.dialogue_id for row in rows})
    [first] = packed["rows"][:1]
    assert first[-2] == round(10 * word_f1(rows[0].prediction, rows[0].reference))
    flags = {key for bit, (key, _) in enumerate(packed["failures"]) if first[-1] >> bit & 1}
    assert flags == find_failures(rows)[0]
    assert [key for key, _ in packed["failures"]] == [failure.key for failure in FAILURES]


def test_histories_that_do_not_continue_one_another_stay_apart() -> None:
    """Files of others hold what they like: windows of a history, or one id for everything."""
    windows = [("a", "b", "c"), ("b", "c", "d", "e"), ("a", "b", "c", "x"), ("a",), ()]
    rows = [Prediction("1", turn, "r", "g", ("p",), alternating(history)) for turn, history in enumerate(windows)]
    rows.append(replace(rows[0], persona=("q",)))
    # The same words by another speaker are another conversation.
    rows.append(replace(rows[0], history=tuple(Turn("partner", turn.text) for turn in rows[0].history)))
    packed = report_data.pack({"tuned": rows})
    assert packed
    assert unpack(packed)["tuned"] == rows


def test_the_fingerprint_changes_with_any_reply(rows: list[Prediction]) -> None:
    packed = report_data.pack({"tuned": rows})
    other = report_data.pack({"tuned": [*rows[:-1], replace(rows[-1], prediction="another")]})
    assert packed and other
    assert packed["fingerprint"] != other["fingerprint"]
    assert packed == report_data.pack({"tuned": rows})


def test_systems_with_other_contexts_are_refused(rows: list[Prediction], base: list[Prediction]) -> None:
    with pytest.raises(ValueError, match="row 3: the systems answered different contexts"):
        report_data.pack({"base": [*base[:2], replace(base[2], turn=99), *base[3:]], "tuned": rows})
    with pytest.raises(ValueError, match="zip"):
        report_data.pack({"base": base[:-1], "tuned": rows})
    assert report_data.pack({}) is None


def test_json_cannot_end_its_element() -> None:
    hostile = "</script><!-- <b> & \u2028 é"
    text = report_data.wire_json({"text": hostile})
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"text": hostile}
    with pytest.raises(ValueError, match="JSON"):
        report_data.wire_json(math.nan)


def test_f1_by_turn_is_the_mean_with_its_interval(rows: list[Prediction]) -> None:
    found = report_data.by_turn({"tuned": rows})["tuned"]
    third = [word_f1(row.prediction, row.reference) for row in rows if len(row.history) in (4, 5)]
    [(_, mean, low, high, count)] = [each for each in found if each[0] == 3]
    half = 1.96 * statistics.stdev(third) / math.sqrt(len(third))
    assert count == len(third) and mean == pytest.approx(statistics.fmean(third), abs=0.01)
    assert (low, high) == pytest.approx((mean - half, mean + half), abs=0.02)
    assert [each[0] for each in found] == sorted({each[0] for each in found})
    assert all(each[4] >= report_data.MIN_PER_TURN and 0 <= each[2] <= each[1] <= each[3] for each in found)
    assert report_data.by_turn({"tuned": rows[:8]}) == {}  # too few of each to draw


def test_lengths_are_shares_and_the_last_bin_takes_the_rest(rows: list[Prediction]) -> None:
    long = [replace(rows[0], prediction="word " * 500), *rows[1:]]
    found = report_data.lengths({"tuned": long})
    assert found and found["last"] < 100
    for name, texts in (("tuned", [row.prediction for row in long]), ("gold", [row.reference for row in long])):
        shares = found["shares"][name]
        assert len(shares) == found["last"] + 1 and sum(shares) == pytest.approx(100, abs=0.1)
        five = sum(len(text.split()) == 5 for text in texts)
        assert shares[5] == pytest.approx(100 * five / len(texts), abs=0.01)
    assert found["shares"]["tuned"][-1] >= 0.5  # one of 200
    assert report_data.lengths({}) is None


def test_worst_and_best_are_by_f1_then_by_how_much_there_was_to_say(rows: list[Prediction]) -> None:
    worst, best = report_data.extremes(rows)
    f1 = [word_f1(row.prediction, row.reference) for row in rows]
    assert len(worst) == len(best) == 10 and not set(worst) & set(best)
    assert [f1[i] for i in worst] == sorted(f1)[:10]
    assert [f1[i] for i in best] == sorted(f1, reverse=True)[:10]
    zeros = [len(rows[i].reference.split()) for i in worst if f1[i] == 0]
    assert len(zeros) > 1 and zeros == sorted(zeros, reverse=True)
    assert report_data.extremes(rows[:39]) == ([], [])


def step(number: int, loss: float, epoch: float = 0.0) -> dict[str, float]:
    return {"step": number, "loss": loss, "lr": 1e-3, "epoch": epoch}


def test_the_curve_is_that_of_the_picture() -> None:
    losses = [5 - 0.01 * i for i in range(200)]
    steps = [step(i + 1, loss, epoch=i / 100) for i, loss in enumerate(losses)]
    steps += [{"step": 100, "valid_loss": 4.5}, {"step": 200, "valid_loss": 4.2}, step(3, 9.0)]  # step 3 was repeated
    found = report_data.curve(steps)
    assert found and found["width"] == 11
    smooth = moving_median(np.array([*losses[:2], 9.0, *losses[3:]]), 11)
    assert found["train"][2] == [3, 9.0, round(float(smooth[2]), 4), 0.001]
    assert [row[0] for row in found["train"]] == list(range(1, 201))
    assert found["valid"] == [[100, 4.5], [200, 4.2]]
    assert found["epochs"] == [[101, 1]]
    assert report_data.curve([{"step": 1, "valid_loss": 3.0}]) is None


def test_a_long_run_keeps_its_ends_and_a_wild_loss_is_a_gap() -> None:
    found = report_data.curve([step(i + 1, math.nan if i == 0 else 3.0) for i in range(10_000)])
    assert found and len(found["train"]) <= report_data.MAX_CURVE_POINTS
    assert found["train"][0][:2] == [1, None] and found["train"][0][2] == 3.0
    assert found["train"][-1][0] == 10_000
    assert json.loads(report_data.wire_json(found)) == found
