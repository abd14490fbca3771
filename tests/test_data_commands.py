"""The `falconer data` commands: what training sees of a dialogue, its length, and the same dialogues in our format."""

import json
import re
from pathlib import Path

import pytest

from command_line import falconer, ok
from falconer.data.sources import load_dialogues

FIXTURES = Path(__file__).parent / "data" / "fixtures"


@pytest.mark.parametrize("name", ["falconer.jsonl", "convai2_self_original.txt", "sharegpt.json", "kaggle.csv"])
def test_data_show(name):
    text = ok("data", "show", FIXTURES / name).out
    assert re.search(r"\d+ tokens, \d+ of them targets in \d+ replies", text)
    assert "Assistant:" in text
    assert "<|endoftext|>" in text
    # Not a terminal: brackets instead of colours, around the replies, their end tokens, and nothing else.
    marked = re.findall(r"\[\[(.*?)\]\]", text.split("without a loss")[1], re.DOTALL)
    assert len(marked) == text.count("<|endoftext|>") and all(one.endswith("<|endoftext|>") for one in marked)
    assert not any("Assistant:" in one or "User:" in one for one in marked)


def test_data_show_takes_another_dialogue_and_style():
    first = ok("data", "show").out
    assert ok("data", "show", "--index", "1").out != first
    assert ok("data", "show", "--split", "test").out != first
    assert ok("data", "show", "--text", "natural").out != first


def test_data_stats(tmp_path):
    plot = tmp_path / "lengths.png"
    text = ok("data", "stats", FIXTURES / "synthetic.csv", "--plot", plot).out
    for words in (
        "dialogues",
        "95th percentile",
        "target tokens",
        "Format: synthetic",
        "Handled: empty conv",
    ):
        assert words in text
    assert f"Histogram: {plot}" in text
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_data_stats_writes_nothing_unless_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Histogram" not in ok("data", "stats", FIXTURES / "falconer.jsonl").out
    assert not list(tmp_path.iterdir())


def test_data_stats_counts_what_was_skipped(tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text((FIXTURES / "falconer.jsonl").read_text() + '{"turns": 3}\n')
    result = ok("data", "stats", path, "--on-bad-row", "skip")
    assert "Skipped: 1 bad row\n" in result.out
    assert re.search(r"skipped .*mine\.jsonl:3: turns", result.err)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst"])
def test_data_convert_gives_the_same_dialogues(tmp_path, suffix):
    source, target = FIXTURES / "convai2_both_original_no_cands.txt", tmp_path / f"ours{suffix}"
    text = ok("data", "convert", source, target).out
    ours = load_dialogues(str(target))
    assert ours.format == "falconer"
    assert ours.dialogues == load_dialogues(str(source)).dialogues
    assert text == f"{len(ours.dialogues)} dialogues written to {target}\n"


def test_one_dialogue_is_not_dialogues(tmp_path):
    path = tmp_path / "one.jsonl"
    path.write_text((FIXTURES / "falconer.jsonl").read_text(encoding="utf-8").splitlines()[0], encoding="utf-8")
    target = tmp_path / "ours.jsonl"
    assert ok("data", "convert", path, target).out == f"1 dialogue written to {target}\n"


def test_data_convert_does_not_write_over_what_it_reads(tmp_path):
    path = tmp_path / "own.jsonl"
    path.write_text('{"id": "1", "persona": [], "turns": [{"speaker": "self", "text": "hi"}]}\nbroken\n')
    before = path.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(path)
    for target in (path, tmp_path / "link.jsonl"):
        result = falconer("data", "convert", str(path), str(target), "--on-bad-row", "skip")
        assert result.code == 2 and "is both the source and the target. Name another file" in result.err
    assert path.read_bytes() == before


def test_data_convert_can_write_natural_text(tmp_path):
    target = tmp_path / "ours.jsonl"
    ok("data", "convert", FIXTURES / "convai2_self_original.txt", target, "--text", "natural")
    texts = [turn.text for dialogue in load_dialogues(str(target)).dialogues for turn in dialogue.turns]
    assert texts and not any(text.islower() or " ." in text for text in texts)


def test_natural_text_of_another_language_is_no_english(tmp_path):
    """Two short dialogues of Italian, in Persona-Chat's style: the article "i" stays small."""
    (tmp_path / "it.txt").write_text(
        "1 your persona: vivo con i miei due gatti .\n"
        "2 ciao , come stai ?\tbene , gioco con i miei gatti .\n"
        "3 ti piacciono i libri ?\tsi , leggo i libri di storia .\n",
        encoding="utf-8",
    )
    result = ok("data", "convert", tmp_path / "it.txt", tmp_path / "it.jsonl", "--text", "natural")
    assert "The language is Italian" in result.out
    (dialogue,) = map(json.loads, (tmp_path / "it.jsonl").read_text(encoding="utf-8").splitlines())
    assert dialogue["persona"] == ["vivo con i miei due gatti."]
    assert [turn["text"] for turn in dialogue["turns"]][1::2] == [
        "bene, gioco con i miei gatti.", "si, leggo i libri di storia.",
    ]  # fmt: skip
