"""The torture campaign: `python tests/torture/campaign.py --help`, or `make torture`.

Each case is determined by the seed, which is printed, and its number. A part with random cases has as many as are asked
for; one that goes through a table (every file operation, every damage) goes through it in an order of the seed.
A case that fails is saved with what was found, and a line that repeats it. A worker that dies or hangs is such a case,
too, and the others go on. Result files of several calls are added up with --merge.
"""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS.parent / "src"), str(TESTS)]
# Processes that are started from here have it, too.
os.environ.update(
    OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg", CUDA_VISIBLE_DEVICES="", TRITON_INTERPRET="1",
)  # fmt: skip

from torture.parts import EXHAUSTIVE, PARTS, Worker, left_out  # noqa: E402
from torture.pool import Case, Pool  # noqa: E402
from torture.results import Results, added, as_table, numbers_done, result_file, with_tables  # noqa: E402

# A worker gets cases for about so long at once.
_CHUNK_S = 2.0
_LARGEST_CHUNK = 200
# Results are written so often meanwhile.
_WRITE_S = 20.0


@dataclass
class Part:
    """What is to be done of a part, and what has been found."""

    name: str
    numbers: list[int]
    of: int
    found: list[Case] = field(default_factory=list)
    spent_s: float = 0.0
    running: int = 0

    def take(self) -> list[int]:
        """Return the numbers of the next cases for a worker."""
        case_s = self.spent_s / len(self.found) if self.found else _CHUNK_S
        count = min(_LARGEST_CHUNK, max(1, int(_CHUNK_S / max(case_s, 1e-6))))
        taken, self.numbers = self.numbers[:count], self.numbers[count:]
        return taken


def main() -> int:
    """Run the campaign; return 1 if anything was lost, mixed, unnoticed or ended in a traceback."""
    asked = _asked()
    is_broken = False
    if asked.merge:
        results = added([json.loads(file.read_text(encoding="utf-8")) for file in asked.merge])
    else:
        seed = random.SystemRandom().randrange(10**6) if asked.seed is None else asked.seed
        names = [part for part in PARTS if not asked.only or any(_is_of(part, one) for one in asked.only)]
        for part in set(left_out()) & set(names):
            print(f"{part} is left out: the package gguf is not installed", flush=True)
        names = [part for part in names if part not in left_out()]
        print(f"seed {seed}, {asked.jobs} at a time, at most {asked.seconds:.0f} s, of: {' '.join(names)}", flush=True)
        started = time.monotonic()
        parts, is_broken = _run(names, seed, asked)
        results = _write(parts, seed, asked, started)
    if asked.json and asked.merge:
        asked.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if asked.page:
        asked.page.write_text(with_tables(asked.page.read_text(encoding="utf-8"), results), encoding="utf-8")
    print(as_table(results))
    return int(is_broken or any(part["wrong"] for part in results["parts"].values()))


def _asked() -> argparse.Namespace:
    about = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(description=about[0], epilog=f"Parts: {' '.join(PARTS)}")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="worker processes (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=1800,
        help="no case is begun after so many seconds; parts get equal shares of the time (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="of all parts; without it, another one each time")
    parser.add_argument("--only", action="append", metavar="PART", help="a part, or all of a fault; repeat it for more")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="leave out so many cases of each part")
    parser.add_argument("--cases", type=int, metavar="N", help="the most cases of each part")
    parser.add_argument("--rest-of", type=Path, metavar="FILE", help="leave out the cases that these results have")
    parser.add_argument("--number", type=int, action="append", metavar="N", help="the case of this number alone")
    parser.add_argument(
        "--grace", type=float, default=120, metavar="SECONDS",
        help="so long after --seconds a case that has begun may take to be counted (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results are written")
    parser.add_argument("--merge", type=Path, nargs="+", metavar="FILE", help="add up the results of earlier calls")
    parser.add_argument("--page", type=Path, metavar="FILE", help="the page whose tables are made anew")
    parser.add_argument(
        "--failures", type=Path, metavar="FOLDER", default=Path("torture-failures"),
        help="where failing cases are saved (default: %(default)s)",
    )  # fmt: skip
    asked = parser.parse_args()
    asked.earlier = json.loads(asked.rest_of.read_text(encoding="utf-8")) if asked.rest_of else {"parts": {}}
    for one in asked.only or ():
        if not any(_is_of(part, one) for part in PARTS):
            parser.error(f"there is no part {one}; there are {' '.join(PARTS)}")
    return asked


