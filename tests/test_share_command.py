"""`falconer share` as users type it: what it shows, writes, refuses and uploads, and what its exit codes say."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest

from command_line import SOURCE, falconer, ok
from fake_hub import BASE, REPOSITORY, TOKEN, connect, environment, fake_hub
from falconer.share import upload
from small_runs import Small


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("share")
    Small(folder).run(folder / "mine", "train.max_steps=2")
    return folder / "mine"


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub() as hub:
        connect(hub, monkeypatch, tmp_path / "cache")
        monkeypatch.setattr(upload, "WAITS", (0.0,))
        yield hub


def given(run, *more):
    return ("share", "--run", run, "--repo", REPOSITORY, "--base-model", BASE, "--license", "mit", *more)


def test_a_dry_run_shows_files_sizes_and_card_and_writes_nothing(run, hub):
    before = sorted(run.rglob("*"))
    result = ok(*given(run, "--dry-run"))
    assert f"{REPOSITORY} (private) will have these files:" in result.out
    assert "adapter_model.safetensors" in result.out and "together" in result.out and "kB" in result.out
    assert "# tiny-persona" in result.out and "## Limits" in result.out and "license: mit" in result.out
    assert "note    unknown: the licence of the training data (--data-license)" in result.out
    assert sorted(run.rglob("*")) == before
    assert not {"create", "preupload", "batch", "put", "commit"} & set(hub.kinds())


def test_without_push_the_folder_is_written_and_checked_and_nothing_leaves(run, hub):
    result = ok(*given(run))
    assert "Nothing has left this machine" in result.out and str(run / "share" / "adapter") in result.out
    for check in ("memorisation", "personal data", "files", "traces"):
        assert f"{check}: " in result.out
    assert (run / "share" / "adapter" / "README.md").is_file()
    assert ok(*given(run, "--check")).out == result.out
    assert hub.repositories == {}


def test_push_uploads_and_repeats_to_the_same_commit(run, hub):
    result = ok(*given(run, "--push"))
    assert f"Uploaded to {hub.url}/{REPOSITORY} (private)" in result.out
    assert f"falconer chat --adapter {REPOSITORY}" in result.out
    files = hub.repositories[REPOSITORY].files
    assert json.loads(files["adapter_config.json"])["base_model_name_or_path"] == BASE
    again = ok(*given(run, "--push"))
    assert "The hub already has these files" in again.out and len(hub.repositories[REPOSITORY].commits) == 2
    assert TOKEN not in result.out + result.err + again.out


def test_a_check_that_says_no_keeps_it_here(run, hub):
    (run / "adapter" / "notes").symlink_to("/etc/hostname")
    result = falconer(*given(run))
    assert result.code == 1 and "STOP  files: some files should not leave this machine" in result.out
    result = falconer(*given(run, "--push"))
    assert result.code == 2 and "A check says no, so nothing was uploaded." in result.err
    assert hub.repositories == {}
    assert "Uploaded" in ok(*given(run, "--push", "--force")).out


def test_what_the_hub_remarks_on_the_card_is_a_note(run, hub):
    hub.warnings.append("empty or missing yaml metadata in repo card")
    result = ok(*given(run, "--push"))
    assert "note    the hub says of the card: empty or missing yaml metadata in repo card" in result.out


def test_public_is_said(run, hub):
    assert "(public) will have" in ok(*given(run, "--push", "--public")).out
    assert not hub.repositories[REPOSITORY].is_private


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--dry-run", "--push"), "--dry-run and --push can't be combined"),
        (("--public",), "--public is about an upload. Add --push."),
        (("--force",), "--force is about an upload."),
        (("--what", "ggml"), "--what ggml is not allowed. Allowed: adapter, merged, gguf."),
        (("--what", "merged"), "--what merged needs an export. Write it with falconer merge"),
        (("--license", "Apache 2"), "--license Apache 2 is not spelt as on the hub"),
        (("--carbon", "400"), "--carbon alone says nothing. Add --power WATTS."),
        (("--benchmark", "x"), "--benchmark x is not OWNER/NAME:TASK=FIGURE."),
        (("--benchmark", "a/b:c=beauty"), "beauty is not allowed"),
        (("--adapter", "nowhere"), "has no folder 'nowhere'"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(run, hub, words, says):
    result = falconer(*given(run, *words))
    assert result.code == 2 and says in result.err, result.err
    assert not (run / "share").exists() and hub.repositories == {}


def test_the_repository_and_the_run_are_checked_first(tmp_path, run):
    assert "is not a name on the hub" in falconer("share", "--run", run, "--repo", "mine").err
    assert "contains no run" in falconer("share", "--run", tmp_path, "--repo", REPOSITORY).err


def test_without_a_token_nothing_is_written(run, hub, monkeypatch, tmp_path):
    connect(hub, monkeypatch, tmp_path / "cache", token=None)
    result = falconer(*given(run, "--push"))
    assert result.code == 2 and "There is no access token for the hub. Log in with hf auth login" in result.err
    assert not (run / "share").exists()


@pytest.mark.parametrize("kind", ["info", "create", "validate", "batch", "commit"])
def test_a_refusal_is_one_line_without_a_token(run, hub, kind):
    hub.fail(kind, 403, times=1000)
    result = falconer(*given(run, "--push"))
    assert result.code == 2 and result.err.splitlines()[-1].startswith("falconer: The account of this machine's access")
    assert "Traceback" not in result.err and TOKEN not in result.out + result.err
    assert REPOSITORY not in hub.repositories or hub.repositories[REPOSITORY].files == {}


def test_a_killed_upload_leaves_the_old_state_and_the_next_one_ends_it(run, hub, tmp_path):
    ok(*given(run, "--push"))
    old = dict(hub.repositories[REPOSITORY].files)
    (run / "adapter" / "manifest.json").unlink()
    (run / "adapter" / "adapter_model.safetensors").write_bytes(b"other weights")
    hub.fail("put", "hang")
    variables = environment(hub, tmp_path / "cache") | {
        "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "falconer", *map(str, given(run, "--push"))], env=os.environ | variables, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    hub.seen.clear()
    deadline = time.monotonic() + 120
    while "put" not in hub.kinds():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)
    process.kill()
    out, err = process.communicate()
    assert err.startswith("Uploading ") and TOKEN not in out + err
    assert hub.repositories[REPOSITORY].files == old
    ok(*given(run, "--push"))
    assert hub.repositories[REPOSITORY].files["adapter_model.safetensors"] == b"other weights"
    assert len(hub.repositories[REPOSITORY].commits) == 3
