"""Is the public interface what it says, and do the examples of docs/python.md and the README run?"""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import falconer
from falconer import api
from falconer.errors import FalconerError
from falconer.records import Dialogue
from small_runs import Small

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"
FEWER = (
    "data.max_dialogues=24", "train.max_steps=2", "evaluate.max_dialogues=3", "evaluate.max_replies=6",
    "evaluate.max_new_tokens=8", "evaluate.max_ranked=2", "evaluate.resamples=100",
)  # fmt: skip
README = ROOT / "README.md"
EXAMPLES = [
    example
    for page in (PAGE, README)
    for example in re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
]


def test_every_public_name_is_there_and_no_other_is_listed() -> None:
    assert list(falconer.__all__) == sorted(falconer.__all__)
    for name in falconer.__all__:
        assert getattr(falconer, name) is not None
    assert dir(falconer) == sorted(falconer.__all__)
    with pytest.raises(AttributeError, match="module 'falconer' has no attribute 'fine_tune'"):
        falconer.fine_tune  # noqa: B018


def test_all_of_api_is_public_and_documented() -> None:
    own = {name for name, value in vars(api).items() if getattr(value, "__module__", "") == api.__name__}
    public = {name for name in own if not name.startswith("_")}
    assert public == {name for name in falconer.__all__ if getattr(falconer, name, None) in vars(api).values()} & own
    for name in public:
        assert inspect.getdoc(getattr(api, name)), name


def test_type_checkers_see_every_name() -> None:
    tree = ast.parse((ROOT / "src" / "falconer" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(falconer.__all__) - {"__version__"}


def test_no_public_name_is_hidden_by_a_folder_of_the_package() -> None:
    # Importing `falconer.train` sets the attribute `train`, whatever stood there before.
    parts = {path.stem for path in (ROOT / "src" / "falconer").iterdir()}
    assert not parts & set(falconer.__all__)


def test_importing_falconer_loads_nothing_heavy() -> None:
    code = "import sys, falconer; falconer.FalconerError; print(*sys.modules, sep='\\n')"
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert not {"torch", "transformers", "numpy", "pydantic"} & set(done.stdout.split())


def test_dialogues_come_from_any_source(tmp_path: Path) -> None:
    found = falconer.load_dialogues(split="test")
    assert len(found) == 203 and all(isinstance(one, Dialogue) for one in found)
    with pytest.raises(FalconerError, match="There is no file"):
        falconer.load_dialogues(tmp_path / "nothing.jsonl")


def test_a_configuration_is_checked_at_once() -> None:
    assert falconer.load_config("quickstart", ["train.epochs=1"]).train.epochs == 1
    with pytest.raises(FalconerError, match="epochs"):
        falconer.load_config(overrides=["train.epoch=1"])


def test_the_whole_job_from_python(tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    small = Small(tmp_path / "small")
    config = falconer.load_config(overrides=[*small.settings, "train.max_steps=2", "evaluate.max_replies=4"])
    result = falconer.train_run(config, tmp_path / "run", quiet=True)
    assert result.progress.step == 2
    with falconer.open_run(tmp_path / "run") as run:
        metrics = run.evaluate(["evaluate.max_new_tokens=4"], quiet=True)
        assert metrics.tuned.num_replies == metrics.base.num_replies > 0
        one, other = (run.talk(["I sing."], temperature=0, max_new_tokens=5) for _ in range(2))
        assert one.say("Hi!") == other.say("Hi!")
        assert repr(run) == f"<Run '{tmp_path / 'run'}': {config.model.name}>"
    with pytest.raises(RuntimeError):
        one.say("Are you there?")
    scored = falconer.score(tmp_path / "run" / "predictions-tuned.jsonl")
    assert scored.score.bleu == metrics.tuned.bleu
    compared = falconer.compare(*(tmp_path / "run" / f"predictions-{name}.jsonl" for name in ("base", "tuned")))
    assert list(compared.systems) == ["predictions-base.jsonl", "predictions-tuned.jsonl"]


@pytest.mark.parametrize("example", EXAMPLES)
def test_each_example_uses_public_names_alone(example: str) -> None:
    tree = ast.parse(example)
    imported = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)}
    assert imported <= {"import falconer"}
    names = {
        node.attr for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "falconer"
    }  # fmt: skip
    assert names <= set(falconer.__all__)
    assert "._" not in example


def test_the_examples_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, but for the size of the job."""
    monkeypatch.chdir(tmp_path)
    load = falconer.load_config

    def smaller(preset=None, overrides=()):
        return load(preset, [*overrides, *FEWER])

    monkeypatch.setattr(api, "load_config", smaller)
    space: dict[str, object] = {}
    for example in EXAMPLES:
        exec(compile(example, str(PAGE), "exec"), space)
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
