"""The report is made from the folder alone: without torch, the same to the byte, and it says what a folder lacks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import SOURCE, falconer
from falconer.evaluate.report.from_folder import choose_samples
from falconer.records import Prediction
from falconer.run.folder import Chat, adapter_hashes, read_metrics, write_chat
from falconer.run.metrics import Metrics
from small_runs import Small

LIMITS = ("evaluate.max_replies=12", "evaluate.max_new_tokens=3", "evaluate.num_samples=3", "evaluate.resamples=100")
PAGES = ("report.html", "report.md")
# Written by falconer 0.1.0 at the end of a quickstart.
STORED = Path(__file__).parents[2] / "run" / "fixtures" / "metrics.json"
WITHOUT_TORCH = """
import sys
from falconer.cli import main
main()
assert not {"torch", "transformers", "peft", "accelerate", "matplotlib"} & set(sys.modules)
"""

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was evaluated with its ablations and has a chat; write nothing into it."""
    small = Small(tmp_path_factory.mktemp("report"))
    run = small.train.parent / "run"
    small.run(run, "train.max_steps=2", *LIMITS)
    write_chat(run, Chat(("i sing <b> .",), (("hi ?", "hello *you*"), ("and ?", "")), adapter_hashes(run)))
    result = falconer("evaluate", "--run", run, "--controls", "evaluate.seed=3")
    assert result.code == 0, result.err
    return run


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(evaluated, tmp_path / "run"))


def pages(run: Path) -> list[str]:
    return [(run / name).read_text(encoding="utf-8") for name in PAGES]


def test_without_torch_it_makes_what_the_evaluation_made(evaluated: Path, run: Path) -> None:
    for name in PAGES:
        (run / name).unlink()
    shutil.rmtree(run / "adapter" / "nothing", ignore_errors=True)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, "report", "--run", str(run)], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(SOURCE), "PYTHONWARNINGS": "error"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == "" and done.stdout == f"Report: {run / 'report.html'} and report.md\n"
    assert pages(run) == pages(evaluated)


def test_all_that_the_evaluation_knew_is_in_it(evaluated: Path) -> None:
    html, markdown = pages(evaluated)
    assert f"falconer evaluate --run {evaluated} --controls evaluate.seed=3" in markdown
    assert "3 replies chosen at random (seed 3)" in markdown
    assert "hello \\*you\\*" in markdown and "i sing \\<b\\>" in markdown and "i sing &lt;b&gt; ." in html
    for text in (*adapter_hashes(evaluated).values(), "evaluate.max_new_tokens", "no persona", "precision"):
        assert text in html, text
    assert "arithmetic" not in markdown
    counts = read_metrics(evaluated).settings["replies"]
    assert (
        f"Perplexities are computed over all gold replies, all other figures over the generated replies: {counts}."
        in markdown
    )


def test_a_run_of_an_older_version_gives_its_figures_and_says_what_it_lacks(run: Path) -> None:
    (run / "evaluation.json").unlink()
    (run / "chat.json").unlink()
    # As if it had been about as many replies as this run's predictions.
    stored_text = STORED.read_text(encoding="utf-8").replace('"num_replies": 240', '"num_replies": 12')
    (run / "metrics.json").write_text(stored_text, encoding="utf-8")
    result = falconer("report", "--run", run)
    assert result.code == 0, result.err
    assert "evaluation.json is missing" in result.err and f"falconer evaluate --run {run} writes it" in result.err
    assert "chat.json is missing, so the report has no sample chat" in result.err
    _, markdown = pages(run)
    stored = Metrics.from_json(STORED.read_text(encoding="utf-8"), STORED, "")
    for score in (stored.base, stored.tuned, *stored.baselines.values()):
        for figure in (score.bleu, score.rouge_l, score.f1):
            assert figure is not None and f"{figure:.2f}" in markdown
    assert "(35.54 to 45.98)" in markdown and "Perplexities are computed over all gold replies" in markdown
    assert "seed 17" in markdown and "## A short chat" not in markdown and "## Again" not in markdown
    # The stored figures are of other test data than the run's, as after data.test=FILE, and the title names it.
    assert markdown.split("\n")[0].endswith(" on test.jsonl.gz")


def test_files_of_two_evaluations_are_not_mixed(run: Path) -> None:
    text = (run / "predictions-tuned.jsonl").read_text(encoding="utf-8")
    (run / "predictions-tuned.jsonl").write_text(text.replace('"prediction": "', '"prediction": "x'), encoding="utf-8")
    before = pages(run)
    result = falconer("report", "--run", run)
    assert result.code == 2 and "predictions-tuned.jsonl' was not written by the last evaluation" in result.err
    assert f"falconer evaluate --run {run}" in result.err and pages(run) == before


