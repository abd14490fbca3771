"""The order of the parts, kept by walking the imports: a file imports only from lower layers and its own folder."""

import ast
import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "falconer"

# The first name behind `falconer.`: a folder, or a file of the package's top level. docs/architecture.md draws this.
LAYERS = {
    "errors": 0, "wrong_settings": 0, "launcher": 0, "records": 0, "config": 0, "ranking_config": 0, "prefer_config": 0,
    "evaluate_config": 0, "decoding_limits": 0, "keys": 0, "openmp": 0, "presets": 0, "files": 0, "run": 0, "style": 0,
    "runtime": 1, "curves": 1, "consoles": 1, "kernels": 1,
    "data": 2,
    "model": 3,
    "train": 4, "evaluate": 4, "talk": 4,
    "share": 5, "served": 5, "elsewhere": 5, "jobs": 5, "preference": 5, "preference_pairs": 5, "preference_samples": 5,
    "preference_votes": 5,
    "sweep": 5, "serve_plan": 5, "doctor": 5, "bench": 5,
    "quickstart": 6, "api": 6, "data_commands": 6, "setting_options": 6, "plan_command": 6, "score_command": 6,
    "serve_command": 6, "export_options": 6, "certify_command": 6, "merge_command": 6, "gguf_command": 6,
    "adapter_options": 6, "share_command": 6, "sweep_command": 6, "chat_command": 6, "prefer_command": 6,
    "uncaught": 6, "cli": 6, "__main__": 6,
}  # fmt: skip
FOLDERS = {"kernels", "data", "model", "train", "evaluate", "talk", "bench", "share"}
# Loaded only by the commands that need them, so that the command line answers at once.
HEAVY = {"torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "matplotlib", "pandas"}
# What `falconer score` and `falconer compare` are made of: they run where torch is missing.
WITHOUT_TORCH = {PACKAGE / "evaluate" / "text", PACKAGE / "evaluate" / "report"}
ENVIRONMENT = {"os.environ", "os.environb", "os.getenv", "os.putenv"}
# Unpickling runs code, and so may YAML's full loader. accelerate's load_state unpickles.
RUNS_CODE = {"torch.load", "yaml.load", "accelerator.load_state", "eval", "exec", "pandas.read_pickle"}
PICKLES = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}

# The package itself names what is public and loads it when it is asked for; tests/test_api.py holds it.
PUBLIC = PACKAGE / "__init__.py"
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PUBLIC)
NAMES = [str(path.relative_to(PACKAGE)) for path in FILES]
every_file = pytest.mark.parametrize("path", FILES, ids=NAMES)


def part_of(path: Path) -> str:
    """Return the part that a file belongs to; "" for the package's own __init__.py."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return "" if first == "__init__" else first


@functools.cache  # each rule asks for each file again
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, full module name) of each import, wherever it stands; `from a import b` yields a.b."""
    package = ["falconer", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}: a computed import can't be checked"
            yield node.lineno, str(node.args[0].value)


def for_types_only(path: Path) -> set[int]:
    """Return the lines under `if TYPE_CHECKING:`, which never run."""
    lines: set[int] = set()
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            lines.update(line for child in node.body for line in range(child.lineno, (child.end_lineno or 0) + 1))
    return lines


def libraries(path: Path) -> set[str]:
    """Return the top-level names of the other packages that a file imports when it runs."""
    skipped = for_types_only(path)
    return {name.split(".")[0] for line, name in imports(path) if line not in skipped} - {"falconer"}


def may_import(source: str, target: str) -> bool:
    """Lower layers and the own part; layer 0 and files at the top level may also use neighbours in the same layer."""
    if source == target:
        return True
    neighbours = source not in FOLDERS and target not in FOLDERS
    return LAYERS[target] < LAYERS[source] or (neighbours and LAYERS[target] == LAYERS[source])


