"""Tables are read as the programs that write them mean them: quotes, delimiters, headers; or refused by line."""

import csv
import io
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from falconer.errors import FalconerError
from falconer.evaluate.text.history import alternating
from falconer.evaluate.text.predictions import read_predictions

HEADER = ("prediction", "reference")
PAIRS = [('he said " hi " , ok .', 'he said " hi " , ok .'), ("it is 5 o'clock", 'i like " rock " music')]


def read(path: Path, text: str, encoding: str = "utf-8") -> list[tuple[str, str]]:
    path.write_bytes(text.encode(encoding))
    return [(row.prediction, row.reference) for row in read_predictions(path)]


def written(pairs: list[tuple[str, str]], delimiter: str, quoting: int = csv.QUOTE_MINIMAL, end: str = "\n") -> str:
    """Return the pairs as Python's csv, and so pandas and datasets, write them."""
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end).writerows([HEADER, *pairs])  # type: ignore[arg-type]
    return out.getvalue()


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize(("name", "delimiter"), [("a.tsv", "\t"), ("a.csv", ","), ("a.csv", ";"), ("a.txt", ",")])
def test_quoted_as_pandas_quotes(tmp_path: Path, name: str, delimiter: str, quoting: int) -> None:
    pairs = [*PAIRS, ("", "two\nlines"), ("a\tb; c", '""'), ('"whole"', "é \u2028 x")]
    for end, encoding in (("\n", "utf-8"), ("\r\n", "utf-8-sig"), ("\r\n", "utf-16")):
        assert read(tmp_path / name, written(pairs, delimiter, quoting, end), encoding) == pairs


