"""The frozen records that flow from a raw file to a report; nothing here knows torch or transformers."""

from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np

# "self" owns the persona and is the speaker whose replies are learned; "partner" is the person it talks to.
Speaker = Literal["self", "partner"]


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance.

    Args:
        candidates: the replies to rank at this turn, the gold one (equal to `text`) among them.
        is_learned: False where the data says "do not learn this" (OpenAI's `weight: 0`): then it is only context.
        source: the text as the data has it where `text` was restyled, else ""; words and characters are counted in it.
    """

    speaker: Speaker
    text: str
    candidates: tuple[str, ...] = ()
    is_learned: bool = True
    source: str = ""


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation seen from the side of the speaker "self", whose persona is `persona`."""

    id: str
    persona: tuple[str, ...]
    turns: tuple[Turn, ...]
    partner_persona: tuple[str, ...] = ()

    @property
    def replies(self) -> tuple[int, ...]:
        """The turns that are learned and evaluated, by their index: those of "self" that the data does not exclude."""
        return tuple(index for index, turn in enumerate(self.turns) if turn.speaker == "self" and turn.is_learned)

    def history(self, index: int) -> tuple[Turn, ...]:
        """Return the turns before one, oldest first: of each its speaker and text alone."""
        return tuple(Turn(turn.speaker, turn.text) for turn in self.turns[:index])


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two replies to the same turn, of which one is preferred.

    Args:
        source: where the pair is from, such as "distractors" or "votes:FILE".
        dialogue_id, turn: the turn that is answered; a vote in a chat has a dialogue of its own.
        history: the turns before, oldest first; of each its speaker and text alone.
        is_validation: the pair is not trained on; the best adapter is chosen on such pairs.
    """

    source: str
    dialogue_id: str
    turn: int
    persona: tuple[str, ...]
    history: tuple[Turn, ...]
    chosen: str
    rejected: str
    is_validation: bool = False


@dataclass(frozen=True, slots=True)
class Span:
    """A piece of a rendered dialogue. No token ever crosses the border of a reply (a span with `ends_turn`).

    `ends_turn` says that the model's end token follows the text; it is a target whenever the text is one.
    """

    text: str
    is_target: bool
    ends_turn: bool = False


@dataclass(frozen=True, slots=True)
class Example:
    """One encoded dialogue.

    Args:
        ids: token ids, int32 [T].
        is_target: True where the token is part of a supervised reply or is its end token, bool [T]; in training also
            in the partner's turns, if these are learned, too.
        dialogue_id: the dialogue's id.
        reply_starts: position of each supervised reply's first token.
        reply_ends: position behind each one's end token, so that `ids[start:end]` is the reply with it.
        turn_indices: for each reply, its index in `Dialogue.turns`.
    """

    ids: np.ndarray
    is_target: np.ndarray
    dialogue_id: str
    reply_starts: tuple[int, ...]
    reply_ends: tuple[int, ...]
    turn_indices: tuple[int, ...]

    @property
    def num_targets(self) -> int:
        return int(self.is_target.sum())

    @property
    def reply_sizes(self) -> tuple[int, ...]:
        """Targets of each supervised reply, its end token among them."""
        return tuple(end - start for start, end in zip(self.reply_starts, self.reply_ends, strict=True))


@dataclass(frozen=True, slots=True)
class Tree:
    """How the tokens of a batch hang together whose rows are dialogues with branches behind them.

    A token sees those tokens at or before its own place in the row that are of its own branch, or of the dialogue and
    before the place where its branch is attached.

    Args:
        positions: each token's place in its own text, int64 [B, T].
        branches: 0 for the dialogue's tokens, and the number of the branch for others, int64 [B, T].
        visible: how many of the dialogue's first tokens a token sees at most, int64 [B, T].
        predictors: the place in the row of the token before, in its own text, int64 [B, T].
    """

    positions: np.ndarray
    branches: np.ndarray
    visible: np.ndarray
    predictors: np.ndarray


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples padded on the right to one length.

    Args:
        ids: token ids, int64 [B, T]; the pad id stands behind each row's end.
        is_target: bool [B, T]; never True on a pad.
        lengths: tokens before the padding, int64 [B].
        dialogue_ids: the dialogues in the rows.
        tree: None where every row is one text.
    """

    ids: np.ndarray
    is_target: np.ndarray
    lengths: np.ndarray
    dialogue_ids: tuple[str, ...]
    tree: Tree | None = None

    @property
    def num_targets(self) -> int:
        return int(self.is_target.sum())


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What a model thinks of one gold reply, given its persona and gold history.

    Args:
        nll: negative log-likelihood in nats, summed over the reply's tokens and its end token.
        nll_text: the same without the end token.
        num_tokens: tokens, the end token included.
        num_words, num_chars: whitespace words and characters of the reply.
    """

    nll: float
    nll_text: float
    num_tokens: int
    num_words: int
    num_chars: int


@dataclass(frozen=True, slots=True)
class Ranks:
    """The gold reply's place among the candidates, 1 the best; a candidate of the same score stands before it.

    `by_mean` orders by mean token log-probability, `by_sum` by the sum; both count the end token.
    """

    by_mean: int
    by_sum: int
    num_candidates: int


@dataclass(frozen=True, slots=True)
class Prediction:
    """A generated reply beside the gold one, for one turn of one dialogue, and what the model thinks of gold.

    Args:
        history: the turns before, oldest first; of each its speaker and text alone.
        other_references: further gold replies to the same turn, where the data has several.
    """

    dialogue_id: str
    turn: int
    prediction: str
    reference: str
    persona: tuple[str, ...] = ()
    history: tuple[Turn, ...] = ()
    ended: bool | None = None
    likelihood: Likelihood | None = None
    ranks: Ranks | None = None
    other_references: tuple[str, ...] = ()

    def said_by(self, speaker: Speaker) -> list[str]:
        """Return what one of the two speakers said before this turn, oldest first."""
        return [turn.text for turn in self.history if turn.speaker == speaker]

    @property
    def reply_number(self) -> int:
        """The reply's number among its speaker's turns, from 1."""
        return 1 + len(self.said_by("self"))


@dataclass(frozen=True, slots=True)
class Score:
    """All figures of one system. Shares, BLEU, chrF, ROUGE-L, F1, distinct-n and hits@1 are 0-100; None means "not
    measured".

    token_ppl counts end tokens; word_ppl and bits_per_char leave them out and divide by whitespace words / characters.
    docs/evaluation.md defines each.
    """

    num_replies: int
    bleu: float | None = None
    brevity_penalty: float | None = None
    length_ratio: float | None = None
    rouge_l: float | None = None
    f1: float | None = None
    distinct_1: float | None = None
    distinct_2: float | None = None
    mean_words: float | None = None
    num_empty: int = 0
    ended_share: float | None = None
    token_ppl: float | None = None
    word_ppl: float | None = None
    bits_per_char: float | None = None
    bleu_2: float | None = None
    chrf: float | None = None
    persona_use: float | None = None
    repetition: float | None = None
    hits_1: float | None = None
    hits_1_sum: float | None = None
    c_score: float | None = None

    @property
    def unmeasured(self) -> list[str]:
        """Names of the figures that are None."""
        return [name for name in self.__slots__ if getattr(self, name) is None]


class StepRow(TypedDict, total=False):
    """A row of steps.jsonl: an optimiser step or, if it has `valid_loss`, the validation after that step.

    Losses are in nats per target token, of a ranking per ranked reply, of a preference training per pair; the latter's
    fields are in docs/preference.md. `ranking_accuracy` is the share (0-1) of ranked replies above their distractors.
    `epoch` is in passes over the data, `time_s` in seconds of training so far.
    """

    step: int
    valid_loss: float
    valid_ranking_loss: float
    valid_ranking_accuracy: float
    valid_preference_loss: float
    valid_sft_loss: float
    valid_margin: float
    valid_accuracy: float
    epoch: float
    loss: float
    ranking_loss: float
    ranking_accuracy: float
    ranked_replies: int
    lr: float
    grad_norm: float
    target_tokens: int
    tokens: int
    tok_per_s: float
    memory_gib: float
    time_s: float
    pairs: int
    preference_loss: float
    sft_loss: float
    margin: float
    accuracy: float
    drift: float
