"""Do replies agree with their persona? The C-score, from a natural-language-inference model that the user provides.

C-score of a reply (Madotto et al. 2019, arXiv:1905.10033): the sum over its persona's sentences of +1 where the reply
entails the sentence, 0 where it is neutral, -1 where it contradicts it. The premise is the reply. The figure of a set
is the mean over the replies that have a persona; an empty reply has 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from falconer import runtime
from falconer.evaluate.summary import Judge
from falconer.evaluate.text.counts import Statistics
from falconer.evaluate.text.systems import System
from falconer.model.nli import classify, load_nli
from falconer.records import Prediction
from falconer.run.metrics import Consistency, Judged

OnProgress = Callable[[str, int, int], None]


def judge_with(nli_model: str | None, batch_size: int, device: str, on_progress: OnProgress) -> Judge | None:
    """Return `judge` with the NLI model in a folder, None where the user named none."""
    if not nli_model:
        return None
    return partial(judge, folder=Path(nli_model), batch_size=batch_size, device=device, on_progress=on_progress)


def judge(
    systems: Mapping[str, System], folder: Path, batch_size: int, device: str, on_progress: OnProgress
) -> tuple[dict[str, System], Consistency]:
    """Add the C-score's counts to each system, and count the pairs of (reply, persona sentence) that were judged.

    Args:
        systems: by name, gold and ablations among them.
        folder: see `load_nli`.
        device: as model.device.

    Returns:
        The systems with a column `nli`, and what was judged of each.

    Raises:
        FalconerError: see `load_nli` and `classify`.
    """
    nli = load_nli(folder, runtime.pick_device(device))
    judged, facts = {}, {}
    for name, system in systems.items():
        rows = system.predictions
        places = [(index, line) for index, row in enumerate(rows) if row.prediction.strip() for line in row.persona]
        pairs = [(rows[index].prediction, line) for index, line in places]
        values = classify(nli, pairs, batch_size, partial(on_progress, f"{name}: NLI"))
        sums = np.zeros(len(rows))
        np.add.at(sums, [index for index, _ in places], values)
        judged[name] = replace(system, blocks=(_with_nli(system.blocks[0], sums, rows), *system.blocks[1:]))
        entailed, contradicted = (
            100 * float(share.mean()) if len(pairs) else None for share in (values > 0, values < 0)
        )
        facts[name] = Judged(judged[name].score.c_score, len(pairs), entailed, contradicted)
    definition = "mean over replies of the sum over persona sentences of +1 entailed, 0 neutral, -1 contradicted"
    return judged, Consistency(str(folder), definition, facts)


def _with_nli(statistics: Statistics, sums: np.ndarray, rows: Sequence[Prediction]) -> Statistics:
    column = np.stack([sums, np.array([float(bool(row.persona)) for row in rows])], axis=1)
    return replace(statistics, columns={**statistics.columns, "nli": column})
