"""The torture campaign: `python tests/torture/campaign.py --help`, or `make torture`.

Each part draws its cases from a seed, which is printed. Of each part, the first case that fails is saved with the run's
folder as it was found, and a line that repeats it.
"""

import argparse
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
PARTS = ("training", "evaluation", "operations", "evaluation-operations", "damages", "power", "disk")
Case = dict[str, Any]


def main() -> int:
    """Run the campaign; return 1 if anything was lost, mixed, unnoticed or ended in a traceback."""
    asked = _asked()
    seed = random.SystemRandom().randrange(10**6) if asked.seed is None else asked.seed
    parts = asked.only or list(PARTS)
    print(f"seed {seed}; {asked.seconds:.0f} s for each of: {', '.join(parts)}", flush=True)
    folder = Path(tempfile.mkdtemp(prefix="falconer-torture-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    try:
        results = _run(folder, parts, seed, asked.seconds, asked.failures)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    text = json.dumps(_about(seed, results), indent=1)
    if asked.json:
        asked.json.write_text(text + "\n", encoding="utf-8")
    for name, found in results.items():
        print(f"{name:<22}{found['cases']:>6} cases, {found['killed']:>5} of them stopped it, {found['wrong']} wrong")
    return int(any(found["wrong"] for found in results.values()))


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=300, help="for each part (default: %(default)s)")
    parser.add_argument("--seed", type=int, help="of all parts; without it, another one each time")
    parser.add_argument("--only", action="append", choices=PARTS, help="a part; repeat it for more")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results are written")
    parser.add_argument(
        "--failures", type=Path, metavar="FOLDER", default=Path("torture-failures"),
        help="where failing cases are saved (default: %(default)s)",
    )  # fmt: skip
    return parser.parse_args()


def _run(folder: Path, parts: list[str], seed: int, seconds: float, failures: Path) -> dict[str, Case]:
    world, times = _world(folder)
    results = {}
    for part in parts:
        found: list[Case] = []
        started, ended = time.monotonic(), time.monotonic() + seconds
        for case in _cases(world, times, part, seed):
            found.append(case)
            if case["wrong"]:
                _save(failures, part, case, world, is_first=sum(bool(one["wrong"]) for one in found) == 1)
            if time.monotonic() > ended:
                break
        results[part] = {
            "cases": len(found), "killed": sum(bool(case.get("kills", 1)) for case in found),
            "wrong": sum(bool(case["wrong"]) for case in found), "seconds": round(time.monotonic() - started),
            "failures": [case for case in found if case["wrong"]][:5],
        }  # fmt: skip
        print(f"{part}: {results[part]}", flush=True)
    return results


def _world(folder: Path) -> tuple[Any, tuple[float, float]]:
    """Load all libraries, so that forks find them loaded, and make the references.

    Returns:
        The world, and the seconds that a training and an evaluation take in it.
    """
    import torch

    torch.set_num_threads(1)
    import falconer.data.language
    import falconer.evaluate.report.terminal
    import falconer.jobs
    import falconer.quickstart
    import falconer.train.events
    import falconer.train.loop  # noqa: F401
    from falconer.curves import write_loss_curve
    from falconer.run.folder import Chat, adapter_hashes, write_chat
    from falconer.runtime import quiet_libraries
    from torture.worlds import World

    quiet_libraries()
    falconer.data.language.resolve("auto", ["i like my dogs and cats very much"])
    write_loss_curve([{"step": 1, "loss": 1.0, "lr": 1.0, "epoch": 1.0}], folder / "curve.png")
    world = World(folder / "world")
    times = world.make_references()
    write_chat(world.evaluated, Chat(("i sing",), (("hi", "ho"),), adapter_hashes(world.evaluated)))
    return world, times


def _cases(world: Any, times: tuple[float, float], part: str, seed: int) -> Iterator[Case]:
    """Yield the results of a part's cases, as many as are asked for."""
    from torture import damages, failing, kills, power

    dice = random.Random(f"{part} {seed}")
    if part in ("training", "evaluation"):
        kill: Callable[..., Case] = kills.kill_training if part == "training" else kills.kill_evaluation
        while True:
            yield kill(world, dice.randrange(10**9), times[part == "evaluation"])
    elif part == "operations":
        yield from _shuffled(dice, lambda number: kills.kill_before(world, number))
    elif part == "evaluation-operations":
        yield from _shuffled(dice, lambda number: kills.kill_evaluation_before(world, number))
    elif part == "power":
        for model in power.MODELS:
            yield from _shuffled(dice, lambda number, model=model: power.lose_power(world, model, number))
    elif part == "disk":
        for number in range(10**6):
            error = dice.choice(failing.ERRORS)
            case = failing.fail_training(world, number, error)
            yield case
            yield failing.fail_evaluation(world, number, error)
            if case["ended"]:
                return
    else:
        case_folder = world.folder / "case"
        for one in damages.cases(seed):
            shutil.rmtree(case_folder, ignore_errors=True)
            case_folder.mkdir()
            yield damages.as_json(one, damages.examine(one, world.evaluated, world.folder / "falcon", case_folder))


def _shuffled(dice: random.Random, case: Callable[[int], Case], width: int = 16) -> Iterator[Case]:
    """Yield the cases of all numbers up to the one at which the command came to its end, each once.

    They come in blocks whose order is random, so that a short campaign does not always have the same ones.
    """
    starts = list(range(width))
    dice.shuffle(starts)
    for start in starts:
        number, ended = start, False
        while not ended:
            found = case(number)
            ended = bool(found.get("ended"))
            yield found
            number += width


def _save(failures: Path, part: str, case: Case, world: Any, *, is_first: bool) -> None:
    print(f"WRONG {part}: {json.dumps(case)}", flush=True)
    if is_first:
        into = failures / f"{part}-{case.get('seed', 0)}"
        shutil.rmtree(into, ignore_errors=True)
        shutil.copytree(world.place, into / "found", symlinks=True)
        (into / "case.json").write_text(json.dumps(case, indent=1) + "\n", encoding="utf-8")


def _about(seed: int, results: dict[str, Case]) -> Case:
    import torch
    import transformers

    import falconer

    return {
        "what": "tests/torture/campaign.py: kills, power loss, failing disks and damaged folders of a small training "
        "and its evaluation; docs/reliability.md explains the parts",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}",
        "versions": {
            "falconer": falconer.__version__, "torch": torch.__version__, "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "seed": seed,
        "parts": results,
    }  # fmt: skip


if __name__ == "__main__":
    os.environ.update(
        OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false",
        MPLBACKEND="Agg", CUDA_VISIBLE_DEVICES="", TRITON_INTERPRET="1",
    )  # fmt: skip
    sys.path[:0] = [str(TESTS.parent / "src"), str(TESTS)]
    sys.exit(main())
