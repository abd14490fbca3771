"""Is the drift the divergence from the model that training started from, and is the model the same afterwards?"""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from falcon_tiny import tiny_falcon
from falconer import runtime
from falconer.model.lora import trainable_tensors
from falconer.train.objectives.drift import Start, drift
from falconer.train.objectives.replies import reply_row
from falconer.train.ranks import Ranks

PRECISION = runtime.pick_precision("fp32", torch.device("cpu"))
RANKS = Ranks(torch.device("cpu"))
ROWS = [reply_row(range(20, 30), [40, 41, 11], "a"), reply_row(range(50, 55), [60, 61, 62, 63, 11], "b")]


def distributions(model):
    found = []
    for row in ROWS:
        with torch.no_grad():
            logits = model(input_ids=torch.from_numpy(row.ids.astype(np.int64))[None], use_cache=False).logits[0]
        found.append(F.log_softmax(logits.double(), dim=-1)[row.reply_starts[0] - 1 : -1])
    return torch.cat(found)


def test_it_is_the_mean_divergence_over_the_replies_tokens():
    model = tiny_falcon(torch.float32, dropout=0.3)
    start = Start.of(model, PRECISION)
    assert drift(model, start, ROWS, RANKS) == pytest.approx(0, abs=1e-12)
    before = distributions(model.eval())
    with torch.no_grad():
        for parameter in trainable_tensors(model.train()).values():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    changed = [parameter.clone() for parameter in trainable_tensors(model).values()]
    found = drift(model, start, ROWS, RANKS)
    assert model.training, "dropout is on again"
    assert all(torch.equal(a, b) for a, b in zip(changed, trainable_tensors(model).values(), strict=True))
    now = distributions(model.eval())
    assert found == pytest.approx(float((now.exp() * (now - before)).sum(1).mean()), rel=1e-4)
    assert found > 1e-3
