"""What the model that a preference training starts from thinks of the pairs: computed once, and kept in the run.

reference.json has the log-probability of each reply, and a key, the hash of everything that these depend on. Where the
key is another one, they are computed again.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from falconer.data.batch import collate, split_by_tokens
from falconer.errors import FalconerError
from falconer.files.replace import replace_file
from falconer.records import Example
from falconer.run.folder import REFERENCE, sealed_record
from falconer.run.manifest import sealed
from falconer.train.objectives.objective import Forward
from falconer.train.objectives.replies import reply_log_probabilities
from falconer.train.ranks import Ranks


@dataclass(frozen=True, slots=True)
class Reference:
    """The content of reference.json.

    Args:
        key: see `key_of`.
        log_probabilities: of each row, in nats.
    """

    key: str
    log_probabilities: tuple[float, ...]


def key_of(facts: Mapping[str, Any]) -> str:
    """Return the hash of what the log-probabilities depend on, such as adapter, base, prompts and pairs."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def reference_of(
    run: Path, key: str, forward: Forward, rows: Sequence[Example], micro_tokens: int, pad_id: int, ranks: Ranks,
    on_compute: Callable[[], None],
) -> np.ndarray:  # fmt: skip
    """Return the log-probability of each row's reply, fp32 [N], from the run's folder or, if need be, from the model.

    Args:
        key: see `key_of`; only the first rank compares it.
        forward: of the model that training starts from.
        rows: see `reply_row`.
        micro_tokens: tokens in one forward pass.
        on_compute: called before they are computed.

    Raises:
        FalconerError: reference.json is damaged, or a log-probability is not finite.
    """
    path = run / REFERENCE
    kept = sealed_record(Reference, path, f"Remove it: rm {path}. It is then computed again.")
    is_usable = kept is not None and len(kept.log_probabilities) == len(rows)
    is_usable = is_usable and (kept.key == key or not ranks.is_first)  # type: ignore[union-attr]
    if not ranks.any(not is_usable):
        assert kept is not None
        return np.array(kept.log_probabilities, dtype=np.float32)
    on_compute()
    found = _computed(forward, rows, micro_tokens, pad_id, ranks)
    if not np.isfinite(found).all():
        worst = rows[int(np.flatnonzero(~np.isfinite(found))[0])].dialogue_id
        raise FalconerError(
            f"The tuned model gives a reply in dialogue '{worst}' no probability.", "Set model.dtype=fp32."
        )
    if ranks.is_first:
        with replace_file(path) as aside:
            # Each fp32 number is a float64, whose shortest text gives it back exactly.
            text = json.dumps(sealed(asdict(Reference(key, tuple(map(float, found))))))
            aside.write_text(text + "\n", encoding="utf-8")
    return found


@torch.no_grad()
def _computed(forward: Forward, rows: Sequence[Example], micro_tokens: int, pad_id: int, ranks: Ranks) -> np.ndarray:
    """Return the log-probabilities with dropout off; each rank computes some of them."""
    lengths = [len(row.ids) for row in rows]
    groups = split_by_tokens(sorted(range(len(rows)), key=lambda index: lengths[index]), lengths, micro_tokens)
    was_training = forward.model.training
    forward.model.eval()
    found = torch.zeros(len(rows), dtype=torch.float32)
    for group in groups[ranks.number :: ranks.count]:
        batch = collate([rows[index] for index in group], pad_id)
        sums, _ = reply_log_probabilities(
            forward.model, batch, head_on_targets=forward.head_on_targets, autocast=forward.autocast
        )
        found[group] = sums.cpu()
    forward.model.train(was_training)
    return ranks.sum(found).numpy()
