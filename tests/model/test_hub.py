"""Adapters from the hub, and each of its errors in one sentence."""

import json

import pytest

from fake_hub import REPOSITORY, Repository, connect, fake_hub
from falconer.errors import FalconerError
from falconer.model.hub import as_repository, find_adapter, is_repository, without_tokens


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with fake_hub() as hub:
        connect(hub, monkeypatch, tmp_path / "cache")
        yield hub


@pytest.fixture
def adapter(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "optimizer.bin").write_bytes(b"of no use here")
    return folder


def test_a_folder_is_taken_as_it_is(adapter):
    assert find_adapter(str(adapter)) == adapter


def test_a_name_is_downloaded_once(hub, adapter):
    hub.put(REPOSITORY, adapter)
    folder = find_adapter(REPOSITORY)
    assert (folder / "adapter_model.safetensors").read_bytes() == b"weights"
    assert not (folder / "optimizer.bin").exists()
    hub.seen.clear()
    assert find_adapter(REPOSITORY) == folder
    assert "resolve" not in hub.kinds()


def test_what_was_downloaded_is_there_without_a_network(hub, adapter, monkeypatch):
    hub.put(REPOSITORY, adapter)
    folder = find_adapter(REPOSITORY)
    hub.fail("info", "cut", times=1000)
    hub.fail("tree", "cut", times=1000)
    assert find_adapter(REPOSITORY) == folder


@pytest.mark.parametrize(
    ("how", "says", "hint"),
    [
        (401, "does not accept this machine's access token|no repository", "hf auth login"),
        (403, "may not do this|no repository|could not be reached", ""),
        (404, "no repository|refused|could not be reached", ""),
        (503, "problem of its own|could not be reached", ""),
        ("cut", "could not be reached", "Check the network connection"),
    ],
)
def test_errors_are_one_sentence_and_a_hint(hub, how, says, hint):
    hub.fail("info", how, times=1000)
    with pytest.raises(FalconerError, match=says) as error:
        find_adapter(REPOSITORY)
    assert error.value.message.startswith(f"There is no folder '{REPOSITORY}'. ")
    assert hint in error.value.hint and "\n" not in str(error.value)


def test_a_broken_download_is_continued(hub, adapter):
    hub.put(REPOSITORY, adapter)
    hub.fail("resolve", "cut", times=1)
    assert (find_adapter(REPOSITORY) / "adapter_model.safetensors").read_bytes() == b"weights"


def test_offline_it_says_what_to_unset(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FalconerError, match="not in the local cache.*HF_HUB_OFFLINE is set. Unset HF_HUB_OFFLINE"):
        find_adapter(REPOSITORY)
    assert hub.seen == []


def test_a_private_repository_of_somebody_else(hub, monkeypatch, tmp_path):
    hub.repositories[REPOSITORY] = Repository(True, ["first"])
    connect(hub, monkeypatch, tmp_path / "cache", token=None)
    with pytest.raises(FalconerError, match="no repository .* or it is private"):
        find_adapter(REPOSITORY)


def test_weights_that_are_pickled_are_not_loaded(hub, adapter):
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    hub.put(REPOSITORY, adapter)
    with pytest.raises(FalconerError, match="no adapter_model.safetensors.*pickled"):
        find_adapter(REPOSITORY)


def test_a_whole_model_is_no_adapter(hub, tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.json").write_text("{}", encoding="utf-8")
    hub.put(REPOSITORY, tmp_path / "whole")
    with pytest.raises(FalconerError, match="contains no adapter that can be loaded: it has no adapter_config.json"):
        find_adapter(REPOSITORY)


def test_what_is_neither_folder_nor_name():
    with pytest.raises(FalconerError, match="no folder 'x', and it is not a name on the hub"):
        find_adapter("x")


def test_names():
    assert as_repository("alice/x") == ("alice/x", None)
    assert as_repository("alice/x@v1.0") == ("alice/x", "v1.0")
    assert as_repository("/a/b") is None
    assert is_repository("a-b/c_d.e") and not is_repository("a/b/c") and not is_repository("./b")


def test_no_text_keeps_a_token():
    assert without_tokens("Bearer hf_abcdefghijklmnopqrst failed") == "Bearer (token) failed"
