"""The upload against a hub on loopback: one commit, repeated, interrupted, refused; and no token anywhere."""

import pytest

from fake_hub import TOKEN, Repository, connect
from falconer.errors import FalconerError
from falconer.share import upload
from falconer.share.upload import push

NAME = "alice/persona"
FILES = {"README.md": b"---\nlicense: mit\n---\n# one\n", "adapter_config.json": b"{}", "a.safetensors": b"w" * 3000}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    (folder / ".eval_results").mkdir(parents=True)
    (folder / ".eval_results" / "falconer.yaml").write_bytes(b"[]\n")
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(upload, "WAITS", (0.0,))


def files(hub):
    return hub.repositories[NAME].files if NAME in hub.repositories else None


def test_everything_arrives_in_one_commit_in_a_private_repository(online, folder):
    pushed = push(folder, NAME)
    assert files(online) == {**FILES, ".eval_results/falconer.yaml": b"[]\n"}
    assert len(online.repositories[NAME].commits) == 2, "the first is that of the creation"
    assert online.repositories[NAME].is_private and pushed.is_private and pushed.is_new
    assert pushed.url == f"{online.url}/{NAME}" and pushed.commit == online.repositories[NAME].sha


def test_a_second_upload_changes_nothing_and_a_change_sends_itself_alone(online, folder):
    push(folder, NAME)
    before = online.repositories[NAME].sha
    online.seen.clear()
    again = push(folder, NAME)
    assert not again.is_new and again.commit == before == online.repositories[NAME].sha
    assert "commit" not in online.kinds() and "put" not in online.kinds()
    (folder / "README.md").write_bytes(b"---\nlicense: mit\n---\n# two\n")
    online.seen.clear()
    assert push(folder, NAME).is_new
    assert "put" not in online.kinds() and files(online)["README.md"].endswith(b"two\n")


@pytest.mark.parametrize("kind", ["info", "create", "validate", "preupload", "batch", "put", "commit"])
@pytest.mark.parametrize("how", [503, "cut", "lost"])
def test_a_fault_at_any_request_is_overcome(online, folder, kind, how):
    online.fail(kind, how)
    push(folder, NAME)
    assert set(files(online)) == {*FILES, ".eval_results/falconer.yaml"}
    assert len(online.repositories[NAME].commits) == 2


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("preupload", 500),
        ("batch", "cut"),
        ("put", 500),
        ("put", "cut"),
        ("commit", 500),
        ("commit", 429),
        ("commit", "cut"),
    ],
)
def test_a_lasting_fault_leaves_the_old_state_and_the_next_upload_continues(online, folder, kind, how):
    push(folder, NAME)
    old = dict(files(online))
    (folder / "a.safetensors").write_bytes(b"new" * 1000)
    (folder / "README.md").write_bytes(b"---\nlicense: mit\n---\n# three\n")
    online.fail(kind, how, times=1000)
    with pytest.raises(FalconerError) as error:
        push(folder, NAME)
    expected = {500: "problem of its own (500)", 429: "asks to wait", "cut": "could not be reached"}[how]
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert files(online) == old
    online.faults.clear()
    online.seen.clear()
    push(folder, NAME)
    assert files(online)["a.safetensors"] == b"new" * 1000
    if kind == "commit":
        assert "put" not in online.kinds(), "the large file had arrived already"


def test_429_says_how_long_to_wait(online, folder):
    online.fail("commit", 429, times=1000)
    with pytest.raises(FalconerError, match="Wait 7 seconds. Then run this again"):
        push(folder, NAME)


@pytest.mark.parametrize(("status", "says"), [(401, "does not accept"), (403, "may not do this")])
@pytest.mark.parametrize("kind", ["create", "preupload", "commit"])
def test_a_refusal_is_not_repeated(online, folder, kind, status, says):
    online.fail(kind, status, times=1000)
    with pytest.raises(FalconerError, match=says):
        push(folder, NAME)
    assert online.kinds().count(kind) == 1


def test_a_wrong_token_is_named_and_never_shown(hub, monkeypatch, tmp_path, folder):
    wrong = "hf_" + "x" * 30
    connect(hub, monkeypatch, tmp_path / "cache", token=wrong)
    with pytest.raises(FalconerError) as error:
        push(folder, NAME)
    assert "access token" in str(error.value) and "hf auth login" in str(error.value)
    assert wrong not in str(error.value)


def test_without_a_token_nothing_is_asked(hub, monkeypatch, tmp_path, folder):
    connect(hub, monkeypatch, tmp_path / "cache", token=None)
    with pytest.raises(FalconerError, match="no access token for the hub. Log in with hf auth login"):
        push(folder, NAME)
    assert hub.seen == []


def test_offline_nothing_is_asked(online, monkeypatch, folder):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FalconerError, match="HF_HUB_OFFLINE is set"):
        push(folder, NAME)
    assert online.seen == []


def test_a_public_repository_needs_the_word(online, folder):
    online.repositories[NAME] = Repository(False, ["first"])
    with pytest.raises(FalconerError, match="exists and is public.*--public"):
        push(folder, NAME)
    assert files(online) == {}
    assert not push(folder, NAME, public=True).is_private


def test_adapter_and_whole_model_do_not_share_a_repository(online, folder, tmp_path):
    push(folder, NAME)
    whole = tmp_path / "whole"
    whole.mkdir()
    (whole / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(FalconerError, match="already holds an adapter, and this is a whole model"):
        push(whole, NAME)


def test_shards_of_an_earlier_merge_are_removed(online, tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    for name in ("config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"):
        (whole / name).write_text(name, encoding="utf-8")
    push(whole, NAME)
    for path in whole.glob("model*"):
        path.unlink()
    (whole / "model.safetensors").write_text("one", encoding="utf-8")
    push(whole, NAME)
    assert set(files(online)) == {"config.json", "model.safetensors"}


def test_metadata_that_the_hub_refuses_is_explained(online, folder):
    (folder / "README.md").write_bytes(b"---\nlicense: no-such-license\n---\n# one\n")
    with pytest.raises(FalconerError, match="does not accept this folder.*must be one of.*Licences are spelt"):
        push(folder, NAME)
    assert files(online) == {}


@pytest.mark.parametrize("name", ["persona", "a/b/c", "alice/", "alice/x y", "../x", "a/..", "alice/x--y"])
def test_a_name_that_the_hub_does_not_allow(online, folder, name):
    with pytest.raises(FalconerError, match="is not a name on the hub"):
        push(folder, name)


def test_no_token_is_stored(online, folder, tmp_path):
    push(folder, NAME)
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()
