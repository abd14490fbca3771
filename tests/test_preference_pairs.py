"""Which pairs does each source give, and are sources that can't be used refused at once?"""

import json

import numpy as np
import pytest

from falconer import preference_pairs
from falconer.config import load
from falconer.data.encode import Encoder
from falconer.errors import FalconerError
from falconer.model.generate.cut import Reply
from falconer.model.tokenizer import load_tokenizer
from falconer.preference_pairs import Material, build_pairs, parse_sources
from falconer.records import Dialogue, Turn


def dialogue(name, persona, *texts):
    turns = [Turn(("partner", "self")[index % 2], text) for index, text in enumerate(texts)]
    return Dialogue(name, persona, tuple(turns))


TRAIN = [
    dialogue("t1", ("i ski .",), "hi !", "hello there .", "you ski ?", "yes , daily ."),
    dialogue("t2", ("i have dogs .",), "hey .", "my dogs bark ."),
    dialogue("t3", ("i cook .",), "what do you do ?", "soup and bread ."),
]
VALID = [dialogue("v1", ("i sing .",), "hi .", "la la ."), dialogue("v2", ("i run .",), "hi .", "so fast .")]


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    tokenizer, end_id = load_tokenizer("falcon-mini")
    encoder = Encoder(tokenizer.backend_tokenizer.to_str(), end_id, 256)
    return Material(TRAIN, VALID, tmp_path_factory.mktemp("run"), encoder, None, "en")


def built(names, material, *overrides, nli_model=None):
    config = load(None, [f"prefer.pairs={names}", *overrides])
    return build_pairs(parse_sources(names, nli_model), material, config, lambda *_: None)


def test_distractors_are_replies_of_other_personas_in_the_same_split(material):
    found = built("distractors", material).pairs
    assert [pair.is_validation for pair in found].count(True) == 2 and len(found) == 6
    replies = {one.id: {one.turns[index].text for index in one.replies} for one in (*TRAIN, *VALID)}
    for pair in found:
        assert pair.source == "distractors" and pair.chosen in replies[pair.dialogue_id]
        owner = next(name for name, texts in replies.items() if pair.rejected in texts)
        assert owner != pair.dialogue_id and owner[0] == pair.dialogue_id[0]
        shown = next(one for one in (*TRAIN, *VALID) if one.id == pair.dialogue_id)
        assert [turn.text for turn in pair.history] == [turn.text for turn in shown.turns[: pair.turn]]
    assert built("distractors", material).pairs == found, "the seed decides"
    assert built("distractors", material, "train.seed=3").pairs != found


def test_the_number_of_pairs_is_limited(material):
    found = built("distractors", material, "prefer.max_pairs=2").pairs
    assert [pair.is_validation for pair in found] == [False, False, True]


def test_own_replies_that_repeat_lose_against_gold(material, monkeypatch):
    said = {
        ("t1", 1): "i ski and i ski and i ski and", ("t1", 3): "hello there", ("t2", 1): "a good dog .",
        ("t3", 1): "what do you do ?", ("v1", 1): "no no no no no no", ("v2", 1): "ok .",
    }  # fmt: skip

    def predict(engine, turns, decoding, **_):
        assert engine is not None
        return {number: Reply(said[dialogue.id, index], True) for number, (dialogue, index) in turns.items()}

    class Engine:
        encoder = material.encoder

    monkeypatch.setattr(preference_pairs, "predict", predict)
    with_engine = Material(TRAIN, VALID, material.run, material.encoder, Engine(), "en")
    found = built("repetitions", with_engine).pairs
    # A phrase that is said twice, and an own earlier turn; copying the partner is no repetition.
    assert {(pair.dialogue_id, pair.turn) for pair in found} == {("t1", 1), ("t1", 3), ("v1", 1)}
    assert all(pair.rejected == said[pair.dialogue_id, pair.turn] for pair in found)


