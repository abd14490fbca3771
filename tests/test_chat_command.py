"""`falconer chat`: what its options become, and which of them can't be combined."""

import shutil

import pytest

from command_line import falconer
from falconer.model.engine import Decoding
from falconer.talk import terminal
from small_runs import Small


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    Small(folder).run(folder / "mine", "train.max_steps=2")
    yield folder / "mine"
    shutil.rmtree(folder / "mine")


def test_options_become_the_decoding(run, monkeypatch):
    sessions = []
    monkeypatch.setattr(terminal, "talk", lambda session, *_, **__: sessions.append(session))
    options = {
        "--temperature": 0.5, "--top-p": 0.8, "--min-p": 0.1, "--repetition-penalty": 1.2, "--max-new-tokens": 9,
        "--repetition-penalty-scope": "own", "--no-repeat-ngram-size": 3, "--no-repeat-ngram-scope": "prompt",
        "--seed": 5,
    }  # fmt: skip
    result = falconer("chat", "--run", run, *[str(one) for option in options.items() for one in option])
    assert (result.code, result.err) == (0, "")
    assert sessions[0].decoding == Decoding(
        9, 0.5, 0.8, 1.2, 5, min_p=0.1, no_repeat_ngram_size=3, no_repeat_ngram_scope="prompt",
        repetition_penalty_scope="own",
    )  # fmt: skip


def test_replies_are_searched_for_with_beams(run):
    beams = falconer(
        "chat", "--run", run, "--temperature", "0", "--num-beams", "3", "--max-new-tokens", "6", stdin="Hi!\n"
    )
    assert beams.code == 0 and "assistant:" in beams.out


def test_a_run_that_was_moved_replies_the_same(run, tmp_path):
    def reply(folder):
        result = falconer("chat", "--run", folder, "--temperature", "0", "--max-new-tokens", "6", stdin="Hi!\n")
        assert result.code == 0, result.err
        return [line for line in result.out.splitlines() if "assistant:" in line]

    expected = reply(run)
    shutil.move(run, tmp_path / "moved")
    try:
        assert expected and reply(tmp_path / "moved") == expected
    finally:
        shutil.move(tmp_path / "moved", run)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--num-beams", "4"], "--num-beams 4 and --temperature 1.0 can't be combined"),
        (["--length-penalty", "inf"], "--length-penalty inf is not allowed"),
    ],
)
def test_what_can_not_be_done_is_told_before_anything_is_loaded(options, says):
    result = falconer("chat", "--run", "nowhere", *options)
    assert result.code == 2 and says in result.err
