"""Systems on the same turns are tested, others refused with the first difference named."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from falconer.data.text import natural
from falconer.errors import FalconerError
from falconer.evaluate.text.baselines import baseline_rows, replies_in_place
from falconer.evaluate.text.compare import aligned, comparison, read_systems, sacrebleu_test
from falconer.evaluate.text.history import alternating
from falconer.evaluate.text.predictions import write_predictions
from falconer.evaluate.text.systems import System, system_of
from falconer.records import Likelihood, Prediction, Ranks
from many_languages import REPLIES

CONSTANT = "i am doing well . how are you ?"


def others(rows: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    golds = [row.reference for row in rows]
    return {
        "constant": replies_in_place(rows, [CONSTANT] * len(rows)),
        "shift": replies_in_place(rows, golds[-1:] + golds[:-1]),
    }


def test_sacrebleus_own_test_equals_its_command_line(rows: list[Prediction]) -> None:
    """`sacrebleu ref.txt -i const.txt hyp.txt shift.txt --paired-bs -lc --force -f json` (2.6.0).

    It printed p 0.000999000999000999 and 0.0939060939060939; shift.txt held the gold reply before each.
    """
    some = others(rows)
    systems = [system_of(name, group) for name, group in (("c", some["constant"]), ("l", rows), ("s", some["shift"]))]
    found = sacrebleu_test(systems)
    assert found.p == {"l": pytest.approx(1 / 1001), "s": pytest.approx(0.0939060939060939)}
    assert found.signature.startswith("nrefs:1|bs:1000|seed:12345|case:lc")


def test_sacrebleus_smallest_p_for_equal_systems_is_not_passed_on(rows: list[Prediction]) -> None:
    assert sacrebleu_test([system_of("a", rows), system_of("b", rows)], resamples=100).p == {"b": None}


def test_sacrebleus_test_is_left_out_where_it_would_need_too_much_memory(rows: list[Prediction]) -> None:
    found = sacrebleu_test([system_of("a", rows), system_of("b", rows)], resamples=1_000_000)
    assert found.skipped == "it holds all resamples in memory at once, here 9 GiB" and not found.p


def test_a_comparison_is_one_json_object(rows: list[Prediction]) -> None:
    some = others(rows)
    systems = [system_of("constant", some["constant"]), system_of("lmedr", rows), system_of("again", some["constant"])]
    found = json.loads(json.dumps(comparison(systems, resamples=200).to_json(), allow_nan=False))
    assert found["baseline"] == "constant" and set(found["systems"]) == {"constant", "lmedr", "again"}
    assert found["systems"]["lmedr"]["score"]["bleu"] == pytest.approx(5.391, abs=5e-4)
    low, high = found["systems"]["lmedr"]["intervals"]["bleu"]
    assert low < 5.391 < high
    tests = {test["metric"]: test for test in found["tests"]["lmedr"]}
    assert tests["bleu"]["difference"] == pytest.approx(5.391 - 1.5539, abs=1e-3)
    # Twenty tests that are corrected together take a hundred resamples each, however few were asked for.
    assert tests["bleu"]["p"] == pytest.approx(1 / 2001) and tests["bleu"]["p"] < tests["bleu"]["p_holm"]
    assert all(test["p_holm"] == 1 for test in found["tests"]["again"])
    assert found["bootstrap"] == {
        "resamples": 200, "seed": 17, "unit": "dialogue", "level": 95, "num_dialogues": 27, "num_replies": 200,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "another one"}, "in row 3, reference is '.*' in the first and 'another one' in the second"),
        ({"persona": ("i sing .",)}, "in row 3, persona is .* in the first and 'i sing .' in the second"),
        ({"history": alternating(["hm ?"])}, "in row 3, history is 'partner: .*' in the first and 'partner: hm .'"),
    ],
)
def test_the_first_difference_is_named(rows: list[Prediction], change: dict[str, object], message: str) -> None:
    changed = [*rows[:2], replace(rows[2], **change), *rows[3:]]  # type: ignore[arg-type]
    with pytest.raises(FalconerError, match=f"'a' and 'b' do not reply to the same turns: {message}"):
        aligned([system_of("a", rows[:10]), system_of("b", changed[:10])])


def test_fewer_replies_are_refused(rows: list[Prediction]) -> None:
    with pytest.raises(FalconerError, match="'a' has 10 replies and 'b' has 9; the first 9 are to the same turns"):
        aligned([system_of("a", rows[:10]), system_of("b", rows[:9])])


def test_a_file_that_tells_less_takes_its_dialogues_from_the_other(rows: list[Prediction]) -> None:
    bare = [Prediction(str(i), 0, row.prediction, row.reference) for i, row in enumerate(rows)]
    for order in ((bare, rows), (rows, bare)):
        first, second = aligned([system_of(str(i), group) for i, group in enumerate(order)])
        assert (first.blocks[0].dialogues == second.blocks[0].dialogues).all()
        assert first.blocks[0].dialogues.max() == 26


def test_token_perplexity_is_compared_under_one_tokenizer_only(rows: list[Prediction]) -> None:
    def measured(num_tokens: int) -> list[Prediction]:
        return [replace(row, likelihood=Likelihood(30, 28, num_tokens, 9, 40)) for row in rows]

    def tested(first: int, second: int) -> set[str]:
        systems = [system_of("a", measured(first)), system_of("b", measured(second))]
        return {test["metric"] for test in comparison(systems, resamples=100).to_json()["tests"]["b"]}

    assert {"word_ppl", "token_ppl"} <= tested(10, 10)
    assert "token_ppl" not in tested(10, 11) and "word_ppl" in tested(10, 11)


def test_word_perplexities_of_different_words_are_not_compared(rows: list[Prediction]) -> None:
    """One model was measured on raw text, where punctuation stands alone, the other on another spelling of it."""

    def measured(num_words: int) -> System:
        likelihood = Likelihood(30, 28, 10, num_words, 40)
        return system_of(f"of {num_words}", [replace(row, likelihood=likelihood) for row in rows])

    again = replace(measured(9), name="again")
    same = comparison([measured(9), again], resamples=100).to_json()
    other = comparison([measured(9), measured(7)], resamples=100).to_json()
    assert "word_ppl" in {test["metric"] for test in same["tests"]["again"]}
    assert "word_ppl" not in {test["metric"] for test in other["tests"]["of 7"]}
    assert any("Word perplexity of 'of 7' is not tested" in note for note in other["notes"])
    assert not any("Word perplexity" in note for note in same["notes"])


def test_raw_and_natural_text_of_the_same_data_are_not_compared(rows: list[Prediction]) -> None:
    restyled = [replace(row, reference=natural(row.reference)) for row in rows]
    with pytest.raises(FalconerError, match="in row 1, reference .* data.text=raw and natural"):
        aligned([system_of("raw", rows), system_of("natural", restyled)])


def test_other_gold_replies_are_other_questions(rows: list[Prediction]) -> None:
    more = [replace(row, other_references=("me too",)) for row in rows]
    with pytest.raises(FalconerError, match="in row 1, other_references is '' in the first and 'me too' in"):
        aligned([system_of("one", rows), system_of("several", more)])


@pytest.mark.parametrize(("number", "are_tested"), [(19, False), (20, True)])
def test_few_dialogues_are_not_tested(rows: list[Prediction], number: int, are_tested: bool) -> None:
    kept = [replace(row, dialogue_id=str(i)) for i, row in enumerate(rows[:number])]
    constant = replace_all(kept, CONSTANT)
    found = comparison([system_of("a", kept), system_of("b", constant)], resamples=100).to_json()
    assert bool(found["tests"]["b"]) is are_tested
    assert ("p" in found["sacrebleu"]) is are_tested
    assert any(f"Too few dialogues ({number})" in note for note in found["notes"]) is not are_tested
    assert found["systems"]["b"]["intervals"]["f1"]  # there, and marked where it is shown


@pytest.mark.parametrize(("number", "are_tested"), [(19, False), (20, True)])
def test_a_figure_measured_in_few_dialogues_alone_is_not_tested(
    rows: list[Prediction], number: int, are_tested: bool
) -> None:
    """Quickstart ranks the candidates of 40 turns, which are 5 of its 31 dialogues."""
    kept = [replace(row, dialogue_id=str(i)) for i, row in enumerate(rows[:40])]
    first, second = (
        [replace(row, ranks=Ranks(rank, rank, 20)) if i < number else row for i, row in enumerate(some)]
        for some, rank in ((kept, 1), (replace_all(kept, CONSTANT), 2))
    )
    found = comparison([system_of("a", first), system_of("b", second)], resamples=100).to_json()
    tested = {row["metric"] for row in found["tests"]["b"]}
    assert "f1" in tested and ("hits_1" in tested) is are_tested
    assert any(f"hits@1 was measured in only {number} dialogues" in note for note in found["notes"]) is not are_tested


def replace_all(rows: Sequence[Prediction], text: str) -> list[Prediction]:
    return replies_in_place(rows, [text] * len(rows))


def test_systems_in_chinese_are_compared_by_characters(tmp_path: Path) -> None:
    texts = REPLIES["zh"] * 3
    gold = [Prediction(str(i), 0, text, text) for i, text in enumerate(texts)]
    write_predictions(gold, tmp_path / "gold.jsonl")
    write_predictions([replace(row, prediction=row.prediction[:-3]) for row in gold], tmp_path / "short.jsonl")
    found = comparison(read_systems([tmp_path / "gold.jsonl", tmp_path / "short.jsonl"]), resamples=100).to_json()
    tests = {test["metric"]: test for test in found["tests"]["short.jsonl"]}
    assert found["language"] == "Chinese (zh)" and "|tok:zh|" in found["signatures"]["bleu"]
    assert not any("floor" in note for note in found["notes"])  # a comparison has none
    assert tests["bleu"]["baseline"] == 100 and tests["f1"]["difference"] < -5
    assert "|tok:zh|" in found["sacrebleu"]["signature"] and found["sacrebleu"]["p"]["short.jsonl"] < 0.05
    with pytest.raises(FalconerError, match="Unknown language 'mandarin'"):
        read_systems([tmp_path / "gold.jsonl", tmp_path / "short.jsonl"], language="mandarin")


def test_without_words_bits_per_character_is_tested(tmp_path: Path) -> None:
    """Else nothing would say which of two models fits Chinese gold replies better."""
    rows = [Prediction(str(i), 0, text, text) for i, text in enumerate(REPLIES["zh"] * 3)]
    systems = []
    for name, nats in (("one", 40.0), ("two", 30.0)):
        measured = [
            replace(row, likelihood=Likelihood(nats, nats - 1, 9, len(row.reference.split()), len(row.reference)))
            for row in rows
        ]
        systems.append(system_of(name, measured, "zh"))
    found = comparison(systems, resamples=100).to_json()
    (test,) = [test for test in found["tests"]["two"] if test["metric"] == "bits_per_char"]
    assert test["difference"] < 0 and test["high"] < 0 and "word_ppl" in found["not_measured"]
    english = comparison([replace(system, language="de") for system in systems], resamples=100).to_json()["tests"][
        "two"
    ]
    assert {"word_ppl", "bits_per_char"} & {test["metric"] for test in english} == {"word_ppl"}
    other = replace(systems[1].blocks[0], columns={**systems[1].blocks[0].columns})
    other.columns["likelihood"] = other.columns["likelihood"] * (1, 1, 1, 1, 2)
    longer = comparison([systems[0], replace(systems[1], blocks=(other,))], resamples=100).to_json()
    assert "bits_per_char" not in {test["metric"] for test in longer["tests"]["two"]}


def test_runs_and_files_are_read_by_their_shortest_names(tmp_path: Path, rows: list[Prediction]) -> None:
    for name in ("one", "two"):
        write_predictions(rows[:5], tmp_path / name / "predictions-tuned.jsonl")
    file = tmp_path / "mine.jsonl"
    write_predictions(rows[:5], file)
    names = [system.name for system in read_systems([tmp_path / "one", tmp_path / "two", file])]
    assert names == ["one", "two", "mine.jsonl"]
    files = [tmp_path / name / "predictions-tuned.jsonl" for name in ("one", "two")]
    assert [system.name for system in read_systems(files)] == [str(Path(*file.parts[-2:])) for file in files]


def test_what_cannot_be_compared_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FalconerError, match="needs at least two systems"):
        read_systems([tmp_path])
    with pytest.raises(FalconerError, match="is named twice"):
        read_systems([tmp_path, tmp_path])
    (tmp_path / "run").mkdir()
    with pytest.raises(FalconerError, match=r"has no predictions-tuned\.jsonl, .*falconer evaluate --run"):
        read_systems([tmp_path / "run", tmp_path / "other"])


def test_baselines_lose_on_real_dialogues(rows: list[Prediction]) -> None:
    baselines = baseline_rows(rows)
    found = comparison(
        [system_of("lmedr", rows), *(system_of(name, group) for name, group in baselines.items())]
    ).to_json()
    for name in baselines:
        tests = {test["metric"]: test for test in found["tests"][name]}
        assert tests["f1"]["difference"] < 0 and tests["f1"]["p_holm"] < 0.05, name
