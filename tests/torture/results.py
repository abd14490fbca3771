"""The results of the torture campaign: as a file, added up over several calls, and as a table."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Results = dict[str, Any]
_KEPT_FAILURES = 5


def result_file(parts: Mapping[str, Any], seed: int, jobs: int, seconds: float) -> Results:
    """Return what is written of one call."""
    import torch
    import transformers

    import falconer

    return {
        "what": "tests/torture/campaign.py; docs/reliability.md explains the parts",
        "versions": {
            "falconer": falconer.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "calls": [{
            "seed": seed, "jobs": jobs, "seconds": round(seconds),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        }],
        "parts": {name: _summary(part) for name, part in parts.items()},
    }  # fmt: skip


def added(files: Sequence[Results]) -> Results:
    """Add up the results of several calls.

    Raises:
        SystemExit: two of them have run the same cases.
    """
    parts: dict[str, dict[str, Any]] = {}
    for file in files:
        for name, part in file["parts"].items():
            parts[name] = _together(name, parts[name], part) if name in parts else part
    calls = [call for file in files for call in file["calls"]]
    return files[-1] | {"calls": calls, "parts": parts}


def as_table(results: Results) -> str:
    """Return a line for each part."""
    lines = [f"{'part':<24}{'cases':>8}{'of':>14}{'stopped':>9}{'wrong':>7}{'worker s':>10}{'slowest':>9}"]
    for name, part in results["parts"].items():
        of = f"{part['covered']}/{part['of']}"
        lines.append(
            f"{name:<24}{part['cases']:>8}{of:>14}{part['stopped']:>9}{part['wrong']:>7}{part['worker_s']:>10}"
            f"{part['slowest_s']:>9}"
        )
    return "\n".join(lines)


def _summary(part: Any) -> dict[str, Any]:
    """Return the sums over a part's cases; `done` has their numbers, as ranges, by seed."""
    found = part.found
    sums = {name: sum(case.get(name, 0) for case in found) for name in ("read", "refused")}
    done: dict[str, Any] = {}
    for case in found:
        done.setdefault(str(case["seed"]), []).append(case["number"])
    wrong = [case for case in found if case["wrong"]]
    slowest_s = max((case.get("took_s", 0) for case in found), default=0)
    return {
        "cases": len(found), "covered": len({case["number"] for case in found}), "of": part.of,
        "stopped": sum(bool(case.get("stopped")) for case in found), "wrong": len(wrong),
        **{name: value for name, value in sums.items() if value},
        "worker_s": round(part.spent_s), "slowest_s": round(slowest_s, 2),
        "failures": wrong[:_KEPT_FAILURES], "done": {seed: _ranges(numbers) for seed, numbers in done.items()},
    }  # fmt: skip


def _together(name: str, one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    for seed in one["done"].keys() & other["done"].keys():
        if same := set(_numbers(one["done"][seed])) & set(_numbers(other["done"][seed])):
            raise SystemExit(f"{name}: two calls have run case {min(same)} of seed {seed}")
    done = {
        seed: _ranges([*_numbers(one["done"].get(seed, [])), *_numbers(other["done"].get(seed, []))])
        for seed in one["done"].keys() | other["done"].keys()
    }
    sums = {
        key: one.get(key, 0) + other.get(key, 0) for key in ("cases", "stopped", "wrong", "worker_s", "read", "refused")
    }
    return {
        **one, **{key: value for key, value in sums.items() if value or key in one},
        "covered": len({number for ranges in done.values() for number in _numbers(ranges)}),
        "slowest_s": max(one["slowest_s"], other["slowest_s"]),
        "failures": [*one["failures"], *other["failures"]][:_KEPT_FAILURES], "done": done,
    }  # fmt: skip


def _ranges(numbers: Iterable[int]) -> list[list[int]]:
    """Return numbers as their first and last ones in a row."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ranges


def _numbers(ranges: Iterable[Sequence[int]]) -> Iterable[int]:
    for first, last in ranges:
        yield from range(first, last + 1)
