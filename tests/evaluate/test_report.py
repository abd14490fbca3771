"""The report says what the scores say, shows texts as they are, and refers to nothing outside itself."""

import base64
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from falconer.curves import CURVE_FILE
from falconer.evaluate.report import Report, headlines, write_report
from falconer.evaluate.table import METRICS, format_value
from falconer.records import Score

MakeReport = Callable[..., Report]
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Reads a page; every tag must be closed in order. Keeps attributes, table cells, and the text outside styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.cells: dict[str, list[str]] = {}
        self.best: dict[str, list[int]] = {}
        self.row = ""
        self.words: list[str] = []
        self.styles = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in given.items()]
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("tr", "table"):
            self.row = given.get("data-metric", "")
        if tag == "td" and self.row:
            cells = self.cells.setdefault(self.row, [])
            if "best" in given.get("class", "").split():
                self.best.setdefault(self.row, []).append(len(cells))
            cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            self.styles += data
            return
        self.words.append(data)
        if "td" in self.open and self.row:
            self.cells[self.row][-1] += data

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


@pytest.fixture
def written(tmp_path: Path, make_report: MakeReport) -> tuple[str, str]:
    (tmp_path / CURVE_FILE).write_bytes(b"")
    write_report(tmp_path, make_report())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CURVE_FILE, "report.html", "report.md"])
    return (tmp_path / "report.html").read_text(encoding="utf-8"), (tmp_path / "report.md").read_text(encoding="utf-8")


def test_the_numbers_are_those_of_the_scores(written: tuple[str, str], scores: dict[str, Score]) -> None:
    html, markdown = written
    page = Page(html)
    order = ("base", "tuned", "constant", "echo", "persona", "gold")
    measured = [metric for metric in METRICS if metric.key not in scores["tuned"].unmeasured]
    assert list(page.cells) == [metric.key for metric in measured]
    for metric in measured:
        expected = [format_value(getattr(scores[name], metric.key), metric.digits) for name in order]
        assert page.cells[metric.key] == expected
        line = next(line for line in markdown.splitlines() if line.startswith(f"| {metric.label}"))
        assert [cell.strip(" *") for cell in line.split("|")[2:-1]] == expected
    assert page.best["bleu"] == [order.index("tuned")]
    assert f"**{scores['tuned'].bleu:.2f}**" in markdown


def test_nothing_outside_is_referred_to(written: tuple[str, str]) -> None:
    html, markdown = written
    page = Page(html)
    assert not re.search(r"https?:|//\w|@import|url\(", html.replace("application/", ""))
    assert page.values("src") == [value for value in page.values("src") if value.startswith("data:image/png;base64,")]
    targets = {value for value in page.values("href") if value != "data:,"}
    assert targets and all(target.startswith("#") and target[1:] in page.values("id") for target in targets)
    assert "script" not in {tag for tag, _, _ in page.attributes}
    assert any("default-src 'none'" in value for value in page.values("content"))
    assert f"]({CURVE_FILE})" in markdown


def test_texts_are_shown_as_they_are(written: tuple[str, str]) -> None:
    html, markdown = written
    hostile = "<script>alert(1)</script> & \"q\" 's' | *b* `c` [l](javascript:x) <|endoftext|> {{ 7 * 7 }}"
    page = Page(html)
    assert "<script" not in html
    # Persona, history, gold and tuned reply of the first sample; a setting; a note; the chat.
    assert sum(hostile in words for words in page.words) == 7
    assert not re.search(r"(?<!\\)<", markdown.replace("<!--", ""))
    assert r"\<script\>alert(1)\</script\> \& " in markdown and r"\[l\](javascript:x)" in markdown


def test_the_page_can_be_used_by_keyboard_and_screen_reader(written: tuple[str, str]) -> None:
    page = Page(written[0])
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    assert set(page.values("aria-labelledby")) <= set(ids)
    assert ("html", "lang", "en") in page.attributes
    assert all(value for tag, name, value in page.attributes if (tag, name) == ("img", "alt"))
    assert ("div", "tabindex", "0") in page.attributes  # the table scrolls by keyboard where it is too wide
    assert "prefers-color-scheme: dark" in page.styles and "prefers-reduced-motion" in page.styles


def test_dark_and_light_text_has_contrast(written: tuple[str, str]) -> None:
    """WCAG 2.2 AA: 4.5 for text."""
    light, dark = Page(written[0]).styles.split("@media (prefers-color-scheme: dark)")[:2]
    for css in (light, dark):
        colour = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", css))
        on = {name: ("paper", "card", "sunk", "gold-tint", "base-tint", "tuned-tint") for name in ("ink", "soft")}
        on |= {"tuned": ("paper", "card", "tuned-tint"), "gold": ("card",), "base": ("card",)}
        for text, grounds in on.items():
            for ground in grounds:
                assert _contrast(colour[text], colour[ground]) >= 4.5, (text, ground)


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_samples_curve_and_chat_are_there(written: tuple[str, str], make_report: MakeReport) -> None:
    html, markdown = written
    page = Page(html)
    report = make_report()
    text = " ".join(page.words)
    assert "20 replies chosen at random" in text and "seed 17" in text
    assert report.curve_png and base64.b64encode(report.curve_png).decode() in html
    for sample in report.samples[1:]:
        for shown in (*sample.persona, *sample.history, sample.gold, sample.tuned):
            assert shown in page.words
    assert text.count("(empty)") == 20 and markdown.count("*(empty)*") == 20  # base said nothing
    assert "hello , how are you ?" in page.words and "hello , how are you ?" in markdown
    for name, value in report.settings.items():
        assert name in page.words and value in page.words


def test_headlines_set_the_figures_against_base_and_floors(make_report: MakeReport, scores: dict[str, Score]) -> None:
    by_key = {headline.metric.key: headline for headline in headlines(make_report())}
    assert by_key["word_ppl"].text == "42.70"
    assert by_key["word_ppl"].verdict == ("below base (213.50)",)
    assert by_key["f1"].verdict[1] == f"above every floor (best {scores['constant'].f1:.2f})"
    weak = replace(scores["tuned"], f1=10.0, bleu=0.0, rouge_l=0.0)
    by_key = {headline.metric.key: headline for headline in headlines(make_report(tuned=weak))}
    assert by_key["f1"].verdict[1] == f"not above the floor “constant” ({scores['constant'].f1:.2f})"
    assert all(0 <= mark.percent <= 100 for headline in by_key.values() for mark in headline.marks)


@pytest.mark.parametrize(
    "left_out",
    [
        {"base": None},
        {"tuned": None},
        {"base": None, "tuned": None},
        {"floors": {}, "gold": None},
        {
            "samples": [],
            "sample_chat": [],
            "curve_png": None,
            "settings": {},
            "notes": [],
            "command": "",
            "signatures": {},
        },
        {"sample_seed": None, "chat_persona": ()},
    ],
)
def test_whatever_is_missing_is_left_out(tmp_path: Path, make_report: MakeReport, left_out: dict[str, object]) -> None:
    write_report(tmp_path, make_report(**left_out))
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "None" not in page.words and "None" not in markdown
    assert "loss_curve" not in markdown
    assert {v[1:] for v in page.values("href") if v.startswith("#")} <= set(page.values("id"))


def test_infinite_perplexity_still_gives_a_report(
    tmp_path: Path, make_report: MakeReport, scores: dict[str, Score]
) -> None:
    write_report(tmp_path, make_report(base=replace(scores["base"], word_ppl=float("inf"))))
    assert Page((tmp_path / "report.html").read_text(encoding="utf-8")).cells["word_ppl"][0] == "inf"
