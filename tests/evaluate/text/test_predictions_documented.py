"""Each form that docs/evaluation.md shows is read, from the example that stands there."""

from pathlib import Path

from falconer.evaluate.text.predictions import read_predictions

DOCUMENT = Path(__file__).parents[3] / "docs" / "evaluation.md"


def examples() -> list[str]:
    """Return the examples of the table of forms."""
    table = DOCUMENT.read_text(encoding="utf-8").partition("| form | example |\n|---|---|\n")[2].partition("\n\n")[0]
    return [line.rstrip(" |").rpartition(" | ")[2] for line in table.splitlines()]


def test_every_example_is_read(tmp_path: Path) -> None:
    *forms, command = examples()
    assert len(forms) == 4 and command == "`falconer score pred.txt --reference gold.txt`"
    for number, form in enumerate(forms):
        text = form.strip("`").replace("<TAB>", "\t").replace("` then `", "\n")
        path = tmp_path / f"{number}.txt"
        path.write_text(text + "\n", encoding="utf-8")
        (row,) = read_predictions(path)
        assert (row.prediction, row.reference) == ("hi .", "hello !"), form
    (tmp_path / "pred.txt").write_text("hi .\n", encoding="utf-8")
    (tmp_path / "gold.txt").write_text("hello !\n", encoding="utf-8")
    assert [
        (row.prediction, row.reference) for row in read_predictions(tmp_path / "pred.txt", tmp_path / "gold.txt")
    ] == [("hi .", "hello !")]
