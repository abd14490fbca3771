"""Are the benchmark's peers found, given falconer's own work, and ended, whatever becomes of their process?"""

import io
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from command_line import falconer
from falconer.bench import peers, train
from falconer.bench.peers import PEERS, find_peers, measure_peers, named_peers
from falconer.bench.result import train_table
from falconer.bench.train import TINY, random_rows
from falconer.errors import FalconerError

# A Python that says that it has some packages, and runs no peer but does what a test wants of it.
FAKE = """#!{python}
import json, os, sys
from pathlib import Path
if sys.argv[1] == "-c":
    versions = {versions!r}
    print(json.dumps({{name: versions.get(name) for name in sys.argv[3:]}}))
    sys.exit()
order = json.loads(sys.stdin.read())
with Path({orders!r}).open("a") as file:
    files = {{name: json.loads(Path(name).read_text()) for name in order["rows"]}}
    folder = Path(order["model"])
    told = dict(order, files=files, folder=sorted(path.name for path in folder.iterdir()), here=os.getcwd())
    file.write(json.dumps(told) + chr(10))
print("a banner on stdout")
print("a warning on stderr", file=sys.stderr)
pipe = os.fdopen(int(sys.argv[2]), "w", buffering=1)
def answer(**line):
    print(json.dumps(line), file=pipe)
{does}
"""
ALL = {name: "1.0" for name in ("trl", "unsloth", "peft", "bitsandbytes", "datasets", "torch", "transformers")}
TRAINS = "[answer(rows=path, seconds=0.5, peak_gib=1.25, loss=6.3) for path in order['rows']]; answer(done=True)"


@pytest.fixture(autouse=True)
def freed(monkeypatch):
    """The devices whose memory was freed; the collection itself takes a second with all libraries loaded."""
    found = []
    monkeypatch.setattr(peers, "free_memory", found.append)
    return found


@pytest.fixture
def fake(tmp_path):
    """Make such a Python; the orders that it was given are in orders.jsonl."""

    def make(does: str = TRAINS, versions: dict[str, str] = ALL) -> Path:
        path = tmp_path / "python"
        path.write_text(
            FAKE.format(python=sys.executable, versions=versions, orders=str(tmp_path / "orders.jsonl"), does=does)
        )
        path.chmod(0o755)
        return path

    return make


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["trl"], ["trl"]),
        (["unsloth", "trl"], ["unsloth", "trl"]),
        (["trl, unsloth"], ["trl", "unsloth"]),
        (["trl,unsloth", "trl"], ["trl", "unsloth"]),
        ([], []),
    ],
)
def test_names_may_be_repeated_or_listed(given, expected):
    assert named_peers(given) == expected


@pytest.mark.parametrize("given", ["vllm", "trl,vllm", "TRL", "trl,", ""])
def test_a_name_that_is_not_known_is_refused(given):
    with pytest.raises(FalconerError, match=r"--with .*is not allowed\. Allowed: trl, unsloth\."):
        named_peers([given])


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_that_is_missing_is_refused_with_what_to_install(fake, name):
    python = fake(versions={key: value for key, value in ALL.items() if key not in (name, "peft")})
    with pytest.raises(FalconerError) as caught:
        find_peers([name], python)
    assert caught.value.message == f"--with {name} needs {name}, peft, which '{python}' lacks."
    assert f"pip install {name}" in caught.value.hint
    assert ("--peer-python" in caught.value.hint) == (name == "unsloth")


def test_a_peer_that_is_there_comes_with_its_versions(fake, tmp_path, monkeypatch):
    fake()
    monkeypatch.chdir(tmp_path)
    (found,) = find_peers(["trl"], Path("python"))
    # The process works in another folder.
    assert found.python == str(tmp_path / "python")
    assert found.versions == {name: "1.0" for name in ("trl", "torch", "transformers", "peft", "bitsandbytes")}
    assert found.sentence().startswith("TRL 1.0 (torch 1.0, transformers 1.0, peft 1.0, bitsandbytes 1.0): SFTTrainer")
    assert found.described() == {"versions": found.versions, "computes": PEERS["trl"].computes}


