"""Mutated inputs: every file that falconer reads is read, or refused in one line within seconds."""

import contextlib
import copy
import io
import json
import random
import re
import shutil
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import falconer, falconer_process
from falconer import config
from falconer.data.sources import load_dialogues, open_source, write_dialogues
from falconer.errors import FalconerError
from falconer.run.folder import LAST
from falconer.run.manifest import sealed, write_folder_manifest
from torture.mutations import (
    TESTS,
    TooLong,
    at_most,
    file_of,
    overrides,
    packed_fixture,
    predictions,
    preset,
)

# No input of a few thousand bytes may take longer.
MOST_S = 20


@dataclass(frozen=True)
class Kind:
    """What is mutated: how an input is made, and what reads it."""

    make: Callable[[random.Random], bytes]
    read: Callable[[bytes], str]


def told(error: FalconerError) -> str:
    """Check that an error is one that can be shown."""
    said = str(error)
    assert "\n" not in error.message.strip() or len(error.message) < 3000, "the message has many lines"
    assert len(said) < 3000, f"the message has {len(said)} characters"
    return "refused"


def one_line(code: int, err: str, out: str) -> str:
    """Check what a command printed."""
    assert code in (0, 2), f"exit code {code}"
    assert "Traceback" not in err + out, "a traceback"
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", err + out), "a control character"
    assert code == 0 or err.splitlines()[-1].startswith("falconer: "), "no error line"
    return "refused" if code else "read"


def _all_of(*reads: Callable[[], Any]) -> str:
    """Read in several ways; "refused" if one of them refuses it."""
    outcome = "read"
    for read in reads:
        try:
            read()
        except FalconerError as error:
            outcome = told(error)
    return outcome


