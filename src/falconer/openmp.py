"""The threads with which torch computes on a CPU: how they wait for each other beside the threads of a server.

torch divides each operation among the threads of an OpenMP team, several hundred times for a token. Threads that wait
asleep need some 50 microseconds to wake up each time; threads that wait awake keep others from their core. GNU's
OpenMP, which torch's packages contain, has two rules that a server breaks: a team waits awake for up to 14 ms, as if
nobody else needed its cores, and where all teams of a process together have more threads than there are cores, they
wait asleep.

Does not import torch, which reads the settings when it is loaded.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

# How often a waiting thread looks before it sleeps, some 50 ns each. The operations of a token are less than 100
# microseconds apart.
SPINS = 5000


def wait_briefly() -> None:
    """Let threads that wait sleep soon, unless the user has set how they wait; must be called before torch is loaded.

    On two cores that four other programs used, a token took 15 ms instead of 380.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))


def in_thread(work: Callable[[], T]) -> T:
    """Return what a function returns, which runs in a thread of its own; Ctrl-C ends it there, too.

    Whatever computes before the engine's own thread does has to be done in this way: a team lasts as long as the thread
    that it was made for, and with a second one the threads of both wait asleep. On two idle cores, a token took 15 ms
    instead of 7.
    """
    found: Future[T] = Future()

    def run() -> None:
        try:
            found.set_result(work())
        except BaseException as error:
            found.set_exception(error)

    thread = threading.Thread(target=run, name="opening", daemon=True)
    try:
        thread.start()
        return found.result()
    except KeyboardInterrupt:
        number, error = ctypes.c_ulong(thread.ident or 0), ctypes.py_object(KeyboardInterrupt)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(number, error)
        raise
    finally:
        thread.join()
