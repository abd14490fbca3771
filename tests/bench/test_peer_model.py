"""Is what peers are given a checkpoint that transformers reads, with random weights, and the rows of the benchmark?"""

import errno
import json
import os

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from falconer.bench.peer_model import write_random_falcon, write_rows
from falconer.bench.train import TINY, random_rows
from falconer.errors import FalconerError
from falconer.model.random_falcon import FALCON_11B

CPU = torch.device("cpu")
SMALL_11B = dict(FALCON_11B) | {
    "vocab_size": 512, "hidden_size": 256, "ffn_hidden_size": 512, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_kv_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize("sizes", [TINY, SMALL_11B], ids=["7b", "11b"])
def test_transformers_reads_the_checkpoint_whole(tmp_path, sizes):
    write_random_falcon(sizes, tmp_path, CPU)
    model, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.dtype == torch.bfloat16 and model.config.architectures == ["FalconForCausalLM"]
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            assert (weight == (1 if name.endswith("weight") else 0)).all()
        else:
            assert weight.float().std().item() == pytest.approx(0.02, rel=0.02) and abs(weight.mean().item()) < 1e-3
    tied = model.lm_head.weight is model.transformer.word_embeddings.weight
    assert tied == model.config.tie_word_embeddings == (sizes is TINY)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token


def test_a_full_disk_is_said_before_anything_is_written(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(FalconerError, match=r"A checkpoint with random weights, for --with, needs 3 MiB in"):
        write_random_falcon(TINY, tmp_path, CPU)
    assert not any(tmp_path.iterdir())


def test_the_rows_are_those_of_the_benchmark_with_labels_as_transformers_has_them(tmp_path):
    write_rows(tmp_path / "rows.json", 3, 48, 512)
    rows = json.loads((tmp_path / "rows.json").read_text())
    ids, is_target = random_rows(3, 48, 512)
    assert np.array_equal(rows["input_ids"], ids) and ids.max() < 512
    assert np.array_equal(np.array(rows["labels"]) != -100, is_target) and is_target.mean() == 0.5
    assert np.array_equal(np.array(rows["labels"])[is_target], ids[is_target])
