"""What a run says of itself before its first step, and what run.json keeps of it."""

import io
import json

from rich.console import Console

from falconer.config import Config
from falconer.train import loop


def test_what_runs_is_said_first(small, tmp_path):
    shown = io.StringIO()
    config: Config = small.config("model.quantization=nf4", "train.max_steps=1")
    loop.train(config, tmp_path, resume=False, console=Console(file=shown, width=200))
    lines = shown.getvalue().splitlines()
    assert lines[0] == f"model   {small.model.name}: 8 layers in NF4; 3,072 trainable parameters"
    assert lines[1] == "precision fp32: as configured"
    assert lines[2] == "path    fast: the model has Falcon-7B's layout"
    assert lines[3] == "base    matmuls in fp32: as configured"
    assert lines[4] == "memory  fast (dequantised weights are cached): a CPU usually has enough memory"
    assert lines[5] == "data    24 training, 6 validation dialogues"
    assert lines[6] == "prompt  text as in the data; each reply ends at its first line break"
    assert (
        lines[8].startswith("note    4-bit weights make a small model less accurate")
        and "quantization=none" in lines[8]
    )
    recorded = json.loads((tmp_path / "run.json").read_text())["mode"]
    assert recorded["path"] == "falcon" and recorded["compute"] == "fp32" and recorded["holds_weights"]
