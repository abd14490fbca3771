"""What is installed is what was tested, and the wheel carries everything that falconer needs at run time."""

import ast
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "falconer"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# Where the name in `import x` is not the name in `pip install x`.
DISTRIBUTIONS = {"yaml": "pyyaml"}


def requirements() -> list[Requirement]:
    """Return what the package and its tests ask for directly, with ranges."""
    return [Requirement(line) for line in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]]


def pin_lines() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert lines[-1] == "--editable .", "the last line installs falconer itself"
    return [line for line in lines[:-1] if line and not line.startswith("#")]


def pins() -> dict[str, Version]:
    """Return the exact version of each package in requirements.txt, by its canonical name."""
    found = {}
    for line in pin_lines():
        requirement = Requirement(line)
        (only,) = requirement.specifier
        assert only.operator == "==", f"'{line}' is no exact version"
        found[canonicalize_name(requirement.name)] = Version(only.version)
    assert len(found) == len(pin_lines()), "a package is pinned twice"
    return found


@pytest.mark.parametrize("requirement", requirements(), ids=str)
def test_each_direct_requirement_is_pinned_in_its_range(requirement: Requirement) -> None:
    version = pins().get(canonicalize_name(requirement.name))
    assert version is not None, f"requirements.txt lacks {requirement.name}"
    assert version in requirement.specifier


def test_the_pins_are_complete_and_hold_nothing_else() -> None:
    """Walk what the installed packages require: each is pinned, within range, and nothing is pinned in vain."""
    pinned = pins()
    needed: set[str] = set()
    waiting = [requirement.name for requirement in requirements()]
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in needed:
            continue
        needed.add(name)
        for line in metadata.distribution(name).requires or []:
            child = Requirement(line)
            if child.marker is not None and not child.marker.evaluate({"extra": ""}):
                continue
            version = pinned.get(canonicalize_name(child.name))
            assert version is not None, f"{name} needs {child}, which requirements.txt lacks"
            assert child.specifier.contains(version, prereleases=True), f"{name} needs {child}, pinned is {version}"
            waiting.append(child.name)
    assert set(pinned) == needed


def test_torch_stands_first_and_asks_for_no_special_build() -> None:
    assert pin_lines()[0] == "torch==2.13.0"
    assert not [line for line in pin_lines() if "+" in line or line.startswith(("nvidia", "-"))]
    # What torch 2.13.0's own builds for CUDA ask for, to the last digit.
    assert "triton==3.7.1" in pin_lines()


def test_the_ranges_are_those_that_we_promise() -> None:
    ranges = {requirement.name: requirement.specifier for requirement in requirements()}
    assert all(version in ranges["torch"] for version in ("2.11.0", "2.12.1", "2.13.0"))
    assert all(version in ranges["transformers"] for version in ("5.17.0", "5.18.0"))
    assert PROJECT["requires-python"] == ">=3.11"


def test_every_import_is_a_declared_dependency() -> None:
    """What arrives only because another package needs it may leave with that package's next version."""
    extras = [line for name, lines in PROJECT["optional-dependencies"].items() if name != "test" for line in lines]
    declared = {canonicalize_name(Requirement(line).name) for line in [*PROJECT["dependencies"], *extras]}
    # triton comes with torch's CUDA builds alone, so only the kernels may import it, and only where there is a GPU. The
    # peers of the training benchmark are imported by their own process, by a Python that has them.
    elsewhere = {"falconer", "triton", "trl", "unsloth"}
    undeclared = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            for name in {name.split(".")[0] for name in names} - sys.stdlib_module_names - elsewhere:
                if canonicalize_name(DISTRIBUTIONS.get(name, name)) not in declared:
                    undeclared.add(f"{path.relative_to(PACKAGE)}: {name}")
    assert not undeclared


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy, so that the working tree stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PACKAGE, source / "src" / "falconer", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", "--wheel-dir", str(folder), str(source)], check=True)
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_the_wheel_carries_every_file_of_the_package(wheel: zipfile.ZipFile) -> None:
    """Code, presets, templates, the embedded model and dialogues: all that stands under src/falconer."""
    inside = {name for name in wheel.namelist() if name.startswith("falconer/")}
    here = {str(path.relative_to(PACKAGE.parent)) for path in PACKAGE.rglob("*") if path.is_file()}
    assert inside == {name for name in here if "__pycache__" not in name}


def test_the_wheel_says_who_may_do_what(wheel: zipfile.ZipFile) -> None:
    names = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
    assert {"LICENSE", "NOTICE"} <= set(names)
    assert "falconer = falconer.__main__:main" in wheel.read(names["entry_points.txt"]).decode()
    about = wheel.read(names["METADATA"]).decode()
    assert "License-Expression: Apache-2.0" in about and "Requires-Python: >=3.11" in about


def test_the_version_is_the_change_logs_latest() -> None:
    from falconer import __version__

    log = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first = next(line for line in log.splitlines() if line.startswith("## "))
    assert __version__ in first
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
