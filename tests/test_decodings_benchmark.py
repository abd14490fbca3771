"""benchmarks/decodings.py: several processes share the work, and the result is that of one."""

import argparse
import importlib.util
import json
import sys

import pytest

from documented import ROOT
from small_runs import Small, write_dialogues

pytestmark = pytest.mark.usefixtures("one_thread")
MORE = ("--decoding", "num_beams=2", "--decoding", "temperature=1,top_p=1,min_p=0.1")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("decodings", ROOT / "benchmarks" / "decodings.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("decodings")
    small = Small(folder)
    write_dialogues(small.valid, 22, seed=6)
    small.run(folder / "run", "train.max_steps=3", "evaluate.max_new_tokens=4")
    return folder / "run"


@pytest.fixture
def call(script, run, monkeypatch):
    """Call the script as a command, with few of the standard decodings."""
    few = script.other_decodings
    monkeypatch.setattr(script, "other_decodings", lambda own: few(own)[2:5])

    def called(*arguments):
        monkeypatch.setattr(sys, "argv", ["decodings.py", "--run", str(run), *map(str, arguments)])
        script.main()

    return called


def test_parts_make_what_one_process_makes(call, tmp_path):
    call("--replies", tmp_path / "one", *MORE, "--results", tmp_path / "one.json")
    for number in (2, 0, 1):
        call("--replies", tmp_path / "parts", *MORE, "--part", f"{number}/3")
    call("--replies", tmp_path / "parts", *MORE, "--only-kept", "--results", tmp_path / "parts.json")
    found = json.loads((tmp_path / "parts.json").read_text())
    assert found == json.loads((tmp_path / "one.json").read_text())
    first, *others = found["decodings"]
    assert first == "greedy, at most 4 tokens" and len(others) == 5 and found["num_dialogues"] == 22
    assert "beam search with 2 beams, length penalty 1.0, at most 4 tokens" in others
    assert "temperature 1.0, top-p 1.0, min-p 0.1, seed 17, at most 4 tokens" in others
    # The same file for each decoding, whoever has generated it.
    for file in (tmp_path / "one").iterdir():
        assert (tmp_path / "parts" / file.name).read_bytes() == file.read_bytes()


def test_replies_that_are_kept_are_not_generated_again(call, script, tmp_path, monkeypatch):
    call("--replies", tmp_path, "--part", "0/9", "--max-dialogues", "2")
    (kept,) = tmp_path.iterdir()
    assert kept.read_text().count("\n") < 8

    def generated(*_, **__):
        raise AssertionError("generated again")

    monkeypatch.setattr(script, "reply_with", generated)
    call("--replies", tmp_path, "--part", "0/9")


def test_without_greedy_replies_there_is_nothing_to_compare_with(call, tmp_path, capsys):
    call("--replies", tmp_path, "--part", "1/9")
    with pytest.raises(SystemExit):
        call("--replies", tmp_path, "--only-kept")
    assert "has no greedy replies" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "says"), [("num_beam=2", "num_beam"), ("num_beams=x", "num_beams"), ("", "=")])
def test_a_decoding_that_is_none_is_refused(script, text, says):
    with pytest.raises(argparse.ArgumentTypeError, match=says):
        script.decoding_from(text)


@pytest.mark.parametrize("text", ["3/3", "1", "a/2", "-1/2", "1/0", ""])
def test_a_part_that_is_none_is_refused(script, text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not I/N"):
        script.part_from(text)
