"""The pairs of replies that a preference training learns from, built from its sources.

    distractors      gold is preferred to a reply that does not belong to the turn
    repetitions      gold is preferred to the tuned model's own reply, where that repeats a phrase or an earlier turn
    contradictions   gold is preferred to a reply that contradicts the persona, according to an NLI model
    samples          of several replies that the tuned model samples, the best is preferred to the worst
    votes:FILE       the reply that somebody voted for is preferred to the other one

Turns of the training dialogues give pairs to train on, those of the validation dialogues pairs to validate on.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from falconer import runtime
from falconer.config import Config
from falconer.data.encode import Encoder
from falconer.data.leakage import normalise
from falconer.data.other_replies import OtherReplies
from falconer.errors import FalconerError, nearest
from falconer.evaluate.configured import decoding_of
from falconer.evaluate.measure import predict, prediction_of
from falconer.evaluate.text.failures import find_failures
from falconer.model.engine import Engine
from falconer.model.nli import check_nli, classify, load_nli
from falconer.model.request import Decoding
from falconer.preference_samples import best_and_worst, sampling
from falconer.preference_votes import read_votes, split_votes
from falconer.records import Dialogue, Prediction, PreferencePair

OnProgress = Callable[[str, int, int], None]

DISTRACTORS, REPETITIONS, CONTRADICTIONS, SAMPLES = "distractors", "repetitions", "contradictions", "samples"
VOTES = "votes"
_KINDS = (DISTRACTORS, REPETITIONS, CONTRADICTIONS, SAMPLES)
_FORMS = (*_KINDS, f"{VOTES}:FILE")
# Failures of a reply (evaluate/text/failures.py) that are repetitions.
_REPEATS = frozenset(("phrase", "own_turn"))
# Validation gets a tenth of the pairs and turns that training may have.
_VALID_SHARE = 0.1
# Distractors of a turn that are judged by the NLI model; one in five contradicts a persona of Persona-Chat.
_JUDGED = 4
# Occasions of drawing distractors: those that are judged are drawn independently of the pairs of another source.
_FOR_PAIRS, _FOR_JUDGING = 0, 1


@dataclass(frozen=True, slots=True)
class Sources:
    """Which sources are used; `votes` are their files."""

    kinds: frozenset[str]
    votes: tuple[Path, ...]

    @property
    def needs_model(self) -> bool:
        """Whether the tuned model's own replies are needed."""
        return bool(self.kinds & {REPETITIONS, SAMPLES})


