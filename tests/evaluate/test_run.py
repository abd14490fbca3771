"""Perplexities against a token-by-token reference in float64, and replies in the order of the dialogues."""

import math

import pytest
import torch

from falconer.data.encode import Encoder
from falconer.evaluate.metrics import text_score
from falconer.evaluate.run import evaluate_model, measure_perplexity, predict, score_floors
from falconer.model.generate import Decoding
from falconer.model.load import load_model
from falconer.model.lora import add_adapter, trainable_tensors, without_adapter
from falconer.records import Dialogue, Turn
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

    def evaluate(self, dialogues=DIALOGUES, max_replies=None, model=None, on_progress=ignore):
        return evaluate_model(
            model or self.model, self.tokenizer, self.encoder, dialogues, Decoding(max_new_tokens=6),
            max_replies=max_replies, batch_size=3, autocast=None, on_progress=on_progress,
        )  # fmt: skip


@pytest.fixture(scope="module", params=["falcon", "gpt2"])
def world(request, tmp_path_factory):
    return World(save_tiny_model(tmp_path_factory.mktemp(request.param), request.param))


@pytest.fixture(scope="module")
def evaluated(world):
    return world.evaluate()


def reference(world):
    """Return (negative log-likelihood of all targets, of the targets but end tokens, number of targets), one by one."""
    model = world.model.double()
    everything = text = count = 0
    for dialogue in DIALOGUES:
        ids = []
        pieces = [("Persona:", False)] + [(f"\n- {line}", False) for line in dialogue.persona]
        pieces = pieces if dialogue.persona else []
        for turn in dialogue.turns:
            tag = "Assistant:" if turn.speaker == "self" else "User:"
            pieces += [(f"\n{tag}" if pieces else tag, False), (f" {turn.text.strip()}", turn.speaker == "self")]
        for piece, is_reply in pieces:
            tokens = world.encoder.encode_text(piece)
            for token, is_end in [(token, False) for token in tokens] + [(world.encoder.end_id, True)] * is_reply:
                if is_reply:
                    with torch.no_grad():
                        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
                    nll = -float(torch.log_softmax(logits, dim=-1)[token])
                    everything += nll
                    text += 0 if is_end else nll
                    count += 1
                ids.append(token)
    world.model.float()
    return everything, text, count


def test_perplexities_are_those_of_a_plain_loop_in_float64(world, evaluated):
    everything, text, count = reference(world)
    score = evaluated.score
    num_words = sum(len(reply.split()) for reply in REPLIES)
    num_characters = sum(len(reply) for reply in REPLIES)
    assert score.token_ppl == pytest.approx(math.exp(everything / count), rel=1e-4)
    assert score.word_ppl == pytest.approx(math.exp(text / num_words), rel=1e-4)
    assert score.bits_per_char == pytest.approx(text / math.log(2) / num_characters, rel=1e-5)


def test_texts_are_scored_as_a_file_of_them_would_be(evaluated):
    texts = text_score([p.prediction for p in evaluated.predictions], REPLIES)
    for name in ("bleu", "rouge_l", "f1", "distinct_1", "distinct_2", "mean_words", "num_empty", "num_replies"):
        assert getattr(evaluated.score, name) == getattr(texts, name)
    ended = [p.ended for p in evaluated.predictions]
    assert evaluated.score.ended_share == 100 * sum(ended) / len(ended)


def test_every_reply_stands_beside_its_gold_in_the_order_of_the_dialogues(evaluated):
    rows = evaluated.predictions
    assert [(p.dialogue_id, p.turn) for p in rows] == [("a", 1), ("a", 3), ("b", 0), ("b", 2), ("c", 1)]
    assert [p.reference for p in rows] == REPLIES
    assert rows[1].history == ("hi !", "  hello , how are you ?  ", "fine .")
    assert rows[2].history == rows[2].persona == ()
    assert rows[4].persona == ("i sing .",)


def test_fewer_replies_leave_the_perplexity(world, evaluated):
    fewer = world.evaluate(max_replies=2)
    assert fewer.predictions == evaluated.predictions[:2]
    assert fewer.score.word_ppl == evaluated.score.word_ppl
    assert fewer.score.num_replies == 2


def test_batches_change_nothing(world, evaluated):
    for batch_size in (1, 5):
        rows = predict(
            world.model, world.tokenizer, world.encoder, DIALOGUES, Decoding(max_new_tokens=6),
            max_replies=None, batch_size=batch_size, autocast=None, on_progress=ignore,
        )  # fmt: skip
        assert rows == evaluated.predictions


def test_the_order_of_the_dialogues_changes_no_figure(world, evaluated):
    turned = world.evaluate(DIALOGUES[::-1]).score
    assert turned.word_ppl == pytest.approx(evaluated.score.word_ppl, rel=1e-5)
    assert turned.f1 == pytest.approx(evaluated.score.f1)


def test_a_reply_dropped_with_its_turns_counts_nowhere(world):
    tail = Dialogue("a", DIALOGUES[0].persona, DIALOGUES[0].turns[2:])
    num_tokens = len(world.encoder.encode([tail])[0][0].ids)
    short = Encoder(world.tokenizer.backend_tokenizer.to_str(), world.loaded.end_id, num_tokens)
    found = measure_perplexity(world.model, short, DIALOGUES[:1], None, ignore)
    assert found == measure_perplexity(world.model, world.encoder, [tail], None, ignore)


def test_base_is_the_tuned_model_without_its_adapter(tmp_path):
    folder = save_tiny_model(tmp_path)
    base = World(folder)
    expected = base.evaluate()
    adapted = add_adapter(base.model, r=4, alpha=8, dropout=0.05, targets="all-linear", seed=1)
    with torch.no_grad():
        for parameter in trainable_tensors(adapted).values():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    with without_adapter(adapted):
        assert base.evaluate(model=adapted) == expected
    assert base.evaluate(model=adapted).score.word_ppl != expected.score.word_ppl


def test_floors_are_scored_on_the_same_turns(evaluated):
    floors = score_floors(evaluated.predictions)
    assert set(floors) == {"constant", "echo", "persona"}
    assert {floor.num_replies for floor in floors.values()} == {len(REPLIES)}
    assert all(floor.word_ppl is None and floor.ended_share is None for floor in floors.values())


def test_progress_counts_up_to_the_whole(world):
    seen = []
    world.evaluate(on_progress=lambda *report: seen.append(report))
    assert ("perplexity", 3, 3) in seen
    assert [done for what, done, _ in seen if what == "replies"] == [1, 2, 3, 4, 5]
