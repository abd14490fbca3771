"""Drift is what its definition says, worked out by hand, and replies are compared token by token."""

import numpy as np
import pytest
import torch

from falconer.data.encode import Encoder
from falconer.data.prompt import PromptFormat
from falconer.data.sources import SAMPLE, load_dialogues
from falconer.errors import FalconerError
from falconer.evaluate.text.bootstrap import MIN_DIALOGUES
from falconer.model.engine import Decoding
from falconer.model.tokenizer import open_tokenizer
from falconer.share.certificate_drift import (
    Likelihoods,
    Questions,
    Reference,
    compare_replies,
    drift,
    questions,
)


@pytest.fixture(scope="module")
def encoder():
    opened = open_tokenizer("falcon-mini")
    return Encoder(opened.tokenizer.backend_tokenizer.to_str(), opened.end_id, 512, PromptFormat())


@pytest.fixture(scope="module")
def asked(encoder):
    return questions(encoder, load_dialogues(SAMPLE, split="test").dialogues[:24], 48, 32)


def silent(what, done, total):
    pass


def uniform(example, favour=0.0):
    """Return log-probabilities over a vocabulary of 16384, the gold token's logit raised."""
    targets = torch.from_numpy(example.ids[example.is_target].astype(np.int64))
    logits = torch.zeros(len(targets), 16384)
    logits.scatter_(1, targets[:, None], favour)
    return logits.log_softmax(-1)


def reference_of(asked, favour):
    log_probs = tuple(uniform(example, favour=favour) for example in asked.examples)
    words, nats = [], []
    for dialogue, example, values in zip(asked.dialogues, asked.examples, log_probs, strict=True):
        texts = [dialogue.turns[index].text for index in example.turn_indices]
        words.append(sum(len(text.split()) for text in texts))
        targets = example.num_targets - len(texts)
        gold = values[0, int(example.ids[example.is_target][0])]
        nats.append(-float(gold) * targets)
    return Reference(log_probs, Likelihoods(np.array(nats), np.array(words, dtype=float)), ())


def test_questions_are_spread_over_the_dialogues(asked, encoder):
    assert len(asked.dialogues) == 24 and len(asked.prompts) == 48
    assert len(set(asked.prompt_dialogues)) == 24
    assert asked.num_replies == sum(len(dialogue.replies) for dialogue in asked.dialogues)
    assert asked.num_tokens == sum(int(example.is_target.sum()) for example in asked.examples)
    few = questions(encoder, asked.dialogues, 0, 32)
    assert few.prompts == () and len(few.examples) == 24


def test_a_dialogue_that_leaves_no_room_is_left_out(asked):
    opened = open_tokenizer("falcon-mini")
    tight = Encoder(opened.tokenizer.backend_tokenizer.to_str(), opened.end_id, 64, PromptFormat())
    rooms = [tight.room(dialogue.persona) for dialogue in asked.dialogues]
    assert min(rooms) < 16 < max(rooms)
    assert len(questions(tight, asked.dialogues, 4, 16).dialogues) < 24


def test_no_drift_from_itself(asked):
    reference = reference_of(asked, 3.0)
    found = drift(lambda example: uniform(example, favour=3.0), reference, asked, "export", silent)
    assert found.kl.value == pytest.approx(0, abs=1e-9)
    assert found.word_ppl_change.value == pytest.approx(0, abs=1e-3)


def test_drift_by_hand(asked):
    """The reference gives each gold token e^3 times the weight of any other; the export treats all alike."""
    reference = reference_of(asked, 3.0)
    found = drift(uniform, reference, asked, "export", silent)
    total = np.exp(3) + 16383
    gold, other = np.exp(3) / total, 1 / total
    expected = gold * np.log(gold * 16384) + 16383 * other * np.log(other * 16384)
    assert found.kl.value == pytest.approx(expected, rel=1e-4)
    # Every token has the same divergence, so the interval has no width; perplexity's has.
    assert found.kl.low == pytest.approx(found.kl.high, rel=1e-6)
    words = reference.likelihoods.words
    tokens = np.array([e.num_targets - len(e.turn_indices) for e in asked.examples])
    word_ppl = np.exp(np.log(16384) * tokens.sum() / words.sum())
    assert found.word_ppl.value == pytest.approx(word_ppl, rel=1e-4)
    assert found.word_ppl.low < word_ppl < found.word_ppl.high
    before = np.exp(reference.likelihoods.nats.sum() / words.sum())
    assert found.word_ppl_change.value == pytest.approx(100 * (word_ppl / before - 1), rel=1e-3)


def test_few_dialogues_have_no_intervals(asked):
    some = MIN_DIALOGUES - 1
    few = Questions(asked.dialogues[:some], asked.examples[:some], (), (), Decoding())
    found = drift(uniform, reference_of(few, 3.0), few, "export", silent)
    assert found.kl.low is None and found.word_ppl.high is None and found.word_ppl_change.low is None


def test_nan_is_an_error(asked):
    broken = lambda example: uniform(example) * torch.nan  # noqa: E731
    with pytest.raises(FalconerError, match="NaN"):
        drift(broken, reference_of(asked, 1.0), asked, "export", silent)


def test_replies_are_compared_token_by_token(asked):
    few = Questions(asked.dialogues[:2], asked.examples[:2], ((1,),) * 4, (0, 0, 1, 1), Decoding(max_new_tokens=8))
    reference = ((1, 2, 3, 0), (5, 6, 0), (7, 0), (1, 2, 3, 4))
    export = ((1, 2, 3, 0), (5, 9, 9, 0), (8, 0), (1, 2, 3, 4, 5, 6, 7, 8))
    found = compare_replies(export, reference, few)
    assert found.identical.value == 25.0
    assert found.before_difference.value == pytest.approx(100 * (1 + 1 / 4 + 0 + 4 / 8) / 4)
    assert (found.num_replies, found.num_dialogues, found.identical.low) == (4, 2, None)
    assert found.decoding == "greedy, at most 8 tokens"
    assert compare_replies((), (), few) is None
