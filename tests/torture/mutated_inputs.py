"""Mutated inputs: every file that falconer reads is read, or refused in one line within seconds. Run as a program:

    python tests/torture/mutated_inputs.py --seed 1 --data 1000 --commands 20 --predictions 500 --presets 500 \
        --overrides 500 --records 500 --models 20 --out RESULTS.json --failing FOLDER

It prints its seed, and saves each input that fails, made as small as it can be, with its traceback into FOLDER.
"""

import argparse
import contextlib
import copy
import csv
import io
import json
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent / "src")]

from command_line import falconer, falconer_process  # noqa: E402
from falconer import config  # noqa: E402
from falconer.data.sources import load_dialogues, open_source, write_dialogues  # noqa: E402
from falconer.errors import FalconerError  # noqa: E402

FIXTURES = sorted(path for path in (TESTS / "data" / "fixtures").iterdir() if path.suffix != ".md")
# No input of a few thousand bytes may take longer.
MOST_S = 20
PIECES = [
    b"{", b"}", b"[", b"]", b'"', b"'", b",", b";", b":", b"\t", b"\n", b"\r", b"\\", b"\\u0000", b"\\ud800", b"\0",
    b"\xff", b"\xef\xbb\xbf", b"\xff\xfe", b"\x1b]0;x\x07", b"\xc2\x9b1m", b"\xe2\x80\xae", b"\xe2\x80\xa8", b"null",
    b"NaN", b"-Infinity", b"1e999", b"true", b"[]", b"{}", b'""', b"9" * 5000, b"[" * 3000, b'{"a":' * 300, b"- " * 300,
    b"&a ", b"*a", b"!!binary ", b"2024-01-01", b"<<: ", b"role", b"[/x]", b"your persona: ", b"__eou__", b"['a\nb']",
    b" " * 3000, b"\x1f\x8b", b"PK\x03\x04", b"prediction", b"reference",
]  # fmt: skip
JUNK: list[Any] = [
    None, 5, -1, 0, True, [], {}, "", " ", "x", "\ud83d", "\0", "\x1b[2J", ["x"], [["x"]], [None], {"a": 1}, 10**30,
    -(10**400), float("nan"), float("inf"), 1e308, "[1, 2]", "['a\nb']", [[[[[]]]]], {"": ""}, "x" * 3000, "../x",
    "/etc", 2**32, 0.5, "(((a+)+)+)+b",
]  # fmt: skip


@dataclass
class Kind:
    """What is mutated: how an input is made, and what reads it."""

    make: Callable[[random.Random], bytes]
    read: Callable[[bytes], str]
    last: str = ""
    outcomes: Counter[str] = field(default_factory=Counter)
    slowest_s: float = 0.0


class TooLong(BaseException):
    """An input takes longer than it may; no `Exception`, which somebody could catch."""


@contextlib.contextmanager
def at_most(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: Any) -> NoReturn:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Return bytes with one to six changes: other bytes, lost, repeated and foreign pieces, a cut end."""
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 3, 6))):
        place, kind = dice.randrange(len(changed) + 1), dice.randrange(5)
        if kind == 0:
            changed[place : place + 1] = bytes([dice.randrange(256)])
        elif kind == 1:
            del changed[place : place + dice.randrange(1, 30)]
        elif kind == 2:
            changed[place : place + dice.randrange(6)] = dice.choice(PIECES)
        elif kind == 3:
            other = dice.randrange(len(changed) + 1)
            changed[place:place] = changed[other : other + dice.randrange(80)]
        elif dice.random() < 0.3:
            del changed[place:]
    return bytes(changed)


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where in nested lists and objects each value stands."""
    keys = value if isinstance(value, dict) else range(min(len(value), 20)) if isinstance(value, list) else ()
    for key in keys:
        yield (*place, key)
        yield from places(value[key], (*place, key))


def with_junk(tree: Any, dice: random.Random) -> Any:
    """Return a JSON value with one to three of its values replaced, removed or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(dice.randint(1, 3)):
        if not (found := list(places(tree))):
            return dice.choice(JUNK)
        *outer, last = dice.choice(found)
        inner = tree
        for key in outer:
            inner = inner[key]
        if dice.random() < 0.8:
            inner[last] = copy.deepcopy(dice.choice(JUNK))
        elif isinstance(inner, dict) and dice.random() < 0.5:
            inner[str(dice.choice(JUNK))[:40]] = inner.pop(last)
        else:
            del inner[last]
    return tree


def mutated(data: bytes, dice: random.Random) -> bytes:
    """Return a file's bytes with damaged bytes or, if they are JSON, with junk among its values."""
    if dice.random() < 0.5:
        return damaged(data, dice)
    try:
        return json.dumps(with_junk(json.loads(data), dice), ensure_ascii=dice.random() < 0.8).encode(
            "utf-8", "surrogatepass"
        )
    except ValueError:
        lines = data.split(b"\n")
    place = dice.randrange(len(lines))
    try:
        lines[place] = json.dumps(with_junk(json.loads(lines[place]), dice)).encode()
    except ValueError:
        return damaged(data, dice)
    return b"\n".join(lines)


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


