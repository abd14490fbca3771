"""What the tests of this folder share: real replies, their scores, and a full report."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from falconer.evaluate.report.page import Report, Sample
from falconer.evaluate.text.baselines import baseline_replies
from falconer.evaluate.text.history import alternating
from falconer.evaluate.text.metrics import signatures, text_score
from falconer.evaluate.text.predictions import read_predictions
from falconer.records import Prediction, Score
from falconer.run.metrics import Bounded, Difference, Ranking, Slice

FIXTURE = Path(__file__).parent / "fixtures" / "lmedr_200.jsonl.gz"
HOSTILE = "<script>alert(1)</script> & \"q\" 's' | *b* `c` [l](javascript:x) <|endoftext|> {{ 7 * 7 }}"
# A grey pixel: the report only has to carry the bytes.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b55"
    "0000000a49444154789c636800000082008177cd72b60000000049454e44ae426082"
)


@pytest.fixture(scope="session")
def rows() -> list[Prediction]:
    return read_predictions(FIXTURE)


@pytest.fixture(scope="session")
def scores(rows: list[Prediction]) -> dict[str, Score]:
    """The real scores of LMEDR's replies ("tuned"), of the gold reply before ("base"), of the baselines and of gold."""
    references = [row.reference for row in rows]
    texts = {"base": references[-1:] + references[:-1], "tuned": [row.prediction for row in rows], "gold": references}
    found = {name: text_score(replies, references) for name, replies in (texts | baseline_replies(rows)).items()}
    found["base"] = replace(found["base"], word_ppl=213.5, token_ppl=140.3, bits_per_char=1.79, ended_share=2.5)
    found["tuned"] = replace(found["tuned"], word_ppl=42.7, token_ppl=24.3, bits_per_char=1.252, ended_share=99.5)
    return found


@pytest.fixture
def make_report(rows: list[Prediction], scores: dict[str, Score]) -> Callable[..., Report]:
    """A function that gives a full report, with any of its fields replaced."""
    samples = [
        Sample(row.dialogue_id, row.turn, row.persona, row.history, row.reference, "", row.prediction)
        for row in rows[::10]
    ]
    samples[0] = replace(samples[0], persona=[HOSTILE], history=alternating([HOSTILE]), gold=HOSTILE, tuned=HOSTILE)
    full = Report(
        title="Falcon-mini on Persona-Chat",
        base=scores["base"],
        tuned=scores["tuned"],
        baselines={name: scores[name] for name in ("constant", "echo", "persona")},
        signatures=signatures(),
        settings={"model": "falcon-mini", "prompt hash": "9a0c11e2", "hostile <b>": HOSTILE},
        samples=samples,
        curve_png=PNG,
        sample_chat=[("hello , how are you ?", "i am good . you ?"), (HOSTILE, "what ?")],
        command="falconer evaluate --run runs/quickstart",
        notes=["200 replies only.", HOSTILE],
        gold=scores["gold"],
        sample_seed=17,
        chat_persona=["i like to run."],
    )
    return lambda **changes: replace(full, **changes)


@pytest.fixture
def make_whole_report(
    make_report: Callable[..., Report], rows: list[Prediction], scores: dict[str, Score]
) -> Callable[..., Report]:
    """A function that gives a report in which every part is shown; base says what was gold one turn earlier."""
    before = rows[-1:] + rows[:-1]
    base = [replace(row, prediction=one.reference, ended=False) for row, one in zip(rows, before, strict=True)]
    tuned = [replace(row, ended=True) for row in rows]
    tuned[0] = replace(
        tuned[0], prediction=HOSTILE, reference=HOSTILE, persona=(HOSTILE,), history=alternating([HOSTILE])
    )
    base[0] = replace(tuned[0], prediction="</script><img src=x onerror=alert(1)>")
    base[5] = replace(base[5], prediction=tuned[5].prediction)
    steps: list[dict[str, float]] = [
        {"step": i, "loss": 4 - i / 100 + 0.3 * (i % 3), "lr": 1e-3, "epoch": i / 60} for i in range(1, 121)
    ]
    steps += [{"step": 60, "valid_loss": 3.4}, {"step": 120, "valid_loss": 2.9}]
    whole = make_report(
        predictions_base=base,
        predictions_tuned=tuned,
        steps=steps,
        intervals={
            "tuned": {"f1": (19.5, 24.25), "word_ppl": (40.0, 45.5)},
            "constant": {"f1": (13.0, 17.0)},
            "without persona": {"f1": (15.5, 19.5)},
            "gold": {"f1": (100.0, 100.0)},
        },
        tests=[
            Difference("f1", 0.0, 6.5, 4.25, 8.75, 0.0004, 0.002),
            Difference("word_ppl", 0.0, -170.8, -190.0, -150.0, 0.001, 0.003),
            Difference("rouge_l", 0.0, 0.5, -1.0, 2.0, 0.5, 0.5),
        ],
        ablations={"without persona": replace(scores["tuned"], f1=17.31)},
        slices=[
            Slice("gold", "question", 90, {"tuned": {"f1": Bounded(23.45, None, None)}}),
            Slice("gold", "statement", 110, {"tuned": {"f1": Bounded(19.0, 16.5, 21.75)}}),
        ],
        legacy={"base": {"parlai_bleu_4": 0.12}, "tuned": {"parlai_bleu_4": 1.56}},
        ranking=Ranking(5.0, 48.2, 200),
    )
    return lambda **changes: replace(whole, **changes)
