"""Evaluating a base model and the tuned model on the same dialogues with the same prompts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from falconer.data.encode import Encoder
from falconer.errors import FalconerError
from falconer.evaluate.dealing import ALONE, CHARACTERS_A_TOKEN, Dealing
from falconer.evaluate.text.counts import likelihood_statistics, statistics_of
from falconer.evaluate.text.ranking import ranks, shuffled
from falconer.evaluate.text.systems import System
from falconer.model.engine import Decoding, Engine, Request
from falconer.model.generate.cut import Reply
from falconer.records import Dialogue, Example, Likelihood, Prediction, Ranks

# Called with (what is being done, done, total).
OnProgress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What was measured of one system.

    Args:
        predictions: the generated replies, with what the model thinks of gold at the same turns.
        likelihoods: of every gold reply in the order of `reply_turns`, generated for or not; None where truncation
            dropped the reply.
        dialogue_ids: the dialogue of each of these gold replies.
    """

    predictions: list[Prediction]
    likelihoods: list[Likelihood | None]
    dialogue_ids: list[str]

    def as_system(self, name: str, language: str = "en") -> System:
        """Return the counts that figures, intervals and tests are made of; perplexities are of all gold replies."""
        replies = statistics_of(self.predictions, language)
        blocks = (replies, likelihood_statistics(self.likelihoods, self.dialogue_ids))
        return System(name, self.predictions, blocks, language)


def reply_turns(dialogues: Sequence[Dialogue]) -> list[tuple[Dialogue, int]]:
    """Return every reply that is evaluated, as (dialogue, index of the turn)."""
    return [(dialogue, index) for dialogue in dialogues for index in dialogue.replies]


