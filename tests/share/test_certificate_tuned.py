"""What is exported: of a run, of another program's adapter; and what it is measured on."""

import json
import shutil

import pytest
import torch

from exported import save_adapter_on
from falconer.data.prompt import PromptFormat
from falconer.errors import FalconerError
from falconer.share.certificate_tuned import measuring_dtype, tuned_of_adapter, tuned_of_run
from small_runs import Small, write_dialogues
from tiny import save_tiny_model


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuned")
    small = Small(folder)
    test = write_dialogues(folder / "test.jsonl", 24, seed=7)
    small.run(folder / "run", f"data.test={test}", "train.max_steps=1")
    return folder / "run"


def test_a_run_knows_everything(run):
    found = tuned_of_run(run)
    assert found.adapter == run / "adapter" and found.trained_on == found.reference_form == "bf16"
    assert found.precision == torch.float32 and isinstance(found.format, PromptFormat)
    assert found.data == "the run's test dialogues" and len(found.dialogues) == 24 and found.notes == ()


def test_a_run_whose_data_is_gone_is_measured_on_the_sample(run, tmp_path):
    """A run's folder that was copied elsewhere can be exported there."""
    shutil.copytree(run, tmp_path / "copy")
    config = (tmp_path / "copy" / "config.yaml").read_text()
    (tmp_path / "copy" / "config.yaml").write_text(config.replace("test.jsonl", "gone.jsonl"))
    (tmp_path / "copy" / "manifest.json").unlink()
    found = tuned_of_run(tmp_path / "copy")
    assert found.data == "persona-chat-sample" and len(found.dialogues) > 100
    assert "can't be read" in found.notes[0]


def test_few_test_dialogues_are_not_enough(run, tmp_path):
    few = Small(tmp_path)
    few.run(tmp_path / "run", "train.max_steps=1")
    found = tuned_of_run(tmp_path / "run")
    assert found.data == "persona-chat-sample" and "only 6 for testing" in found.notes[0]


def test_a_run_without_an_adapter_is_refused(run, tmp_path):
    shutil.copytree(run, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "adapter")
    with pytest.raises(FalconerError, match="adapter"):
        tuned_of_run(tmp_path / "copy")


def test_an_adapter_of_another_program(tmp_path):
    base = save_tiny_model(tmp_path / "base", "falcon")
    save_adapter_on(base, tmp_path / "adapter", target_modules=["dense"])
    found = tuned_of_adapter(tmp_path / "adapter", None)
    assert found.model == str(base) and found.format is None and found.trained_on is None
    assert found.reference_form == "bf16"
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    with pytest.raises(FalconerError, match="does not name the base model"):
        tuned_of_adapter(tmp_path / "adapter", None)
    assert tuned_of_adapter(tmp_path / "adapter", "falcon-mini").model == "falcon-mini"
    with pytest.raises(FalconerError, match="contains no adapter"):
        tuned_of_adapter(base, None)


def test_models_are_compared_in_fp32_where_it_fits(monkeypatch):
    cpu = torch.device("cpu")
    monkeypatch.setattr("falconer.runtime.free_gib", lambda device: 16.0)
    assert measuring_dtype(10**9, cpu) == "fp32" and measuring_dtype(7 * 10**9, cpu) == "bf16"
    assert measuring_dtype(10**8, torch.device("cuda")) == "fp32"
    assert measuring_dtype(7 * 10**9, torch.device("cuda")) == "auto"