def _is_of(part: str, asked: str) -> bool:
    """Return whether a part is the one that is asked for, or of the fault that is asked for."""
    return asked in (part, part.partition(":")[0])


def _run(names: Sequence[str], seed: int, asked: argparse.Namespace) -> tuple[dict[str, Part], bool]:
    """Run the cases of all parts, side by side; a part that has had less time comes first.

    Returns:
        The parts with what was found, and whether the workers could not go on.
    """
    started, ends = time.monotonic(), time.time() + asked.seconds
    # In memory, where a sync costs nothing, so that many cases fit into the time.
    in_memory = Path("/dev/shm").is_dir() and shutil.disk_usage("/dev/shm").free > asked.jobs * 2**28
    folder = Path(tempfile.mkdtemp(prefix="falconer-torture-", dir="/dev/shm" if in_memory else None))
    parts: dict[str, Part] = {}
    # A campaign that is ended keeps what it has.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    pool = Pool(asked.jobs, folder, seed, asked.failures, make=Worker)
    try:
        for name, number in pool.count(names).items():
            parts[name] = Part(name, _numbers(name, number, seed, asked), number)
        print(f"prepared; {max(0, ends - time.time()):.0f} s are left", flush=True)
        _go_through(parts, pool, ends, asked.grace, lambda: _write(parts, seed, asked, started))
    except KeyboardInterrupt:
        print("ended early", flush=True)
    except RuntimeError as error:
        print(f"ended early: {error}", flush=True)
        return parts, True
    finally:
        pool.close()
        shutil.rmtree(folder, ignore_errors=True)
    return parts, False


def _go_through(parts: dict[str, Part], pool: Pool, ends: float, grace_s: float, write: Callable[[], None]) -> None:
    """Give cases to the workers until there are none, or until the end and a time of grace; note what they find."""
    written = time.monotonic()
    while True:
        for process in pool.idle:
            if time.time() < ends and (part := _next(parts)):
                part.running += 1
                pool.give(process, part.name, part.take(), ends)
        has_more = time.time() < ends and any(part.numbers for part in parts.values())
        if not pool.is_busy and not has_more:
            return
        if time.time() > ends + grace_s:
            late = [f"{job.part} {job.numbers[0]}" for one in pool.processes if (job := one.job) and job.numbers]
            print(f"not finished {grace_s:.0f} s after the end, and not counted: {', '.join(late)}", flush=True)
            return
        for news in pool.news():
            part = parts[news.part]
            _note(part, [news.case] if news.case else [], news.took_s)
            part.numbers = news.lost + part.numbers
            part.running -= news.is_death or news.case is None
        if time.monotonic() - written > _WRITE_S:
            write()
            written = time.monotonic()


def _write(parts: dict[str, Part], seed: int, asked: argparse.Namespace, started: float) -> Results:
    """Write what has been found so far, if a file is asked for."""
    results = result_file(parts, seed, asked.jobs, time.monotonic() - started)
    if asked.json:
        aside = asked.json.with_name(f".{asked.json.name}.partial")
        aside.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        aside.replace(asked.json)
    return results


def _numbers(name: str, number: int, seed: int, asked: argparse.Namespace) -> list[int]:
    """Return the numbers of the cases that are asked for of a part, in their order."""
    if asked.number:
        return [one for one in asked.number if one < number or name not in EXHAUSTIVE]
    last = None if asked.cases is None else asked.first + asked.cases
    is_exhaustive = name in EXHAUSTIVE
    numbers = list(range(number if is_exhaustive or last is None else last))
    if is_exhaustive:
        random.Random(f"{seed} {name}").shuffle(numbers)
    # A table of cases is the same for every seed; a random case is one of its seed.
    done = numbers_done(asked.earlier, name, None if is_exhaustive else seed)
    return [one for one in numbers[asked.first : last] if one not in done]


def _next(parts: dict[str, Part]) -> Part | None:
    left = [part for part in parts.values() if part.numbers]
    return min(left, key=lambda part: part.spent_s + part.running * _CHUNK_S, default=None)


def _note(part: Part, found: list[Case], took_s: float) -> None:
    before = len(part.found)
    part.found += found
    part.spent_s += took_s
    for case in found:
        if case["wrong"]:
            again = f"--only {part.name} --seed {case['seed']} --number {case['number']}"
            print(f"WRONG {part.name}, case {case['number']} ({again}): {json.dumps(case)}", flush=True)
    total = len(part.found) + len(part.numbers)
    if before // max(1, total // 10) != len(part.found) // max(1, total // 10):
        print(f"{part.name}: {len(part.found)} of {total}, {part.spent_s:.0f} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
