"""What a run's folder says of it comes back as written, damage is named, and nobody else spells its files' names."""

import ast
from pathlib import Path

import pytest

from falconer.config import load
from falconer.errors import FalconerError
from falconer.records import StepRow
from falconer.run import folder
from falconer.run.folder import Chat, Evaluation
from falconer.run.metrics import Metrics

PACKAGE = Path(__file__).parents[2] / "src" / "falconer"
METRICS = Path(__file__).parent / "fixtures" / "metrics.json"
EVALUATION = Evaluation(
    "falcon-mini on x", "falconer evaluate --run r", "en", 20, 17,
    {"model.name": "falcon-mini"}, ("d",), "adapter", {"adapter/a.safetensors": "cd"}, {"metrics.json": "ef"},
)  # fmt: skip
# Names that mean a file of a run wherever they stand; "adapter" alone is also a word.
NAMES = (
    "config.yaml", "run.json", "splits.json", "steps.jsonl", "checkpoints/last", "loss_curve", "training.json",
    "chat.json", "metrics.json", "evaluation.json", "report.html", "report.md", "predictions-",
)  # fmt: skip


def test_configuration_and_records_come_back_as_they_were_written(tmp_path):
    config = load("falcon-7b", ["data.text=natural", "train.epochs=0.5"])
    folder.write_run(tmp_path, config, {"data": {"train": 1}}, {"version": 1})
    assert folder.read_config(tmp_path) == config
    assert folder.read_record(tmp_path) == {"data": {"train": 1}}
    assert folder.read_splits(tmp_path) == {"version": 1}
    names = {"config.yaml", "run.json", "splits.json"}
    assert {path.name for path in tmp_path.iterdir()} == names | {"manifest.json"}


def test_what_an_evaluation_writes_comes_back_as_it_was_written(tmp_path):
    metrics = Metrics.from_json(METRICS.read_text(encoding="utf-8"), METRICS, "")
    chat = Chat(("I ski.", "Ich fahre Ski – gern."), (("hi", "hello"), ("you ?", "")), {"adapter/a.safetensors": "cd"})
    (tmp_path / folder.METRICS).write_text(folder.metrics_text(metrics), encoding="utf-8")
    (tmp_path / folder.EVALUATION).write_text(folder.evaluation_text(EVALUATION), encoding="utf-8")
    folder.write_chat(tmp_path, chat)
    assert folder.read_metrics(tmp_path) == metrics
    assert (tmp_path / "metrics.json").read_bytes() == METRICS.read_bytes()
    assert folder.read_evaluation(tmp_path) == EVALUATION
    assert folder.read_chat(tmp_path) == chat
    assert folder.predictions_name("no_persona") == "predictions-no_persona.jsonl"


@pytest.mark.parametrize("adapter", ["removed", "x" * 300, "a\0b", "../" * 500, ""])
def test_an_adapter_that_is_not_there_has_no_hashes(tmp_path, adapter):
    """A damaged evaluation.json may name any text, also one that no folder can be called."""
    assert folder.adapter_hashes(tmp_path, adapter) == {}


def test_steps_come_back_less_a_line_that_was_cut_off(tmp_path):
    rows: list[StepRow] = [{"step": 1, "loss": 2.5}, {"step": 1, "valid_loss": float("nan")}]
    folder.write_steps(tmp_path, rows)
    with (tmp_path / "steps.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert str(folder.read_steps(tmp_path)) == str(rows)


@pytest.mark.parametrize("line", ["{", "3", '{"loss": 2}', '{"step": "1"}'])
def test_a_damaged_step_is_named_by_its_line(tmp_path, line):
    (tmp_path / "steps.jsonl").write_text(f'{{"step": 1}}\n{line}\n')
    with pytest.raises(FalconerError, match=r"steps\.jsonl' is damaged: line 2 "):
        folder.read_steps(tmp_path)


def test_a_folder_without_a_run_is_explained(tmp_path):
    with pytest.raises(FalconerError, match=r"contains no run \(config.yaml is missing\)"):
        folder.read_config(tmp_path)
    with pytest.raises(FalconerError, match=r"run\.json' can't be read"):
        folder.read_record(tmp_path)
    with pytest.raises(
        FalconerError, match=r"not been evaluated \(metrics\.json is missing\)\. Run: falconer evaluate"
    ):
        folder.read_metrics(tmp_path)
    assert folder.read_splits(tmp_path) is None
    assert folder.read_evaluation(tmp_path) is None and folder.read_chat(tmp_path) is None
    assert folder.read_steps(tmp_path) == [] and not folder.is_run(tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe"])
@pytest.mark.parametrize("name", ["run.json", "splits.json", "metrics.json", "evaluation.json", "chat.json"])
def test_a_damaged_record_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    readers = {
        "run.json": folder.read_record, "splits.json": folder.read_splits, "chat.json": folder.read_chat,
        "metrics.json": folder.read_metrics, "evaluation.json": folder.read_evaluation,
    }  # fmt: skip
    with pytest.raises(FalconerError, match=rf"{name}' is damaged"):
        readers[name](tmp_path)


@pytest.mark.parametrize("content", ["[", "- a", "model: [1"])
def test_a_damaged_configuration_is_named(tmp_path, content):
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(FalconerError, match=r"config\.yaml' is damaged"):
        folder.read_config(tmp_path)


def spelled(path: Path) -> list[str]:
    """Return the texts of a file's code, docstrings left out, that hold the name of a run's file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documents = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and isinstance(node.body[0], ast.Expr)
    }
    texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    found = [node for node in texts if id(node) not in documents and not node.value.endswith(".j2")]
    return [f"{path.name}:{node.lineno}: {node.value}" for node in found if any(name in node.value for name in NAMES)]


def test_nobody_else_spells_the_names_of_its_files():
    assert not [
        line for path in PACKAGE.rglob("*.py") if path != PACKAGE / "run" / "folder.py" for line in spelled(path)
    ]
    assert len(spelled(PACKAGE / "run" / "folder.py")) >= len(NAMES), "the check sees what it is to see"
