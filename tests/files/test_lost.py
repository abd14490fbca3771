"""A folder that is lost is told, and one that is not is never said to be."""

import shutil

import pytest

from falconer.errors import FalconerError
from falconer.files.locks import RUN_LOCK, lock_run
from falconer.files.lost import missing_folder, noticing_loss

LOST = "was removed or renamed while falconer worked in it"


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mark").touch()
    return tmp_path / "run"


def rename(run):
    run.rename(run.with_name("other"))


def make_again(run):
    shutil.rmtree(run)
    run.mkdir()


@pytest.mark.parametrize("lose", [shutil.rmtree, rename, make_again])
@pytest.mark.parametrize(
    "error", [None, FileNotFoundError(2, "gone"), FalconerError("No config.yaml."), OSError(5, "x")]
)
def test_whatever_follows_from_the_loss_says_that_it_is_lost(run, lose, error):
    with pytest.raises(FalconerError, match=f"'{run}' {LOST}") as raised, noticing_loss(run, run / "mark"):
        lose(run)
        if error:
            raise error
    assert raised.value.__cause__ is error


def test_a_folder_whose_files_are_removed_while_new_ones_come(run):
    """As rm -r does it, which then can't remove the folder."""
    with pytest.raises(FalconerError, match=LOST), noticing_loss(run, run / "mark"):
        (run / "mark").unlink()
        (run / "config.yaml").read_text()


@pytest.mark.parametrize("lost", ["nothing", "mark"])
def test_what_is_not_lost_keeps_its_own_error(run, lost):
    if lost == "mark":
        (run / "mark").unlink()
    with pytest.raises(ValueError, match="ours"), noticing_loss(run, run / "mark"):
        raise ValueError("ours")
    with noticing_loss(run, run / "mark"):
        pass


def test_a_missing_file_beside_the_mark_is_no_loss(run):
    with pytest.raises(FileNotFoundError), noticing_loss(run, run / "mark"):
        (run / "config.yaml").read_text()


def test_a_drive_whose_folders_change_their_numbers(run, monkeypatch):
    """As some network drives do; the mark is there."""
    monkeypatch.setattr("falconer.files.lost._is_another", lambda folder, descriptor: True)
    with noticing_loss(run, run / "mark"):
        pass


@pytest.mark.parametrize("lose", [shutil.rmtree, rename, make_again])
def test_the_lock_of_a_run_notices_it(tmp_path, lose):
    run = tmp_path / "run"
    with pytest.raises(FalconerError, match=LOST), lock_run(run):
        lose(run)
    with lock_run(tmp_path / "run"):  # and it can be used again
        assert (run / RUN_LOCK).exists()


def test_the_outermost_folder_that_is_missing(run):
    assert missing_folder(run / "a" / "b" / "c") == run / "a"
    assert missing_folder(run / "a") is None and missing_folder(run / "mark") is None
