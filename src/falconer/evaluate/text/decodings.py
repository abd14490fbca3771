"""Comparing decodings: the replies of one model to the same turns, with tokens chosen in several ways."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from falconer.evaluate.text.bootstrap import MIN_DIALOGUES, corrected, differences, enough_for, intervals
from falconer.evaluate.text.failures import find_failures
from falconer.evaluate.text.systems import System, system_of
from falconer.records import Prediction
from falconer.run.metrics import Decoded

# What the decodings are tested by.
TESTED = ("phrase", "repetition", "bleu", "rouge_l", "f1", "mean_words")
# Failures whose shares are told of each decoding, see `failures.FAILURES`.
_SHARES = ("phrase", "own_turn", "stock")


def compare_decodings(
    replies: Mapping[str, Sequence[Prediction]], resamples: int, seed: int, language: str = "en",
    withheld: Sequence[str] = (),
) -> dict[str, Decoded]:  # fmt: skip
    """Return the figures of replies by decoding, and tests of each one against the first; all tests are corrected
    together (Holm). With too few dialogues, nothing is tested.

    Args:
        replies: by decoding, in words; all of them to the same turns.
        resamples, seed: of the bootstrap; tests take more resamples if they are many, see `enough_for`.
        withheld: figures that no system can have on these turns.
    """
    systems = {name: system_of(name, rows, language).without(withheld) for name, rows in replies.items()}
    found = {name: find_failures(rows, language) for name, rows in replies.items()}
    blocks = {name: with_phrases(systems[name], [("phrase" in one) for one in found[name]]).blocks for name in replies}
    first, *others = replies
    is_enough = systems[first].num_dialogues >= MIN_DIALOGUES
    drawn = enough_for(len(others) * len(TESTED), resamples)
    tests = corrected({
        name: differences(blocks[first], blocks[name], TESTED, drawn, seed) for name in others if is_enough
    })  # fmt: skip
    return {
        name: Decoded(
            system.score,
            {key: 100 * sum(key in one for one in found[name]) / len(found[name]) for key in _SHARES},
            intervals(blocks[name], resamples, seed),
            tests.get(name, ()),
        )
        for name, system in systems.items()
    }


def with_phrases(system: System, repeats: Sequence[bool]) -> System:
    """Return a system that also counts which of its replies repeat a phrase, the figure `phrase` of a test."""
    counts, *others = system.blocks
    columns = {**counts.columns, "phrase": np.array(repeats, dtype=np.float64)}
    return replace(system, blocks=(replace(counts, columns=columns), *others))
