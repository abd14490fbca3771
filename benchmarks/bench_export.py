"""The figures of docs/sharing.md: the drift of each export of a run's adapter, and of GGUF files in llama.cpp.

    python benchmarks/bench_export.py --run runs/quickstart --out benchmarks/results/export.json

Each export is measured on the same dialogues as its certificate is. With llama-cpp-python installed, llama.cpp itself
is asked as well, in a process of its own, since it ends the process where it fails.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from falconer.files.replace import replace_file
from falconer.model.export.base import open_base
from falconer.model.export.gguf import About, write_gguf, write_gguf_adapter
from falconer.model.export.merge import merge_adapter
from falconer.records import Example
from falconer.runtime import metadata_version, quiet_libraries
from falconer.share.certificate import Certificate
from falconer.share.certificate_drift import compare_replies, drift
from falconer.share.certificate_making import Certifier, Effort
from falconer.share.certificate_tuned import Tuned, tuned_of_run

PROGRAM = """
import json, sys
import numpy as np
from llama_cpp import Llama
asked = json.load(open(sys.argv[1]))
model = Llama(asked["model"], lora_path=asked["lora"], n_ctx=1024, logits_all=True, verbose=False, n_threads=1)
for number, (ids, places) in enumerate(asked["examples"]):
    model.reset()
    model.eval(ids)
    np.save(f"{asked['out']}/{number}.npy", np.array(model.scores[: len(ids)])[places])
replies = []
for prompt in asked["prompts"]:
    model.reset()
    reply = []
    for token in model.generate(prompt, temp=0.0, repeat_penalty=1.0):
        reply.append(token)
        if len(reply) == asked["num_new"] or token in asked["stops"]:
            break
    replies.append(reply)
model.close()
json.dump(replies, open(f"{asked['out']}/replies.json", "w"))
"""


def quiet(what: str, done: int, total: int) -> None:
    """Show progress on stderr."""
    print(f"\r{what}: {done} of {total}   ", end="\n" if done == total else "", file=sys.stderr, flush=True)


def figures(certificate: Certificate) -> dict[str, Any]:
    """Return what a certificate measured, and the size."""
    assert certificate.measured is not None
    tree = asdict(certificate.measured)
    tokens = None if certificate.tokens is None else asdict(certificate.tokens)
    return {"bytes": certificate.num_bytes, "tokens": tokens, **tree}


def ask_llama_cpp(certifier: Certifier, file: Path, room: Path, lora: Path | None = None) -> dict[str, Any]:
    """Return the drift of a GGUF file as llama.cpp runs it, with a GGUF adapter where one is given."""
    known = certifier.known
    assert known is not None
    examples = [
        (example.ids.tolist(), (np.flatnonzero(example.is_target) - 1).tolist()) for example in known.asked.examples
    ]
    encoder = known.encoder
    stops = [encoder.end_id, *encoder.stop_ids, *([] if encoder.format.multi_line else encoder.line_break())]
    asked = {
        "model": str(file), "lora": lora and str(lora), "examples": examples, "prompts": known.asked.prompts,
        "stops": stops, "out": str(room), "num_new": known.asked.decoding.max_new_tokens,
    }  # fmt: skip
    (room / "asked.json").write_text(json.dumps(asked))
    subprocess.run([sys.executable, "-c", PROGRAM, str(room / "asked.json")], check=True)
    numbers = iter(range(len(examples)))

    def predict(example: Example) -> torch.Tensor:
        return torch.from_numpy(np.load(room / f"{next(numbers)}.npy")).float().log_softmax(-1)

    found = drift(predict, known.reference, known.asked, "llama.cpp", quiet)
    replies = compare_replies(json.loads((room / "replies.json").read_text()), known.reference.replies, known.asked)
    return {"export": asdict(found), "replies": replies and asdict(replies)}


def measure(tuned: Tuned, room: Path, effort: Effort) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield name and figures of each export."""
    certifier = Certifier(tuned, effort, quiet, compares_forms=True)
    forms: Sequence[tuple[str, Any, torch.dtype | None]] = (
        ("nf4", "nf4", tuned.precision), ("nf4 fp32", "nf4", torch.float32), ("bf16", "bf16", None)
    )  # fmt: skip
    for name, form, dtype in forms:
        folder = room / name.replace(" ", "-")
        started = time.perf_counter()
        merge_adapter(
            tuned.model, tuned.adapter, folder, base=form, dtype=dtype, revision=tuned.revision, format=tuned.format,
            device=tuned.device,
        )  # fmt: skip
        merge_s = time.perf_counter() - started
        yield f"merged {name}", {"merge_s": merge_s, **figures(certifier.merged(folder, form))}
    has_llama_cpp = find_spec("llama_cpp") is not None
    for type in ("f16", "q8_0"):
        file = room / f"{type}.gguf"
        write_gguf(room / "nf4", file, type, About("tuned"))
        yield f"gguf {type}", figures(certifier.gguf(file, room / "nf4", "nf4", type))
        if has_llama_cpp:
            yield f"gguf {type} in llama.cpp", ask_llama_cpp(certifier, file, room)
    write_gguf_adapter(tuned.model, tuned.adapter, room / "lora.gguf", "f16", About("tuned"), tuned.revision)
    yield "gguf adapter f16", figures(certifier.gguf_adapter(room / "lora.gguf", "f16"))
    if has_llama_cpp:
        write_gguf(open_base(tuned.model, tuned.revision).folder, room / "base.gguf", "f16", About("base"))
        yield "gguf adapter f16 in llama.cpp", ask_llama_cpp(certifier, room / "base.gguf", room, room / "lora.gguf")
    yield "adapter", figures(certifier.adapter())


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/quickstart"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--conversations", type=int, default=50)
    parser.add_argument("--replies", type=int, default=200)
    given = parser.parse_args()
    quiet_libraries()
    tuned = tuned_of_run(given.run)
    names = ("falconer", "torch", "transformers", "peft", "bitsandbytes", "gguf", "llama_cpp_python")
    tree = json.loads(given.out.read_text()) if given.out.is_file() else {}
    tree |= {"model": tuned.model, "versions": {name: metadata_version(name) for name in names}, "exports": {}}
    with tempfile.TemporaryDirectory() as room:
        for name, found in measure(tuned, Path(room), Effort(given.conversations, given.replies)):
            tree["exports"][name] = found
            # One after the other: what is measured stays if it is stopped.
            with replace_file(given.out) as aside:
                aside.write_text(json.dumps(tree, indent=2) + "\n")


if __name__ == "__main__":
    main()
