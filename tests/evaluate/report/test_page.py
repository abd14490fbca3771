"""The report says what the scores say, shows texts as they are, and refers to nothing outside itself."""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from falconer.evaluate.report.page import Report, headlines, render_html, render_markdown, write_report
from falconer.evaluate.report.published import gold_sha256
from falconer.evaluate.report.score_table import METRICS, format_value
from falconer.records import Prediction, Score, Turn
from falconer.run.folder import CURVE
from falconer.run.metrics import Difference

MakeReport = Callable[..., Report]
SVG = '"http://www.w3.org/2000/svg"'
VOID = {"meta", "link", "img", "br", "input"}


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
        self.scripts: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.attributes += [(tag, name, value) for name, value in given.items()]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "script":
            self.scripts[given.get("type", "")] = ""
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
        if "script" in self.open:
            self.scripts[list(self.scripts)[-1]] += data
            return
        self.words.append(data)
        if "td" in self.open and self.row:
            self.cells[self.row][-1] += data

    def values(self, attribute: str) -> list[str]:
        return [value for _, name, value in self.attributes if name == attribute]


@pytest.fixture
def written(tmp_path: Path, make_report: MakeReport) -> tuple[str, str]:
    (tmp_path / CURVE).write_bytes(b"")
    write_report(tmp_path, make_report())
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([CURVE, "report.html", "report.md"])
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
    # SVG elements are made under a name that looks like an address and is none.
    assert not re.search(r"https?:|@import|url\(|\bimport\b|fetch\(", html.replace(SVG, ""))
    assert page.values("src") == [value for value in page.values("src") if value.startswith("data:image/png;base64,")]
    targets = {value for value in page.values("href") if value != "data:,"}
    assert targets and all(target.startswith("#") and target[1:] in page.values("id") for target in targets)
    [policy] = [value for value in page.values("content") if "default-src" in value]
    assert "default-src 'none'" in policy and "unsafe-inline'; base-uri" in policy  # of styles alone
    assert f"]({CURVE})" in markdown


def test_texts_are_shown_as_they_are(written: tuple[str, str]) -> None:
    html, markdown = written
    hostile = "<script>alert(1)</script> & \"q\" 's' | *b* `c` [l](javascript:x) <|endoftext|> {{ 7 * 7 }}"
    page = Page(html)
    assert "<script>alert" not in html
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
    assert "color-scheme: light dark" in page.styles and "prefers-reduced-motion" in page.styles


def test_only_the_own_scripts_may_run(written: tuple[str, str]) -> None:
    page = Page(written[0])
    [policy] = [value for value in page.values("content") if "default-src" in value]
    hashes = re.search(r"script-src ([^;]*);", policy)
    assert hashes and "unsafe" not in hashes[1]
    runs = [text for kind, text in page.scripts.items() if kind != "application/json"]
    assert len(runs) == 2
    digests = [base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode() for text in runs]
    assert hashes[1].split() == [f"'sha256-{digest}'" for digest in digests]


def test_dark_and_light_text_has_contrast(written: tuple[str, str]) -> None:
    """WCAG 2.2 AA: 4.5 for text."""
    pairs = re.findall(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\)", Page(written[0]).styles)
    for colour in ({name: light for name, light, _ in pairs}, {name: dark for name, _, dark in pairs}):
        on = {name: ("paper", "card", "sunk", "gold-tint", "base-tint", "tuned-tint") for name in ("ink", "soft")}
        on |= {"tuned": ("paper", "card", "sunk", "tuned-tint"), "gold": ("card",), "base": ("card",)}
        on |= {name: ("card", "sunk") for name in ("good", "bad")}
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
        for shown in (*sample.persona, *(turn.text for turn in sample.history), sample.gold, sample.tuned):
            assert shown in page.words
    assert text.count("(empty)") == 20 and markdown.count("*(empty)*") == 20  # base said nothing
    assert "hello , how are you ?" in page.words and "hello , how are you ?" in markdown
    for name, value in report.settings.items():
        assert name in page.words and value in page.words


def test_each_turn_is_its_speakers(tmp_path: Path, make_whole_report: MakeReport) -> None:
    """Two turns of one speaker in a row, in a sample, and in what the page's script takes apart."""
    history = (
        Turn("self", "first"), Turn("self", "second"), Turn("partner", "third"), Turn("partner", "fourth"),
        Turn("self", "fifth"),
    )  # fmt: skip
    whole = make_whole_report()
    rows = [replace(row, history=history) for row in whole.predictions_tuned]
    samples = [replace(whole.samples[1], history=history)]
    page, markdown = html_of(tmp_path, replace(whole, samples=samples, predictions_base=rows, predictions_tuned=rows))
    section = markdown.split("replies chosen at random")[1].split("- **gold**")[0]
    assert re.findall(r"- (self|partner): (\w+)", section) == [(turn.speaker, turn.text) for turn in history]
    sample = page[page.index('class="card sample"') :]
    bubbles = re.findall(r'bubble (self|partner)"><span class="hidden">(self|partner): </span>(\w+)<', sample)
    assert bubbles[:5] == [(turn.speaker, turn.speaker, turn.text) for turn in history]
    data = json.loads(next(text for text in Page(page).scripts.values() if '"contexts"' in text))
    assert data["replies"]["contexts"][1][2:] == [[turn.text for turn in history], "sspps"]