def parse_sources(text: str, nli_model: str | None) -> Sources:
    """Return the sources that a text such as "distractors,votes:votes.jsonl" names, if they can be used.

    Args:
        nli_model: as evaluate.nli_model.

    Raises:
        FalconerError: it names none, an unknown one, one twice, a file that is missing, or contradictions without an
            NLI model.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    votes = [Path(name.partition(":")[2]) for name in names if name.startswith(f"{VOTES}:")]
    kinds = [name for name in names if not name.startswith(f"{VOTES}:")]
    for name in kinds:
        if name not in _KINDS:
            raise FalconerError(f"Unknown source of pairs '{name[:120]}'.", nearest(name, _FORMS))
    if not names or len(set(names)) < len(names) or Path() in votes:
        raise FalconerError(
            f"prefer.pairs is '{text[:120]}', which names no source, one twice, or votes without a file.",
            f"Give one or more of {', '.join(_FORMS)}, separated by commas.",
        )
    for path in votes:
        if not os.path.isfile(path):
            raise FalconerError(f"There is no file '{path}' with votes.", "Write votes:FILE with the file's path.")
    if CONTRADICTIONS in kinds:
        if not nli_model:
            raise FalconerError(
                "Contradictions are found by an NLI model, and evaluate.nli_model names none.",
                "Give its local folder: evaluate.nli_model=FOLDER.",
            )
        check_nli(Path(nli_model))
    return Sources(frozenset(kinds), tuple(votes))


@dataclass(frozen=True, slots=True)
class Material:
    """What pairs are built from.

    Args:
        train, valid: the run's dialogues in its text style.
        run: the run that was tuned before; a report's votes are on its predictions.
        encoder: its encoder.
        engine: its tuned model; None if no source needs it.
        language: of the replies.
    """

    train: Sequence[Dialogue]
    valid: Sequence[Dialogue]
    run: Path
    encoder: Encoder
    engine: Engine | None
    language: str


@dataclass(frozen=True, slots=True)
class Built:
    """The pairs, the dialogues that votes are on, and what the user should know."""

    pairs: tuple[PreferencePair, ...]
    voted: tuple[Dialogue, ...]
    notes: tuple[str, ...]


def build_pairs(sources: Sources, material: Material, config: Config, on_progress: OnProgress) -> Built:
    """Return the pairs of all sources.

    Args:
        config: of the new run; `prefer`, `evaluate` and `train.seed` are used.

    Raises:
        FalconerError: there is no pair to train or to validate on, or see `read_votes` and `load_nli`.
    """
    pairs: list[PreferencePair] = []
    judge = _judge(config, on_progress) if CONTRADICTIONS in sources.kinds else None
    for dialogues, is_validation in ((material.train, False), (material.valid, True)):
        pairs += _of_dialogues(sources, material, config, judge, on_progress, dialogues, is_validation)
    voted: list[Dialogue] = []
    notes: list[str] = []
    for path in sources.votes:
        votes = read_votes(path, material.run, material.encoder)
        split = split_votes(votes.dialogues, material.train, material.valid, config.train.seed)
        for some, is_validation in zip(split, (False, True), strict=True):
            pairs += [_of_vote(vote, f"{VOTES}:{path.name}", is_validation) for vote in some]
        voted += votes.dialogues
        if votes.num_left_out:
            notes.append(f"{votes.num_left_out:,} votes in '{path}' are ties or between equal replies: left out")
    _check(pairs)
    return Built(tuple(pairs), tuple(voted), tuple(notes))


def _check(pairs: Sequence[PreferencePair]) -> None:
    num_valid = sum(pair.is_validation for pair in pairs)
    if num_valid < len(pairs) and num_valid:
        return
    found = f"{len(pairs) - num_valid:,} pairs to train on and {num_valid:,} to validate on"
    raise FalconerError(
        f"The sources gave {found}; both are needed.",
        "Add a source, for instance --pairs distractors,repetitions, or raise prefer.max_turns.",
    )


@dataclass(frozen=True, slots=True)
class _Some:
    """Some dialogues that pairs are built from, and the turns among them that replies are generated or judged for.

    A turn is the place of its dialogue among these, and its index in the dialogue.
    """

    dialogues: Sequence[Dialogue]
    turns: Sequence[tuple[int, int]]
    others: OtherReplies
    max_pairs: int
    is_validation: bool

    @property
    def asked(self) -> list[tuple[Dialogue, int]]:
        return [(self.dialogues[place], index) for place, index in self.turns]

    def pair(
        self, source: str, dialogue: Dialogue, index: int, rejected: str, chosen: str | None = None
    ) -> PreferencePair:
        """Return a pair of replies to a turn; without a chosen reply, gold is preferred."""
        chosen = dialogue.turns[index].text.strip() if chosen is None else chosen
        return PreferencePair(
            source, dialogue.id, index, dialogue.persona, dialogue.history(index), chosen, rejected, self.is_validation
        )


def _of_dialogues(
    sources: Sources, material: Material, config: Config, judge: "Judge | None", on_progress: OnProgress,
    dialogues: Sequence[Dialogue], is_validation: bool,
) -> list[PreferencePair]:  # fmt: skip
    share = _VALID_SHARE if is_validation else 1.0
    rng = np.random.default_rng((config.train.seed, int(is_validation)))
    every = [(place, index) for place, dialogue in enumerate(dialogues) for index in dialogue.replies]
    turns = [every[number] for number in rng.permutation(len(every))]
    most = [max(1, round(share * number)) for number in (config.prefer.max_pairs, config.prefer.max_turns)]
    some = _Some(dialogues, turns[: most[1]], OtherReplies(dialogues, config.train.seed), most[0], is_validation)
    found: list[PreferencePair] = []
    if DISTRACTORS in sources.kinds:
        drawn = ((place, index, some.others.draw(place, index, 1, occasion=_FOR_PAIRS)) for place, index in turns)
        pairs = (some.pair(DISTRACTORS, dialogues[place], index, texts[0]) for place, index, texts in drawn if texts)
        found += islice(pairs, most[0])
    own: list[Prediction] = []
    if REPETITIONS in sources.kinds:
        own = [row for (row,) in _own_replies(material, some, config, decoding_of(config.evaluate), on_progress)]
        found += _repetitions(some, own, material.language)
    if SAMPLES in sources.kinds:
        found += _samples(some, material, config, on_progress)
    if judge is not None:
        found += _contradictions(some, own, judge)
    return found


def _of_vote(vote: Dialogue, source: str, is_validation: bool) -> PreferencePair:
    index = len(vote.turns) - 1
    turn = vote.turns[index]
    rejected = next(text for text in turn.candidates if normalise(text) != normalise(turn.text))
    return PreferencePair(source, vote.id, index, vote.persona, vote.history(index), turn.text, rejected, is_validation)


def _own_replies(
    material: Material, some: _Some, config: Config, decoding: Decoding, on_progress: OnProgress, num_each: int = 1
) -> list[list[Prediction]]:
    """Return the model's replies to some turns, as an evaluation generates them; turns without room are passed over.

    Replies to one turn stand side by side, where the engine computes their prompt once.

    Args:
        num_each: replies to each turn.
    """
    engine = material.engine
    assert engine is not None, "sources that need it were given it"
    asked = [
        (dialogue, index)
        for dialogue, index in some.asked
        if engine.encoder.room(dialogue.persona) >= decoding.max_new_tokens
    ]
    what = f"own {'replies' if num_each == 1 else 'samples'}{', validation' if some.is_validation else ''}"
    replies = predict(
        engine, {place * num_each + k: turn for place, turn in enumerate(asked) for k in range(num_each)}, decoding,
        batch_size=config.evaluate.batch_size, on_progress=lambda _, *counts: on_progress(what, *counts),
    )  # fmt: skip
    found = [prediction_of(asked[number // num_each], one.text, one.ended) for number, one in replies.items()]
    return [found[start : start + num_each] for start in range(0, len(found), num_each)]


def _samples(some: _Some, material: Material, config: Config, on_progress: OnProgress) -> list[PreferencePair]:
    """Return pairs of the sampled replies to a turn that are worth most and least."""
    decoding = sampling(decoding_of(config.evaluate))
    drawn = _own_replies(material, some, config, decoding, on_progress, config.prefer.num_samples)
    dialogues = {dialogue.id: dialogue for dialogue in some.dialogues}
    return [
        some.pair(SAMPLES, dialogues[best.dialogue_id], best.turn, worst.prediction.strip(), best.prediction.strip())
        for best, worst in best_and_worst(drawn, material.language, config.prefer.gold_share)
    ][: some.max_pairs]


def _repetitions(some: _Some, own: Sequence[Prediction], language: str) -> list[PreferencePair]:
    """Return pairs of gold and those of the model's own replies that repeat a phrase or an own turn, if gold doesn't.

    Each reply is looked at alone, so that a stock reply is no repetition.
    """
    failing = find_failures(own, language)
    gold = find_failures([replace(row, prediction=row.reference, ended=None) for row in own], language)
    dialogues = {dialogue.id: dialogue for dialogue in some.dialogues}
    return [
        some.pair(REPETITIONS, dialogues[row.dialogue_id], row.turn, row.prediction.strip())
        for row, ours, theirs in zip(own, failing, gold, strict=True)
        if ours & _REPEATS and not theirs & _REPEATS and row.prediction.strip()
    ][: some.max_pairs]


# Returns for each (reply, sentence of the persona) 1 if it is entailed, 0 if it is neutral, -1 if it is contradicted.
Judge = Callable[[Sequence[tuple[str, str]]], np.ndarray]


def _judge(config: Config, on_progress: OnProgress) -> Judge:
    folder = config.evaluate.nli_model
    assert folder, "checked before any model is loaded"
    nli = load_nli(Path(folder), runtime.pick_device(config.model.device))
    report: Any = partial(on_progress, "contradictions")
    return lambda pairs: classify(nli, pairs, config.evaluate.batch_size, report)


def _contradictions(some: _Some, own: Sequence[Prediction], judge: Judge) -> list[PreferencePair]:
    """Return pairs of gold, which contradicts nothing, and a reply that contradicts a sentence of the persona.

    Judged are the model's own replies, if there are any, and some distractors of each turn.
    """
    replies = {(row.dialogue_id, row.turn): row.prediction.strip() for row in own}
    asked = []
    for place, index in some.turns:
        dialogue = some.dialogues[place]
        mine = replies.get((dialogue.id, index), "")
        texts = [mine] if mine else []
        texts += some.others.draw(place, index, _JUDGED, occasion=_FOR_JUDGING)
        asked.append((dialogue, index, [dialogue.turns[index].text.strip(), *texts]))
    values = judge([(text, line) for one, _, texts in asked for text in texts for line in one.persona])
    found, start = [], 0
    for dialogue, index, texts in asked:
        end = start + len(texts) * len(dialogue.persona)
        table = values[start:end].reshape(len(texts), len(dialogue.persona))
        start = end
        contradicts = np.asarray((table < 0).any(axis=1))
        if contradicts.any() and not contradicts[0]:
            found.append(some.pair(CONTRADICTIONS, dialogue, index, texts[int(contradicts.argmax())]))
    return found[: some.max_pairs]
