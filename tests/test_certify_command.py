"""`falconer certify` shows what an adapter's folder is in other programs, and writes it where it is asked to."""

import json

from command_line import falconer, ok
from exported import save_adapter_on
from falconer.share.certificate import check_hashes, read_certificate
from tiny import save_tiny_model


def test_an_adapter_is_the_same_in_peft(tmp_path):
    base = save_tiny_model(tmp_path / "base", "falcon")
    save_adapter_on(base, tmp_path / "adapter", target_modules=["dense"])
    out = tmp_path / "adapter.certificate.json"
    given = ("certify", "--adapter", tmp_path / "adapter", "--conversations", "2", "--replies", "2")
    result = ok(*given, "--out", out)
    assert "this export: adapter, LoRA" in result.out and f"Certificate: {out}" in result.out
    found = read_certificate(out)
    assert found.kind == "adapter" and found.measured.replies.identical.value == 100
    check_hashes(tmp_path / "adapter", found)
    shown = json.loads(ok("certify", "--adapter", tmp_path / "adapter", "--no-measure", "--json").out)
    assert shown["measured"] is None and shown["files"] == json.loads(out.read_text())["files"]


def test_a_run_that_is_none_is_named(tmp_path):
    result = falconer("certify", "--run", tmp_path)
    assert result.code == 2 and "contains no run" in result.err