def test_headlines_set_the_figures_against_others(make_report: MakeReport, scores: dict[str, Score]) -> None:
    by_key = {headline.metric.key: headline for headline in headlines(make_report())}
    assert by_key["word_ppl"].text == "42.70"
    assert by_key["word_ppl"].verdict == ("below base (213.50; not tested)",)
    assert by_key["f1"].verdict[1] == f"above every baseline (best {scores['constant'].f1:.2f}; not tested)"
    test = Difference("f1", 17.0, scores["constant"].f1 or 0.0, -2.0, -1.0, 0.001, 0.009)
    tested = {one.metric.key: one for one in headlines(make_report(baseline_tests={"constant": [test]}))}
    assert tested["f1"].verdict[1] == f"above every baseline (best {scores['constant'].f1:.2f}; significant)"
    assert tested["bleu"].verdict[1].endswith("not tested)")
    weak = replace(scores["tuned"], f1=10.0, bleu=0.0, rouge_l=0.0)
    by_key = {headline.metric.key: headline for headline in headlines(make_report(tuned=weak))}
    assert by_key["f1"].verdict[1] == f"not above baseline “constant” ({scores['constant'].f1:.2f}; not tested)"
    assert all(0 <= mark.percent <= 100 for headline in by_key.values() for mark in headline.marks)


