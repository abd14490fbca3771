"""What a sweep trains, and what it refuses."""

import pytest

from falconer.config import Config, load
from falconer.errors import FalconerError
from falconer.sweep.plan import Search, better, make_plan, settings_of
from falconer.sweep.ranges import Range


def plan(*overrides, **changed):
    return make_plan(None, overrides, **{"num_seeds": 2, "by": "word_ppl", "keep": None, "resamples": 100} | changed)


def test_every_value_with_every_other():
    found = plan("train.learning_rate=1e-4,2e-4", "lora.r=8,16", "train.epochs=1", "train.seed=3")
    assert [one.name for one in found.settings] == [
        "train.learning_rate=1e-4 lora.r=8", "train.learning_rate=1e-4 lora.r=16",
        "train.learning_rate=2e-4 lora.r=8", "train.learning_rate=2e-4 lora.r=16",
    ]  # fmt: skip
    assert found.seeds == (3, 4)
    config = found.config(found.settings[1], 4)
    assert (config.train.learning_rate, config.lora.r, config.train.epochs, config.train.seed) == (1e-4, 16, 1, 4)


def test_free_text_is_given_once_for_each_value():
    found = plan("lora.targets=all-linear", "lora.targets=query_key_value,dense", "lora.r=4", "lora.r=8")
    assert found.axes == {"lora.targets": ("all-linear", "query_key_value,dense"), "lora.r": ("4", "8")}


def test_a_part_of_the_training():
    found = plan("lora.r=4,8", "train.epochs=2", "train.max_steps=10")
    config = found.config(found.settings[0], 17, 1 / 4)
    assert (config.train.epochs, config.train.max_steps) == (0.5, 2)
    assert found.config(found.settings[0], 17).train.max_steps == 10


def test_settings_make_the_configuration_again():
    config = load("falcon-7b", ["train.max_steps=5", "data.valid=my file.jsonl", "model.revision=12e4567"])
    assert load(None, settings_of(config)) == config
    assert settings_of(Config()) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.epochs=2"], "No key has several values"),
        (["train.seed=1,2"], "train.seed can't vary in a sweep. Give the number of seeds with --seeds."),
        (["data.text=raw,natural"], "data.text can't vary"),
        (["data.train=a.jsonl", "data.train=b.jsonl"], "with data.valid=FILE, data.train may vary"),
        (["evaluate.top_k=1,2"], "evaluate.top_k can't vary"),
        (["train.learning_rate=1e-4,0.0001"], "train.learning_rate has the value 0.0001 twice"),
        (["lora.r=4,x"], "lora.r"),
        (["lora.rank=4,8"], "lora.rank"),
        (["train.warmup_share=0.1,3"], "train.warmup_share"),
    ],
)
def test_mistakes(overrides, message):
    with pytest.raises(FalconerError) as error:
        plan(*overrides)
    assert message in str(error.value)


def test_training_files_may_vary_beside_one_validation_file():
    assert len(plan("data.train=a.jsonl", "data.train=b.jsonl", "data.valid=v.jsonl").settings) == 2


def test_a_range_makes_it_a_search():
    found = plan("train.learning_rate=1e-4..1e-2:log", "lora.r=8..64:8", "lora.dropout=0,0.1", "train.seed=3")
    assert found.search == Search(
        {"train.learning_rate": Range(1e-4, 1e-2, is_log=True), "lora.r": Range(8, 64, is_whole=True, step=8)}, 20, 3, 3
    )
    assert found.axes == {"lora.dropout": ("0", "0.1")} and set(found.base) == {"train.seed=3"}
    assert found.keys == ["lora.dropout", "train.learning_rate", "lora.r"]


def test_a_number_of_trials_makes_lists_a_search():
    found = plan("lora.r=4,8,16", "lora.dropout=0,0.1", num_trials=5, num_finalists=2)
    assert found.search == Search({}, 5, 2, 17) and found.keys == ["lora.r", "lora.dropout"]


def test_two_dots_in_text_are_no_range():
    assert plan("data.train=../a.jsonl", "data.train=../b.jsonl", "data.valid=v.jsonl").search is None


@pytest.mark.parametrize(
    ("overrides", "changed", "message"),
    [
        (["lora.r=0..8"], {}, "lora.r='0' is not allowed. Allowed: whole number ≥ 1"),
        (["lora.dropout=0..1"], {}, "lora.dropout='1' is not allowed"),
        (["lora.r=8..64,128"], {}, "lora.r=8..64,128 is not one range"),
        (["lora.r=8..64", "lora.r=128"], {}, "lora.r=8..64,128 is not one range"),
        (["lora.r=64..8"], {}, "the low end of a range is below its high end"),
        (["lora.rank=8..64"], {}, "lora.rank"),
        (["model.dtype=bf16..fp32"], {}, "model.dtype='bf16..fp32' is not allowed"),
        (["train.seed=1..20"], {}, "train.seed can't vary in a sweep"),
        (["evaluate.top_p=0.1..0.9"], {}, "evaluate.top_p can't vary"),
        (["lora.r=8..12"], {"num_trials": 10}, "There are 5 settings, and a search of 10 trials tries more"),
        (["lora.r=8,9"], {"num_trials": 2}, "no --trials: all settings are trained then"),
        (["lora.r=8,9"], {"num_finalists": 2}, "--finalists is for a search"),
        (["train.epochs=1..3"], {"keep": 3}, "train.epochs can't vary in a search with --halving"),
    ],
)
def test_mistakes_in_a_search(overrides, changed, message):
    with pytest.raises(FalconerError) as error:
        plan(*overrides, **changed)
    assert message in str(error.value)


def test_figures():
    with pytest.raises(FalconerError, match="--by word_pl is not a figure"):
        plan("lora.r=4,8", by="word_pl")
    assert better("word_ppl", 10, 11) and better("f1", 11, 10) and not better("f1", 10, 10)
