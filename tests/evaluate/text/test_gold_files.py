"""Replies meet the gold replies of other files, by their ids or in their order, whatever form either file has."""

import json
from pathlib import Path

import pytest

from falconer.errors import FalconerError
from falconer.evaluate.text.history import alternating
from falconer.evaluate.text.predictions import read_predictions
from falconer.evaluate.text.score import score_file

REPLIES, GOLDS = ["hi , you", "", 'a "b"'], ["hello !", "é x", "c"]


def quoted(texts: list[str]) -> str:
    """Return a CSV of one column that quotes every text."""
    return "".join('"' + text.replace('"', '""') + '"\n' for text in texts)


FORMS = {
    "a.txt": lambda key, texts: "\n".join(texts) + "\n",
    "a.jsonl": lambda key, texts: "".join(json.dumps({key: text, "n": 1}) + "\n" for text in texts),
    "b.txt": lambda key, texts: "".join(json.dumps({key: text}) + "\n" for text in texts),
    "c.txt": lambda key, texts: "".join(json.dumps(text) + "\n" for text in texts),
    "a.json": lambda key, texts: json.dumps([{"id": i, key: text} for i, text in enumerate(texts)], indent=1),
    "b.json": lambda key, texts: json.dumps(texts),
    "c.json": lambda key, texts: json.dumps({key: texts}),
    "a.csv": lambda key, texts: f"{key}\n" + quoted(texts),
    "b.csv": lambda key, texts: quoted(texts),
    "a.tsv": lambda key, texts: f"id\t{key}\n" + "".join(f"{i}\t{text}\n" for i, text in enumerate(texts)),
    "b.tsv": lambda key, texts: "\n".join(texts) + "\n",
    "c.tsv": lambda key, texts: "\n".join([key, *texts]) + "\n",
}