@pytest.mark.parametrize("program", ["nowhere/python", "/bin/false", "/bin/echo"])
def test_a_program_that_is_no_python_is_refused(program):
    with pytest.raises(FalconerError, match="can't be asked which packages it has.*--peer-python ENVIRONMENT"):
        find_peers(["trl"], Path(program))


def measured(python, tmp_path, name="trl"):
    return measure_peers(find_peers([name], python), "tiny", TINY, 2, 1, tmp_path / "log")


def test_a_peer_gets_the_memory_and_the_work_of_falconers_own_cases(fake, tmp_path, freed):
    rows = [row.flat() for row in measured(fake(), tmp_path)]
    assert freed == [torch.device("cpu")]
    assert [(row["system"], row["memory"], row["compute"], row["batch"], row["tokens"]) for row in rows] == [
        ("trl", "fast", "bf16", 2, 32), ("trl", "lean", "bf16", 2, 32)
    ]  # fmt: skip
    assert all(row["tok_s"] == 2 * 32 / 0.5 and row["peak_gib"] == 1.25 and not row["holds_weights"] for row in rows)
    orders = [json.loads(line) for line in (tmp_path / "orders.jsonl").read_text().splitlines()]
    assert [order["checkpointing"] for order in orders] == [False, True]
    ids, is_target = random_rows(2, 32, TINY["vocab_size"])
    for order in orders:
        wanted = {"r": 16, "alpha": 32, "dropout": 0.05, "targets": ["query_key_value"], "runs": 2, "warmup": 1}
        assert wanted.items() <= order.items() and (order["num_quantised"], order["num_adapted"]) == (8, 2)
        (given,) = order["files"].values()
        assert given["input_ids"] == ids.tolist() and is_target.mean() == 0.5
        assert np.array_equal(given["labels"], np.where(is_target, ids, -100))
        assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(order["folder"])
        # What a peer leaves in its folder is gone with it, and so is the checkpoint.
        assert order["here"] != os.getcwd() and not Path(order["here"]).exists() and not Path(order["model"]).exists()
    assert (tmp_path / "log").read_text().count("a banner on stdout") == 2


def test_running_out_of_memory_is_a_result(fake, tmp_path):
    does = TRAINS.replace("seconds=0.5, peak_gib=1.25, loss=6.3", "seconds=None, peak_gib=None, loss=None")
    rows = [row.flat() for row in measured(fake(does), tmp_path, "unsloth")]
    assert [(row["system"], row["tok_s"], row["peak_gib"]) for row in rows] == [("unsloth", None, None)] * 2


@pytest.mark.parametrize(
    ("does", "message"),
    [
        (
            "answer(error='RuntimeError: no such layer.')",
            r"TRL failed: RuntimeError: no such layer\. What it printed is",
        ),
        ("sys.exit(3)", r"TRL's process ended with code 3 before it was done\. What it printed is in"),
        ("os.kill(os.getpid(), 9)", r"TRL's process ended with code -9 before it was done"),
        (TRAINS.replace("answer(done=True)", "sys.exit(0)"), r"TRL's process ended with code 0 before it was done"),
        (TRAINS.replace("6.3", "float('nan')"), r"TRL's first loss is nan, so its figures mean nothing"),
    ],
)
def test_a_peer_that_fails_is_an_error_that_says_where_to_look(fake, tmp_path, does, message):
    with pytest.raises(FalconerError, match=message):
        list(measured(fake(does), tmp_path))
    assert "a warning on stderr" in (tmp_path / "log").read_text()


