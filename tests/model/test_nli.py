"""An inference model from a folder: its labels count as their names say, and another kind of model is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, BertModel

from falconer.errors import FalconerError
from falconer.model.nli import classify, load_nli
from falconer.model.tokenizer import load_tokenizer

LABELS = {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}
PAIRS = [("i have two dogs", "i like dogs ."), ("no", "i am a teacher and i like to ski ."), ("yes", "i sing")] * 3
CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("one_thread")


def save(folder: Path, labels: dict[int, str] = LABELS, with_head: bool = True) -> Path:
    tokenizer, end_id = load_tokenizer("falcon-mini")
    tokenizer.pad_token = tokenizer.eos_token
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64,
        pad_token_id=end_id, id2label=labels, label2id={label: index for index, label in labels.items()},
    )  # fmt: skip
    torch.manual_seed(0)
    model = BertForSequenceClassification(config) if with_head else BertModel(config)
    for parameter in model.parameters():
        parameter.data.mul_(5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_labels_are_worth_what_their_names_say_whatever_their_order(tmp_path: Path) -> None:
    seen = []
    nli = load_nli(save(tmp_path / "a"), CPU)
    values = classify(nli, PAIRS, 2, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (9, 9)
    with torch.no_grad():
        singly = [nli.model(**nli.tokenizer(*pair, return_tensors="pt")).logits.argmax().item() for pair in PAIRS]
    assert values.tolist() == [{0: -1, 1: 0, 2: 1}[label] for label in singly]
    turned = load_nli(save(tmp_path / "b", {0: "entailment", 1: "neutral", 2: "contradiction"}), CPU)
    np.testing.assert_array_equal(classify(turned, PAIRS, 4, lambda done, total: None), -values)
    assert len(set(values.tolist())) > 1


def test_no_pairs_are_no_work(tmp_path: Path) -> None:
    assert classify(load_nli(save(tmp_path), CPU), [], 2, lambda done, total: None).tolist() == []


def test_what_is_no_nli_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FalconerError, match=r"evaluate\.nli_model: '.*' is not a folder with config\.json"):
        load_nli(tmp_path / "none", CPU)
    with pytest.raises(FalconerError, match=r"labels of '.*' are yes, no\. They must be entailment, neutral"):
        load_nli(save(tmp_path / "labels", {0: "yes", 1: "no"}), CPU)
    with pytest.raises(FalconerError, match="lacks 2 weights of a classifier"):
        load_nli(save(tmp_path / "headless", with_head=False), CPU)
    broken = save(tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(FalconerError, match="can't be read as a model"):
        load_nli(broken, CPU)
    pickled = save(tmp_path / "pickled")
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(FalconerError, match="safetensors weights"):
        load_nli(pickled, CPU)
    assert "CONTRADICTION" in json.loads((broken / "config.json").read_text(encoding="utf-8"))["id2label"].values()


def test_not_a_number_is_an_error(tmp_path: Path) -> None:
    nli = load_nli(save(tmp_path), CPU)
    nli.model.classifier.bias.data.fill_(float("nan"))
    with pytest.raises(FalconerError, match=r"output of the NLI model is NaN"):
        classify(nli, PAIRS, 2, lambda done, total: None)