@pytest.mark.parametrize(
    "left_out",
    [
        {"base": None},
        {"tuned": None},
        {"base": None, "tuned": None},
        {"baselines": {}, "gold": None},
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


def html_of(tmp_path: Path, report: Report) -> tuple[str, str]:
    write_report(tmp_path, report)
    return (tmp_path / "report.html").read_text(encoding="utf-8"), (tmp_path / "report.md").read_text(encoding="utf-8")


def test_intervals_stand_beside_their_figures(tmp_path: Path, make_whole_report: MakeReport) -> None:
    html, markdown = html_of(tmp_path, make_whole_report())
    cells = Page(html).cells
    assert cells["f1"][1].endswith("19.50 to 24.25") and cells["f1"][2].endswith("13.00 to 17.00")
    assert "to" not in cells["f1"][0] and "to" not in cells["bleu"][1]
    assert "to" not in cells["f1"][-1]  # gold's, from 100 to 100
    assert "19.50 to 24.25" in markdown
    by_key = {headline.metric.key: headline for headline in headlines(make_whole_report())}
    assert by_key["f1"].interval == (19.5, 24.25) and by_key["f1"].span
    assert by_key["f1"].span[0] < by_key["f1"].marks[-1].percent < by_key["f1"].span[1] <= 100
    assert by_key["bleu"].interval is None and by_key["bleu"].span is None


def test_a_difference_is_called_better_only_if_it_is_sure(tmp_path: Path, make_whole_report: MakeReport) -> None:
    sure = Difference("f1", 0.0, 2.0, 0.5, 3.5, 0.01, 0.04)
    rows = [
        sure,
        Difference("bleu", 0.0, 2.0, 0.5, 3.5, 0.01, 0.06),  # not after Holm
        Difference("rouge_l", 0.0, 2.0, -0.5, 3.5, 0.2, 0.3),
        Difference("word_ppl", 0.0, -2.0, -3.0, -1.0, 0.001, 0.003),  # lower is better
        Difference("token_ppl", 0.0, 2.0, 1.0, 3.0, 0.001, 0.002),
        Difference("mean_words", 0.0, 2.0, 1.0, 3.0, 0.001, 0.002),  # neither way is better
    ]
    html, markdown = html_of(tmp_path, make_whole_report(tests=rows))
    verdicts = re.findall(r'<td class="left (\w+)">\1</td>', html)
    assert verdicts == ["better", "unclear", "unclear", "better", "worse", "differs"]
    assert "| F1 ↑ | +2.00 | 0.50 to 3.50 | 0.010 | 0.040 | better |" in markdown
    assert "| word perplexity ↓ | -2.00 | -3.00 to -1.00 | 0.001 | 0.003 | better |" in markdown


def test_everything_optional_is_shown(tmp_path: Path, make_whole_report: MakeReport) -> None:
    html, markdown = html_of(tmp_path, make_whole_report())
    page = Page(html)
    for shown in ("without persona", "17.31", "question", "23.45", "ParlAI's bleu-4", "1.56", "repeats an own turn"):
        assert shown in page.words, shown
        assert shown in markdown, shown
    assert "15.50 to 19.50" in page.words and "| 17.31 (15.50 to 19.50) |" in markdown
    assert "| statement | 110 | 19.00 (16.50 to 21.75) |" in markdown
    for text in (" ".join(" ".join(page.words).split()), markdown):
        assert "hits@1 without a model: chance 5.0, IDF-weighted word overlap 48.2." in text
    assert set(page.values("aria-labelledby")) <= set(page.values("id"))
    assert len(page.values("id")) == len(set(page.values("id")))
    for name in ("curve", "turns", "lengths", "ballot", "list", "panel-random", "panel-worst", "panel-best"):
        assert name in page.values("id"), name


def test_what_there_is_no_data_for_has_no_section(written: tuple[str, str]) -> None:
    ids = set(Page(written[0]).values("id"))
    assert not ids & {"curve", "turns", "lengths", "ballot", "vote", "replies", "details", "panel-worst", "panel-best"}


def test_one_system_can_be_searched_but_not_voted_on(tmp_path: Path, make_whole_report: MakeReport) -> None:
    ids = set(Page(html_of(tmp_path, make_whole_report(base=None, predictions_base=()))[0]).values("id"))
    assert "replies" in ids and "ballot" not in ids


def test_worst_and_best_are_called_that(tmp_path: Path, make_whole_report: MakeReport) -> None:
    html, markdown = html_of(tmp_path, make_whole_report())
    for title in ("The worst 10 replies of the tuned model, by F1", "The best 10 replies of the tuned model, by F1"):
        assert title in html and title in markdown
    assert html.count("so not typical") == 2


def test_no_text_gets_out_of_the_data(tmp_path: Path, make_whole_report: MakeReport) -> None:
    html, markdown = html_of(tmp_path, make_whole_report())
    page = Page(html)
    assert "onerror" not in {name for _, name, _ in page.attributes}
    assert len(page.values("src")) == 1  # the picture of the curve
    data = json.loads(page.scripts["application/json"])
    assert data["replies"]["rows"][0][4] == "</script><img src=x onerror=alert(1)>"
    assert not re.search(r"(?<!\\)<", markdown)


def test_other_systems_are_context_unless_the_replies_are_convai2s(
    tmp_path: Path, make_whole_report: MakeReport, monkeypatch: pytest.MonkeyPatch
) -> None:
    html, markdown = html_of(tmp_path, make_whole_report())
    assert "for context: this report is about other turns" in html and "not directly comparable" in html
    assert "This report is about other turns" in markdown
    assert 'class="ours"' not in html and "LMEDR" in html and "LMEDR" in markdown
    same = gold_sha256(row.reference for row in make_whole_report().predictions_tuned)
    monkeypatch.setattr("falconer.evaluate.report.published.CONVAI2_VALID_SHA256", same)
    html, markdown = html_of(tmp_path, make_whole_report())
    assert "the turns evaluated here" in html and html.count('class="ours"') == 2
    assert "the ones evaluated here" in markdown
    assert "Not directly comparable: each has its own" in html  # what papers say never is


def test_all_of_convai2_stays_small(tmp_path: Path, make_whole_report: MakeReport) -> None:
    report = make_whole_report()
    copies = 7801 // len(report.predictions_tuned) + 1

    def many(rows: Sequence[Prediction]) -> list[Prediction]:
        return [replace(row, dialogue_id=f"{row.dialogue_id}-{i}") for i in range(copies) for row in rows][:7801]

    large = make_whole_report(
        predictions_base=many(report.predictions_base), predictions_tuned=many(report.predictions_tuned)
    )
    html, _ = html_of(tmp_path, large)
    assert len(html.encode("utf-8")) < 10e6


def test_few_dialogues_have_no_interval_in_large_type_and_a_warning_below(
    make_whole_report: Callable[..., Report],
) -> None:
    for number, is_warned in ((19, True), (20, False)):
        report = make_whole_report(num_dialogues=number)
        assert any(headline.interval for headline in headlines(report)) is not is_warned
        for text in (render_html(report), render_markdown(report, False)):
            assert ("of 19 dialogues only, so not reliable" in text) is is_warned


def test_english_systems_stand_beside_english_replies_alone(make_whole_report: Callable[..., Report]) -> None:
    """Their figures are made with English tokens, whatever this report's are."""
    for language in ("en", "zh"):
        report = make_whole_report(language=language)
        for text in (render_html(report), render_markdown(report, False)):
            assert ("LMEDR" in text.split('id="data"')[0]) is (language == "en")
            assert ("Other systems on ConvAI2" in text) is (language == "en")


def test_what_is_not_measured_says_why_and_shows_no_f1(make_whole_report: Callable[..., Report]) -> None:
    reasons = {
        "f1": "2 of 3 gold replies contain no word that it counts",
        "legacy": "papers print it of English <replies>",
    }
    report = make_whole_report(not_measured=reasons)
    html, markdown = render_html(report), render_markdown(report, False)
    assert "<b>F1</b> (2 of 3 gold replies contain no word that it counts)" in html
    assert "<b>older definitions of BLEU-4</b> (papers print it of English &lt;replies&gt;)" in html
    assert "Not measured: F1 (2 of 3 gold replies contain no word that it counts); older definitions" in markdown
    assert 'class="f1"' not in html.split('id="data"')[0]
    assert 'class="f1"' in render_html(make_whole_report()).split('id="data"')[0]
    assert '"has_f1":false' in html
    for page in (html.split('id="data"')[0], markdown):
        assert "worst 1" not in page.lower()  # no ten worst replies by F1
