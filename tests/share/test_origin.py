"""Names and licences: what is given, what is stated, and nothing that is invented."""

import shutil

import pytest

from fake_hub import BASE, Repository
from falconer.config import load
from falconer.data.sources import SAMPLE
from falconer.errors import FalconerError
from falconer.share.origin import SAMPLE_LICENSE, find_origin, is_local


def test_the_embedded_model_and_sample_have_the_licences_of_their_pages():
    from importlib import resources

    found = find_origin(load())
    assert (found.base, found.base_name, found.base_license) == (None, "falcon-mini", "apache-2.0")
    assert (found.data, found.dataset, found.data_license) == (SAMPLE, None, SAMPLE_LICENSE)
    page = (resources.files("falconer") / "assets" / SAMPLE / "README.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in page and SAMPLE_LICENSE == "cc-by-4.0"
    assert found.license == "unknown" and len(found.missing) == 1


def test_names_on_the_hub_are_taken_as_they_are():
    config = load(None, ["model.name=tiiuae/falcon-7b", "model.revision=abc", "data.train=alice/talk"])
    found = find_origin(config, license="mit")
    assert (found.base, found.base_revision, found.dataset, found.license) == (
        "tiiuae/falcon-7b",
        "abc",
        "alice/talk",
        "mit",
    )
    assert (found.base_license, found.data_license) == ("unknown", "unknown"), "offline, nobody can say"


@pytest.mark.parametrize("name", ["/srv/models/falcon", "./falcon", "~/falcon", "models/a/falcon"])
def test_a_folder_is_no_name(name):
    assert is_local(name)
    with pytest.raises(FalconerError, match="a folder of this machine.*--base-model OWNER/NAME"):
        find_origin(load(None, [f"model.name={name}"]))
    found = find_origin(load(None, [f"model.name={name}", "data.train=/secret/chats.jsonl"]), base_model=BASE)
    assert (found.base, found.data, found.dataset) == (BASE, "private data", None)


@pytest.mark.parametrize("given", [{"license": "Apache 2.0"}, {"data_license": "CC BY"}, {"base_license": "MIT"}])
def test_a_licence_is_spelt_as_on_the_hub(given):
    with pytest.raises(FalconerError, match="is not spelt as on the hub.*apache-2.0"):
        find_origin(load(), **given)


@pytest.mark.parametrize("given", [{"base_model": "falcon"}, {"dataset": "my data"}])
def test_a_name_is_owner_and_name(given):
    with pytest.raises(FalconerError, match="is not a name on the hub. Write it as OWNER/NAME"):
        find_origin(load(), **given)


def test_the_base_models_page_is_asked_for_its_licence(online, tmp_path):
    config = load(None, [f"model.name={BASE}"])
    assert find_origin(config).base_license == "unknown", "there is no such model"
    online.repositories[BASE] = Repository(False, ["first"], {}, {"license": "apache-2.0"})
    assert find_origin(config).base_license == "apache-2.0"
    online.repositories[BASE].card = {"license": ["mit", "other"]}
    assert find_origin(config).base_license == "mit"
    online.fail("info", "cut", times=100)
    assert find_origin(config).base_license == "unknown"
    assert find_origin(config, base_license="gemma").base_license == "gemma"
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
