"""What the checks find, each in a folder made for it, and what they pass."""

import os
import shutil
import socket

import pytest

from fake_hub import TOKEN
from falconer.run.folder import predictions_name
from falconer.share import checks
from falconer.share.checks import memorisation, personal_data, special_files, traces
from falconer.share.memorised import Memorised, Share


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "README.md").write_text("# A model\n", encoding="utf-8")
    return folder


def test_plain_files_pass(folder):
    (folder / ".eval_results").mkdir()
    (folder / ".eval_results" / "falconer.yaml").write_text("[]\n", encoding="utf-8")
    assert special_files({"the folder": folder}).verdict == "good"


@pytest.mark.parametrize("kind", ["link", "hidden", "hidden folder", "pipe", "socket", "large"])
def test_special_files_stop_it(folder, kind, monkeypatch):
    path = folder / "x"
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "hidden":
        (folder / ".env").write_text("SECRET=1", encoding="utf-8")
    elif kind == "hidden folder":
        (folder / ".git").mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(folder)
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("x")
    else:
        monkeypatch.setattr(checks, "MAX_FILE_BYTES", 5)
    found = special_files({"the folder": folder})
    says = {
        "link": "x in the folder: a symbolic link", "hidden": ".env in the folder: a hidden file",
        "hidden folder": ".git in the folder: a hidden folder", "pipe": "no plain file", "socket": "no plain file",
        "large": "more than the 0 GB",
    }  # fmt: skip
    assert found.verdict == "stop" and says[kind] in found.details[0]


@pytest.mark.parametrize("name", ["README.md", "weights.safetensors"])
def test_traces_of_this_machine_stop_it(run, small, folder, name, monkeypatch):
    assert traces(run, folder).verdict == "good"
    for trace, says in (
        (f"base: {small.model}", "a path of this machine"),
        (str(small.train), "a path of this machine"),
        (f"{run}/adapter", "a path of this machine"),
        (os.path.expanduser("~/models/x"), "the home folder of its user"),
        (f"key {'hf_' + 'q' * 34}", "something that looks like an access token"),
    ):
        (folder / name).write_bytes(b"\0\1" + trace.encode() + b"\n")
        found = traces(run, folder)
        assert found.verdict == "stop" and found.details[0] == f"{name}: {says}", trace
    monkeypatch.setenv("HF_TOKEN", "a-token-of-another-form")
    (folder / name).write_text("a-token-of-another-form", encoding="utf-8")
    assert traces(run, folder).details == (f"{name}: this machine's access token",)


def test_no_finding_repeats_a_token(run, folder):
    (folder / "README.md").write_text(TOKEN, encoding="utf-8")
    assert TOKEN not in str(traces(run, folder))


def test_personal_data_in_training_replies_and_card(run, folder, tmp_path):
    assert personal_data(run, folder).verdict == "good"
    (folder / "README.md").write_text("# By ann@example.org\n", encoding="utf-8")
    copied = tmp_path / "copied"
    shutil.copytree(run, copied)
    path = copied / predictions_name("tuned")
    text = path.read_text(encoding="utf-8")
    start = text.index('"prediction": "') + len('"prediction": "')
    path.write_text(text[:start] + "call 555-123-4567 or " + text[start:], encoding="utf-8")
    found = personal_data(copied, folder)
    assert found.verdict == "stop"
    assert found.said == "1 text looks like an e-mail address and 1 text looks like a telephone number"
    assert found.details[0] == "README.md, line 1: an***********rg"
    assert found.details[1].endswith(": 55********67")


def test_training_data_that_is_gone_is_said(run, folder, small):
    small.train.rename(small.train.with_suffix(".away"))
    try:
        found = personal_data(run, folder)
    finally:
        small.train.with_suffix(".away").rename(small.train)
    assert found.verdict == "note" and "the training dialogues could not be searched" in found.said


def test_memorisation_is_a_note_for_its_owner_to_judge():
    def shares(tuned, human):
        long = {
            "tuned": Share(100, tuned, tuned - 3.0, tuned + 3.0),
            "human": Share(100, human, human - 1.0, human + 1.0),
        }
        return Memorised(long, long)

    assert memorisation(shares(40, 2)).verdict == "note"
    assert memorisation(shares(4, 2)).verdict == "good"
    assert "40 of 100 generated replies" in memorisation(shares(40, 2)).said
    assert memorisation("no reason").said == "not measured: no reason"