@pytest.mark.parametrize("keep", [slice(5), slice(None, None, -1)])
def test_files_of_two_evaluations_are_told_without_their_hashes(run: Path, keep: slice) -> None:
    (run / "evaluation.json").unlink()
    lines = (run / "predictions-tuned.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (run / "predictions-tuned.jsonl").write_text("".join(lines[keep]), encoding="utf-8")
    result = falconer("report", "--run", run)
    assert result.code == 2 and "' and the other files of the evaluation are not about the same" in result.err


@pytest.mark.parametrize("name", ["predictions-base.jsonl", "predictions-tuned.jsonl"])
def test_one_system_without_its_replies_still_has_its_figures(run: Path, name: str) -> None:
    (run / name).unlink()
    result = falconer("report", "--run", run)
    assert result.code == 0 and f"{name} is missing" in result.err
    assert f"{read_metrics(run).tuned.f1:.2f}" in pages(run)[1]


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_a_damaged_picture_is_left_out_and_said(run: Path, content: bytes | None) -> None:
    picture = run / "loss_curve.png"
    picture.write_bytes(picture.read_bytes()[:-20] if content is None else content)
    result = falconer("report", "--run", run)
    assert result.code == 0 and "loss_curve.png is missing or damaged, so report.md has no loss curve" in result.err
    html, markdown = pages(run)
    assert "loss_curve.png" not in markdown and "data:image/png" not in html


def test_a_pipe_in_place_of_the_picture_is_not_waited_for(run: Path) -> None:
    (run / "loss_curve.png").unlink()
    os.mkfifo(run / "loss_curve.png")
    result = falconer("report", "--run", run)
    assert result.code == 0 and "loss_curve.png is missing or damaged" in result.err


def test_a_setting_that_no_version_knows_is_told_with_its_file(run: Path) -> None:
    (run / "config.yaml").write_text("modell: {}\n")
    result = falconer("report", "--run", run)
    assert result.code == 2 and f"'{run / 'config.yaml'}': Unknown section 'modell'." in result.err


@pytest.mark.parametrize("data", ["x", None, [], {"test": 3}, {"test": {}}])
def test_a_record_of_another_shape_does_no_harm(run: Path, data: object) -> None:
    (run / "evaluation.json").unlink()
    record = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(record | {"data": data}))
    (run / "manifest.json").unlink(missing_ok=True)
    assert falconer("report", "--run", run).code == 0


def test_what_is_gone_is_left_out_and_said(run: Path) -> None:
    for name in ("predictions-base.jsonl", "loss_curve.png", "steps.jsonl"):
        (run / name).unlink()
    result = falconer("report", "--run", run)
    assert result.code == 0
    for name in ("predictions-base.jsonl", "loss_curve.png", "steps.jsonl"):
        assert f"{name} is missing" in result.err
    html, markdown = pages(run)
    assert "chosen at random" not in markdown and "## Loss" not in markdown and 'id="vote"' not in html


def test_an_adapter_that_was_trained_on_since_is_told(run: Path) -> None:
    file = run / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes() + b"\0")
    result = falconer("report", "--run", run)
    assert (
        result.code == 0 and "has changed since the evaluation, so the report is about an earlier adapter" in result.err
    )


def test_an_adapter_that_was_removed_has_not_changed(run: Path) -> None:
    shutil.rmtree(run / "adapter")
    result = falconer("report", "--run", run)
    assert result.code == 0 and "has been removed since the evaluation" in result.err and "changed" not in result.err


def test_a_chat_with_another_adapter_is_not_shown(run: Path) -> None:
    write_chat(run, Chat(("i sing .",), (("hi ?", "unheard of"),), {"adapter/adapter_model.safetensors": "0"}))
    result = falconer("report", "--run", run)
    assert (
        result.code == 0
        and "chat.json was written with another adapter, so the report has no sample chat" in result.err
    )
    assert all("unheard of" not in page for page in pages(run))


def test_a_folder_that_was_moved_gives_its_report(run: Path, tmp_path: Path) -> None:
    moved = run.rename(tmp_path / "elsewhere")
    before = pages(moved)
    assert falconer("report", "--run", moved).code == 0
    assert pages(moved) == before


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("metrics.json", '{"base": {"num_replies": 1, "bleu": "x"}, "tuned": {"num_replies": 1}}', "at 'base.bleu'"),
        ("evaluation.json", '{"title": "x"}', "at 'command'"),
        ("chat.json", '{"persona": "x", "exchanges": [], "adapter_sha256": {}}', "at 'persona'"),
        ("steps.jsonl", "{\n", "line 1 is not JSON"),
        ("steps.jsonl", '{"step": 1, "loss": "x"}\n', "line 1, 'loss' is not a number"),
        ("metrics.json", "[" * 100_000, "line 1, column"),
        ("config.yaml", "[" * 100_000, "line 1: it is nested more than 16"),
        ("config.yaml", "model: 2001-99-99", "line 1: it has"),
    ],
)
def test_a_damaged_file_is_named_by_its_key(run: Path, name: str, text: str, said: str) -> None:
    (run / name).write_text(text)
    result = falconer("report", "--run", run)
    assert result.code == 2 and f"{name}' is damaged: {said}" in result.err and len(result.err.splitlines()) == 1


def test_no_run_and_no_evaluation_are_explained(run: Path, tmp_path: Path) -> None:
    (run / "metrics.json").unlink()
    result = falconer("report", "--run", run)
    assert (
        result.code == 2
        and f"has not been evaluated (metrics.json is missing). Run: falconer evaluate --run {run}" in result.err
    )
    result = falconer("report", "--run", tmp_path / "nothing")
    assert result.code == 2 and "contains no run" in result.err


def test_the_seed_chooses_the_samples() -> None:
    rows = [Prediction(f"d{number}", 1, f"p{number}", "g") for number in range(30)]
    replies = {"base": rows, "tuned": rows}
    chosen = choose_samples(replies, 5, seed=1)
    assert len(chosen) == 5 and chosen == choose_samples(replies, 5, seed=1) != choose_samples(replies, 5, seed=2)
    assert len(choose_samples(replies, 99, seed=1)) == 30 and not choose_samples({**replies, "base": ()}, 5, seed=1)
