"""Is the public interface what it says, and do the examples of docs/python.md and the README run?"""

import ast
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import falconer
from falconer import api
from falconer.data.sources import load_dialogues, write_dialogues
from falconer.errors import FalconerError
from falconer.records import Dialogue
from small_runs import Small

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "python.md"
FEWER = (
    "data.max_dialogues=24", "train.max_steps=2", "train.step_tokens=500", "evaluate.max_dialogues=3",
    "evaluate.max_replies=6", "evaluate.max_new_tokens=8", "evaluate.max_ranked=2", "evaluate.resamples=100",
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


@pytest.mark.parametrize("wrong", [5, b"x", object(), [5]])
def test_an_argument_of_a_wrong_type_is_told_by_its_name(wrong: Any) -> None:
    for call, said in (
        (lambda: falconer.load_config(wrong), "preset must be a path"),
        (lambda: falconer.load_config(None, wrong), r"overrides(\[0\])? must be "),
        (lambda: falconer.load_dialogues(wrong), "source must be a path"),
        (lambda: falconer.load_dialogues(split=wrong), "split must be text"),
        (lambda: falconer.load_dialogues(format=wrong), "format must be text"),
        (lambda: falconer.train_run(wrong, "run"), "config must be a Config"),
        (lambda: falconer.train_run(falconer.load_config(), wrong), "run must be a path"),
        (lambda: falconer.open_run(wrong), "run must be a path"),
        (lambda: falconer.score(wrong), "predictions must be a path"),
        (lambda: falconer.score("x", wrong), "reference must be a path"),
        (lambda: falconer.score("x", against=wrong), "against must be a path"),
        (lambda: falconer.score("x", language=wrong), "language must be text"),
        (lambda: falconer.compare("x", wrong), "each system must be a path"),
        (lambda: falconer.compare("x", "y", reference=wrong), "reference must be a path"),
        (lambda: falconer.compare("x", "y", language=wrong), "language must be text"),
    ):
        with pytest.raises(TypeError, match=said):
            call()


def test_one_text_is_no_list_of_texts() -> None:
    with pytest.raises(TypeError, match="overrides must be a list of texts, not str: 'train.epochs=1'"):
        falconer.load_config(None, "train.epochs=1")
    with pytest.raises(FalconerError, match="predictions is an empty path"):
        falconer.score("")
    with pytest.raises(FalconerError, match="There is no file|can't be read"):
        falconer.compare("x" * 5000, "y")


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
        wrong: Any
        for wrong in (-1, float("nan"), float("inf")):
            with pytest.raises(FalconerError, match="temperature=.* is not allowed. Give a number that is 0 or more"):
                run.talk(temperature=wrong)
        with pytest.raises(FalconerError, match="repetition_penalty=0 .* above 0"):
            run.talk(repetition_penalty=0)
        with pytest.raises(FalconerError, match="min_p=1.5 is not allowed. Give a number that is 0 to 1"):
            run.talk(min_p=1.5)
        with pytest.raises(FalconerError, match="no_repeat_ngram_size=17 is not allowed. .* 0 to 16"):
            run.talk(no_repeat_ngram_size=17)
        with pytest.raises(FalconerError, match="max_new_tokens=0 .* 1 or more"):
            run.talk(max_new_tokens=0)
        for name, wrong in (("seed", None), ("seed", 1.5), ("max_new_tokens", "x"), ("persona", "I sing.")):
            with pytest.raises(TypeError, match=f"{name} must be "):
                run.talk(**{name: wrong})
        with pytest.raises(TypeError, match="text must be a text, not int: 5"):
            one.say(5)  # type: ignore[arg-type]
    for ask in (run.talk, run.evaluate, run.__enter__):
        with pytest.raises(FalconerError, match=r"was closed\. Open it again: falconer\.open_run\("):
            ask()
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
    write_dialogues(load_dialogues("persona-chat-sample", split="validation").dialogues[:12], "valid.jsonl")

    def smaller(preset=None, overrides=()):
        return load(preset, [*overrides, *FEWER, "data.valid=valid.jsonl"])

    monkeypatch.setattr(api, "load_config", smaller)
    space: dict[str, object] = {}
    for example in EXAMPLES:
        exec(compile(example, str(PAGE), "exec"), space)
    assert (tmp_path / "runs" / "mine" / "report.html").is_file()
