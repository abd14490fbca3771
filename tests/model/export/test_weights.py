"""Tensors are found where people keep them, and a damaged folder is explained."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from falconer.errors import FalconerError
from falconer.model.export.weights import INDEX, Weights, write_shards


def save(folder, **files):
    folder.mkdir(exist_ok=True)
    for file, tensors in files.items():
        save_file(tensors, folder / f"{file}.safetensors")
    return folder


def test_one_file_is_taken_before_shards(tmp_path):
    save(tmp_path, model={"a": torch.zeros(2)}, other={"b": torch.ones(3)})
    assert set(Weights(tmp_path).stored) == {"a"}


def test_files_without_an_index_are_all_read_but_adapters_and_second_copies(tmp_path):
    save(tmp_path, part1={"a": torch.zeros(2)}, part2={"b": torch.ones(3, dtype=torch.bfloat16)})
    save(tmp_path, adapter_model={"c": torch.ones(1)}, consolidated={"d": torch.ones(1)})
    weights = Weights(tmp_path)
    assert set(weights.stored) == {"a", "b"}
    assert weights.stored["b"].shape == (3,) and weights.stored["b"].dtype == torch.bfloat16
    assert weights.stored["b"].num_bytes == 6 and torch.equal(weights.read("b"), torch.ones(3, dtype=torch.bfloat16))


def test_a_tensor_in_two_files(tmp_path):
    save(tmp_path, part1={"a": torch.zeros(2)}, part2={"a": torch.ones(2)})
    with pytest.raises(FalconerError, match=r"part2.safetensors' and 'part1.safetensors' both contain a"):
        Weights(tmp_path)


def test_no_weights(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(FalconerError, match="contains no safetensors weights"):
        Weights(tmp_path)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
@pytest.mark.parametrize("name", ["model.safetensors", "other.safetensors"])
def test_what_is_no_file_is_not_opened(tmp_path, make, name):
    """Opening a pipe waits for ever, and Ctrl-C does not end it."""
    make(tmp_path / name)
    with pytest.raises(FalconerError, match="contains no safetensors weights"):
        Weights(tmp_path)
    save(tmp_path, part={"a": torch.zeros(2)})
    assert set(Weights(tmp_path).stored) == {"a"}


def test_a_shard_is_missing(tmp_path):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    with pytest.raises(FalconerError, match="lacks model-00001-of-00002.safetensors, which"):
        Weights(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '{"weight_map": 3}', "{}"])
def test_a_damaged_index(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(FalconerError, match="is damaged"):
        Weights(tmp_path)


def test_a_damaged_file(tmp_path):
    file = save(tmp_path, model={"a": torch.zeros(200)}) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(FalconerError, match=r"model.safetensors' can't be read"):
        Weights(tmp_path)


def test_a_format_without_values_of_its_own(tmp_path):
    save(tmp_path, model={"a": torch.zeros(2).to(torch.float8_e4m3fn)})
    with pytest.raises(FalconerError, match="a in .* is stored as F8_E4M3"):
        Weights(tmp_path)


def test_shards_are_cut_by_size_and_one_is_in_memory_at_a_time(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    tensors = {name: torch.full((100,), float(place)) for place, name in enumerate("abcde")}
    made: list[str] = []

    def make(name):
        # By the time that the third tensor is made, the first shard is on the disk.
        assert len(list(tmp_path.glob("*.safetensors"))) == len(made) // 2
        made.append(name)
        return tensors[name]

    files = write_shards(tmp_path, [(name, 400) for name in tensors], make, 1000)
    assert [file.name for file in files] == [f"model-{n:05d}-of-00003.safetensors" for n in (1, 2, 3)]
    assert [sorted(load_file(file)) for file in files] == [["a", "b"], ["c", "d"], ["e"]]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == 2000 and index["weight_map"]["e"] == files[2].name
    assert {file.stat().st_mode & 0o777 for file in files} == {(tmp_path / "config.json").stat().st_mode & 0o777}
    weights = Weights(tmp_path)
    assert all(torch.equal(weights.read(name), tensor) for name, tensor in tensors.items())
