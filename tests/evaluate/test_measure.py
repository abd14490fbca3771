"""Perplexities against a token-by-token reference in float64, and replies in the order of the dialogues."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from falconer.data.encode import Encoder
from falconer.errors import FalconerError
from falconer.evaluate.dealing import ALONE
from falconer.evaluate.measure import (
    Limits,
    evaluate_model,
    measure_likelihood,
    predict,
    rank_gold,
    reply_turns,
    with_room,
)
from falconer.evaluate.text.baselines import baseline_rows
from falconer.evaluate.text.metrics import score_predictions, text_score
from falconer.evaluate.text.ranking import ranks
from falconer.model.engine import Decoding, Engine
from falconer.model.load import load_model
from falconer.model.lora import add_adapter, trainable_tensors
from falconer.records import Dialogue, Ranks, Turn
from tiny import save_tiny_model

DIALOGUES = [
    Dialogue(
        "a",
        ("i like dogs .", "i am 5 feet tall ."),
        (
            Turn("partner", "hi !"),
            Turn("self", "  hello , how are you ?  "),
            Turn("partner", "fine ."),
            Turn("self", "na\u00efve \U0001f600"),
            Turn("partner", "what ?"),
        ),
    ),
    Dialogue("b", (), (Turn("self", "i start"), Turn("partner", "and i go on for a good while"), Turn("self", "ok ."))),
    Dialogue("c", ("i sing .",), (Turn("partner", "<|endoftext|> ?"), Turn("self", "<|endoftext|> !"))),
]
REPLIES = ["hello , how are you ?", "na\u00efve \U0001f600", "i start", "ok .", "<|endoftext|> !"]


def ignore(what, done, total):
    pass


pytestmark = pytest.mark.usefixtures("one_thread")


class World:
    def __init__(self, folder):
        self.loaded = load_model(str(folder), quantization="none", dtype="fp32", device="cpu")
        self.model, self.tokenizer = self.loaded.model, self.loaded.tokenizer
        with torch.no_grad():
            for parameter in self.model.parameters():
                if parameter.dim() > 1:
                    parameter.mul_(3)
        self.encoder = Encoder(self.tokenizer.backend_tokenizer.to_str(), self.loaded.end_id, 300)
        self.engine = Engine(self.model, self.encoder, self.loaded.precision)

    def evaluate(
        self, dialogues=DIALOGUES, max_replies=None, engine=None, on_progress=ignore, max_ranked=None, dealing=ALONE
    ):
        return evaluate_model(
            engine or self.engine, dialogues, Decoding(max_new_tokens=6), Limits(max_replies, max_ranked, 3),
            on_progress, dealing,
        )  # fmt: skip

    def score(self, *args, **kwargs):
        return self.evaluate(*args, **kwargs).as_system("x").score


@pytest.fixture(scope="module", params=["falcon", "gpt2"])
def world(request, tmp_path_factory):
    return World(save_tiny_model(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture(scope="module")
def evaluated(world):
    return world.evaluate()


def logprob(model, ids, token):
    with torch.no_grad():
        return float(torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0, -1], dim=-1)[token])


def reference(world, dialogues=DIALOGUES):
    """Return, one by one, each reply's (negative log-likelihood, the same without its end token, number of tokens)."""
    model = world.model.double()
    found = []
    for dialogue in dialogues:
        ids = []
        pieces = [("Persona:", False)] + [(f"\n- {line}", False) for line in dialogue.persona]
        pieces = pieces if dialogue.persona else []
        for turn in dialogue.turns:
            tag = "Assistant:" if turn.speaker == "self" else "User:"
            pieces += [(f"\n{tag}" if pieces else tag, False), (f" {turn.text.strip()}", turn.speaker == "self")]
        for piece, is_reply in pieces:
            tokens = [*world.encoder.encode_text(piece), *[world.encoder.end_id] * is_reply]
            nll = []
            for token in tokens:
                if is_reply:
                    nll.append(-logprob(model, ids, token))
                ids.append(token)
            if is_reply:
                found.append((sum(nll), sum(nll[:-1]), len(nll)))
    world.model.float()
    return found


def test_perplexities_are_those_of_a_plain_loop_in_float64(world, evaluated):
    rows = reference(world)
    everything, text, count = (sum(column) for column in zip(*rows, strict=True))
    score = evaluated.as_system("x").score
    num_words = sum(len(reply.split()) for reply in REPLIES)
    num_characters = sum(len(reply) for reply in REPLIES)
    assert score.token_ppl == pytest.approx(math.exp(everything / count), rel=1e-4)
    assert score.word_ppl == pytest.approx(math.exp(text / num_words), rel=1e-4)
    assert score.bits_per_char == pytest.approx(text / math.log(2) / num_characters, rel=1e-5)
    for found, row, reply in zip(evaluated.likelihoods, rows, REPLIES, strict=True):
        assert (found.nll, found.nll_text, found.num_tokens) == pytest.approx(row, rel=1e-4)
        assert (found.num_words, found.num_chars) == (len(reply.split()), len(reply))
    assert [row.likelihood for row in evaluated.predictions] == evaluated.likelihoods


