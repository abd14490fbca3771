"""What is a run made of before its first step?"""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from transformers import MambaConfig

from falconer.data.prompt import PromptFormat
from falconer.data.splits import load_splits
from falconer.errors import FalconerError
from falconer.model.load import load_model
from falconer.records import Dialogue, Turn
from falconer.train import setup


def test_max_dialogues_chooses_by_the_seed(small):
    base = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu")

    def chosen(*overrides):
        config = small.config("data.max_dialogues=7", *overrides)
        examples = setup.encode_splits(setup.load_dialogues(config), base, config, PromptFormat())
        return [example.dialogue_id for example in examples.train], len(examples.valid)

    ids, num_valid = chosen()
    assert len(set(ids)) == 7 and num_valid == 6
    assert chosen() == (ids, num_valid) != chosen("train.seed=3")
    assert len(chosen("data.max_dialogues=1000")[0]) == 24


def test_no_example_is_longer_than_the_models_own_context(small):
    base = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu")
    assert setup.make_encoder(base, 100, PromptFormat()).max_tokens == 100
    assert setup.make_encoder(base, 100_000, PromptFormat()).max_tokens == base.model.config.max_position_embeddings
    without = SimpleNamespace(**{name: getattr(base, name) for name in ("tokenizer", "end_id", "stop_ids")})
    without.model = SimpleNamespace(config=MambaConfig())
    assert setup.make_encoder(without, 777, PromptFormat()).max_tokens == 777


def test_the_partners_turns_are_learned_but_not_validated_on(small):
    base = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu")
    plain, both = (
        setup.encode_splits(setup.load_dialogues(config), base, config, PromptFormat())
        for config in (small.config(), small.config("data.learned_turns=both"))
    )
    for one, other in zip(plain.train, both.train, strict=True):
        assert one.ids.tolist() == other.ids.tolist() and (one.is_target <= other.is_target).all()
        assert one.num_targets < other.num_targets
    for one, other in zip(plain.valid, both.valid, strict=True):
        assert one.is_target.tolist() == other.is_target.tolist()
    # What is said before a checkpoint leaves: whether it recites what it was trained on.
    said = setup.load_dialogues(small.config()).train[0].turns[0].text
    trained = [setup.load_dialogues(small.config(f"data.learned_turns={one}")).trained for one in ("self", "both")]
    assert [one.has_reply(said) for one in trained] == [False, True]


def test_what_had_to_be_cut_is_counted(small):
    base = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu")
    config = small.config("data.max_tokens=48")
    cut = setup.encode_splits(setup.load_dialogues(config), base, config, PromptFormat()).truncation
    assert 0 < cut.num_dialogues <= 24 and cut.num_replies < cut.num_turns


def test_the_text_style_reaches_every_split(small):
    splits = setup.load_dialogues(small.config("data.text=natural"))
    for split in (splits.train, splits.valid, splits.test):
        assert all(turn.text[0].isupper() for dialogue in split for turn in dialogue.turns)
    assert setup.load_dialogues(small.config()).train == load_splits(str(small.train), str(small.valid)).train


def format_of(*pairs):
    turns = [(Turn("partner", said), Turn("self", replied)) for said, replied in pairs]
    dialogues = tuple(Dialogue(str(number), (), pair) for number, pair in enumerate(turns))
    return setup.prompt_format(SimpleNamespace(train=dialogues), "")


def test_the_training_dialogues_decide_how_prompts_are_spelled():
    spaced = [("hi , you !", "i'm ok ."), ("what's up ?", "not much .")]
    assert format_of(*spaced).is_spaced
    assert not format_of(("Hi, you!", "I'm OK."), ("What's 3-2*4?", "See https://ex.org")).is_spaced
    # No punctuation that could be spaced, in whatever script, is no sign of Persona-Chat.
    assert not format_of(("你好，你今天好吗？", "我很好。"), ("hi there", "hello")).is_spaced
    assert not format_of(*spaced, ("Hello!", "Good day."), ("Sure.", "Fine.")).is_spaced