def test_a_process_that_dies_before_it_has_read_its_order_is_no_broken_pipe(fake, tmp_path):
    python = fake()
    text = python.read_text().replace("order = json.loads(sys.stdin.read())", "sys.exit(7)")
    python.write_text(text)
    with pytest.raises(FalconerError, match="ended with code 7"):
        list(measured(python, tmp_path))


def test_what_a_peer_has_started_is_ended_with_it(fake, tmp_path):
    child = tmp_path / "child"
    does = (
        f"import subprocess; pid = subprocess.Popen(['sleep', '600']).pid; Path({str(child)!r}).write_text(str(pid))\n"
        "answer(rows=order['rows'][0], seconds=1, peak_gib=1, loss=1); import time; time.sleep(600)"
    )
    rows = measured(fake(does), tmp_path)
    next(rows)
    pid = int(child.read_text())
    rows.close()
    deadline = time.monotonic() + 10
    while is_running(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(pid)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def nothing_of_ours(monkeypatch):
    """Falconer's own rows are tested elsewhere; one of them stands for all."""
    row = train.Row(train.Case("peft", "bf16", "fast", 2, 32), 100.0, 1.0)
    monkeypatch.setattr(train, "measure", lambda *_, **__: iter([("row", row)]))


def bench(python, tmp_path, *options):
    out = tmp_path / "figures.json"
    arguments = ("bench", "train", "--shape", "tiny", "--runs", "1", "--out", str(out), "--peer-python", str(python))
    return falconer(*arguments, *options), out


@pytest.mark.usefixtures("nothing_of_ours")
def test_the_command_shows_and_writes_rows_versions_and_what_is_computed(fake, tmp_path):
    (tmp_path / "figures.peers.log").write_text("of an earlier benchmark")
    found, out = bench(fake(), tmp_path, "--with", "trl", "--with", "unsloth")
    assert found.code == 0, found.err
    result = json.loads(out.read_text())
    assert [row["system"] for row in result["rows"]] == ["peft", "trl", "trl", "unsloth", "unsloth"]
    assert {name: peer["versions"][name] for name, peer in result["peers"].items()} == {"trl": "1.0", "unsloth": "1.0"}
    assert all(peer["computes"] == PEERS[name].computes for name, peer in result["peers"].items())
    assert "TRL 1.0 (" in found.out and "Unsloth 1.0 (" in found.out
    log = (tmp_path / "figures.peers.log").read_text()
    assert "earlier" not in log and log.count("a banner on stdout") == 4
    assert all(
        f"{title}, {memory}: loading" in found.err for title in ("TRL", "Unsloth") for memory in ("fast", "lean")
    )
    assert found.out.count("128") >= 4 and "1.28" in found.out


@pytest.mark.usefixtures("nothing_of_ours")
def test_what_was_measured_before_a_peer_failed_is_kept(fake, tmp_path):
    found, out = bench(fake("answer(error='ValueError: x')"), tmp_path, "--with", "trl")
    assert found.code == 2 and "falconer: TRL failed: ValueError: x." in found.err
    assert str(out.with_suffix(".peers.log")) in found.err
    assert [row["system"] for row in json.loads(out.read_text())["rows"]] == ["peft"]


def test_a_missing_peer_is_refused_before_any_work(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "measure", lambda *_, **__: pytest.fail("it has begun to measure"))
    found, out = bench(fake(versions={}), tmp_path, "--with", "unsloth")
    assert found.code == 2 and "--with unsloth needs unsloth, trl, peft" in found.err and not out.exists()
    found, _ = bench(fake(), tmp_path)
    assert found.code == 2 and "--peer-python is given without --with" in found.err


def test_the_table_calls_peers_by_their_names():
    rows = [train.Row(train.Case(name, "bf16", "fast", 8, 512), 100.0, 1.0).flat() for name in PEERS]
    shown = io.StringIO()
    Console(file=shown, width=120).print(train_table(rows, {}))
    assert [line.split()[0] for line in shown.getvalue().splitlines()[1:]] == [peer.title for peer in PEERS.values()]