class Readers:
    """What reads the mutated inputs, in a folder of its own.

    Args:
        folder: empty.
        run: trained and evaluated; a copy of it is used.
        base: the folder of its base model.
    """

    def __init__(self, folder: Path, run: Path, base: Path) -> None:
        self.folder = folder
        folder.mkdir()
        shutil.copytree(run, folder / "run")
        # Changes of these would be refused because of their hashes. A checkpoint needs one, which is made anew.
        for manifest in (folder / "run").rglob("manifest.json"):
            if manifest.parent.name != "last":
                manifest.unlink()
        shutil.copytree(folder / "run" / "adapter", folder / "adapter")
        shutil.copytree(base, folder / "tiny")
        self.use_tokenizer()
        self.base = _load(base)
        self.kinds = {
            "data": Kind(packed_fixture, self.data),
            "shown": Kind(packed_fixture, self.shown),
            "commands": Kind(packed_fixture, self.command),
            "predictions": Kind(predictions, self.predictions),
            "presets": Kind(preset, self.preset),
            "settings": Kind(overrides, self.overrides),
            "records": Kind(lambda dice: _sealed_again(file_of(folder / "run", RECORDS)(dice), dice), self.records),
            "adapters": Kind(file_of(folder / "run" / "adapter", ADAPTER_FILES), self.adapters),
            "models": Kind(file_of(folder / "tiny", MODEL_FILES), self.models),
        }

    def data(self, content: bytes) -> str:
        """Load, write, read again, split and encode: what is written reads back equal."""
        source, written = self.folder / "x.dat", self.folder / "y.jsonl"
        source.write_bytes(content)
        outcome = "refused"
        for on_bad_row in ("stop", "skip"):
            try:
                split = open_source(str(source)).splits[0]
                dialogues = load_dialogues(str(source), split=split, on_bad_row=on_bad_row).dialogues
            except FalconerError as error:
                told(error)
                continue
            outcome = "read"
            write_dialogues(dialogues, written)
            assert load_dialogues(str(written)).dialogues == dialogues, "what was written reads back otherwise"
            try:
                self.encoder.encode(dialogues, leave_out=on_bad_row == "skip")
            except FalconerError as error:
                told(error)
        # A batch that failed leaves no state behind.
        assert len(self.encoder.encode(self.plain)[0]) == len(self.plain)
        return outcome

    def use_tokenizer(self) -> None:
        from falconer.data.encode import Encoder
        from falconer.model.tokenizer import load_tokenizer

        tokenizer, end_id = load_tokenizer("falcon-mini")
        self.encoder = Encoder(tokenizer.backend_tokenizer.to_str(), end_id, 256)
        self.plain = load_dialogues(str(TESTS / "data" / "fixtures" / "falconer.jsonl")).dialogues[:2]

    def command(self, content: bytes) -> str:
        """Convert by the real command line."""
        (self.folder / "x.dat").write_bytes(content)
        done = falconer_process("data", "convert", "x.dat", "y.jsonl", cwd=self.folder)
        return one_line(done.code, done.err, done.out)

    def shown(self, content: bytes) -> str:
        """Show and count in this process."""
        (self.folder / "x.dat").write_bytes(content)
        done = [
            falconer("data", verb, str(self.folder / "x.dat"), "--on-bad-row", "skip") for verb in ("show", "stats")
        ]
        return max(one_line(one.code, one.err, one.out) for one in done)

    def predictions(self, content: bytes) -> str:
        path = self.folder / "predictions.dat"
        path.write_bytes(content)
        done = falconer("score", str(path), "--resamples", "100", "--json")
        return one_line(done.code, done.err, done.out)

    def preset(self, content: bytes) -> str:
        path = self.folder / "preset.yaml"
        path.write_bytes(content)
        try:
            config.load(str(path))
        except FalconerError as error:
            return told(error)
        return "read"

    def overrides(self, content: bytes) -> str:
        try:
            config.load(None, content.decode("utf-8", "surrogateescape").split("\n"))
        except FalconerError as error:
            return told(error)
        return "read"

    def records(self, content: bytes) -> str:
        """Read a run one of whose files is `content`; the file's name stands in its first line."""
        from falconer.evaluate.report.from_folder import make_report
        from falconer.files.json_record import read_object
        from falconer.model.adapter_record import adapter_format
        from falconer.model.patterns import check_patterns
        from falconer.run import folder as run_folder
        from falconer.run.overview import find_runs
        from falconer.run.state import state_of
        from falconer.train.checkpoint import read_progress
        from falconer.train.resumable import check_resumable
        from falconer.train.setup import recorded_format, run_dialogues

        name, _, rest = content.partition(b"\n")
        run = self.folder / "run"
        target, kept = run / name.decode(), self.folder / "kept"
        shutil.copyfile(target, kept)
        target.write_bytes(rest)
        write_folder_manifest(run / LAST)
        adapter = run / "adapter"

        def patterns() -> None:
            found = read_object(adapter / "adapter_config.json", "Use another one.")
            check_patterns(adapter / "adapter_config.json", found, ["transformer.h.0.self_attention.query_key_value"])

        try:
            return _all_of(
                lambda: find_runs(run), lambda: state_of(run), lambda: run_folder.read_steps(run),
                lambda: run_folder.read_chat(run), lambda: read_progress(run / LAST),
                lambda: adapter_format(adapter), patterns, lambda: make_report(run),
                lambda: check_resumable(run, None),
                lambda: recorded_format(run, run_folder.read_config(run)),
                lambda: run_dialogues(run, run_folder.read_config(run)).splits(),
            )  # fmt: skip
        finally:
            shutil.copyfile(kept, target)
            write_folder_manifest(run / LAST)

    def adapters(self, content: bytes) -> str:
        """Use an adapter one of whose files is `content`: its settings, its weights on the model, and for merging."""
        import torch

        from falconer.elsewhere import find
        from falconer.model.export.adapter import read_adapter
        from falconer.model.lora import load_adapter

        name, _, rest = content.partition(b"\n")
        adapter = self.folder / "adapter"
        shutil.copytree(self.folder / "run" / "adapter", adapter, dirs_exist_ok=True)
        (adapter / name.decode()).write_bytes(rest)

        def predict() -> None:
            with torch.no_grad():
                load_adapter(copy.deepcopy(self.base.model), adapter)(torch.tensor([[1, 2, 3]]))

        def merge() -> None:
            for weight, lora in read_adapter(adapter, self.base.model).loras.items():
                lora.merged(self.base.model.get_parameter(weight))

        return _all_of(lambda: find(str(adapter), [f"model.name={self.folder / 'tiny'}"]), predict, merge)

    def models(self, content: bytes) -> str:
        """Load a model one of whose files is `content`, and let it reply with one token."""
        import torch

        name, _, rest = content.partition(b"\n")
        model = self.folder / "model"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(self.folder / "tiny", model)
        (model / name.decode()).write_bytes(rest)
        try:
            loaded = _load(model)
        except FalconerError as error:
            return told(error)
        with torch.no_grad():
            loaded.model(torch.tensor([[1, 2, 3]]))
        return "read"


