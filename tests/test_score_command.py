"""`falconer score --submit`: what it prints, and what it refuses. tests/test_cli.py has the other uses of score."""

import json

from command_line import falconer

ROWS = [
    {"dialogue_id": i, "prediction": f"i like number {i} .", "reference": f"i like number {i} too ."} for i in range(25)
]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_a_file_of_other_replies_is_refused(tmp_path):
    result = falconer("score", "--submit", write(tmp_path / "mine.jsonl", ROWS))
    assert result.code == 2
    assert "has 25 replies, and ConvAI2's validation set has 7,801. The first that differs: row 1" in result.err
    assert "docs/results.md" in result.err


def test_the_row(tmp_path, monkeypatch):
    from falconer.evaluate.text import submission

    path = write(tmp_path / "a|b.jsonl", ROWS)
    monkeypatch.setattr(submission, "gold_digests", lambda: [[submission.digest(row["reference"])] for row in ROWS])
    result = falconer("score", "--submit", path)
    assert result.code == 0, result.err
    titles, rule, row = result.out.splitlines()
    cells = row.replace("\\|", "/").strip("| ").split(" | ")
    assert len(cells) == len(titles.strip("| ").split(" | ")) == rule.count("---")
    assert cells[0] == "a/b" and all(" ± " in cells[column] for column in (1, 2, 3, 4, 5, 8))
    assert "sacre" not in cells[-2] and "nrefs:1 case:lc" in cells[-2] and "25 dialogues, seed 17" in cells[-2]
    tree = json.loads(falconer("score", "--submit", path, "--name", "mine", "--json").out)
    assert cells[-1] == f"`{tree['sha256'][:12]}`" and cells[1].startswith(f"{tree['bleu']:.2f} ±")


def test_options_that_do_not_go_together(tmp_path):
    path = write(tmp_path / "mine.jsonl", ROWS)
    assert "--against" in falconer("score", "--submit", path, "--against", path).err
    assert "Add --submit" in falconer("score", path, "--name", "mine").err
