"""The options of merge, gguf and certify: which adapter they name, and which certificates are accepted."""

from types import SimpleNamespace

import pytest

from certified import certificate
from exported import save_adapter_on
from falconer.errors import FalconerError
from falconer.export_options import accept, form_of, show, tuned_of
from tiny import save_tiny_model


@pytest.mark.parametrize(
    ("base", "trained_on", "form"), [("auto", "nf4", "nf4"), ("auto", "bf16", "bf16"), ("bf16", "nf4", "bf16")]
)
def test_the_form_of_the_base_is_that_of_training_unless_another_is_given(base, trained_on, form):
    assert form_of(base, SimpleNamespace(reference_form=trained_on)) == form


def test_an_unknown_form_is_refused():
    with pytest.raises(FalconerError, match="--base int4 is not allowed"):
        form_of("int4", SimpleNamespace(reference_form="nf4"))


def test_an_adapter_without_a_run(tmp_path):
    base = save_tiny_model(tmp_path / "base", "falcon")
    save_adapter_on(base, tmp_path / "adapter", target_modules=["dense"])
    found = tuned_of(None, str(tmp_path / "adapter"), None, "main", "cpu")
    assert (found.adapter, found.model, found.revision) == (tmp_path / "adapter", str(base), "main")


@pytest.mark.parametrize(("model", "revision", "option"), [("falcon-mini", None, "--model"), (None, "x", "--revision")])
def test_a_run_has_its_own_base(tmp_path, model, revision, option):
    with pytest.raises(FalconerError, match=f"{option} is for the adapter of another program"):
        tuned_of(tmp_path, None, model, revision, "cpu")


def test_a_certificate_that_speaks_against_its_export():
    assert accept(certificate(), force=False).is_forced is False
    # Nothing had to be forced.
    assert accept(certificate(), force=True).is_forced is False
    with pytest.raises(FalconerError, match=r"Nothing was written: .* --force"):
        accept(certificate(kl=0.5), force=False)
    assert accept(certificate(kl=0.5), force=True).is_forced is True


def test_it_is_shown_as_a_table_or_as_json(capsys):
    show(certificate(), as_json=False)
    assert "this export" in capsys.readouterr().out
    show(certificate(), as_json=True)
    assert capsys.readouterr().out.startswith('{\n  "version": 1,\n  "kind": "merged",')
