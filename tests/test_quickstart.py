"""The whole job in one command: what it does in which order, what it leaves, and that an earlier run is kept."""

import io
import re
import sys
from pathlib import Path
from unittest import mock

import pytest
from rich.console import Console

from command_line import falconer
from falconer import quickstart
from falconer.config import Config, load
from falconer.run.folder import adapter_hashes, read_chat, read_metrics
from falconer.train.checkpoint import Progress
from falconer.train.loop import TrainResult
from small_runs import Small

LIMITS = ("train.max_steps=1", "evaluate.max_replies=3", "evaluate.max_new_tokens=3", "evaluate.num_samples=1",
          "evaluate.resamples=100")  # fmt: skip

pytestmark = pytest.mark.usefixtures("one_thread")


def not_now(*_: object, **__: object) -> None:
    pytest.fail("it began to work")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("small"))


def test_train_chat_evaluate_report(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def smaller(preset: str, overrides: tuple[str, ...]) -> Config:
        asked.append((preset, overrides))
        return small.config(*LIMITS)

    monkeypatch.setattr(quickstart, "load", smaller)
    # Brackets in a name are no style.
    run = tmp_path / "quick [bold]"
    run.mkdir()
    (run / "mine").write_text("before")
    (tmp_path / "quick [bold]-1").mkdir()
    shown = io.StringIO()
    quickstart.run_quickstart(run, "short", Console(file=shown, width=100, markup=False, emoji=False))
    assert asked == [("quickstart", ())]
    text = shown.getvalue()
    kept = tmp_path / "quick [bold]-2"
    assert f"An earlier run was moved to {kept}." in text and (kept / "mine").read_text() == "before"
    steps = [text.index(said) for said in ("1  Train", "2  Chat", "3  Evaluate", "constant", "Done in 0.")]
    assert steps == sorted(steps)
    chat = read_chat(run)
    assert chat is not None and chat.persona == quickstart.PERSONA
    assert tuple(question for question, _ in chat.exchanges) == quickstart.QUESTIONS
    assert chat.adapter_sha256 == adapter_hashes(run)
    for question, reply in chat.exchanges:
        assert f"you:       {question}\nassistant: {reply}\n" in text
    assert read_metrics(run).tuned.num_replies == 3
    report = (run / "report.html").read_text(encoding="utf-8")
    assert all(question in report for question in quickstart.QUESTIONS), "the report shows the conversation"
    assert re.search(rf"^report {{5}}{re.escape(str(run / 'report.html'))}$", text, re.M)
    assert f"chat       falconer chat --run {run}\n" in text


def test_an_interruption_ends_it_and_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "train", lambda *_, **__: TrainResult(tmp_path, "interrupted", Progress(), 10))
    monkeypatch.setattr(quickstart.jobs, "open_run", not_now)
    result = falconer("quickstart", "--run", str(tmp_path / "run"))
    assert result.code == 130
    assert f"Interrupted. Continue with:  falconer train --run {tmp_path / 'run'} --resume" in result.err


def test_the_long_one_sees_more_than_the_short_one() -> None:
    short, full = (load("quickstart", quickstart.SIZES[size]) for size in ("short", "full"))
    assert full.train.epochs > short.train.epochs and full.lora == short.lora
    for key in ("max_dialogues", "max_replies"):
        assert getattr(full.evaluate, key) > getattr(short.evaluate, key)


def test_another_size_is_refused_and_moves_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    result = falconer("quickstart", "medium", "--run", str(tmp_path / "run"))
    assert result.code == 2 and "'medium'. Allowed: short, full." in result.err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_missing_package_is_named_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quickstart, "train", not_now)
    with mock.patch.dict(sys.modules, {"sacrebleu": None}):
        result = falconer("quickstart", "--run", str(tmp_path / "run"))
    assert result.code == 2 and "needs the package sacrebleu" in result.err