class Readers:
    """What reads the mutated inputs, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.encoder: Any = None

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
        from falconer.model.guards import check_patterns
        from falconer.model.lora import recorded_bos
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
        adapter = run / "adapter"

        def patterns() -> None:
            found = read_object(adapter / "adapter_config.json", "Use another one.")
            check_patterns(adapter / "adapter_config.json", found, ["transformer.h.0.self_attention.query_key_value"])

        outcome = "read"
        try:
            for read in (
                lambda: find_runs(run), lambda: state_of(run), lambda: run_folder.read_steps(run),
                lambda: run_folder.read_chat(run), lambda: read_progress(run / "checkpoints" / "last"),
                lambda: recorded_bos(adapter), patterns, lambda: make_report(run),
                lambda: check_resumable(run, None),
                lambda: recorded_format(run, run_folder.read_config(run)),
                lambda: run_dialogues(run, run_folder.read_config(run)).splits(),
            ):  # fmt: skip
                try:
                    read()
                except FalconerError as error:
                    outcome = told(error)
        finally:
            shutil.copyfile(kept, target)
        return outcome

    def models(self, content: bytes) -> str:
        """Load a model one of whose files is `content`, and let it reply with one token."""
        import torch

        from falconer.model.load import load_model

        name, _, rest = content.partition(b"\n")
        model = self.folder / "model"
        shutil.rmtree(model, ignore_errors=True)
        shutil.copytree(self.folder / "tiny", model)
        (model / name.decode()).write_bytes(rest)
        try:
            loaded = load_model(str(model), quantization="none", dtype="fp32", device="cpu")
        except FalconerError as error:
            return told(error)
        with torch.no_grad():
            loaded.model(torch.tensor([[1, 2, 3]]))
        return "read"


def packed_fixture(dice: random.Random) -> bytes:
    import bz2
    import gzip
    import lzma

    import zstandard

    data = dice.choice(FIXTURES).read_bytes()
    changed = mutated(data, dice)
    way = dice.randrange(12)
    if way == 0:
        return changed.decode("utf-8", "replace").encode("utf-16")
    if way < 5:
        pack = (gzip.compress, bz2.compress, lzma.compress, zstandard.ZstdCompressor().compress)[way - 1]
        return pack(changed) if dice.random() < 0.5 else damaged(pack(data), dice)
    return changed


def predictions(dice: random.Random) -> bytes:
    rows = [
        {"id": 1, "dialogue_id": "d", "turn": 1, "persona": ["i ski ."], "history": ["hi", "yo"], "prediction": "hi\nu",
         "reference": 'he said "hi"', "ended": True, "ranks": {"by_mean": 1, "by_sum": 2, "num_candidates": 3}},
        {"id": 2, "dialogue_id": "e", "prediction": "", "references": ["é\t{", "[x]"], "likelihood": None},
        {"id": 3, "prediction": "ok", "gold": "3", "turn": 10**30,
         "likelihood": {"nll": 3.5, "nll_text": 3, "num_tokens": 4, "num_words": 2, "num_chars": 9}},
    ]  # fmt: skip
    table = io.StringIO()
    csv.writer(table, delimiter=dice.choice("\t,;")).writerows(
        [["prediction", "reference"], ['a "b"', "c\nd"], ["", "e"]]
    )
    texts = ["\n".join(map(json.dumps, rows)), json.dumps(rows), table.getvalue(), 'he "said"\tyes\n"no"\t"""b"""\n']
    return mutated(dice.choice(texts).encode(), dice)


def preset(dice: random.Random) -> bytes:
    names = config.preset_names()
    file = TESTS.parent / "src" / "falconer" / "presets" / f"{dice.choice(names)}.yaml"
    return damaged(file.read_bytes(), dice)


def overrides(dice: random.Random) -> bytes:
    keys = [f"{section}.{key}" for section, found in config.all_keys().items() for key in found]
    values = [*JUNK, "null", "1e9999", "１", "0x10", "1_000", "true", "nan", "auto", "-0", "1" * 5000]
    text = "\n".join(f"{dice.choice(keys)}={dice.choice(values)}" for _ in range(dice.randint(1, 3)))
    data = text.encode("utf-8", "surrogatepass")
    return damaged(data, dice) if dice.random() < 0.3 else data


def file_of(folder: Path, names: tuple[str, ...]) -> Callable[[random.Random], bytes]:
    def make(dice: random.Random) -> bytes:
        name = dice.choice(names)
        return name.encode() + b"\n" + mutated((folder / name).read_bytes(), dice)

    return make


def attempt(kind: Kind, content: bytes) -> str:
    """Return the traceback of what an input does; "" if it is read or refused as it should be."""
    start = time.monotonic()
    try:
        with at_most(MOST_S), warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            kind.last = kind.read(content)
    except TooLong:
        return f"takes more than {MOST_S} s\n{traceback.format_exc()}"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        return traceback.format_exc()
    finally:
        kind.slowest_s = max(kind.slowest_s, time.monotonic() - start)
    return ""


def smallest(kind: Kind, content: bytes, seconds: float = 20) -> bytes:
    """Return an input without the pieces that its failure does not need."""
    end, size, last = time.monotonic() + seconds, len(content) // 2, _last_line(attempt(kind, content))
    while size and time.monotonic() < end:
        place = 0
        while place < len(content) and time.monotonic() < end:
            shorter = content[:place] + content[place + size :]
            if _last_line(attempt(kind, shorter)) == last:
                content = shorter
            else:
                place += size
        size //= 2
    return content


def _last_line(trace: str) -> str:
    return re.sub(r"\d+", "", trace.strip().splitlines()[-1][:80]) if trace else ""


def prepared_run(folder: Path) -> None:
    """Train and evaluate a run of seconds, whose files are then mutated."""
    from falconer.run.folder import Chat, write_chat
    from small_runs import Small

    small = Small(folder / "small")
    settings = ["train.max_steps=2", "train.validate_every=1", "evaluate.max_replies=4", "evaluate.max_new_tokens=4"]
    small.run(folder / "run", *settings, "evaluate.resamples=100")
    done = falconer("evaluate", "--run", str(folder / "run"))
    assert done.code == 0, done.err
    write_chat(folder / "run", Chat(("i ski",), (("hi", "hello"),), {}))
    shutil.copytree(small.model, folder / "tiny")


RECORDS = (
    "config.yaml", "run.json", "splits.json", "steps.jsonl", "training.json", "metrics.json", "evaluation.json",
    "chat.json", "predictions-tuned.jsonl", "predictions-base.jsonl", "adapter/falconer.json",
    "adapter/adapter_config.json", "checkpoints/last/state.json",
)  # fmt: skip
MODEL_FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors", "generation_config.json")


def campaign(counts: dict[str, int], seed: int, failing: Path, seconds: float) -> dict[str, Any]:
    """Run every kind, and return the figures."""
    results: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        readers = Readers(folder)
        readers.use_tokenizer()
        if counts["records"] or counts["models"]:
            (folder / "small").mkdir()
            prepared_run(folder)
        kinds = {
            "data": Kind(packed_fixture, readers.data),
            "shown": Kind(packed_fixture, readers.shown),
            "commands": Kind(packed_fixture, readers.command),
            "predictions": Kind(predictions, readers.predictions),
            "presets": Kind(preset, readers.preset),
            "overrides": Kind(overrides, readers.overrides),
            "records": Kind(file_of(folder / "run", RECORDS), readers.records),
            "models": Kind(file_of(folder / "tiny", MODEL_FILES), readers.models),
        }
        for what, kind in kinds.items():
            start, done, failures = time.monotonic(), 0, Counter[str]()
            for number in range(counts[what]):
                if time.monotonic() - start > seconds:
                    break
                content = kind.make(random.Random(f"{seed} {what} {number}"))
                done += 1
                if trace := attempt(kind, content):
                    failures[_last_line(trace)] += 1
                    if failures[_last_line(trace)] == 1:
                        save(failing, f"{what}-{seed}-{number}", smallest(kind, content), trace)
                else:
                    kind.outcomes[kind.last] += 1
            results[what] = {
                "inputs": done, "read": kind.outcomes["read"], "refused": kind.outcomes["refused"],
                "failed": failures.total(), "slowest_s": round(kind.slowest_s, 2),
                "seconds": round(time.monotonic() - start, 1),
            }  # fmt: skip
            print(f"{what:<12} {json.dumps(results[what])} {dict(failures) or ''}", flush=True)
    results["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return results


def save(failing: Path, name: str, content: bytes, trace: str) -> None:
    failing.mkdir(parents=True, exist_ok=True)
    (failing / f"{name}.dat").write_bytes(content)
    (failing / f"{name}.txt").write_text(trace, encoding="utf-8", errors="backslashreplace")
    print(f"saved {failing / name}.dat: {_last_line(trace)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    names = ("data", "shown", "commands", "predictions", "presets", "overrides", "records", "models")
    for what in names:
        parser.add_argument(f"--{what}", type=int, default=0, metavar="N", help="how many inputs of this kind")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    parser.add_argument("--seconds", type=float, default=1e9, help="the most seconds for each kind")
    parser.add_argument("--out", type=Path, help="the figures, as JSON")
    parser.add_argument("--failing", type=Path, default=Path("failing-inputs"))
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    counts = {what: getattr(given, what) for what in names}
    results = {"seed": given.seed} | campaign(counts, given.seed, given.failing, given.seconds)
    if given.out:
        given.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    return int(any(isinstance(one, dict) and one["failed"] for one in results.values()))


if __name__ == "__main__":
    sys.exit(main())
