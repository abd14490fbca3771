"""Whoever looks for the tests of a file knows where they are: tests/A/test_b.py tests src/falconer/A/b.py.

A file with much to test has more of them beside that one, test_b_ASPECT.py. Tests of several files are listed here.
"""

from pathlib import Path, PurePosixPath
from types import MappingProxyType

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "src" / "falconer"

# Tests that are about more than one file, and what they are about.
OF_THE_WHOLE = MappingProxyType({
    "data/formats/test_damaged.py": "damaged files of every format",
    "data/formats/test_long_texts.py": "long texts in every field of every format",
    "data/formats/test_documented.py": "docs/data.md shows every format",
    "data/formats/test_same_story.py": "one conversation in every format",
    "kernels/test_compiles.py": "every kernel, on the cards that people have",
    "model/export/test_llama_cpp.py": "llama.cpp reads what all of the export has written",
    "test_same_replies.py": "evaluation, server and terminal reply alike",
    "talk/server/test_besieged.py": "the server under broken requests",
    "test_architectures.py": "the whole job on other architectures",
    "test_contributing.py": "CONTRIBUTING.md",
    "test_decodings_benchmark.py": "benchmarks/decodings.py",
    "test_falcon_mini.py": "the embedded model and the recipe that made it",
    "test_file_tree.py": "every file has its question",
    "test_layers.py": "which file may import which",
    "test_limits.py": "how long and wide files and functions are",
    "test_mirror.py": "every file has its tests",
    "test_packaging.py": "pyproject.toml, requirements.txt and what is installed",
    "test_measured_preference.py": "benchmarks/preference_runs.py and docs/preference.md",
    "test_presets.py": "the presets' files",
    "test_readme.py": "README.md",
    "test_results.py": "docs/results.md and the results behind it",
    "test_serving.py": "docs/serving.md and deploy/",
    "test_sharing.py": "docs/sharing.md and the results behind it",
    "test_several_gpus.py": "docs/several-gpus.md",
    "test_troubleshooting.py": "docs/troubleshooting.md",
    "test_walkthrough.py": "docs/walkthrough.md",
    "torture/test_mutated_inputs.py": "a short campaign of mutated inputs",
    "torture/test_pool.py": "the processes of the torture campaign",
    "torture/test_campaign.py": "the torture campaign, and a short one",
    "train/test_lost_folders.py": "commands whose folder is removed while they work in it",
    "train/test_old_runs.py": "every command on a run of an older version",
    "train/test_two_writers.py": "every command that writes into a run, while another one does",
})  # fmt: skip


def files(folder: Path, pattern: str) -> list[PurePosixPath]:
    return sorted(PurePosixPath(path.relative_to(folder).as_posix()) for path in folder.rglob(pattern))


SOURCES = [path for path in files(PACKAGE, "*.py") if path.name not in ("__init__.py", "__main__.py")]
TEST_FILES = files(TESTS, "test_*.py")


def sources_of(test: PurePosixPath) -> list[PurePosixPath]:
    """Return the source files whose name a test file has, alone or with an aspect behind it."""
    name = test.stem.removeprefix("test_")
    return [one for one in SOURCES if one.parent == test.parent and f"{name}_".startswith(f"{one.stem}_")]


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_each_source_file_has_a_test_file(source: PurePosixPath) -> None:
    expected = source.with_name(f"test_{source.stem}.py")
    assert expected in TEST_FILES, f"the tests of src/falconer/{source} belong into tests/{expected}"


@pytest.mark.parametrize("test", TEST_FILES, ids=str)
def test_each_test_file_is_named_after_what_it_tests(test: PurePosixPath) -> None:
    about_a_file, about_the_whole = bool(sources_of(test)), str(test) in OF_THE_WHOLE
    assert about_a_file or about_the_whole, f"name tests/{test} after the file that it tests, or say what it is about"
    assert not (about_a_file and about_the_whole), f"tests/{test} has the name of a file; it needs no reason here"


def test_no_reason_is_given_for_a_file_that_is_gone() -> None:
    assert {PurePosixPath(name) for name in OF_THE_WHOLE} <= set(TEST_FILES)


def test_the_rule_itself() -> None:
    found = {name: [str(one) for one in sources_of(PurePosixPath(name))] for name in (
        "data/test_sources.py", "data/test_sources_fuzz.py", "data/test_sourcesfuzz.py", "test_sources.py",
    )}  # fmt: skip
    assert list(found.values()) == [["data/sources.py"], ["data/sources.py"], [], []]