@given(st.data())
def test_what_csv_writes_comes_back(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    text = st.text(st.sampled_from('ab ",;.\n'), max_size=6)
    gold = text.filter(str.strip)
    pairs = data.draw(st.lists(st.tuples(text, gold), min_size=1, max_size=6))
    delimiter = data.draw(st.sampled_from("\t,;"))
    quoting = data.draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
    name = "a.tsv" if delimiter == "\t" else "a.csv"
    assert read(tmp_path_factory.getbasetemp() / name, written(pairs, delimiter, quoting)) == pairs


@pytest.mark.parametrize(
    "lines",
    [
        ['he said " hi "\ti like " rock "'],
        ['"hello there"\thi', "no\tyes"],
        ['"hello there"\thi', '"bye"\tyes'],
        ['"hello , there"\thi', "well , no\tyes"],
        ['"hi" she said\t"no" , he said', "a\tb"],
        ['""hello""\thi'],
        ['"yes\tno', 'he "said"\tb', 'yes"\tc'],
        ['""\thi', 'a "b" c\td'],
        ["'a'\t'b'", "“a”\t„b“"],
        ['5" tall\t6"'],
        ['"\t"a', 'b"\tc'],
    ],
)
@pytest.mark.parametrize("header", ["", "prediction\treference\n"])
def test_quotes_that_belong_to_the_texts_stay(tmp_path: Path, lines: list[str], header: str) -> None:
    assert read(tmp_path / "a.tsv", header + "\n".join(lines)) == [tuple(line.split("\t")) for line in lines]


def test_a_spreadsheet_quotes_commas_in_a_tsv_too(tmp_path: Path) -> None:
    text = 'Prediction\tReference\r\n"well , no"\tyes\r\n"a ""b"""\t"c , d"\r\n'
    assert read(tmp_path / "a.tsv", text) == [("well , no", "yes"), ('a "b"', "c , d")]


def test_quotes_by_hand_count_where_only_they_keep_a_row_together(tmp_path: Path) -> None:
    assert read(tmp_path / "a.tsv", '5" tall\tx\n"two\nlines"\ty\n') == [('5" tall', "x"), ("two\nlines", "y")]


@pytest.mark.parametrize(
    "header",
    [
        "Reference\tPREDICTION\tmodel",
        "gold\tHypothesis\tid",
        "Ground truth\tGenerated-Text\t",
        "groundTruth\tmodelOutput\tn",
    ],
)
def test_columns_are_found_by_their_names(tmp_path: Path, header: str) -> None:
    for name in ("a.tsv", "a.txt", "a.csv", "a"):
        assert read(tmp_path / name, f"{header}\nb\ta\t1\n\nd\t\t2\n") == [("a", "b"), ("", "d")]


def test_columns_beside_the_two(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        ",dialogue_id,turn,persona,history,prediction,reference,score,ended\n"
        '0,d1,3.0,"[\'i ski .\', ""i\'m old .""]","[""hi"", ""yo""]",p,r,0.5,True\n'
        "1,d1,,['a' 'b'],\"hi\nyo\",p,r,,\n"
        "2,,,,,p,r,,no\n",
        encoding="utf-8",
    )
    first, second, third = read_predictions(path)
    assert (first.dialogue_id, first.turn, first.ended) == ("d1", 3, True)
    assert first.persona == ("i ski .", "i'm old .") and first.history == alternating(["hi", "yo"])
    assert (second.dialogue_id, second.turn, second.persona, second.history) == (
        "d1",
        0,
        ("a", "b"),
        alternating(["hi", "yo"]),
    )
    assert (third.dialogue_id, third.persona, third.ended) == ("5", (), None)


def test_several_references(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    for header, cells in (
        ("prediction,references", "p,\"['a', 'b , c']\""),
        ("prediction,references", 'p,"[""a"", ""b , c""]"'),
        ("prediction,reference_2,reference_1", 'p,"b , c",a'),
        ("prediction,reference,reference2,reference3", 'p,a,"b , c",'),
        ("reference,prediction,other_references", "a,p,\"['b , c']\""),
    ):
        path.write_text(f"{header}\n{cells}\n", encoding="utf-8")
        (row,) = read_predictions(path)
        assert (row.prediction, row.reference, row.other_references) == ("p", "a", ("b , c",)), header


def test_a_reply_that_is_a_field_name_is_a_reply(tmp_path: Path) -> None:
    assert read(tmp_path / "a.tsv", "gold\ti like blue .\nred\tblue\n")[0] == ("gold", "i like blue .")
    assert read(tmp_path / "a.tsv", "['a', 'b']\tb\n") == [("['a', 'b']", "b")]


def test_excels_line_for_the_delimiter(tmp_path: Path) -> None:
    assert read(tmp_path / "a.csv", 'sep=;\r\nprediction;reference\r\n"a;b";c\r\n') == [("a;b", "c")]


@pytest.mark.parametrize("cell", ["['a' 'b']", "['a', 'b',]", "[\n 'a'\n 'b']", "[\"a\", 'b']", '["a", "b"]', "a\nb"])
def test_lists_in_a_cell(tmp_path: Path, cell: str) -> None:
    assert persona_of(tmp_path, cell) == ("a", "b")


@pytest.mark.parametrize(
    "cell", ["['a', 'b\\']", "['" + "\\'" * 20_000 + "]", "[" + "'\\" * 19_999 + "]", "[['a'], 'b']"]
)
def test_what_is_no_list_is_a_sentence_and_costs_one_look(tmp_path: Path, cell: str) -> None:
    started = time.monotonic()
    assert persona_of(tmp_path, cell) == (cell,)
    assert time.monotonic() - started < 5


def persona_of(folder: Path, cell: str) -> tuple[str, ...]:
    with (folder / "a.tsv").open("w", encoding="utf-8", newline="") as out:
        csv.writer(out, delimiter="\t").writerows([[*HEADER, "persona"], ["p", "r", cell]])
    (row,) = read_predictions(folder / "a.tsv")
    return row.persona


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "persona\tquery\tresponse\na\tb\tc\n", "'reference' is missing; the row has 'persona', 'query'"),
        ("a.tsv", "a\tb\tc\n", "line 1: 3 columns without known names instead of 2: 'a', 'b', 'c'"),
        ("a.tsv", "sys_out\tgold_out\na\tb\n", "line 1: no known column name in 'sys_out', 'gold_out'"),
        ("a.csv", "hello,there\na,b\n", "line 1: no known column name in 'hello', 'there'"),
        ("a.csv", "prediction,reference\na,b,c\n", "line 2: 3 columns instead of 2"),
        ("a.csv", 'prediction,reference\n"a\nb",c\n"d,e\n', "line 4: a quoted cell has no closing quote"),
        ("a.tsv", "prediction\tprediction\treference\n", "line 1: two columns are named 'prediction'"),
        ("a.tsv", "prediction\tresponse\treference\na\tb\tc\n", "line 2: more than one field may be the reply: 'pre"),
        ("a.tsv", "prediction\treference\n\x1b[2Ja\n", "line 2: 1 column instead of 2"),
        ("a.tsv", "\x1b[2Jx\ty\tz\n", r"without known names instead of 2: '\\x1b\[2Jx'"),
        ("a.tsv", '"he said \\"hi\\" ."\t"b"\n"c"\t"d"\n', "every text is quoted, but quotes inside"),
        ("a.tsv", '"yes\tno\nwell"\tc\n', "line 1: a quote is closed some lines later"),
        ("a.csv", "prediction,references\na,[]\n", "line 2: field 'references' is an empty list"),
        ("a.csv", "prediction,reference,turn\na,b,second\n", "line 2: field 'turn' is text"),
    ],
)  # fmt: skip
def test_a_bad_table_is_refused_by_name(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(FalconerError, match=message) as caught:
        read(tmp_path / name, text)
    assert "\x1b" not in str(caught.value) and caught.value.hint