def test_texts_are_scored_as_a_file_of_them_would_be(evaluated):
    texts, score = text_score([p.prediction for p in evaluated.predictions], REPLIES), evaluated.as_system("x").score
    for name in ("bleu", "rouge_l", "f1", "distinct_1", "distinct_2", "mean_words", "num_empty", "num_replies"):
        assert getattr(score, name) == getattr(texts, name)
    ended = [p.ended for p in evaluated.predictions]
    assert score.ended_share == 100 * sum(ended) / len(ended)


def test_every_reply_stands_beside_its_gold_in_the_order_of_the_dialogues(evaluated):
    rows = evaluated.predictions
    assert [(p.dialogue_id, p.turn) for p in rows] == [("a", 1), ("a", 3), ("b", 0), ("b", 2), ("c", 1)]
    assert [p.reference for p in rows] == REPLIES
    assert rows[1].history == (
        Turn("partner", "hi !"), Turn("self", "  hello , how are you ?  "), Turn("partner", "fine ."),
    )  # fmt: skip
    assert rows[2].history == rows[2].persona == ()
    assert rows[4].persona == ("i sing .",)


def test_turns_that_do_not_alternate_keep_their_speakers_and_their_likelihoods(world):
    """Two turns of one speaker in a row, on either side, as somebody's own code may hand them in."""
    turns = (
        Turn("self", "i start"), Turn("self", "and go on"), Turn("partner", "hi !"), Turn("partner", "who is it ?"),
        Turn("self", "me", is_learned=False), Turn("self", "it is me ."),
    )  # fmt: skip
    found = world.evaluate([Dialogue("d", ("i sing .",), turns)])
    assert [row.turn for row in found.predictions] == [0, 1, 5]
    assert [row.history for row in found.predictions[:2]] == [(), turns[:1]]
    last = found.predictions[2]
    assert [(turn.speaker, turn.text) for turn in last.history] == [(turn.speaker, turn.text) for turn in turns[:5]]
    assert last.said_by("partner") == ["hi !", "who is it ?"] and last.reply_number == 4
    every = reference(world, [Dialogue("d", ("i sing .",), turns)])
    for one, row in zip(found.likelihoods, [every[0], every[1], every[3]], strict=True):
        assert (one.nll, one.nll_text, one.num_tokens) == pytest.approx(row, rel=1e-4)
    assert baseline_rows(found.predictions)["echo"][2].prediction == "who is it ?"


def test_fewer_replies_leave_the_perplexity(world, evaluated):
    fewer = world.evaluate(max_replies=2)
    assert fewer.predictions == evaluated.predictions[:2]
    assert fewer.likelihoods == evaluated.likelihoods
    score = fewer.as_system("x").score
    assert score.word_ppl == evaluated.as_system("x").score.word_ppl
    assert score.num_replies == 2


def test_batches_change_nothing(world, evaluated):
    for batch_size in (1, 5):
        decoding = Decoding(max_new_tokens=6)
        turns = dict(enumerate(reply_turns(DIALOGUES)))
        found = predict(world.engine, turns, decoding, batch_size=batch_size, on_progress=ignore)
        assert [one.text for one in found.values()] == [row.prediction for row in evaluated.predictions]
        assert [one.ended for one in found.values()] == [row.ended for row in evaluated.predictions]


def test_the_order_of_the_dialogues_changes_no_figure(world, evaluated):
    turned, score = world.score(DIALOGUES[::-1]), evaluated.as_system("x").score
    assert turned.word_ppl == pytest.approx(score.word_ppl, rel=1e-5)
    assert turned.f1 == pytest.approx(score.f1)


def test_a_reply_dropped_with_its_turns_counts_nowhere(world):
    tail = Dialogue("a", DIALOGUES[0].persona, DIALOGUES[0].turns[2:])
    num_tokens = len(world.encoder.encode([tail])[0][0].ids)
    short = Encoder(world.tokenizer.backend_tokenizer.to_str(), world.loaded.end_id, num_tokens)
    dropped, kept = measure_likelihood(Engine(world.model, short, world.loaded.precision), DIALOGUES[:1], ignore)
    assert dropped is None
    assert [kept] == measure_likelihood(world.engine, [tail], ignore)


def test_base_is_the_tuned_model_without_its_adapter(tmp_path):
    folder = save_tiny_model(tmp_path)
    base = World(folder)
    expected = base.evaluate()
    adapted = add_adapter(base.model, r=4, alpha=8, dropout=0.05, targets="all-linear", seed=1)
    with torch.no_grad():
        for parameter in trainable_tensors(adapted).values():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    engine = Engine(adapted, base.encoder, base.loaded.precision)
    tuned = base.evaluate(engine=engine)
    assert base.evaluate(engine=engine.base) == expected
    assert base.evaluate(engine=engine) == tuned
    assert tuned.as_system("x").score.word_ppl != expected.as_system("x").score.word_ppl