def attempt(kind: Kind, content: bytes) -> tuple[str, str]:
    """Return "read" or "refused", and the traceback of an input that is neither."""
    start = time.monotonic()
    try:
        with at_most(MOST_S), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            outcome = kind.read(content)
        # A library may have caught what ended it.
        if (took_s := time.monotonic() - start) > MOST_S:
            return "", f"took {took_s:.0f} s\ntakes more than {MOST_S} s"
        return outcome, ""
    except TooLong:
        return "", f"takes more than {MOST_S} s\n{traceback.format_exc()}"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return "", traceback.format_exc()


def mutated_input(readers: Readers, what: str, dice: random.Random, failing: Path) -> dict[str, Any]:
    """Try an input; one that fails is saved, made as small as it can be, with its traceback."""
    kind = readers.kinds[what]
    content = kind.make(dice)
    start = time.monotonic()
    outcome, trace = attempt(kind, content)
    if "takes more than" in trace:  # perhaps because other processes took the cores
        start = time.monotonic()
        outcome, trace = attempt(kind, content)
    found = {"wrong": last_line(trace), "took_s": time.monotonic() - start, outcome or "failed": 1}
    if trace:
        failing.mkdir(parents=True, exist_ok=True)
        (failing / "input.dat").write_bytes(content)
        (failing / "smallest.dat").write_bytes(smallest(kind, content))
        (failing / "traceback.txt").write_text(trace, encoding="utf-8", errors="backslashreplace")
    return found


def smallest(kind: Kind, content: bytes, seconds: float = 20) -> bytes:
    """Return an input without the pieces that its failure does not need."""
    end, size, last = time.monotonic() + seconds, len(content) // 2, last_line(attempt(kind, content)[1])
    while size and time.monotonic() < end:
        place = 0
        while place < len(content) and time.monotonic() < end:
            shorter = content[:place] + content[place + size :]
            if last_line(attempt(kind, shorter)[1]) == last:
                content = shorter
            else:
                place += size
        size //= 2
    return content


def last_line(trace: str) -> str:
    """Return the error of a traceback, without its numbers."""
    return re.sub(r"\d+", "", trace.strip().splitlines()[-1][:200]) if trace else ""


def _load(folder: Path) -> Any:
    from falconer.model.load import load_model

    return load_model(str(folder), quantization="none", dtype="fp32", device="cpu")


def _sealed_again(named: bytes, dice: random.Random) -> bytes:
    """Return a record with its own hash made anew, in half of the cases, so that it is read beyond that."""
    name, _, content = named.partition(b"\n")
    try:
        tree = json.loads(content)
        if not isinstance(tree, dict) or "sha256" not in tree or dice.random() < 0.5:
            return named
        tree = sealed({key: value for key, value in tree.items() if key != "sha256"})
    except (ValueError, RecursionError):
        return named
    return name + b"\n" + json.dumps(tree).encode()


RECORDS = (
    "config.yaml", "run.json", "splits.json", "steps.jsonl", "training.json", "metrics.json", "evaluation.json",
    "chat.json", "predictions-tuned.jsonl", "predictions-base.jsonl", "adapter/falconer.json",
    "adapter/adapter_config.json", "checkpoints/last/state.json",
)  # fmt: skip
MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "generation_config.json")
# Three times in four its configuration.
ADAPTER_FILES = (*["adapter_config.json"] * 6, "adapter_model.safetensors", "falconer.json")
INPUTS = ("data", "shown", "commands", "predictions", "presets", "settings", "records", "adapters", "models")
