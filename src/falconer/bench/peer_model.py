"""What a peer of the training benchmark is given: a checkpoint with random weights, and the rows to train it on."""

import json
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import FalconConfig, FalconForCausalLM

from falconer.bench.train import random_rows
from falconer.files.room import check_room
from falconer.model.export.weights import SHARD_BYTES, write_shards
from falconer.model.random_falcon import INITIAL_STD
from falconer.model.tokenizer import load_tokenizer

HEAD = "lm_head.weight"


def write_rows(path: Path, batch: int, tokens: int, vocab_size: int) -> None:
    """Write rows into a file: token ids, and labels as transformers has them."""
    ids, is_target = random_rows(batch, tokens, vocab_size)
    rows = {"input_ids": ids.tolist(), "labels": np.where(is_target, ids, -100).tolist()}
    path.write_text(json.dumps(rows), encoding="utf-8")


def write_random_falcon(sizes: Mapping[str, Any], folder: Path, device: torch.device) -> None:
    """Write a checkpoint with random weights in bf16, and a tokenizer, as `from_pretrained` reads them.

    Args:
        sizes: arguments of `FalconConfig`.
        folder: an empty folder.
        device: makes the random numbers.

    Raises:
        FalconerError: there is no room for it on the disk.
    """
    config = FalconConfig(**sizes)
    config.architectures, config.dtype = ["FalconForCausalLM"], torch.bfloat16
    plan, shapes = _plan(config)
    check_room(folder, [num_bytes for _, num_bytes in plan], "A checkpoint with random weights, for --with,")
    config.save_pretrained(folder)
    tokenizer, _ = load_tokenizer("falcon-mini")
    tokenizer.save_pretrained(str(folder))
    generator = torch.Generator(device).manual_seed(0)

    def make(name: str) -> torch.Tensor:
        shape = shapes[name]
        if len(shape) == 1:
            return (torch.ones if name.endswith("weight") else torch.zeros)(shape, dtype=torch.bfloat16)
        values = torch.empty(shape, dtype=torch.bfloat16, device=device)
        return values.normal_(std=INITIAL_STD, generator=generator).cpu()

    write_shards(folder, plan, make, SHARD_BYTES)


def _plan(config: FalconConfig) -> tuple[Sequence[tuple[str, int]], dict[str, tuple[int, ...]]]:
    """Return name and bytes of each tensor of a checkpoint, and its shape."""
    with torch.device("meta"):
        model = FalconForCausalLM(config)
    shapes = {
        name: tuple(tensor.shape)
        for name, tensor in model.state_dict().items()
        if name != HEAD or not config.tie_word_embeddings
    }
    return [(name, prod(shape) * torch.bfloat16.itemsize) for name, shape in shapes.items()], shapes
