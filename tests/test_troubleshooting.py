"""docs/troubleshooting.md quotes real messages, and its commands exist."""

import ast
import functools
import re
from pathlib import Path

import pytest

from command_line import falconer
from documented import ROOT, blocks, check_parses, check_settings, falconer_commands
from falconer import doctor, runtime
from falconer.keys import keys
from small_runs import Small

PAGE = ROOT / "docs" / "troubleshooting.md"
TEXT = PAGE.read_text(encoding="utf-8")
QUOTED = [line for block in blocks("text", TEXT) for line in block.splitlines()]
COMMANDS = falconer_commands(TEXT)

pytestmark = pytest.mark.usefixtures("one_thread")


def pattern(node: ast.expr) -> str:
    """Return a regular expression for a text in the source: whatever is put into it may be anything."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.escape(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(pattern(part) for part in node.values)
    if isinstance(node, ast.BinOp):
        return pattern(node.left) + pattern(node.right)
    return ".*"


@functools.cache
def patterns() -> tuple[list[str], list[str]]:
    """Return expressions for each error, without and with its hint, and for every other text of the source."""
    errors, texts = [], []
    for path in (ROOT / "src" / "falconer").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        parts = {part for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
        for node in nodes:
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("FalconerError", "NonFiniteLoss")):
                message, *hint = map(pattern, node.args)
                if is_telling(message):
                    errors += [message, *(f"{message} {one}" for one in hint)]
            if isinstance(node, (ast.Constant, ast.JoinedStr)) and node not in parts and is_telling(pattern(node)):
                texts.append(pattern(node))
    return errors, texts


def is_telling(expression: str) -> bool:
    """Tell whether an expression has so many letters of its own that it matches one kind of text alone."""
    return len(re.sub(r"\W", "", expression)) >= 12


def is_in_source(line: str) -> bool:
    errors, texts = patterns()
    if line.startswith("falconer: "):
        return any(re.fullmatch(one, line.removeprefix("falconer: ")) for one in errors)
    return any(re.search(one, line) for one in texts)


@pytest.mark.parametrize("line", [line for line in QUOTED if "line 3: " not in line])
def test_each_line_that_is_quoted_is_in_the_source(line: str) -> None:
    assert is_in_source(line)


def test_the_check_itself_can_fail() -> None:
    hint = "Use model.device=auto, or see: falconer doctor."
    assert is_in_source(f"falconer: model.device=cuda, but torch sees no GPU. {hint}")
    assert is_in_source("falconer: model.device=cuda, but torch sees no GPU.")
    assert not is_in_source(f"falconer: model.device=cuda, but torch sees no GPUs. {hint}")
    assert not is_in_source("falconer: model.device=cuda, but torch sees no GPU. Buy one.")
    assert is_in_source("GPU   there is a driver (535), but torch 2.11.0 (CUDA 13.0) sees no GPU")
    assert not is_in_source("GPU   there is a driver (535), but torch is blind")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_exists(command: str) -> None:
    check_parses(command)
    check_settings(command)


def test_there_are_ten_troubles_and_the_list_leads_to_each() -> None:
    titles = re.findall(r"^## (\d+\. .*)$", TEXT, re.MULTILINE)
    assert len(titles) == 10
    anchors = re.findall(r"^\d+\. \[(.*)\]\(#(.*)\)$", TEXT, re.MULTILINE)
    assert [f"{number}. {title}" for number, (title, _) in enumerate(anchors, start=1)] == titles
    for title, (_, anchor) in zip(titles, anchors, strict=True):
        assert anchor == re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")


@pytest.mark.parametrize("key", sorted(set(re.findall(r"`((?:model|data|lora|train|evaluate)\.\w+)[=`]", TEXT))))
def test_each_key_that_is_named_is_known(key: str) -> None:
    assert key in [known.name for known in keys()]


# Caused here, where a CPU can


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a short run in runs/mine."""
    folder = tmp_path_factory.mktemp("troubles")
    Small(folder).run(folder / "runs" / "mine", "train.max_steps=1")
    return folder


def said(*arguments: str) -> str:
    result = falconer(*arguments)
    assert result.code == 2
    return result.err.splitlines()[-1]


def test_what_is_quoted_is_what_is_said(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    monkeypatch.setattr(runtime.torch.cuda, "is_available", lambda: False)
    assert said("train", "model.device=cuda", "--run", "new") in QUOTED
    assert said("train", "model.name=tiiuae/falcon-7b", "--run", "new") in QUOTED
    assert said("train", "--run", "runs/mine") in QUOTED
    assert said("train", "--run", "runs/mine", "--resume", "train.epochs=9") in QUOTED
    (runs / "mine.csv").write_text("colour,size\nred,3\n")
    line = said("data", "show", "mine.csv")
    assert line.startswith(next(quoted for quoted in QUOTED if "mine.csv" in quoted))
    good = '{"persona": [], "turns": [{"speaker": "partner", "text": "hi"}, {"speaker": "self", "text": "hello"}]}\n'
    (runs / "mine.jsonl").write_text(good * 2 + good.replace("partner", "me"))
    line = said("data", "show", "mine.jsonl")
    assert line.startswith(next(quoted for quoted in QUOTED if "mine.jsonl" in quoted)), line
    assert not (runs / "new").exists()


def test_a_run_whose_data_has_changed(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    path = runs / "train.jsonl"
    before = path.read_text(encoding="utf-8")
    path.write_text(before + before.splitlines()[0].replace("train-0", "more") + "\n", encoding="utf-8")
    line = said("train", "--run", "runs/mine", "--resume")
    path.write_text(before, encoding="utf-8")
    (quoted,) = (one for one in QUOTED if "has changed" in one)
    assert line.startswith(quoted.partition("began")[0]), line


def test_a_learning_rate_that_is_far_too_high(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(runs)
    (runs / "again").mkdir()
    small = Small(runs / "again")
    arguments = small.arguments(runs / "runs" / "nan", "train.learning_rate=1e30", "train.validate_every=9")
    line = said(*arguments)
    assert "is not finite" in line and "Try a lower train.learning_rate" in line
    assert is_in_source(line)


def test_what_the_doctor_says_of_a_gpu_that_torch_does_not_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runtime, "nvidia_driver", lambda: "")
    (finding,) = doctor._gpus()
    assert f"{finding.subject}   {finding.found}" in QUOTED
    monkeypatch.setattr(runtime, "nvidia_driver", lambda: "535.104.05")
    monkeypatch.setattr(doctor.torch, "__version__", "2.11.0+cu130")
    monkeypatch.setattr(doctor.torch.version, "cuda", "13.0")
    (finding,) = doctor._gpus()
    assert f"{finding.subject}   {finding.found}" in QUOTED


def test_the_adapter_speaks_in_another_program(runs: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (program,) = blocks("python", TEXT)
    monkeypatch.chdir(runs)
    names: dict[str, object] = {}
    exec(program, names)
    capsys.readouterr()
    tokenizer, prompt = names["tokenizer"], names["prompt"]
    text = "Persona:\n- i have two dogs .\n- i am a nurse .\nUser: hi , who are you ?\nAssistant:"
    assert tokenizer.decode(prompt["input_ids"][0]) == text
