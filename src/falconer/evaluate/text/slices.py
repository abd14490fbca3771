"""Figures on slices of the turns: by position in the dialogue, by the gold reply, by personas seen in training."""

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from falconer.data.language import has_spaces
from falconer.data.leakage import normalise
from falconer.evaluate.text.bootstrap import MIN_DIALOGUES, intervals
from falconer.evaluate.text.figures import figures
from falconer.evaluate.text.pairs import uses_persona
from falconer.evaluate.text.systems import System
from falconer.records import Prediction
from falconer.run.metrics import Bounded, Slice

# Later replies are counted together: few dialogues of Persona-Chat have more.
LAST_TURN = 8
# Marks of a question in Latin, Greek, Arabic, Chinese, Armenian and Ethiopic writing.
_QUESTION = re.compile("[?\u037e\u061f\uff1f\u055e\u1367]")
# Figures that a slice shows; BLEU of a small slice is shaky, and its interval says so.
SHOWN = ("word_ppl", "bleu", "rouge_l", "f1", "persona_use", "hits_1", "mean_words", "ended_share")
_WITHOUT_SPACES = ("bits_per_char", *SHOWN[1:])


def masks(
    rows: Sequence[Prediction], seen: Iterable[str] | None = None, language: str = "en"
) -> dict[str, dict[str, np.ndarray]]:
    """Return which rows belong to each slice, bool [N], by kind of slice and name; empty slices are left out.

    Kinds: `reply` (its number among the speaker's own, "8+" the last), `gold` ("question" if it holds a question mark,
    else "statement"), in English `gold persona` ("used" if it shares a content word with the persona), and, where
    `seen` is given, `persona in training` ("seen" if training shows a sentence of it, else "unseen").

    Args:
        seen: persona sentences of the training data.
    """
    number = np.array([min(row.reply_number, LAST_TURN) for row in rows])
    kinds: dict[str, dict[str, np.ndarray]] = {
        "reply": {f"{n}{'+' * (n == LAST_TURN)}": number == n for n in range(1, LAST_TURN + 1)}
    }
    kinds["gold"] = _two("question", "statement", [bool(_QUESTION.search(row.reference)) for row in rows])
    has_persona = np.array([bool(row.persona) for row in rows])
    if language == "en":
        used = _two("used", "not used", [uses_persona(row.reference, row.persona) for row in rows])
        kinds["gold persona"] = {name: mask & has_persona for name, mask in used.items()}
    if seen is not None:
        known = {normalise(sentence) for sentence in seen}
        shared = [any(normalise(sentence) in known for sentence in row.persona) for row in rows]
        kinds["persona in training"] = {
            name: mask & has_persona for name, mask in _two("seen", "unseen", shared).items()
        }
    kept = {kind: {name: mask for name, mask in some.items() if mask.any()} for kind, some in kinds.items()}
    return {kind: some for kind, some in kept.items() if some}


def slice_figures(
    systems: Mapping[str, System], seen: Iterable[str] | None, resamples: int, seed: int
) -> tuple[Slice, ...]:
    """Return each slice's figures.

    Shown is each of `SHOWN` that was measured; without spaces between words, bits per character in place of word
    perplexity. The interval's ends are None below `MIN_DIALOGUES` dialogues; perplexity is that of the generated turns.
    """
    first = next(iter(systems.values()))
    return tuple(
        Slice(
            kind,
            name,
            int(mask.sum()),
            {system.name: _figures(system, mask, resamples, seed) for system in systems.values()},
        )
        for kind, some in masks(first.predictions, seen, first.language).items()
        for name, mask in some.items()
    )


def _figures(system: System, mask: np.ndarray, resamples: int, seed: int) -> dict[str, Bounded]:
    chosen = system.blocks[0].select(mask)
    values, bounds = figures(chosen.sums()), intervals([chosen], resamples, seed)
    are_sure = chosen.num_dialogues >= MIN_DIALOGUES
    keys = SHOWN if has_spaces(system.language) else _WITHOUT_SPACES
    return {
        key: Bounded(float(values[key]), *(bounds[key] if are_sure else (None, None))) for key in keys if key in bounds
    }


def _two(yes: str, no: str, facts: Sequence[bool]) -> dict[str, np.ndarray]:
    mask = np.array(facts, dtype=bool)
    return {yes: mask, no: ~mask}