def test_baselines_are_scored_on_the_same_turns(evaluated):
    baselines = {name: score_predictions(rows) for name, rows in baseline_rows(evaluated.predictions).items()}
    assert set(baselines) == {"constant", "echo", "persona"}
    assert {baseline.num_replies for baseline in baselines.values()} == {len(REPLIES)}
    assert all(baseline.word_ppl is None and baseline.ended_share is None for baseline in baselines.values())


def test_progress_counts_up_to_the_whole(world):
    seen = []
    world.evaluate(on_progress=lambda *report: seen.append(report))
    assert ("perplexity", 3, 3) in seen
    assert [done for what, done, _ in seen if what == "replies"] == [0, 1, 2, 3, 4, 5]
    assert seen[0] == ("perplexity", 0, 3), "the size of the work is told before it begins"


CANDIDATES = ("yes .", "hello , how are you ?", "what do you do for a living ?", "ok")
RANKED = Dialogue(
    "r",
    ("i like dogs .",),
    (Turn("partner", "hi !"), Turn("self", " hello , how are you ? ", CANDIDATES), Turn("self", "ok .")),
)


def test_gold_is_ranked_by_what_a_plain_loop_in_float64_gives_each_candidate(world):
    rows = [reference(world, [replace(RANKED, turns=(RANKED.turns[0], Turn("self", text)))])[0] for text in CANDIDATES]
    sums, counts = -np.array([row[0] for row in rows]), np.array([row[2] for row in rows])
    expected = ranks(sums, counts, gold=1)
    for seed in (1, 2):
        assert rank_gold(world.engine, reply_turns([RANKED]), ignore, seed) == [expected, None]


def test_only_so_many_turns_are_ranked_as_asked(world):
    dialogues = [RANKED, replace(RANKED, id="s")]
    found = [row.ranks is not None for row in world.evaluate(dialogues).predictions]
    assert found == [True, False, True, False]
    first = world.evaluate(dialogues, max_ranked=1).predictions
    assert [row.ranks is not None for row in first] == [True, False, False, False]
    nothing = world.evaluate(dialogues, max_ranked=0)
    assert not any(row.ranks for row in nothing.predictions)
    assert nothing.as_system("x").score.hits_1 is None


def test_identical_candidates_are_a_loss(world):
    turn = Turn("self", "ok", ("ok", "ok"))
    assert rank_gold(world.engine, [(replace(RANKED, turns=(turn,)), 0)], ignore, 1) == [Ranks(2, 2, 2)]


def test_a_model_without_probabilities_is_an_error_that_names_the_dialogue(tmp_path):
    broken = World(save_tiny_model(tmp_path))
    with torch.no_grad():
        next(iter(broken.model.parameters())).fill_(float("nan"))
    with pytest.raises(FalconerError, match=r"no probability \(NaN\) in dialogue '[abc]'.*model\.dtype=fp32"):
        measure_likelihood(broken.engine, DIALOGUES, ignore)
    with pytest.raises(FalconerError, match=r"the log-probability NaN"):
        rank_gold(broken.engine, reply_turns([RANKED]), ignore, 1)


LONG = Dialogue("long", ("i sing . " * 40,), (Turn("partner", "hi"), Turn("self", "ok .")))
LOUD = Dialogue("loud", (), (Turn("partner", "hi"), Turn("self", "la " * 400)))


def test_a_reply_limit_that_does_not_fit_is_refused_before_anything_is_measured(world):
    room = world.encoder.room(LONG.persona)
    assert 0 < room < 200
    assert with_room(world.encoder, [*DIALOGUES, LONG], room, leave_out=False) == [*DIALOGUES, LONG]
    with pytest.raises(FalconerError, match=rf"evaluate\.max_new_tokens={room + 1} .*'long'.*to {room} or less"):
        with_room(world.encoder, [*DIALOGUES, LONG], room + 1, leave_out=False)
    with pytest.raises(FalconerError, match="turn 1 .*'loud' is too long"):
        with_room(world.encoder, [*DIALOGUES, LOUD], 6, leave_out=False)


def test_dialogues_that_do_not_fit_can_be_left_out_of_an_evaluation(world):
    room = world.encoder.room(LONG.persona)
    assert with_room(world.encoder, [LONG, *DIALOGUES, LOUD], room + 1, leave_out=True) == DIALOGUES
    with pytest.raises(FalconerError, match="None of the 2 test dialogues fits into 300 tokens") as caught:
        with_room(world.encoder, [LONG, LOUD], room + 1, leave_out=True)
    assert "data.test=FILE" in caught.value.hint


def test_a_gold_reply_that_does_not_fit_has_no_likelihood(world):
    found = measure_likelihood(world.engine, [LOUD, *DIALOGUES], ignore)
    assert found[0] is None and found[1:] == measure_likelihood(world.engine, DIALOGUES, ignore)


def test_a_turn_whose_candidates_do_not_fit_is_not_ranked(world):
    fits = Turn("self", "yes .", ("no .", "yes ."))
    loud = replace(fits, candidates=("la " * 400, "yes ."))
    turns = [(Dialogue("a", (), (Turn("partner", "hi"), turn)), 1) for turn in (fits, loud)]
    found = rank_gold(world.engine, turns, ignore, seed=1)
    assert found[0] is not None and found[1] is None
