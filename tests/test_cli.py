"""The command line as its user meets it: quick help, one JSON object, evaluating, chatting."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from command_line import SOURCE, falconer, falconer_process, ok
from falconer import __version__
from falconer.config import Config, preset_names
from falconer.data.sources import FORMATS
from falconer.evaluate.text.predictions import read_predictions
from falconer.run.folder import ADAPTER, LAST
from small_runs import Small, write_dialogues

PREDICTIONS = Path(__file__).parent / "evaluate" / "fixtures" / "lmedr_200.jsonl.gz"
COMMANDS = [
    "quickstart",
    "doctor",
    "plan",
    "train",
    "evaluate",
    "report",
    "runs",
    "score",
    "compare",
    "chat",
    "data",
    "bench",
]
OF_BENCH = [["bench", "train"], ["bench", "generate"]]
OF_DATA = [["data", "show"], ["data", "stats"], ["data", "convert"]]


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a finished run of two steps; what it generates is of enough dialogues for paired tests."""
    folder = tmp_path_factory.mktemp("cli")
    limits = ("evaluate.max_replies=45", "evaluate.max_new_tokens=4", "evaluate.num_samples=2")
    small = Small(folder)
    write_dialogues(small.valid, 24, seed=6)
    small.run(folder / "run", "train.max_steps=2", *limits)
    return folder / "run"


# Starting


def test_help_lists_every_command(tmp_path):
    result = falconer_process("--help", cwd=tmp_path)
    assert result.code == 0 and all(command in result.out for command in COMMANDS)


