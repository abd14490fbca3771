"""Ablations: does a model use its persona and history? The same turns with one of them removed or exchanged."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Literal

from falconer.data.leakage import sentence_set
from falconer.evaluate.measure import Evaluated
from falconer.records import Dialogue

AblationName = Literal["no_persona", "shuffled_persona", "no_history"]
ABLATIONS: Mapping[AblationName, str] = MappingProxyType(
    {
        "no_persona": "the prompt has the history, but no persona",
        "shuffled_persona": "the prompt has the persona of another dialogue",
        "no_history": "the prompt has the persona, but no history, not even the turn that is answered",
    }
)


def run_ablations(
    measure: Callable[[str, Sequence[Dialogue]], Evaluated], dialogues: Sequence[Dialogue], tuned: Evaluated, seed: int
) -> dict[AblationName, Evaluated]:
    """Measure a model on altered contexts; what is compared stays the turn as it really was.

    Args:
        measure: evaluates the model, given a name for the progress bar and dialogues.
        dialogues, tuned: the unaltered ones, and what was measured on them.

    Returns:
        For each ablation that alters something, rows with the true persona and history, so that a reply still counts as
        using its persona if it uses the true one. A gold reply that truncation dropped from the true context has no
        likelihood in the altered one either.
    """
    found: dict[AblationName, Evaluated] = {}
    for name in ABLATIONS:
        shown = altered(dialogues, name, seed)
        if shown is None:
            continue
        measured = measure(name.replace("_", " "), shown)
        rows = [
            replace(row, turn=true.turn, history=true.history, persona=true.persona)
            for row, true in zip(measured.predictions, tuned.predictions, strict=True)
        ]
        pairs = zip(measured.likelihoods, tuned.likelihoods, strict=True)
        found[name] = replace(measured, predictions=rows, likelihoods=[here if true else None for here, true in pairs])
    return found


def altered(dialogues: Sequence[Dialogue], ablation: AblationName, seed: int) -> list[Dialogue] | None:
    """Return the dialogues as an ablation shows them, every reply in the same order; None where nothing can be altered.

    "no_history" gives a dialogue for each reply. For "shuffled_persona" the personas go round among the dialogues in an
    order that the seed fixes, each to the next dialogue whose own has other sentences.
    """
    if ablation == "no_history":
        alone = [replace(d, turns=(d.turns[index],)) for d in dialogues for index in d.replies]
        return alone if any(len(dialogue.turns) > 1 for dialogue in dialogues) else None
    if not any(dialogue.persona for dialogue in dialogues):
        return None
    if ablation == "no_persona":
        return [replace(dialogue, persona=()) for dialogue in dialogues]
    personas = _shuffled([dialogue.persona for dialogue in dialogues], seed)
    if personas is None:
        return None
    return [replace(dialogue, persona=persona) for dialogue, persona in zip(dialogues, personas, strict=True)]


def _shuffled(personas: Sequence[tuple[str, ...]], seed: int) -> list[tuple[str, ...]] | None:
    """Return another persona for each, none without one; None where all are the same."""
    given = [index for index, persona in enumerate(personas) if persona]
    order = random.Random(seed).sample(given, len(given))
    sets = {index: sentence_set(personas[index]) for index in given}
    shown: list[tuple[str, ...]] = list(personas)
    for place, index in enumerate(order):
        circle = (*order[place + 1 :], *order[:place])
        other = next((candidate for candidate in circle if sets[candidate].isdisjoint(sets[index])), None)
        if other is None:
            other = next((candidate for candidate in circle if sets[candidate] != sets[index]), None)
        if other is None:
            return None
        shown[index] = personas[other]
    return shown
