"""A field is found under every spelling of its name, and a bad row says where it stands."""

from pathlib import Path

from falconer.evaluate.text.row import field_name, row_of


def test_names_of_fields_are_one_in_every_spelling() -> None:
    for written in ("Ground truth", "groundTruth", "GROUND_TRUTH", " ground-Truth "):
        assert field_name(written) == "ground_truth"
    row = row_of(Path("a"), "line 1", 1, {"Reference": "x", "reference": "y", "n": 1})
    assert row.named(("reference",)) == [("Reference", "x"), ("reference", "y")]


def test_an_error_names_file_place_and_what_to_do() -> None:
    error = row_of(Path("a.tsv"), "line 3", 3, {}).bad("is empty", "Write a text.")
    assert (error.message, error.hint) == ("a.tsv, line 3: is empty.", "Write a text.")