def test_how_persona_lines_end_is_noticed():
    def of(*lines):
        turns = (Turn("partner", "hi ."), Turn("self", "hi ."))
        return setup.prompt_format(SimpleNamespace(train=[Dialogue("d", lines, turns)]), "").joins_persona_end

    assert of("i sing , too.", "i ski.", "i run .")
    assert not of("i sing , too .", "i ski.", "i run !")
    assert of("i sing", "no marks")
    assert of()


def test_replies_of_several_lines_are_noticed():
    assert not format_of(("two\nlines", "one line\n"), ("a", "b")).multi_line
    assert format_of(("a", "b"), ("how ?", "1 .\n2 .")).multi_line


def test_replies_that_quote_a_dialogue_are_noticed():
    assert not format_of(("so ?\nUser: no", "The User: field\nis empty."), ("a", "b")).quotes_tags
    found = format_of(("a", "b"), ("how ?", "So:\n\n  User: hi\nAssistant: hello"))
    assert found.multi_line and found.quotes_tags
    assert "may begin with a tag such as 'User:'" in setup.in_words(found)


def test_nothing_is_left_to_train_on_where_nothing_fits(small):
    config = small.config("data.max_tokens=32", "data.on_bad_row=skip")
    splits = setup.load_dialogues(config)
    long = tuple(replace(d, persona=("i like dogs and cats and horses " * 9,)) for d in splits.train)
    base = load_model(str(small.model), quantization="none", dtype="fp32", device="cpu")
    with pytest.raises(FalconerError, match="All 24 training dialogues were skipped.* 32 tokens") as caught:
        setup.encode_splits(replace(splits, train=long), base, config, PromptFormat())
    assert "data.max_tokens" in caught.value.hint


def old_run(small, folder, *overrides):
    """Train for a step, and make the record what versions wrote that kept neither format nor hashes of dialogues."""
    small.run(folder, "train.max_steps=1", *overrides)
    record = json.loads((folder / "run.json").read_text())
    del record["prompt_format"]
    (folder / "run.json").write_text(json.dumps(record))
    (folder / "splits.json").unlink()
    (folder / "manifest.json").unlink()
    return small.config("train.max_steps=1", *overrides)


def test_what_an_earlier_version_did_not_record_is_told_by_its_dialogues(small, tmp_path):
    rows = [
        {"id": str(number), "persona": [f"I live in {number}."], "turns": [
            {"speaker": "partner", "text": "How?"}, {"speaker": "self", "text": f"Take {number}:\nUser: (well)."}
        ]} for number in range(9)
    ]  # fmt: skip
    data = tmp_path / "own.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = old_run(small, tmp_path / "old", f"data.train={data}", f"data.valid={data}")
    found = setup.recorded_format(tmp_path / "old", config)
    assert (found.bos, found.multi_line, found.quotes_tags, found.is_spaced) == ("", True, True, False)
    # Natural text was made by the rules of English, whatever its language.
    natural = config.model_copy(update={"data": config.data.model_copy(update={"text": "natural"})})
    assert setup.recorded_format(tmp_path / "old", natural).language == "en"
    # Where the data is gone, it is taken for what most data was.
    data.unlink()
    assert setup.recorded_format(tmp_path / "old", config) == PromptFormat(is_spaced=True)


@pytest.mark.parametrize("damage", [7, "x", {"bos": 1}, {"unknown": True}, {"multi_line": "yes"}, None])
def test_a_damaged_record_of_the_prompts_is_refused(small, tmp_path, damage):
    (tmp_path / "run.json").write_text(json.dumps({"prompt_format": damage}))
    with pytest.raises(FalconerError, match=r"run\.json' is damaged.*prompt_format") as caught:
        setup.recorded_format(tmp_path, small.config())
    assert "Restore" in caught.value.hint
