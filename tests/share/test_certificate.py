"""A certificate is read as it was written, names what it is about, and says when an export should not be used."""

import dataclasses
import json

import pytest

from certified import certificate
from falconer.errors import FalconerError
from falconer.share.certificate import NAME, check_hashes, hash_files, read_certificate, write_certificate


def test_it_is_read_as_it_was_written(tmp_path):
    for one in (certificate(), dataclasses.replace(certificate(), tokens=None, measured=None, is_forced=True)):
        write_certificate(tmp_path / NAME, one)
        assert read_certificate(tmp_path / NAME) == one
    assert json.loads((tmp_path / NAME).read_text())["version"] == 1


def test_drift_larger_than_the_tunes_effect_is_a_reason_to_refuse():
    assert certificate(kl=0.29).refusal() == ""
    reason = certificate(kl=0.31).refusal()
    assert "3.10e-01" in reason and "3.00e-01" in reason and "tune's own effect" in reason


def test_other_token_ids_are_a_reason_to_refuse():
    assert "2 of 50 conversations" in certificate(num_equal=48).refusal()


def test_files_are_those_that_it_is_about(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    one = dataclasses.replace(certificate(), files=hash_files(tmp_path, ["config.json"]))
    assert one.num_bytes == 2
    check_hashes(tmp_path, one)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(FalconerError, match="SHA-256 differs"):
        check_hashes(tmp_path, one)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FalconerError, match=r"config\.json.*can't be read"):
        check_hashes(tmp_path, one)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tree: tree.pop("files"), "at 'files'"),
        (lambda tree: tree["measured"]["export"]["kl"].update(value="small"), r"measured\.export\.kl\.value"),
        (lambda tree: tree.update(version=2), "later version"),
    ],
)
def test_damaged_ones_are_refused(tmp_path, change, reason):
    write_certificate(tmp_path / NAME, certificate())
    tree = json.loads((tmp_path / NAME).read_text())
    change(tree)
    (tmp_path / NAME).write_text(json.dumps(tree))
    with pytest.raises(FalconerError, match=reason):
        read_certificate(tmp_path / NAME)


def test_a_missing_one_is_named(tmp_path):
    with pytest.raises(FalconerError, match=r"certificate\.json' can't be read: No such file"):
        read_certificate(tmp_path / NAME)
