"""What a reader sees of a certificate."""

import dataclasses
import io

from rich.console import Console

from certified import certificate
from falconer.share.certificate import Figure
from falconer.share.certificate_table import HEAD, certificate_table, drift_rows, facts


def shown(one, width=100):
    console = Console(file=io.StringIO(), width=width)
    console.print(certificate_table(one))
    return console.file.getvalue()


def test_the_export_stands_between_reference_and_base():
    rows = drift_rows(certificate())
    assert [row[0] for row in rows] == [
        "adapter as trained (reference)", "this export: merged weights, bfloat16", "adapter on the base as stored",
        "base without the adapter",
    ]  # fmt: skip
    assert rows[1][1:] == ("1.00e-05 [9.00e-06, 1.10e-05]", "30.50 [28.00, 33.00]", "+0.10 [-0.20, +0.40]")
    text = shown(certificate(), width=160)
    assert all(title in text for title in HEAD) and "1.00e-05 [9.00e-06, 1.10e-05]" in text


def test_what_stands_beside_the_table():
    lines = "\n".join(facts(certificate()))
    assert "50 of 50 conversations have the same" in lines and "97.5 [95.0, 99.5] % of 200" in lines
    assert "Note: a note." in lines and "--force" not in lines
    forced = dataclasses.replace(certificate(kl=0.5), is_forced=True)
    assert "--force, although its drift is larger than the tune's own effect" in "\n".join(facts(forced))


def test_what_was_not_measured_is_said():
    one = dataclasses.replace(certificate(), measured=None)
    assert drift_rows(one) == [] and "not measured" in "\n".join(facts(one))


def test_a_figure_without_an_interval_has_no_brackets():
    one = certificate()
    export = dataclasses.replace(one.measured.export, kl=Figure(0.25))
    one = dataclasses.replace(one, measured=dataclasses.replace(one.measured, export=export))
    assert drift_rows(one)[1][1] == "2.50e-01" and "In brackets" not in "\n".join(facts(one))
