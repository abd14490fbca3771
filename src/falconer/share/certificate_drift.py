"""What models predict and reply on the same dialogues, and how far that is from a reference.

Shapes: N targets, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from falconer.data.encode import Encoder
from falconer.evaluate.measure import by_reply, reply_turns
from falconer.evaluate.text.bootstrap import ratio_interval
from falconer.model.distributions import divergence, target_log_probs
from falconer.model.engine import Decoding, Engine, Request
from falconer.records import Dialogue, Example
from falconer.share.certificate import Drift, Figure, Replies

# Called with (what is being done, done, total).
OnProgress = Callable[[str, int, int], None]
# Replies whose prompts share a batch.
BATCH_SIZE = 16


@dataclass(frozen=True, slots=True)
class Questions:
    """What every model is asked: to predict the gold replies of dialogues, and to reply greedily.

    Args:
        examples: one for each dialogue; they and the prompts are encoded with the reference's tokenizer.
        prompts: of the replies, spread evenly over the dialogues.
        prompt_dialogues: the number of each prompt's dialogue.
    """

    dialogues: tuple[Dialogue, ...]
    examples: tuple[Example, ...]
    prompts: tuple[tuple[int, ...], ...]
    prompt_dialogues: tuple[int, ...]
    decoding: Decoding

    @property
    def num_tokens(self) -> int:
        return sum(example.num_targets for example in self.examples)

    @property
    def num_replies(self) -> int:
        """Number of gold replies that are predicted."""
        return sum(len(example.reply_starts) for example in self.examples)


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Sums over the gold replies of each dialogue, float64 [D]: nats without end tokens, and words."""

    nats: np.ndarray
    words: np.ndarray

    def perplexity(self) -> Figure:
        """Return the word perplexity."""
        interval = ratio_interval(self.nats, self.words)
        bounds = (None, None) if interval is None else np.exp(interval).tolist()
        return Figure(float(np.exp(self.nats.sum() / self.words.sum())), *bounds)

    def change(self, reference: "Likelihoods") -> Figure:
        """Return by how many percent the word perplexity is higher than the reference's."""
        more = self.nats - reference.nats
        interval = ratio_interval(more, self.words)
        bounds = (None, None) if interval is None else (100 * np.expm1(interval)).tolist()
        return Figure(float(100 * np.expm1(more.sum() / self.words.sum())), *bounds)


@dataclass(frozen=True, slots=True)
class Reference:
    """What the reference model predicts and replies.

    Args:
        log_probs: of each example, fp32 [N, V].
        replies: token ids of each prompt's reply.
    """

    log_probs: tuple[torch.Tensor, ...]
    likelihoods: Likelihoods
    replies: tuple[tuple[int, ...], ...]


def questions(encoder: Encoder, dialogues: Sequence[Dialogue], num_replies: int, max_new_tokens: int) -> Questions:
    """Return the questions on dialogues; of their turns, `num_replies` are replied to."""
    fitting = tuple(one for one in dialogues if encoder.fits(one) and encoder.room(one.persona) >= max_new_tokens)
    examples, _ = encoder.encode(fitting)
    numbers = {id(dialogue): number for number, dialogue in enumerate(fitting)}
    turns = reply_turns(fitting)
    chosen = np.unique(np.linspace(0, len(turns) - 1, min(num_replies, len(turns)), dtype=int))
    asked = [turns[place] for place in chosen]
    prompts = (encoder.encode_prompt(d.persona, d.turns[:index], reserve=max_new_tokens) for d, index in asked)
    return Questions(
        fitting, tuple(examples), tuple(map(tuple, prompts)), tuple(numbers[id(d)] for d, _ in asked),
        Decoding(max_new_tokens=max_new_tokens),
    )  # fmt: skip


def read_reference(engine: Engine, asked: Questions, on_progress: OnProgress) -> Reference:
    """Return what a model predicts and replies.

    Raises:
        FalconerError: its output is NaN.
    """
    log_probs = []
    on_progress("reference: predictions", 0, len(asked.examples))
    for number, example in enumerate(asked.examples, start=1):
        log_probs.append(target_log_probs(engine.model, example, engine.precision))
        on_progress("reference: predictions", number, len(asked.examples))
    return Reference(
        tuple(log_probs), _likelihoods(log_probs, asked), greedy_replies(engine, asked, "reference", on_progress)
    )