def test_the_command_line_imports_nothing_heavy():
    code = "import sys, falconer.cli, falconer.__main__; print(*sys.modules)"
    environment = os.environ | {"PYTHONPATH": str(SOURCE)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    heavy = {"torch", "transformers", "numpy", "pydantic", "yaml", "datasets", "rich", "matplotlib", "sacrebleu"}
    assert not heavy & set(result.stdout.split())


@pytest.mark.parametrize("words", [[], *([command] for command in COMMANDS), *OF_DATA, *OF_BENCH])
def test_every_command_explains_itself(words):
    text = ok(*words, "--help").out
    assert "Usage: " in text
    assert "--help" in text


def test_no_summary_of_a_command_is_cut_off(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    for text in (ok("--help").out, ok("data", "--help").out, ok("bench", "--help").out):
        assert "..." not in text.split("Commands:")[1]


def test_the_help_names_every_preset_and_every_format(monkeypatch):
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    presets = set(re.findall(r"[\w-]+", ok("train", "--help").out.replace("-\n", "-")))
    assert set(preset_names()) <= presets
    for words in OF_DATA:
        listed = set(re.findall(r"\w+", ok(*words, "--help").out.split("--format")[1].split("--")[0]))
        assert set(FORMATS) <= listed


def test_no_line_of_help_is_wider_than_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")
    for words in ([], *([command] for command in COMMANDS), *OF_DATA, *OF_BENCH):
        assert max(map(len, ok(*words, "--help").out.splitlines())) <= 80, words


def test_brackets_in_a_name_are_no_style(run, tmp_path):
    folder = tmp_path / "a [" / "b] [bold]run[CLS]"
    shutil.copytree(run, folder)
    result = ok("evaluate", "--run", folder, "evaluate.max_replies=2", "evaluate.resamples=100")
    assert f"Report: {folder / 'report.html'}" in result.out
    assert f"Next:  falconer evaluate --run {folder}" in ok("train", "--run", folder, "--resume").err


def test_the_adapters_that_the_help_names_are_those_of_a_run():
    """The command line spells them itself, because what knows them takes half a second to import."""
    for command in ("evaluate", "chat"):
        text = " ".join(ok(command, "--help").out.split())
        assert f"--adapter {LAST} for that of the last checkpoint" in text and f"[default: {ADAPTER}]" in text


def test_version():
    assert ok("--version").out.strip() == __version__


def test_keys_lists_every_setting_with_its_default_for_80_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    lines = ok("train", "--keys").out.splitlines()
    named = [line.partition("=")[0] for line in lines if not line.startswith(" ")]
    fields = ((section, field.annotation.model_fields) for section, field in Config.model_fields.items())
    assert named == [f"{section}.{key}" for section, keys in fields for key in keys]
    assert "train.learning_rate=0.0002  (number > 0, or null)" in lines
    assert max(map(len, lines)) < 80


# Scores


def test_score_json_is_one_object():
    result = ok("score", PREDICTIONS, "--json")
    (line,) = result.out.splitlines()
    scores = json.loads(line)
    assert not result.err
    assert scores["num_replies"] == 200
    assert {"bleu", "rouge_l", "f1", "signatures", "floors", "sha256"} <= set(scores)


def test_score_prints_a_table_with_signatures(monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    scores = json.loads(ok("score", PREDICTIONS, "--json").out)
    text = ok("score", PREDICTIONS).out
    for words in (f"{scores['bleu']:.2f}", f"{scores['rouge_l']:.2f}", f"{scores['f1']:.2f}", "constant", "case:lc"):
        assert words in text
    low, high = scores["intervals"]["bleu"]
    assert f"±{(high - low) / 2:.2f}" in text
    assert "1,000 resamples of 27 dialogues, seed 17" in text
    assert f"parlai_bleu_4 {scores['legacy']['parlai_bleu_4']:.2f}" in text
    assert "hits_1" not in text, "no signature of what was not measured"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """LMEDR's replies, a constant sentence and the gold replies, one a line each."""
    folder = tmp_path_factory.mktemp("texts")
    rows = read_predictions(PREDICTIONS)
    (folder / "lmedr.txt").write_text("".join(f"{row.prediction}\n" for row in rows), encoding="utf-8")
    (folder / "constant.txt").write_text("i am doing well . how are you ?\n" * len(rows), encoding="utf-8")
    (folder / "gold.txt").write_text("".join(f"{row.reference}\n" for row in rows), encoding="utf-8")
    pairs = "".join(f"{row.prediction}\t{row.reference}\n" for row in rows)
    (folder / "lmedr.tsv").write_text(pairs, encoding="utf-8")
    return folder


def test_score_takes_plain_text(texts):
    expected = json.loads(ok("score", PREDICTIONS, "--json").out)["bleu"]
    two = ok("score", texts / "lmedr.txt", "--reference", texts / "gold.txt", "--json").out
    assert json.loads(two)["bleu"] == json.loads(ok("score", texts / "lmedr.tsv", "--json").out)["bleu"] == expected


def test_score_against_another_file(texts):
    arguments = ("score", texts / "lmedr.txt", "--reference", texts / "gold.txt", "--against", texts / "constant.txt")
    text = ok(*arguments, "--resamples", "200").out
    assert str(texts / "constant.txt") in text.replace("\n", "") and "Paired tests against" in text
    assert re.search(r"BLEU +1\.55 +5\.39 +\+3\.84 +\+\d\.\d+ +\+\d\.\d+ +0\.001", text)  # ten tests of 100 resamples
    assert re.search(r"sacreBLEU.s own paired bootstrap test \(resamples replies\), .*lmedr\.txt: p = 0\.0050", text)
    scored = json.loads(ok(*arguments, "--resamples", "200", "--json").out)
    assert scored["baseline"]["bleu"] == pytest.approx(1.5539, abs=1e-4)


def test_score_and_compare_load_no_torch(texts):
    code = (
        "import sys; from falconer.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = {'torch', 'transformers', 'peft', 'bitsandbytes', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "PYTHONWARNINGS": "error"}
    for words in (
        ["score", texts / "lmedr.tsv"],
        ["compare", texts / "lmedr.txt", texts / "constant.txt", "--reference", texts / "gold.txt"],
    ):
        command = [sys.executable, "-c", code, *map(str, words), "--resamples", "100"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0 and not done.stderr, done.stderr
        assert "BLEU" in done.stdout


# Runs


def test_plan_needs_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = ok("plan", "--preset", "quickstart", "data.max_dialogues=50").out
    assert "fits" in text and "tokens/s" in text
    assert not list(tmp_path.iterdir())


def test_doctor():
    result = falconer("doctor")
    assert result.code == (1 if "FAIL" in result.out else 0)
    assert "fast path (plain torch): " in result.out


def test_evaluate_prints_the_table_and_where_the_report_is(run):
    text = ok("evaluate", "--run", run).out
    for words in ("base", "tuned", "constant", "BLEU", f"Report: {run / 'report.html'}"):
        assert words in text
    assert (run / "report.html").is_file()


def test_evaluate_json_is_what_metrics_json_holds(run):
    result = ok("evaluate", "--run", run, "--json", "evaluate.max_replies=2")
    assert json.loads(result.out) == json.loads((run / "metrics.json").read_text())
    assert json.loads(result.out)["tuned"]["num_replies"] == 2


def test_evaluate_with_controls_shows_what_the_model_does_without(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    text = ok("evaluate", "--run", run, "--controls").out
    for words in ("against base", "against tuned", "no_persona", "shuffled_persona", "no_history", "p (Holm)"):
        assert words in text
    assert (run / "predictions-no_history.jsonl").is_file()


def test_compare_runs_and_files(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    ok("evaluate", "--run", run)
    files = (run / "predictions-base.jsonl", run)
    text = ok("compare", *files, "--resamples", "100").out
    assert "against predictions-base.jsonl" in text and "word perplexity" in text
    found = json.loads(ok("compare", *files, "--json", "--resamples", "100", "--seed", "3").out)
    assert found["baseline"] == "predictions-base.jsonl" and list(found["systems"]) == ["predictions-base.jsonl", "run"]
    tests = {test["metric"]: test for test in found["tests"]["run"]}
    assert tests["word_ppl"]["system"] == found["systems"]["run"]["score"]["word_ppl"]
    assert found["bootstrap"]["seed"] == 3


def test_the_last_checkpoint_can_be_evaluated(run):
    ok("evaluate", "--run", run, "--adapter", "checkpoints/last", "--json")


def test_chat_in_a_process_of_its_own(run):
    result = falconer_process(
        "chat", "--run", run, "--persona", "I sing.", "--temperature", "0", cwd=run.parent, stdin="Hi!\n/persona\n"
    )
    assert (result.code, result.err) == (0, "")
    assert "tuned in" in result.out
    assert result.out.count("I sing.") == 2
    assert "you:       Hi!\nassistant: " in result.out


def test_a_reader_that_stops_early_is_no_error(run):
    command = f"{shlex.quote(sys.executable)} -m falconer data show | head -1"
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )  # fmt: skip
    assert result.stdout.startswith("train-")
    assert "Traceback" not in result.stderr
