"""Time, memory and drift of `falconer merge` at Falcon-7B's shape, with random weights.

    python benchmarks/bench_merge.py [--layers 32] [--room FOLDER] [--out FILE.json]

A base in bf16 and a LoRA r=16 on query_key_value are written first. Then the command merges the adapter into either
form of the base, in a process of its own each, whose time and highest memory are noted. The drift is measured as in a
certificate, against the adapter on the base in NF4: the base model without adapter is the tune's own effect. The room
needs three times the size of the base in bf16 (3 x 13 GiB).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from falconer import runtime
from falconer.bench.result import write_result
from falconer.data.prompt import PromptFormat
from falconer.data.sources import SAMPLE, load_dialogues
from falconer.model.lora import write_adapter
from falconer.model.random_falcon import FALCON_7B, random_adapter, untrained_falcon
from falconer.model.tokenizer import load_tokenizer
from falconer.share.certificate_making import Certifier, Effort
from falconer.share.certificate_tuned import Form, Tuned

FORMS: tuple[Form, ...] = ("nf4", "bf16")
GIB = 2**30


def write_model(shape: Mapping[str, Any], room: Path) -> None:
    """Write base and adapter into `room`; falcon-mini's tokenizer has fewer tokens than the embedding has rows."""
    runtime.seed_everything(17)
    tokenizer, end_id = load_tokenizer("falcon-mini")
    ends = {"bos_token_id": end_id, "eos_token_id": end_id}
    model = untrained_falcon({**shape, **ends}, runtime.pick_device("auto"), torch.bfloat16, nf4=False)
    model.save_pretrained(room / "base", max_shard_size="2GB")
    tokenizer.save_pretrained(room / "base")
    adapted = random_adapter(model, r=16, targets="query_key_value", seed=17)
    (room / "adapter").mkdir()
    write_adapter(adapted, room / "adapter")


def merge(room: Path, form: Form) -> dict[str, Any]:
    """Run the command; return its seconds, and the most memory that its process had."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "falconer", "merge", "--adapter", str(room / "adapter"), "--model",
            str(room / "base"), "--base", form, "--out", str(room / form), "--no-measure",
        ]
    )  # fmt: skip
    _, status, used = os.wait4(process.pid, 0)
    # Popen would wait for it as well.
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"falconer merge ended with {process.returncode}")
    written = sum(file.stat().st_size for file in (room / form).iterdir())
    return {
        "base": form, "time_s": round(time.perf_counter() - started, 1), "peak_gib": round(used.ru_maxrss / 2**20, 2),
        "written_gib": round(written / GIB, 2),
    }  # fmt: skip


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=FALCON_7B["num_hidden_layers"])
    parser.add_argument("--hidden", type=int, default=FALCON_7B["hidden_size"], help="a multiple of 64")
    parser.add_argument("--room", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--conversations", type=int, default=20)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    runtime.quiet_libraries()
    heads = given.hidden // 64
    shape = {
        **FALCON_7B, "num_hidden_layers": given.layers, "hidden_size": given.hidden, "num_attention_heads": heads,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(dir=given.room) as name:
        room = Path(name)
        write_model(shape, room)
        rows = [merge(room, form) for form in FORMS]
        tuned = Tuned(
            str(room / "base"), None, room / "adapter", PromptFormat(), "nf4", torch.bfloat16, "auto", 1024,
            tuple(load_dialogues(SAMPLE, split="test").dialogues), SAMPLE,
        )  # fmt: skip
        certifier = Certifier(tuned, Effort(given.conversations, num_replies=0), lambda what, done, total: None)
        for row, form in zip(rows, FORMS, strict=True):
            measured = certifier.merged(room / form, form).measured
            assert measured is not None
            row |= {"drift": asdict(measured.export), "tunes_own_effect": asdict(measured.base), "how": measured.how}
            kl, own = measured.export.kl, measured.base.kl
            print(f"into {form}: {row['time_s']} s, {row['peak_gib']} GiB", flush=True)
            print(f"  KL {kl.value:.2e} [{kl.low:.2e}, {kl.high:.2e}]; the tune's effect {own.value:.2e}", flush=True)
    if given.out:
        write_result(given.out, "falconer merge, random weights of Falcon-7B's shape", rows, shape=dict(shape))


if __name__ == "__main__":
    main()