def write(folder: Path, name: str, text: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder / name


def lines(folder: Path, name: str, *rows: dict[str, object]) -> Path:
    return write(folder, name, "".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("gold_form", FORMS)
@pytest.mark.parametrize(
    ("key", "gold_key"), [("prediction", "reference"), ("prediction", "prediction"), ("text", "text")]
)
def test_any_form_beside_any_other(tmp_path: Path, form: str, gold_form: str, key: str, gold_key: str) -> None:
    path = write(tmp_path / "replies", form, FORMS[form](key, REPLIES))
    gold = write(tmp_path / "gold", gold_form, FORMS[gold_form](gold_key, GOLDS))
    assert [(row.prediction, row.reference) for row in read_predictions(path, gold)] == list(
        zip(REPLIES, GOLDS, strict=True)
    )


def test_braces_and_keys_are_never_scored(tmp_path: Path) -> None:
    golds = ["i have two cats .", "no , i never go there .", "yes , what do you cook ?"]
    replies = ["blue blue blue", "we were at lunch today", "seven"]
    rows = lines(tmp_path, "rows.jsonl", *({"id": i, "prediction": text} for i, text in enumerate(replies)))
    gold = lines(tmp_path, "gold.txt", *({"id": i, "prediction": text} for i, text in enumerate(golds)))
    plain, plain_gold = write(tmp_path, "p.txt", "\n".join(replies)), write(tmp_path, "g.txt", "\n".join(golds))
    found, expected = (score_file(*files, resamples=100).score for files in ((rows, gold), (plain, plain_gold)))
    assert found.bleu == expected.bleu and found.bleu < 5 and found.chrf == expected.chrf
    text = write(tmp_path, "broken.txt", 'oops\n{"prediction": "a"}\n{"prediction": "b"}\n')
    with pytest.raises(FalconerError, match=r"broken\.txt, line 1: is not JSON"):
        read_predictions(text, gold)


def test_ids_decide_over_order(tmp_path: Path) -> None:
    path = lines(tmp_path, "a.jsonl", *({"id": i, "output": f"p{i}"} for i in (2, 0, 1)))
    gold = write(tmp_path, "gold.tsv", "ID\tpersona\tReference\n0\ti ski\tr0\n1\t\tr1\n2\t\tr2\n")
    found = read_predictions(path, gold)
    assert [(row.prediction, row.reference) for row in found] == [("p0", "r0"), ("p1", "r1"), ("p2", "r2")]
    assert found[0].persona == ("i ski",)


def test_dialogue_and_turn_are_an_id(tmp_path: Path) -> None:
    path = lines(tmp_path, "a.jsonl", *({"dialogue_id": "d", "turn": i, "prediction": f"p{i}"} for i in (3, 1)))
    gold = lines(
        tmp_path, "g.jsonl", *({"dialogue_id": "d", "turn": i, "gold": f"r{i}", "history": ["x"]} for i in (1, 3))
    )
    found = read_predictions(path, gold)
    assert [(row.dialogue_id, row.turn, row.prediction, row.reference) for row in found] == [
        ("d", 1, "p1", "r1"),
        ("d", 3, "p3", "r3"),
    ]
    assert found[0].history == alternating(["x"])


@pytest.mark.parametrize(
    ("rows", "golds", "message"),
    [
        ([0, 1], [0, 2], r"a\.jsonl, line 2: its id is '1', which does not occur in '.*g\.jsonl'"),
        ([0, 1], [0, 1, 2], r"g\.jsonl, line 3: its id is '2', which does not occur in '.*a\.jsonl'"),
        ([0, 0, 1], [0, 1, 1], r"a\.jsonl, line 2: its id is '0', but that of the same row in '.*g\.jsonl' is '1'"),
        ([0, 0], [0, 0, 1], r"a\.jsonl' has 2 lines, but '.*g\.jsonl' has 3"),
    ],
)
def test_other_ids_are_refused_by_name(tmp_path: Path, rows: list[int], golds: list[int], message: str) -> None:
    path = lines(tmp_path, "a.jsonl", *({"id": i, "prediction": "p"} for i in rows))
    gold = lines(tmp_path, "g.jsonl", *({"id": i, "reference": "r"} for i in golds))
    with pytest.raises(FalconerError, match=message):
        read_predictions(path, gold)


def test_gold_replies_in_both_files(tmp_path: Path) -> None:
    gold = write(tmp_path, "g.txt", "r\ns\n")
    same = lines(tmp_path, "a.jsonl", {"prediction": "p", "reference": "r"}, {"prediction": "q", "reference": ""})
    assert [row.reference for row in read_predictions(same, gold)] == ["r", "s"]
    other = lines(
        tmp_path, "b.jsonl", {"prediction": "p", "reference": "r"}, {"prediction": "q", "reference": "\x1b[2J"}
    )
    with pytest.raises(
        FalconerError, match=r"b\.jsonl, line 2: its gold reply is '\\x1b\[2J', but in .*g\.txt, line 2, 's'"
    ):
        read_predictions(other, gold)


def test_a_text_file_with_a_header_or_with_both_texts_is_no_plain_text(tmp_path: Path) -> None:
    """A header is no reply, and a gold reply behind a tab is no part of one."""
    for header, gold_header in (("prediction", "Reference"), ('"prediction"', '"reference"')):
        path = write(tmp_path, "a.txt", f'{header}\n"he said ""hi"""\n"no , never"\n')
        q = '"' * (header[0] == '"')
        gold = write(tmp_path, "g.txt", f"{gold_header}\n{q}r{q}\n{q}s{q}\n")
        assert [(row.prediction, row.reference) for row in read_predictions(path, gold)] == [
            ('he said "hi"', "r"), ("no , never", "s"),
        ]  # fmt: skip
    both = write(tmp_path, "b.txt", "p\tr\nq\ts\n")
    assert [(row.prediction, row.reference) for row in read_predictions(both, write(tmp_path, "g.txt", "r\ns\n"))] == [
        ("p", "r"), ("q", "s"),
    ]  # fmt: skip
    with pytest.raises(FalconerError, match="line 1: its gold reply is 'r', but in .* 's'"):
        read_predictions(both, write(tmp_path, "g.txt", "s\ns\n"))
    tabs = write(tmp_path, "t.txt", "p\tq\nr\n")
    assert [row.prediction for row in read_predictions(tabs, write(tmp_path, "g.txt", "s\ns\n"))] == ["p\tq", "r"]


def test_each_further_file_adds_a_reference(tmp_path: Path) -> None:
    path = write(tmp_path, "p.txt", "p\nq\n")
    one, two = write(tmp_path, "1.txt", "a\nb\n"), lines(tmp_path, "2.jsonl", {"references": ["c", "d"]}, {"gold": "e"})
    found = read_predictions(path, [one, two])
    assert [(row.reference, row.other_references) for row in found] == [("a", ("c", "d")), ("b", ("e",))]
    with pytest.raises(FalconerError, match=r"has 2 lines, but '.*3\.txt' has 1"):
        read_predictions(path, [one, write(tmp_path, "3.txt", "a\n")])