def greedy_replies(engine: Engine, asked: Questions, name: str, on_progress: OnProgress) -> tuple[tuple[int, ...], ...]:
    """Return the token ids of the greedy reply to each prompt."""
    requests = [Request(prompt, asked.decoding) for prompt in asked.prompts]
    found: dict[int, tuple[int, ...]] = {}
    on_progress(f"{name}: replies", 0, len(requests))
    for index, ids in engine.tokens(requests, batch_size=BATCH_SIZE):
        found[index] = tuple(ids)
        on_progress(f"{name}: replies", len(found), len(requests))
    return tuple(found[index] for index in range(len(requests)))


def drift(
    predict: Callable[[Example], torch.Tensor], reference: Reference, asked: Questions, name: str,
    on_progress: OnProgress,
) -> Drift:  # fmt: skip
    """Return how far a model's predictions are from the reference's.

    Args:
        predict: gives the log-probabilities of an example's targets, as `target_log_probs`.

    Raises:
        FalconerError: the model's output is NaN.
    """
    sums, gold = [], []
    for number, (example, ours) in enumerate(zip(asked.examples, reference.log_probs, strict=True), start=1):
        theirs = predict(example)
        sums.append(divergence(ours, theirs).sum())
        gold.append(_of_gold(theirs, example))
        on_progress(f"{name}: predictions", number, len(asked.examples))
    likelihoods = _sums(gold, asked)
    nats, tokens = np.array(sums), np.array([example.num_targets for example in asked.examples], dtype=np.float64)
    kl = Figure(max(0.0, float(nats.sum() / tokens.sum())), *(ratio_interval(nats, tokens) or (None, None)))
    return Drift(kl, likelihoods.perplexity(), likelihoods.change(reference.likelihoods))


def compare_replies(
    replies: Sequence[Sequence[int]], reference: Sequence[Sequence[int]], asked: Questions
) -> Replies | None:
    """Return how far replies agree with the reference's; None if there are none."""
    if not replies:
        return None
    same = [tuple(ours) == tuple(theirs) for ours, theirs in zip(reference, replies, strict=True)]
    shares = [_share_before_difference(ours, theirs) for ours, theirs in zip(reference, replies, strict=True)]
    numbers = np.unique(asked.prompt_dialogues, return_inverse=True)[1]
    counts = np.bincount(numbers).astype(np.float64)

    def share(values: Sequence[float]) -> Figure:
        sums = 100 * np.bincount(numbers, weights=np.array(values, dtype=np.float64))
        return Figure(float(sums.sum() / counts.sum()), *(ratio_interval(sums, counts) or (None, None)))

    return Replies(len(replies), len(counts), share(same), share(shares), str(asked.decoding))


def _share_before_difference(ours: Sequence[int], theirs: Sequence[int]) -> float:
    longest, shortest = max(len(ours), len(theirs)), min(len(ours), len(theirs))
    same = next((place for place in range(shortest) if ours[place] != theirs[place]), shortest)
    return same / longest if longest else 1.0


def _likelihoods(log_probs: Sequence[torch.Tensor], asked: Questions) -> Likelihoods:
    return _sums([_of_gold(one, example) for one, example in zip(log_probs, asked.examples, strict=True)], asked)


def _of_gold(log_probs_NV: torch.Tensor, example: Example) -> np.ndarray:
    """Return the negative log-likelihood of each target token, float64 [N]."""
    targets_N = torch.from_numpy(example.ids[example.is_target].astype(np.int64))
    found: np.ndarray = -log_probs_NV.gather(1, targets_N.unsqueeze(1))[:, 0].double().numpy()
    return found


def _sums(gold: Sequence[np.ndarray], asked: Questions) -> Likelihoods:
    nats, words = [], []
    for values, example, dialogue in zip(gold, asked.examples, asked.dialogues, strict=True):
        replies = [one for _, one in by_reply(values, example, dialogue)]
        nats.append(sum(one.nll_text for one in replies))
        words.append(sum(one.num_words for one in replies))
    return Likelihoods(np.array(nats, dtype=np.float64), np.array(words, dtype=np.float64))
