"""What an evaluation lacks is named, with what to type, before a model is loaded or anything is generated."""

import shutil
import sys
from pathlib import Path
from unittest import mock

import pytest

from command_line import falconer
from falconer.errors import FalconerError
from falconer.evaluate import needs
from small_runs import Small

LIMITS = ("evaluate.max_replies=2", "evaluate.max_new_tokens=3", "evaluate.num_samples=1", "evaluate.resamples=100")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = Small(tmp_path_factory.mktemp("needs"))
    small.run(small.train.parent / "run", "train.max_steps=1", *LIMITS)
    return small.train.parent / "run"


def no_model(*_: object, **__: object) -> None:
    pytest.fail("the model was loaded before the lack was noticed")


@pytest.mark.parametrize(("module", "name"), needs._PACKAGES)
def test_a_missing_package_is_named_before_a_model_is_loaded(run: Path, module: str, name: str) -> None:
    with mock.patch.dict(sys.modules, {module: None}), mock.patch("falconer.jobs.load_model", no_model):
        result = falconer("evaluate", "--run", run)
    assert result.code == 2 and len(result.err.splitlines()) == 1
    assert f"An evaluation needs the package {name}, which is not installed. Run: pip install {name}" in result.err
    assert not (run / "metrics.json").exists()


def test_all_that_are_missing_are_named_at_once() -> None:
    said = r"packages nltk, jinja2, which are not.*pip install nltk jinja2$"
    with mock.patch.dict(sys.modules, {"nltk": None, "jinja2": None}), pytest.raises(FalconerError, match=said):
        needs.check_packages()
    needs.check_packages()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("evaluate.language=klingon",), "Unknown language 'klingon'"),
        (("--adapter", "nothing"), "has no folder 'nothing'. Use adapter (the best) or checkpoints/last (the last)."),
        (("evaluate.nli_model=/nowhere",), "'/nowhere' is not a folder with config.json and safetensors weights"),
    ],
)
def test_what_would_fail_after_minutes_fails_at_once(run: Path, arguments: tuple[str, ...], said: str) -> None:
    with mock.patch("falconer.jobs.load_model", no_model):
        result = falconer("evaluate", "--run", run, *arguments)
    assert result.code == 2 and said in result.err


def test_an_nli_model_without_a_tokenizer_is_refused_at_once(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"model_type": "bert", "id2label": {"0": "entailment", "1": "neutral", "2": "contradiction"}}'
    )
    (tmp_path / "model.safetensors").write_bytes(b"")
    with mock.patch("falconer.jobs.load_model", no_model):
        result = falconer("evaluate", "--run", run, f"evaluate.nli_model={tmp_path}")
    assert result.code == 2 and "contains no tokenizer. Add one of tokenizer.json" in result.err


def test_a_folder_that_may_not_be_written_to_is_refused_at_once(run: Path) -> None:
    # Root may write anywhere, whatever the permissions say.
    said = r"is not writable.*pass that with --run\.$"
    with mock.patch("falconer.evaluate.needs.os.access", return_value=False), pytest.raises(FalconerError, match=said):
        needs.check_needs(run, "adapter", None, "auto")
    needs.check_needs(run, "adapter", None, "auto")


def test_no_adapter_yet_is_no_adapter(tmp_path: Path) -> None:
    with pytest.raises(FalconerError, match=r"has no 'adapter' yet.*--resume"):
        needs.check_adapter(tmp_path, "adapter")


def test_a_folder_that_was_removed_is_told_from_one_not_yet_written(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(copy / "adapter")
    with pytest.raises(FalconerError, match=r"any more: .* use the last checkpoint with --adapter checkpoints/last\.$"):
        needs.check_adapter(copy, "adapter")
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(FalconerError, match=r"any more: .* from a copy, or train another run\.$"):
        needs.check_adapter(copy, "adapter")
    with pytest.raises(FalconerError, match=r"has no 'checkpoints/last' any more: .* train another run\.$"):
        needs.check_adapter(copy, "checkpoints/last")


def test_a_run_interrupted_before_its_first_validation_has_a_checkpoint_to_use(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    said = r"not reached the first validation\. .*--resume, or use the last checkpoint with --adapter checkpoints/last"
    with pytest.raises(FalconerError, match=said):
        needs.check_adapter(tmp_path, "adapter")
    needs.check_adapter(tmp_path, "checkpoints/last")
