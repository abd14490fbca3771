"""The files for the hub: an adapter's and an export's, and what is missing or does not belong there."""

import json
import shutil

import pytest

from fake_hub import BASE
from falconer.errors import FalconerError
from falconer.files.replace import sha256
from falconer.model.lora import WEIGHTS
from falconer.share.certificate import Certificate, Origin, hash_files, write_certificate
from falconer.share.folder import adapter_contents, export_contents, write_folder
from falconer.share.origin import Origin as SharedOrigin

ORIGIN = SharedOrigin(BASE, "abc", "mit", "talk", None, "unknown", "mit")


@pytest.fixture
def adapter(run, tmp_path):
    return shutil.copytree(run / "adapter", tmp_path / "adapter")


@pytest.fixture
def export(run, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text(name, encoding="utf-8")
    origin = Origin(BASE, None, None, "bf16", "nf4", sha256(run / "adapter" / WEIGHTS), "bfloat16")
    files = hash_files(folder, ["config.json", "model.safetensors", "tokenizer.json"])
    write_certificate(folder / "certificate.json", Certificate("merged", origin, None, None, files, {}))
    (folder / "notes.txt").write_text("mine alone", encoding="utf-8")
    return folder


def test_an_adapter_names_its_base_by_the_hub(adapter):
    contents = adapter_contents(adapter, ORIGIN, {"quantization": "nf4", "max_tokens": 512})
    made = json.loads(contents.written["adapter_config.json"])
    assert (made["base_model_name_or_path"], made["revision"]) == (BASE, "abc")
    record = json.loads(contents.written["falconer.json"])
    assert record["base"]["quantization"] == "nf4" and "prompt_format" in record
    tokenizer = json.loads(contents.written["tokenizer_config.json"])
    assert not {"is_local", "local_files_only", "name_or_path"} & set(tokenizer)
    assert tokenizer["tokenizer_class"] != "TokenizersBackend"
    assert set(contents.copied) == {"adapter_model.safetensors", "tokenizer.json", "chat_template.jinja"}


def test_an_adapters_certificate_is_shown_if_it_is_about_these_weights(run, adapter):
    def write(weights):
        origin = Origin(BASE, None, None, "bf16", "nf4", weights, "LoRA")
        write_certificate(adapter / "certificate.json", Certificate("adapter", origin, None, None, (), {}))
        return adapter_contents(adapter, ORIGIN, {})

    assert adapter_contents(adapter, ORIGIN, {}).certificates == ()
    assert write("0" * 64).certificates == ()
    found = write(sha256(adapter / WEIGHTS))
    assert [one.kind for one in found.certificates] == ["adapter"] and "certificate.json" not in found.copied


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "falconer.json", "tokenizer.json"])
def test_an_adapter_must_be_complete(adapter, name):
    (adapter / name).unlink()
    with pytest.raises(FalconerError, match=name):
        adapter_contents(adapter, ORIGIN, {})


def test_a_damaged_configuration_is_named(adapter):
    (adapter / "adapter_config.json").write_text("[]", encoding="utf-8")
    with pytest.raises(FalconerError, match="adapter_config.json' is damaged: the hash .* differs"):
        adapter_contents(adapter, ORIGIN, {})
    (adapter / "manifest.json").unlink()
    with pytest.raises(FalconerError, match="adapter_config.json' is damaged: it is not a JSON object"):
        adapter_contents(adapter, ORIGIN, {})


def test_of_an_export_the_certified_files_alone_are_shared(run, export, tmp_path):
    contents = export_contents([export], "merged", run / "adapter")
    assert set(contents.copied) == {"config.json", "model.safetensors", "tokenizer.json", "certificate.json"}
    write_folder(tmp_path / "hub", contents)
    assert (tmp_path / "hub" / "model.safetensors").samefile(export / "model.safetensors"), "no second copy"
    assert not (tmp_path / "hub" / "notes.txt").exists()


def test_another_disk_gets_a_copy(run, export, tmp_path, monkeypatch):
    def fails(*_):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr("falconer.share.folder.os.link", fails)
    write_folder(tmp_path / "hub", export_contents([export], "merged", run / "adapter"))
    assert (tmp_path / "hub" / "model.safetensors").read_text(encoding="utf-8") == "model.safetensors"


def test_a_changed_export_is_refused(run, export):
    (export / "model.safetensors").write_text("another", encoding="utf-8")
    with pytest.raises(FalconerError, match="is not the file that its certificate is about"):
        export_contents([export], "merged", run / "adapter")


def test_an_export_of_another_kind_or_adapter_is_refused(run, export, tmp_path):
    (export / "certificate.json").rename(export / "model.certificate.json")
    with pytest.raises(FalconerError, match="an export of kind 'merged', not 'gguf'. Give --what merged"):
        export_contents([export / "model.gguf"], "gguf", run / "adapter")
    (export / "model.certificate.json").rename(export / "certificate.json")
    other = shutil.copytree(run / "adapter", tmp_path / "other")
    (other / WEIGHTS).write_bytes(b"other")
    with pytest.raises(FalconerError, match="was made of another adapter"):
        export_contents([export], "merged", other)
    with pytest.raises(FalconerError, match="one merged model"):
        export_contents([export, export], "merged", run / "adapter")


def test_several_gguf_files_come_with_their_certificates_and_modelfiles(run, tmp_path):
    files = [tmp_path / "x-f16.gguf", tmp_path / "x-q8_0.gguf"]
    for file in files:
        file.write_text(file.name, encoding="utf-8")
        origin = Origin(BASE, None, None, "bf16", "nf4", sha256(run / "adapter" / WEIGHTS), "f16")
        proof = Certificate("gguf", origin, None, None, hash_files(tmp_path, [file.name]), {})
        write_certificate(file.with_name(f"{file.stem}.certificate.json"), proof)
    files[0].with_suffix(".Modelfile").write_text("FROM ./x-f16.gguf\n", encoding="utf-8")
    contents = export_contents(files, "gguf", run / "adapter")
    assert len(contents.certificates) == 2
    assert set(contents.copied) == {
        "x-f16.gguf", "x-f16.certificate.json", "x-f16.Modelfile", "x-q8_0.gguf", "x-q8_0.certificate.json",
    }  # fmt: skip


def test_the_runs_weights_keep_their_permissions(run, adapter, tmp_path):
    weights = adapter / "adapter_model.safetensors"
    weights.chmod(0o600)
    write_folder(tmp_path / "hub", adapter_contents(adapter, ORIGIN, {}))
    assert weights.stat().st_mode & 0o777 == 0o600