def with_room(
    encoder: Encoder, dialogues: Sequence[Dialogue], max_new_tokens: int, *, leave_out: bool
) -> list[Dialogue]:
    """Return the dialogues that can be measured: all of them, or with `leave_out` those that fit.

    Raises:
        FalconerError: without `leave_out`, the persona of one does not fit with a new reply or with its gold reply;
            with it, none is left.
    """
    tight = [dialogue for dialogue in dialogues if encoder.room(dialogue.persona) < max_new_tokens]
    if leave_out:
        names = {id(dialogue) for dialogue in tight}
        fitting = [one for one in dialogues if id(one) not in names and encoder.fits(one)]
        if not fitting:
            raise FalconerError(
                f"None of the {len(dialogues)} test dialogues fits into {encoder.max_tokens} tokens: the persona "
                f"leaves no room for the last reply, or for a new one of evaluate.max_new_tokens={max_new_tokens}.",
                "Set evaluate.max_new_tokens lower, or evaluate other dialogues: data.test=FILE.",
            )
        return fitting
    if tight:
        least = min(tight, key=lambda dialogue: encoder.room(dialogue.persona))
        room, most = encoder.room(least.persona), encoder.max_tokens
        raise FalconerError(
            f"evaluate.max_new_tokens={max_new_tokens} does not fit behind the persona of dialogue '{least.id}', which "
            f"takes {most - room} of {most} tokens.",
            f"Set evaluate.max_new_tokens to {room} or less."
            if room > 0
            else "Shorten the persona, or leave such dialogues out with data.on_bad_row=skip.",
        )
    encoder.encode(dialogues)  # raises for what does not fit
    return list(dialogues)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is measured.

    Args:
        max_replies: generate replies for the first so many turns only; perplexity uses every one.
        max_ranked: rank the candidates of the first so many of these turns; None for all, 0 for none.
        batch_size: see `Engine.tokens`.
        seed: fixes the order of the candidates.
    """

    max_replies: int | None
    max_ranked: int | None
    batch_size: int
    seed: int = 17


def evaluate_model(
    engine: Engine, dialogues: Sequence[Dialogue], decoding: Decoding, limits: Limits, on_progress: OnProgress,
    dealing: Dealing = ALONE,
) -> Evaluated:  # fmt: skip
    """Measure one system: likelihood of all gold replies, its own replies to the gold histories, gold's rank.

    Args:
        engine: of the tuned model; its `base` is the other system.
        dealing: with several ranks, each measures some of the dialogues, and all get all results.

    Raises:
        FalconerError: the model gives no probability (NaN).
    """
    turns = reply_turns(dialogues)
    share = _share(dialogues, decoding, limits, dealing)
    likelihoods = measure_likelihood(engine, [dialogues[place] for place in share.dialogues], on_progress)
    asked = {number: turns[number] for number in share.predicted}
    replies = predict(engine, asked, decoding, batch_size=limits.batch_size, on_progress=on_progress)
    ranks = rank_gold(engine, [turns[number] for number in share.ranked], on_progress, limits.seed)
    found: dict[str, Mapping[int, Any]] = {
        "likelihoods": dict(zip(share.turns, likelihoods, strict=True)), "replies": replies,
        "ranks": dict(zip(share.ranked, ranks, strict=True)),
    }  # fmt: skip
    return _put_together(found, turns, dealing)


def reply_with(
    engine: Engine, dialogues: Sequence[Dialogue], decoding: Decoding, limits: Limits, on_progress: OnProgress,
    dealing: Dealing = ALONE,
) -> list[Prediction]:  # fmt: skip
    """Generate the replies of one system with a decoding, without measuring anything else; see `evaluate_model`."""
    turns = reply_turns(dialogues)
    share = _share(dialogues, decoding, replace(limits, max_ranked=0), dealing)
    asked = {number: turns[number] for number in share.predicted}
    replies = predict(engine, asked, decoding, batch_size=limits.batch_size, on_progress=on_progress)
    found = dealing.together({number: astuple(reply) for number, reply in replies.items()})
    return [prediction_of(turns[number], *reply[:2]) for number, reply in found.items()]


@dataclass(frozen=True, slots=True)
class _Share:
    """What a rank works on: the places of its dialogues, and the numbers of its turns among all `reply_turns`.

    Args:
        predicted, ranked: those of these turns for which a reply is generated, and whose candidates are ranked.
    """

    dialogues: list[int]
    turns: list[int]
    predicted: list[int]
    ranked: list[int]


def _share(dialogues: Sequence[Dialogue], decoding: Decoding, limits: Limits, dealing: Dealing) -> _Share:
    ends = list(accumulate(len(dialogue.replies) for dialogue in dialogues))
    numbers = [range(end - len(dialogue.replies), end) for dialogue, end in zip(dialogues, ends, strict=True)]
    predicted = range(ends[-1] if ends else 0)[: limits.max_replies]
    ranked = predicted[: limits.max_ranked]
    own = dealing.own(_costs(dialogues, numbers, predicted, ranked, decoding.max_new_tokens))
    turns = [number for place in own for number in numbers[place]]
    return _Share(
        own, turns, [number for number in turns if number in predicted], [one for one in turns if one in ranked]
    )


def prediction_of(turn: tuple[Dialogue, int], text: str, ended: bool) -> Prediction:
    """Return the reply to a turn of a dialogue, given by its index, as predictions files have it."""
    dialogue, index = turn
    return Prediction(
        dialogue_id=dialogue.id, turn=index, prediction=text, reference=dialogue.turns[index].text.strip(),
        persona=dialogue.persona, ended=ended, history=dialogue.history(index),
    )  # fmt: skip


def _costs(
    dialogues: Sequence[Dialogue], numbers: Sequence[range], predicted: range, ranked: range, max_new_tokens: int
) -> list[float]:
    """Return about how many tokens are computed for each dialogue."""
    costs = []
    for dialogue, own in zip(dialogues, numbers, strict=True):
        characters = sum(map(len, dialogue.persona)) + sum(len(turn.text) for turn in dialogue.turns)
        for number, index in zip(own, dialogue.replies, strict=True):
            if number in ranked:
                characters += sum(map(len, dialogue.turns[index].candidates))
        num_new = max_new_tokens * sum(number in predicted for number in own)
        costs.append(characters / CHARACTERS_A_TOKEN + num_new)
    return costs


def _put_together(
    found: Mapping[str, Mapping[int, Any]], turns: Sequence[tuple[Dialogue, int]], dealing: Dealing
) -> Evaluated:
    """Return what all ranks have found, by the number of a turn, as one result in the order of `turns`."""
    likelihoods, replies, ranks = (
        dealing.together({number: None if one is None else astuple(one) for number, one in found[what].items()})
        for what in ("likelihoods", "replies", "ranks")
    )
    likelihood_of = [None if (one := likelihoods[number]) is None else Likelihood(*one) for number in range(len(turns))]
    rows = []
    for number, reply in replies.items():
        rank = ranks.get(number)
        row = prediction_of(turns[number], *reply[:2])
        rows.append(replace(row, likelihood=likelihood_of[number], ranks=None if rank is None else Ranks(*rank)))
    return Evaluated(rows, likelihood_of, [dialogue.id for dialogue, _ in turns])


def measure_likelihood(
    engine: Engine, dialogues: Sequence[Dialogue], on_progress: OnProgress
) -> list[Likelihood | None]:
    """Return the likelihood of each gold reply given its persona and gold history, in the order of `reply_turns`.

    None stands where the encoder dropped the reply with the oldest turns of its dialogue.

    Raises:
        FalconerError: the model gives no probability (NaN), or has no embedding for a token.
    """
    # An ablation may show a longer persona than the dialogue has: what does not fit then is not measured.
    fitting = [number for number, dialogue in enumerate(dialogues) if engine.encoder.fits(dialogue)]
    examples, _ = engine.encoder.encode([dialogues[number] for number in fitting])
    on_progress("perplexity", 0, len(examples))
    nlls = engine.likelihoods(examples, lambda done, total: on_progress("perplexity", done, total))
    found: dict[tuple[int, int], Likelihood] = {}
    for number, example, nll in zip(fitting, examples, nlls, strict=True):
        found |= {(number, turn): one for turn, one in by_reply(nll, example, dialogues[number])}
    places = [(number, turn) for number, dialogue in enumerate(dialogues) for turn in dialogue.replies]
    return [found.get(place) for place in places]


def rank_gold(
    engine: Engine, turns: Sequence[tuple[Dialogue, int]], on_progress: OnProgress, seed: int
) -> list[Ranks | None]:
    """Return gold's place among its turn's candidates, None where the turn has none, or one that does not fit.

    Args:
        turns: (dialogue, index of the turn), as `reply_turns` gives them.
        seed: with dialogue and turn it fixes the order in which the model gets the candidates.

    Raises:
        FalconerError: the model gives no probability (NaN).
    """
    encoder = engine.encoder
    ids_of = encoder.encode_texts(f" {text.strip()}" for d, index in turns for text in d.turns[index].candidates)
    longest = [
        1 + max((len(ids_of[f" {text.strip()}"]) for text in d.turns[index].candidates), default=0)
        for d, index in turns
    ]
    rooms = {persona: encoder.room(persona) for persona in {d.persona for d, _ in turns}}
    asked = [
        (number, d, index)
        for number, (d, index) in enumerate(turns)
        if len(d.turns[index].candidates) > 1 and longest[number] <= rooms[d.persona]
    ]
    if not asked:
        return [None] * len(turns)
    mixed = [shuffled(d.turns[index], f"{seed} {d.id} {index}") for _, d, index in asked]
    ids = [[ids_of[f" {text}"] for text in texts] for texts, _ in mixed]
    prompts = encoder.encode_prompts([(d.persona, d.turns[:index], longest[number]) for number, d, index in asked])
    on_progress("candidates", 0, sum(map(len, ids)))
    scores = engine.rank(prompts, ids, lambda done, total: on_progress("candidates", done, total))
    found: list[Ranks | None] = [None] * len(turns)
    for (number, _, _), (_, gold), score in zip(asked, mixed, scores, strict=True):
        found[number] = ranks(score.sums, score.num_tokens, gold)
    return found


def predict(
    engine: Engine, turns: Mapping[int, tuple[Dialogue, int]], decoding: Decoding, *, batch_size: int,
    on_progress: OnProgress,
) -> dict[int, Reply]:  # fmt: skip
    """Generate a reply to the gold history of each turn.

    Args:
        turns: (dialogue, index of the turn) by its number in the whole evaluation, so that turns of equal prompts
            sample for themselves, and each samples the same wherever it is generated.

    Returns:
        The replies by these numbers, in ascending order.
    """
    room = decoding.max_new_tokens
    numbers = sorted(turns)
    requests = []
    for number in numbers:
        dialogue, index = turns[number]
        one = engine.encoder.encode_fitting(dialogue.persona, dialogue.turns[:index], room)
        requests.append(Request(one.ids, decoding, number, one.own_turns))
    replies: dict[int, Reply] = {}
    on_progress("replies", 0, len(requests))
    for position, reply in engine.replies(requests, batch_size=batch_size):
        replies[numbers[position]] = reply
        on_progress("replies", len(replies), len(requests))
    return {number: replies[number] for number in numbers}


def by_reply(nll: np.ndarray, example: Example, dialogue: Dialogue) -> list[tuple[int, Likelihood]]:
    """Return (turn, likelihood) of each reply from the log-likelihoods of an example's targets, [N]."""
    if not np.isfinite(nll).all():
        what = "no probability (NaN)" if np.isnan(nll).any() else "the gold reply a probability of 0"
        raise FalconerError(
            f"The model gives {what} in dialogue '{example.dialogue_id}'.",
            "Evaluate with model.dtype=fp32. If the result is NaN again, the adapter is damaged.",
        )
    borders = np.cumsum(example.reply_sizes)[:-1]
    found = []
    for turn, part in zip(example.turn_indices, np.split(nll, borders), strict=True):
        text = (dialogue.turns[turn].source or dialogue.turns[turn].text).strip()
        whole, without = float(part.sum()), float(part[:-1].sum())
        found.append((turn, Likelihood(whole, without, len(part), len(text.split()), len(text))))
    return found