@every_file
def test_imports_point_down(path: Path) -> None:
    source = part_of(path)
    wrong = []
    for line, name in imports(path):
        parts = name.split(".")
        if parts[0] != "falconer" or len(parts) == 1 or parts[1].startswith("__version"):
            continue
        assert parts[1] in LAYERS, f"{path}:{line}: falconer.{parts[1]} has no layer yet; give it one in LAYERS"
        if not source or not may_import(source, parts[1]):
            wrong.append(f"line {line}: {name}")
    assert not wrong, f"{path.relative_to(PACKAGE)} reaches up or across: {wrong}"


def test_every_part_has_a_layer() -> None:
    parts = {part_of(path) for path in FILES} - {""}
    assert parts <= set(LAYERS), f"give {sorted(parts - set(LAYERS))} a layer in LAYERS, and in docs/architecture.md"


def test_the_rule_itself() -> None:
    assert may_import("train", "model") and may_import("cli", "quickstart") and may_import("config", "errors")
    assert not may_import("data", "model") and not may_import("records", "runtime")
    for one in ("train", "evaluate", "talk"):
        for other in {"train", "evaluate", "talk"} - {one}:
            assert not may_import(one, other)


@every_file
def test_no_file_answers_too_many_questions(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400
    assert path.stem not in {"utils", "util", "helpers", "misc", "common"}, "name it after the question it answers"


@every_file
def test_libraries_stay_where_they_belong(path: Path) -> None:
    part, used = part_of(path), libraries(path)
    if part != "model":
        assert not used & {"peft", "bitsandbytes"}, "only model/ knows peft and bitsandbytes"
    if LAYERS.get(part, 0) == 0:
        assert not used & HEAVY, "the lowest layer stays light"
    if part == "data":
        assert "transformers" not in used, "the tokenizer is passed in"
    if part == "kernels":
        assert not used & (HEAVY - {"torch"}), "kernels know torch and triton only"
    if path.parent in WITHOUT_TORCH:
        assert not used & HEAVY, "scoring text needs no model"


@every_file
def test_only_runtime_reads_the_environment(path: Path) -> None:
    # runtime.py loads torch: before that, the launcher's rank is asked for, and the waiting of OpenMP's threads is set.
    if path in (PACKAGE / "runtime.py", PACKAGE / "launcher.py", PACKAGE / "openmp.py"):
        return
    found = [f"line {line}: {name}" for line, name in imports(path) if name in ENVIRONMENT]
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ENVIRONMENT:
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
    assert not found, f"ask falconer.runtime, or falconer.launcher: {found}"


@every_file
def test_nothing_loaded_can_run_code(path: Path) -> None:
    assert not libraries(path) & PICKLES
    found = []
    for node in ast.walk(parse(path)):
        if not isinstance(node, ast.Call):
            continue
        call = ast.unparse(node.func)
        if call in RUNS_CODE:
            found.append(f"line {node.lineno}: {call}")
        for keyword in node.keywords:
            allowed = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
            if keyword.arg in ("trust_remote_code", "allow_pickle") and not allowed:
                found.append(f"line {node.lineno}: {call}({keyword.arg}={ast.unparse(keyword.value)})")
    assert not found, f"{path.relative_to(PACKAGE)}: {found}"


@every_file
def test_whether_a_named_file_exists_is_asked_with_os_path(path: Path) -> None:
    """Users and strangers' files name files. pathlib raises for names that no file can have (too long, a zero byte)."""
    found = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
        and (node.func.attr in _ASK and not node.args and _is_path_of(node.func.value)
             or node.func.attr in _LIST and isinstance(node.func.value, ast.BinOp | ast.Call)
             and "resources" not in ast.unparse(node.func.value))
    ]  # fmt: skip
    assert not found, f"use os.path.exists, isfile or isdir before it, or open it: {found}"


_ASK = ("exists", "is_file", "is_dir", "stat")
# They ask, too. Of a path that has a name, it can be seen in the same place whether it was asked for before.
_LIST = ("glob", "rglob", "iterdir")


def _is_path_of(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and ast.unparse(value.func) == "Path"


def test_the_command_line_starts_light() -> None:
    code = "import sys, falconer.cli, falconer.__main__; print(*sys.modules, sep='\\n')"
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    loaded = {name.split(".")[0] for name in result.stdout.split()}
    assert not loaded & HEAVY, "import it inside the command that needs it"
