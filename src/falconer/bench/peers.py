"""Peers of the training benchmark: TRL and Unsloth on falconer's work, each in a process of its own."""

import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

from falconer import consoles, runtime
from falconer.bench.peer_model import write_random_falcon, write_rows
from falconer.bench.train import ALPHA, DROPOUT, RANK, TARGET, Case, Row
from falconer.errors import FalconerError, one_of
from falconer.model.falcon.layout import LINEARS
from falconer.train.mode import free_memory

SCRIPT = Path(__file__).with_name("peer_process.py")
# What a peer's figures depend on.
LIBRARIES = ("torch", "triton", "transformers", "peft", "bitsandbytes", "accelerate")
# Prints the versions of packages as JSON, null for those that are missing.
ASK_VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version
def of(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None
print(json.dumps({name: of(name) for name in sys.argv[1:]}))
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer, and what it is measured at.

    Args:
        title: its name as it writes it.
        needs: the packages without which it can't do this work.
        computes: how it does the work, in words.
        install: what to do if it is missing.
        sizes: batch and tokens, by the memory mode: "fast" keeps all activations, "lean" uses its checkpointing.
    """

    title: str
    needs: tuple[str, ...]
    computes: str
    install: str
    sizes: Mapping[str, Sequence[tuple[int, int]]]


PEERS: Mapping[str, Peer] = MappingProxyType({
    "trl": Peer(
        "TRL", ("trl", "peft", "bitsandbytes", "datasets"),
        "SFTTrainer on transformers' Falcon, whose FalconLinear is replaced by nn.Linear, since transformers quantises "
        "none of them otherwise; bf16 autocast, the adapter in bf16, the head in tiles at target positions; lean: "
        "torch's gradient checkpointing, TRL's default; times of a step without its data loader",
        "Install it: pip install trl",
        MappingProxyType({"fast": ((8, 512), (32, 256)), "lean": ((8, 512),)}),
    ),
    "unsloth": Peer(
        "Unsloth", ("unsloth", "trl", "peft", "bitsandbytes", "datasets"),
        "FastModel, which compiles transformers' Falcon, whose FalconLinear is replaced by nn.Linear, since none of "
        "them is quantised otherwise; bf16 autocast, in a plain loop without a trainer; lean: its own gradient "
        "checkpointing, which offloads activations to the host",
        "Its requirements exclude versions of falconer's. Install it into an environment of its own (pip install "
        "unsloth), and name that one's Python: --peer-python ENVIRONMENT/bin/python",
        MappingProxyType({"fast": ((8, 512), (32, 256), (64, 256)), "lean": ((8, 512), (64, 256))}),
    ),
})  # fmt: skip
TINY_SIZES = MappingProxyType({"fast": ((2, 32),), "lean": ((2, 32),)})


@dataclass(frozen=True, slots=True)
class Installed:
    """A peer that can be measured.

    Args:
        name: key of `PEERS`.
        python: the Python that has it.
        versions: of the peer and of `LIBRARIES`; those that are not installed are left out.
    """

    name: str
    python: str
    versions: Mapping[str, str]

    @property
    def peer(self) -> Peer:
        return PEERS[self.name]

    def described(self) -> dict[str, Any]:
        """Return what results say of it."""
        return {"versions": dict(self.versions), "computes": self.peer.computes}

    def sentence(self) -> str:
        """Return what is printed below the table."""
        libraries = ", ".join(f"{name} {version}" for name, version in self.versions.items() if name != self.name)
        return f"{self.peer.title} {self.versions[self.name]} ({libraries}): {self.peer.computes}."


@dataclass(frozen=True, slots=True)
class Order:
    """What a peer's process does; see `peer_process.main`.

    Args:
        model: the checkpoint's folder.
        checkpointing: whether the peer's gradient checkpointing is used.
        rows: a file for each size.
        num_quantised, num_adapted: how many layers falconer quantises and adapts.
    """

    peer: str
    model: str
    checkpointing: bool
    rows: tuple[str, ...]
    runs: int
    warmup: int
    num_quantised: int
    num_adapted: int
    r: int = RANK
    alpha: int = ALPHA
    dropout: float = DROPOUT
    targets: tuple[str, ...] = (TARGET,)


def named_peers(given: Sequence[str]) -> list[str]:
    """Return the peers that --with names, each once.

    Args:
        given: the option's values, which may be lists separated by commas.

    Raises:
        FalconerError: one of them is not known.
    """
    names = [name.strip() for value in given for name in value.split(",")]
    return list(dict.fromkeys(one_of("--with", name, tuple(PEERS)) for name in names))


def find_peers(names: Sequence[str], python: Path | None) -> list[Installed]:
    """Check that the peers are installed.

    Args:
        python: the Python that has them; None: this one.

    Raises:
        FalconerError: it can't be started, or lacks one of them, or what a peer needs.
    """
    # A link in an environment's folder is what makes Python use that environment.
    program = str(python.absolute()) if python else sys.executable
    found = []
    for name in names:
        peer = PEERS[name]
        versions = _versions(program, (name, *peer.needs, *LIBRARIES))
        missing = [need for need in peer.needs if versions[need] is None]
        if missing:
            raise FalconerError(
                f"--with {name} needs {', '.join(missing)}, which '{program}' lacks.", peer.install + "."
            )
        shown = {each: version for each in (name, *LIBRARIES) if (version := versions[each])}
        found.append(Installed(name, program, shown))
    return found


def _versions(program: str, packages: Sequence[str]) -> dict[str, str | None]:
    try:
        asked = subprocess.run(
            [program, "-c", ASK_VERSIONS, *dict.fromkeys(packages)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return dict(json.loads(asked.stdout))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise FalconerError(
            f"'{program}' can't be asked which packages it has: {type(error).__name__}.",
            "Give the program of a Python environment: --peer-python ENVIRONMENT/bin/python.",
        ) from error


def measure_peers(
    peers: Sequence[Installed], shape: str, sizes: Mapping[str, Any], runs: int, warmup: int, log: Path
) -> Iterator[Row]:
    """Measure peers, one after the other.

    Args:
        shape: of `bench.train.SHAPES`.
        sizes: arguments of `FalconConfig`.
        log: gets what their processes print, in place of what it holds.

    Raises:
        FalconerError: a peer fails, or computes something else; or the disk has no room for a checkpoint.
    """
    if not peers:
        return
    say = consoles.stderr().print
    log.write_text("", encoding="utf-8")
    device = runtime.pick_device("auto")
    with TemporaryDirectory(prefix="falconer-peers-") as name:
        folder = Path(name)
        model = folder / "model"
        model.mkdir()
        say("Writing a checkpoint with random weights for the peers.")
        write_random_falcon(sizes, model, device)
        # Also of the models that were measured before.
        free_memory(device)
        num_blocks = int(sizes["num_hidden_layers"])
        for installed in peers:
            by_memory = TINY_SIZES if shape == "tiny" else installed.peer.sizes
            for memory, each in by_memory.items():
                cases = {
                    str(folder / f"rows-{b}x{t}.json"): Case(installed.name, "bf16", memory, b, t) for b, t in each
                }
                for path, case in cases.items():
                    write_rows(Path(path), case.batch, case.tokens, int(sizes["vocab_size"]))
                order = Order(
                    installed.name, str(model), memory == "lean", tuple(cases), runs, warmup,
                    len(LINEARS) * num_blocks, num_blocks,
                )  # fmt: skip
                say(
                    f"{installed.peer.title}, {memory}: loading its model; it prints to {log}.",
                    markup=False,
                    soft_wrap=True,
                )
                for answer in answers(installed, order, folder, log):
                    yield _row(cases[answer["rows"]], answer)


def _row(case: Case, answer: Mapping[str, Any]) -> Row:
    if answer["seconds"] is None:
        return Row(case, None, None)
    if not math.isfinite(answer["loss"]):
        raise FalconerError(
            f"{PEERS[case.system].title}'s first loss is {answer['loss']}, so its figures mean nothing."
        )
    return Row(case, case.batch * case.tokens / answer["seconds"], answer["peak_gib"])


def answers(installed: Installed, order: Order, folder: Path, log: Path) -> Iterator[dict[str, Any]]:
    """Run a peer's process, and yield its answer for each size as soon as it comes.

    Args:
        folder: the process works in it.
        log: what it prints is added to it.

    Raises:
        FalconerError: it reports an error, or ends before it has done everything.
    """
    title = installed.peer.title
    ours, theirs = os.pipe()
    with log.open("a", encoding="utf-8") as printed, os.fdopen(ours, encoding="utf-8") as pipe:
        process = subprocess.Popen(
            [installed.python, str(SCRIPT), str(theirs)], stdin=subprocess.PIPE, stdout=printed, stderr=printed,
            cwd=folder, pass_fds=(theirs,), env=_environment(), start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        try:
            assert process.stdin is not None
            # Of a process that has ended already, the code is told below.
            with suppress(BrokenPipeError), process.stdin as stdin:
                stdin.write(json.dumps(asdict(order)).encode())
            is_done = False
            for line in pipe:
                answer = json.loads(line)
                if "error" in answer:
                    raise FalconerError(
                        f"{title} failed: {answer['error'].rstrip('.')}.", f"What it printed is in '{log}'."
                    )
                is_done = "done" in answer
                if not is_done:
                    yield answer
            if not is_done:
                raise FalconerError(
                    f"{title}'s process ended with code {process.wait()} before it was done.",
                    f"What it printed is in '{log}'.",
                )
        finally:
            _end(process)


def _environment() -> dict[str, str]:
    # TRL 1.15 starts a Triton kernel on every device.
    interpreted = {} if runtime.pick_device("auto").type == "cuda" else {"TRITON_INTERPRET": "1"}
    return runtime.one_gpu_environment(
        # The folder of the script has files with names that others may have, too.
        PYTHONSAFEPATH="1", PYTHONWARNINGS="", HF_HUB_OFFLINE="1", UNSLOTH_DISABLE_STATISTICS="1", **interpreted,
    )  # fmt: skip


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a process and those that it has started, which compile for it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        process.wait()