def test_of_sampled_replies_the_best_wins_over_the_worst(material, monkeypatch):
    said = {
        ("t1", 1): ["there .", "", "no ."], ("t1", 3): ["yes", "yes", "yes"],
        ("t2", 1): ["cats", "my dogs bark", "dogs"], ("t3", 1): ["", "", "bread"],
        ("v1", 1): ["ok", "la .", "la la ."], ("v2", 1): ["a", "b", "c"],
    }  # fmt: skip
    asked = []

    def predict(engine, turns, decoding, **_):
        asked.append(decoding)
        assert list(turns) == list(range(len(turns)))
        return {n: Reply(said[dialogue.id, index][n % 3], True) for n, (dialogue, index) in turns.items()}

    class Engine:
        encoder = material.encoder

    monkeypatch.setattr(preference_pairs, "predict", predict)
    with_engine = Material(TRAIN, VALID, material.run, material.encoder, Engine(), "en")
    own = ("prefer.num_samples=3", "prefer.gold_share=1", "evaluate.num_beams=2", "evaluate.seed=5")
    found = built("samples", with_engine, *own).pairs
    # Where all are worth the same, as "yes" three times, or one is not empty, there is no pair.
    assert {(pair.dialogue_id, pair.chosen, pair.rejected, pair.is_validation) for pair in found} == {
        ("t1", "there .", "no .", False), ("t2", "my dogs bark", "cats", False), ("v1", "la la .", "ok", True),
    }  # fmt: skip
    assert {pair.source for pair in found} == {"samples"}
    assert [(one.seed, one.temperature, one.top_p, one.num_beams) for one in asked] == [(5, 1.0, 1.0, 1)] * 2
    limited = built("samples", with_engine, "prefer.num_samples=3", "prefer.max_pairs=1").pairs
    assert [pair.is_validation for pair in limited] == [False, True]


def test_replies_that_contradict_the_persona_lose_if_gold_does_not(material, monkeypatch):
    asked = []

    def classify(nli, pairs, batch_size, on_progress):
        asked.extend(pairs)
        # The dogs' reply contradicts whoever skis or cooks; t3's own gold reply contradicts its persona.
        bad = {("my dogs bark .", "i ski ."), ("my dogs bark .", "i cook ."), ("soup and bread .", "i cook .")}
        return np.array([-1 if pair in bad or pair == ("la la .", "i run .") else 0 for pair in pairs])

    monkeypatch.setattr(preference_pairs, "load_nli", lambda folder, device: None)
    monkeypatch.setattr(preference_pairs, "check_nli", lambda folder: None)
    monkeypatch.setattr(preference_pairs, "classify", classify)
    found = built("contradictions", material, "evaluate.nli_model=nli", nli_model="nli").pairs
    assert {(pair.dialogue_id, pair.rejected) for pair in found} == {("t1", "my dogs bark ."), ("v2", "la la .")}
    assert ("hello there .", "i ski .") in asked, "gold is judged, too"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def vote(persona, left, right, which):
    return {
        "persona": persona, "history": [{"speaker": "partner", "text": "Hi, what's up?"}],
        "replies": {"left": left, "right": right}, "left": "a", "right": "b", "vote": which,
    }  # fmt: skip


def test_votes_are_written_as_in_training_and_split_by_persona(material, tmp_path):
    rows = [
        vote(["I ski."], "I'm fine!", "No.", "left"), vote(["I sing."], "I don't know.", "La la!", "right"),
        vote(["I ski."], "Same.", "Same.", "left"), vote(["I ski."], "One.", "Two.", "tie"),
        vote(["I paint."], "Blue.", "Red.", "right"),
    ]  # fmt: skip
    path = write(tmp_path / "votes.jsonl", rows)
    found = built(f"votes:{path}", material)
    assert [(pair.chosen, pair.rejected, pair.is_validation) for pair in found.pairs] == [
        ("i'm fine !", "no .", False), ("red .", "blue .", False), ("la la !", "i don't know .", True),
    ]  # fmt: skip
    assert found.pairs[0].history[0].text == "hi , what's up ?" and found.pairs[0].source == "votes:votes.jsonl"
    assert found.notes == (f"2 votes in '{path}' are ties or between equal replies: left out",)
    assert len(found.voted) == 3


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("distractor", "Unknown source of pairs 'distractor'.*Did you mean 'distractors'"),
        ("", "names no source"), ("distractors,distractors", "one twice"), ("votes:", "votes without a file"),
        ("votes:/nowhere.jsonl", "no file '/nowhere.jsonl' with votes"),
        ("contradictions", "evaluate.nli_model names none.*evaluate.nli_model=FOLDER"),
    ],
)  # fmt: skip
def test_what_can_not_be_used_is_refused(names, message):
    with pytest.raises(FalconerError, match=message):
        parse_sources(names, None)


def test_contradictions_need_an_nli_model_that_can_be_read():
    with pytest.raises(FalconerError, match="is not a folder with config.json and safetensors weights"):
        parse_sources("contradictions", "/nowhere")


def test_without_pairs_to_validate_on_nothing_begins(material, tmp_path):
    path = write(tmp_path / "votes.jsonl", [vote(["I ski."], "One.", "Two.", "left")])
    with pytest.raises(FalconerError, match="1 pairs to train on and 0 to validate on"):
        built(f"votes:{path}", material)
