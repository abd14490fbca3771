"""Bringing a run of a sweep to its end, in processes of its own, from whatever state it was left in.

A process of its own gives back all of its memory, and if it crashes, the sweep goes on.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from falconer.config import Config
from falconer.files.locks import holder_of, is_held
from falconer.run.folder import is_run
from falconer.sweep.folder import is_measured, log_file, run_folder
from falconer.sweep.plan import settings_of

_POLL_S = 1.0
# For the step that a training does when it is interrupted, and its checkpoint.
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Done:
    """How a run ended: measured, or why not.

    Args:
        name: the run's.
        failed: the last line that its process has printed; "" if it was measured.
    """

    name: str
    failed: str = ""


def bring_to_end(sweep: Path, name: str, config: Config, console: Console) -> Done:
    """Train and measure a run, as far as that has not been done.

    Raises:
        KeyboardInterrupt: a process of the run was interrupted; its state is saved.
    """
    if is_measured(sweep, name):
        return Done(name)
    run = run_folder(sweep, name)
    _wait_for(run, console)
    # Settings are for a new run alone; another one has its own.
    settings = [] if is_run(run) else settings_of(config)
    return Done(name, _call(sweep, name, ["sweep-run", str(sweep), str(run), *settings]))


def _wait_for(run: Path, console: Console) -> None:
    """Wait while a process of a sweep that was killed still trains the run."""
    if is_held(run):
        holder = holder_of(run)
        who = f"process {holder.process} on host {holder.host}" if holder else "another process"
        console.print(f"Waiting for {who}, which works in {run}.", markup=False, soft_wrap=True)
    while is_held(run):
        time.sleep(_POLL_S)


def _call(sweep: Path, name: str, arguments: Sequence[str]) -> str:
    """Run a command of falconer, and return the last line that it has printed if it failed.

    If this process is told to end, the command is interrupted, and waited for: a training saves its state.
    """
    log = log_file(sweep, name)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "falconer", *arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
        try:
            code = process.wait()
        except BaseException as error:
            # Ctrl-C has reached the command as well, and a second signal would end it before it has saved its state.
            if not (isinstance(error, KeyboardInterrupt) and _ends_by_itself(process)):
                process.send_signal(signal.SIGINT)
            process.wait()
            raise
    if code in (130, -signal.SIGINT):
        raise KeyboardInterrupt
    if not code:
        return ""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"the process ended with code {code}"


def _ends_by_itself(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        return False
    return True
