"""What training costs on the fast path, against measurements on one H100."""

import json
from pathlib import Path

import pytest
from transformers import FalconConfig

from falconer.config import load
from falconer.model.random_falcon import FALCON_7B
from falconer.train.cost import measure_shape
from falconer.train.fast_path_cost import fast_path_memory, fast_path_tokens_per_s
from falconer.train.forecast import GIB, H200_FLOPS
from falconer.train.ways import Mode

RESULT = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "train-h100.json").read_text())
OURS = [row for row in RESULT["rows"] if row["system"] == "falconer"]


@pytest.fixture(scope="module")
def falcon_7b():
    return measure_shape(FalconConfig(**FALCON_7B), load("falcon-7b").lora)


@pytest.mark.parametrize("row", OURS, ids=lambda row: "-".join(map(str, list(row.values())[1:6])))
def test_within_a_quarter_of_what_was_measured(falcon_7b, row):
    tokens = row["batch"] * row["tokens"]
    mode = Mode("fast", "", row["compute"], "", row["memory"], "", row["holds_weights"])
    where = {"quantized": True, "on_gpu": True}
    memory = fast_path_memory(falcon_7b, mode, tokens=tokens, num_logits=tokens // 2, bytes_each=2, **where)
    assert memory.total / GIB == pytest.approx(row["peak_gib"], rel=0.25)
    shares = {"target_share": 0.5, "micro_tokens": tokens}
    speed = fast_path_tokens_per_s(H200_FLOPS, falcon_7b, mode, **shares, **where)
    assert speed == pytest.approx(row["tok_s"], rel=0.25)


def test_what_is_kept_made_again_or_cached(falcon_7b):
    """Lean memory has three blocks' inputs on the device; cached weights cost two bytes a value."""

    def memory(kept, compute="bf16", caches=False):
        mode = Mode("fast", "", compute, "", kept, "", caches)
        return fast_path_memory(
            falcon_7b, mode, tokens=4096, num_logits=2048, quantized=True, bytes_each=2, on_gpu=True
        )

    fast, lean, cached = memory("fast"), memory("lean"), memory("fast", caches=True)
    assert lean.kept == 3 * 4096 * falcon_7b.hidden * 2 < fast.kept / 10
    assert cached.kept == fast.kept and cached.weights - fast.weights == 2 * falcon_7b.linear
    assert memory("fast", "fp8", True).weights == cached.weights, "two forms of one byte"
