"""The results of the torture campaign: as a file, added up over several calls, and as a table."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torture.parts import AIMS, PARTS

Results = dict[str, Any]
TABLES = "<!-- tables: python tests/torture/campaign.py --merge FILE ... --json FILE --page docs/reliability.md -->"
AFTER = "<!-- end of the tables -->"
_COLUMNS = ("train", "prefer", "evaluate", "merge", "gguf", "share", "certify", "convert", "chat")
_FAULTS = MappingProxyType({
    "kill": "killed at a random moment", "operation": "killed before each file operation",
    "power": "power lost before each sync or rename",
    "disk": "five errors of the disk from each operation on",
    "limit": "memory, file size or disk is limited, or read-only", "interrupt": "Ctrl-C at a random moment",
})  # fmt: skip
_KEPT_FAILURES = 100


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
        "parts": {name: _summary(part) for name, part in parts.items() if part.found},
    }  # fmt: skip


def added(files: Sequence[Results]) -> Results:
    """Add up the results of several calls, the earlier ones first.

    A case that was wrong in an earlier one may have been run again, after what it found was corrected: it then counts
    as the later one found it, and stays listed in `run_again`.

    Raises:
        SystemExit: two of them have run the same cases.
    """
    parts: dict[str, dict[str, Any]] = {}
    for file in files:
        for name, part in file["parts"].items():
            parts[name] = _together(name, parts[name], part) if name in parts else part
    # Results of one call have its versions; those of several have only the last one's.
    calls = [
        {**call, "versions": call.get("versions", file["versions"])} if len(file["calls"]) == 1 else call
        for file in files
        for call in file["calls"]
    ]
    return files[-1] | {"calls": calls, "parts": {name: parts[name] for name in PARTS if name in parts}}


def numbers_done(results: Results, part: str, seed: int | None) -> set[int]:
    """Return the numbers of a part's cases that results have; None: with any seed."""
    done = results["parts"].get(part, {}).get("done", {})
    return {one for key, ranges in done.items() if seed is None or key == str(seed) for one in _numbers(ranges)}


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


def as_markdown(results: Results) -> str:
    """Return the tables of docs/reliability.md: of commands and what happens to them, and of damaged and mutated files.

    A cell has the number of cases and, in brackets, how many of them stopped the command before its end; of a part that
    goes through a table of cases, also how many there are, if not all were tried.
    """
    parts = results["parts"]
    lines = ["| | " + " | ".join(_COLUMNS) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for fault, said in _FAULTS.items():
        cells = [_cell(parts.get(f"{fault}:{command}"), f"{fault}:{command}") for command in _COLUMNS]
        lines.append(f"| {said} | " + " | ".join(cells) + " |")
    lines += ["", "| files | cases | read | refused | slowest (s) | wrong |", "|---|---|---|---|---|---|"]
    for name, part in parts.items():
        if name == "damage":
            cell = _cell(part | {"stopped": 0}, name)
            lines.append(f"| damaged files of a run x damages x commands | {cell} | | | | {part['wrong']} |")
        elif name.startswith("input:"):
            read, refused = part.get("read", 0), part.get("refused", 0)
            kind = f"mutated: {name.partition(':')[2]}"
            lines.append(
                f"| {kind} | {part['cases']:,} | {read:,} | {refused:,} | {part['slowest_s']} | {part['wrong']} |"
            )
    wrong = sum(part["wrong"] for name, part in parts.items() if name != "damage" and not name.startswith("input:"))
    lines += ["", f"Wrong in the first table: {wrong}."]
    return "\n".join(lines)


def with_tables(page: str, results: Results) -> str:
    """Return a page with these tables between its two marks."""
    before, _, rest = page.partition(TABLES)
    return f"{before}{TABLES}\n{as_markdown(results)}\n{AFTER}{rest.partition(AFTER)[2]}"


def _cell(part: dict[str, Any] | None, name: str) -> str:
    if part is None:
        return "–"
    cases = f"{part['cases']:,}"
    if name not in AIMS and part["covered"] < part["of"]:
        cases += f" of {part['of']:,}"
    return f"{cases} ({part['stopped']:,})" if part["stopped"] else cases


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
    one = _without_repeated(one, other)
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
        **({"run_again": again} if (again := _run_again(one) + _run_again(other)) else {}),
    }  # fmt: skip


def _without_repeated(part: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """Return a part without its wrong cases that were run again later."""
    again = {(seed, number) for seed, ranges in later["done"].items() for number in _numbers(ranges)}
    repeated = [case for case in part["failures"] if (str(case["seed"]), case["number"]) in again]
    gone = {(str(case["seed"]), case["number"]) for case in repeated}
    done = {
        seed: _ranges(number for number in _numbers(ranges) if (seed, number) not in gone)
        for seed, ranges in part["done"].items()
    }
    return {
        **part, "done": done, "failures": [case for case in part["failures"] if case not in repeated],
        "run_again": _run_again(part) + repeated,
        "cases": part["cases"] - len(repeated), "wrong": part["wrong"] - len(repeated),
        "stopped": part["stopped"] - sum(bool(case.get("stopped")) for case in repeated),
    }  # fmt: skip


def _run_again(part: dict[str, Any]) -> list[Any]:
    return list(part.get("run_again", []))


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
