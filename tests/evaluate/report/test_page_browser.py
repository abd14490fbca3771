"""The report in a real browser: no error, no request, nothing wider than a phone, and all of it by keyboard."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from browser import Browser, open_browser
from falconer.evaluate.report.page import Report, render_html
from falconer.evaluate.text.history import alternating

pytestmark = pytest.mark.browser
MakeReport = Callable[..., Report]
HAS_FOCUS = "document.activeElement.id"
FOUND = "document.getElementById('found').textContent"
CARDS = "document.querySelectorAll('#list article').length"


@pytest.fixture(scope="module")
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(chromium, tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture
def page(tmp_path: Path, make_whole_report: MakeReport) -> Path:
    path = tmp_path / "report.html"
    path.write_text(render_html(make_whole_report()), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def nothing_kept(browser: Browser, tmp_path: Path) -> None:
    """Votes and theme of an earlier test are forgotten."""
    empty = tmp_path / "empty.html"
    empty.write_text("<!doctype html><title>empty</title>", encoding="utf-8")
    browser.open(empty)
    browser.run("localStorage.clear()")


def choose(browser: Browser, select: str, value: str) -> None:
    browser.run(
        f"{{ const s = document.getElementById('{select}'); s.value = '{value}';"
        " s.dispatchEvent(new Event('change')); }"
    )


def search(browser: Browser, text: str) -> None:
    browser.run("document.getElementById('query').focus(); document.getElementById('query').select()")
    browser.type(text)


@pytest.mark.parametrize("dark", [False, True])
def test_no_console_message_and_no_request(browser: Browser, page: Path, dark: bool) -> None:
    browser.open(page, dark=dark)
    # Everything that opens is opened once: tables of numbers, settings, replies with their differences.
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    browser.run("document.querySelectorAll('[role=tab]').forEach((each) => each.click())")
    browser.wait("document.querySelectorAll('#curve tbody tr').length === 120")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(22, 21, 19)" if dark else "rgb(247, 245, 240)"
    )
    assert browser.problems == []
    assert browser.requests == []


def test_the_check_itself_sees_errors_and_requests(browser: Browser, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text('<!doctype html><img src="http://example.invalid/x.png"><script>missing()</script>', "utf-8")
    browser.open(bad)
    browser.wait_for(lambda: bool(browser.problems and browser.requests), "an error and a request")
    assert any("missing is not defined" in problem for problem in browser.problems)
    assert browser.requests == ["http://example.invalid/x.png"]


def test_a_hostile_reply_is_text(browser: Browser, page: Path) -> None:
    browser.open(page)
    first = "document.querySelector('#list article')"
    assert browser.run(f"{first}.querySelector('.reply.base .bubble').textContent") == (
        "</script><img src=x onerror=alert(1)>"
    )
    assert browser.run("document.querySelectorAll('img').length") == 0  # the picture is for pages without scripts
    assert "<script>alert(1)</script>" in browser.run(f"{first}.querySelector('.reply.gold').textContent")


@pytest.mark.parametrize("width", [360, 1200])
def test_only_the_tables_scroll_sideways(browser: Browser, page: Path, width: int) -> None:
    browser.open(page, width=width)
    browser.run("document.querySelectorAll('details').forEach((each) => { each.open = true })")
    assert browser.run("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    assert browser.run("document.querySelector('#curve svg').getBoundingClientRect().right <= innerWidth")


def test_votes_by_keyboard_are_counted_kept_and_exported(
    browser: Browser, page: Path, make_whole_report: MakeReport, tmp_path_factory: pytest.TempPathFactory
) -> None:
    browser.open(page)
    for _ in range(200):  # Tab alone leads into the box
        browser.press("Tab")
        if browser.run(HAS_FOCUS) == "ballot":
            break
    assert browser.run(HAS_FOCUS) == "ballot"
    assert browser.run("document.activeElement.matches(':focus-visible')")
    num_same = same_replies(make_whole_report())
    pairs = f"votes of {200 - num_same}"
    assert f"{num_same} pairs of equal replies left out" in browser.run("document.getElementById('ballot').textContent")
    shown = browser.run("[...document.querySelectorAll('.choice:not(.tie) span')].map((each) => each.textContent)")
    names = browser.run("document.getElementById('ballot').textContent")
    assert "tuned" not in names and "base" not in names  # blind
    for key in ("ArrowLeft", "ArrowRight", "ArrowDown", "b", "a", "Backspace"):
        browser.press(key)
    assert f"4 {pairs}" in browser.run("document.getElementById('ballot').textContent")
    assert browser.run("document.getElementById('result').hidden")
    browser.press("r")
    assert "Wilson interval" in browser.run("document.getElementById('result').textContent")

    browser.open(page)  # votes outlive the page
    assert f"4 {pairs}" in browser.run("document.getElementById('ballot').textContent")
    browser.run("document.getElementById('ballot').focus()")
    browser.press("e")
    [file] = wait_for_downloads(browser, tmp_path_factory.getbasetemp())
    exported = json.loads(file.read_text(encoding="utf-8"))
    votes = exported["votes"]
    assert [vote["vote"] for vote in votes] == ["left", "right", "tie", "right"]
    for vote in votes:
        assert {vote["left"], vote["right"]} == {"base", "tuned"}
        assert vote["winner"] == (None if vote["vote"] == "tie" else vote[vote["vote"]])
    wins = [sum(vote["winner"] == name for vote in votes) for name in ("base", "tuned")]
    result = exported["result"]
    assert [result["base"], result["tuned"], result["ties"]] == [*wins, 1]
    assert result["win_rate"] == pytest.approx(100 * wins[1] / 3)
    assert result["wilson_95"] == pytest.approx(wilson(wins[1], 3))
    report = make_whole_report()
    for side, text in zip(("left", "right"), shown, strict=True):
        rows = report.predictions_base if votes[0][side] == "base" else report.predictions_tuned
        [said] = [r for r in rows if (r.dialogue_id, r.turn) == (votes[0]["dialogue_id"], votes[0]["turn"])]
        assert text == said.prediction
    file.unlink()
    assert browser.problems == [] and browser.requests == []


def same_replies(report: Report) -> int:
    pairs = zip(report.predictions_base, report.predictions_tuned, strict=True)
    return sum(base.prediction == tuned.prediction for base, tuned in pairs)


def wait_for_downloads(browser: Browser, folder: Path) -> list[Path]:
    browser.wait_for(lambda: any(folder.rglob("falconer-votes.json")), "the exported votes")
    return list(folder.rglob("falconer-votes.json"))


def wilson(wins: int, count: int) -> list[float]:
    """The ends of Wilson's interval as the roots of (p - share)^2 = z^2 p (1 - p) / count, in per cent."""
    square = 1.959964**2
    a, b, c = count + square, -(2 * wins + square), wins * wins / count
    root = (b * b - 4 * a * c) ** 0.5
    return [100 * (-b - root) / (2 * a), 100 * (-b + root) / (2 * a)]


def test_sides_are_shuffled(browser: Browser, page: Path) -> None:
    """Were tuned always on one side, 40 votes for the left would all go to one system."""
    browser.open(page)
    browser.run("document.getElementById('ballot').focus()")
    browser.press(*["ArrowLeft"] * 40, "r")
    counts = browser.run(
        "/tuned (\\d+), base (\\d+)/.exec(document.getElementById('result').textContent).slice(1).map(Number)"
    )
    assert sum(counts) == 40 and min(counts) >= 5


def test_each_text_runs_in_its_own_direction(browser: Browser, tmp_path: Path, make_whole_report: MakeReport) -> None:
    """A Hebrew question ends on the left, an English one on the right, in samples, history, persona and all replies."""
    hebrew, english = "מה שלומך היום?", "how are you today?"
    whole = make_whole_report()
    rows = [
        replace(row, prediction=text, reference=text, persona=(text,), history=alternating((text, text)))
        for row, text in zip(whole.predictions_tuned, [hebrew, english] * 100, strict=True)
    ]
    page = replace(whole, predictions_base=rows, predictions_tuned=rows, language="he", samples=whole.samples[1:2])
    page = replace(
        page, samples=[replace(page.samples[0], persona=[hebrew], history=alternating([hebrew]), gold=english)]
    )
    (tmp_path / "directions.html").write_text(render_html(page), encoding="utf-8")
    browser.open(tmp_path / "directions.html")
    browser.run("document.querySelectorAll('#list article details').forEach((each) => { each.open = true })")
    ends = browser.run(
        """[...document.querySelectorAll('.bubble, .persona li')].filter((each) => each.offsetWidth).map((each) => {
          const nodes = document.createTreeWalker(each, NodeFilter.SHOW_TEXT), texts = [];
          while (nodes.nextNode()) {
            const node = nodes.currentNode;
            if (node.data.trim() && !node.parentElement.closest('.hidden')) texts.push(node);
          }
          const at = (node, i) => { const r = document.createRange(); r.setStart(node, i); r.setEnd(node, i + 1);
            return r.getBoundingClientRect().left; };
          const last = texts.at(-1), place = last.data.trimEnd().lastIndexOf('?');
          return [/\\p{Script=Hebrew}/u.test(each.textContent), place < 0 ? null : at(last, place) < at(texts[0], 0)];
        })"""
    )
    told = [(is_hebrew, is_left) for is_hebrew, is_left in ends if is_left is not None]
    assert {is_hebrew for is_hebrew, _ in told} == {True, False} and len(told) > 40
    assert all(is_hebrew == is_left for is_hebrew, is_left in told)


def test_a_plot_of_zeros_has_an_axis_of_whole_numbers(
    browser: Browser, tmp_path: Path, make_whole_report: MakeReport
) -> None:
    whole = make_whole_report()
    rows = [replace(row, prediction="") for row in whole.predictions_tuned]
    (tmp_path / "zeros.html").write_text(
        render_html(replace(whole, predictions_base=rows, predictions_tuned=rows)), encoding="utf-8"
    )
    browser.open(tmp_path / "zeros.html")
    texts = browser.run("[...document.querySelectorAll('#turns text')].map((each) => each.textContent)")
    assert "1" in texts and not [text for text in texts if "e" in text and text != "reply number"]


def test_votes_stop_at_the_last_pair(browser: Browser, tmp_path: Path, make_whole_report: MakeReport) -> None:
    whole = make_whole_report()
    few = replace(whole, predictions_base=whole.predictions_base[:3], predictions_tuned=whole.predictions_tuned[:3])
    (tmp_path / "few.html").write_text(render_html(few), encoding="utf-8")
    browser.open(tmp_path / "few.html")
    browser.run("document.getElementById('ballot').focus()")
    browser.press(*["ArrowDown"] * 5, "r")
    text = browser.run("document.getElementById('ballot').textContent")
    assert "3 votes of 3" in text and "You have voted on every pair" in text and "ties" in text
    assert not browser.run("document.querySelector('.choices').checkVisibility()")
    browser.press("Backspace", "ArrowRight")
    assert "1 decided vote" in browser.run("document.getElementById('result').textContent")
    # The keyboard stays in the box when the button under it goes away.
    browser.press("Backspace")
    browser.run("document.querySelector('.choice').focus()")
    browser.press("Enter", "u", "u", "u", "ArrowDown")
    assert "1 vote of 3" in browser.run("document.getElementById('ballot').textContent")
    assert browser.problems == []


def test_search_and_filters_find_what_is_there(browser: Browser, page: Path, make_whole_report: MakeReport) -> None:
    report = make_whole_report()
    browser.open(page)
    assert browser.run(FOUND) == "All 200 replies"
    assert browser.run(CARDS) < 100  # the rest is made when it is scrolled to

    def holds(row: int, *words: str) -> bool:
        base, tuned = report.predictions_base[row], report.predictions_tuned[row]
        text = "\n".join(
            (*tuned.persona, *(turn.text for turn in tuned.history), tuned.reference, base.prediction, tuned.prediction)
        ).lower()
        return all(word in text for word in words)

    search(browser, "Dog  love")
    expected = sum(holds(i, "dog", "love") for i in range(200))
    assert 0 < expected < 200
    browser.wait(f"{FOUND} === '{expected} of 200 replies'")
    assert browser.run("CSS.highlights.get('search').size") > 0
    search(browser, "no such words here")
    browser.wait(f"{FOUND} === '0 of 200 replies'")
    assert browser.run(CARDS) == 0
    browser.run("document.getElementById('query').value = ''")
    choose(browser, "filter", "equal")
    assert browser.run(FOUND) == f"{same_replies(report)} of 200 replies"
    choose(browser, "filter", "base:not_ended")
    not_ended = sum(row.ended is False for row in report.predictions_base)
    assert browser.run(FOUND) == f"{not_ended} of 200 replies"
    choose(browser, "filter", "all")
    choose(browser, "order", "best")
    best = "[...document.querySelectorAll('#list .reply.tuned .f1')].map((each) => Number(each.textContent.slice(3)))"
    shown = browser.run(best)
    assert shown == sorted(shown, reverse=True) and shown[0] == 100
    assert browser.problems == []


def test_a_rate_leads_to_its_replies_by_keyboard(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run("document.querySelector('[data-show=\"tuned:nothing_shared\"]').focus()")
    browser.press("Enter")
    assert browser.run(HAS_FOCUS) == "filter"
    number = int(browser.run(FOUND).split()[0])
    assert browser.run("document.querySelector('[data-failure=nothing_shared] td.tuned').textContent.trim()") == (
        f"{number / 2:.1f}"
    )
    texts = browser.run("[...document.querySelectorAll('#list .reply.tuned .f1')].map((each) => each.textContent)")
    assert texts and set(texts) == {"F1 0"}
    # What F1 does not count is not underlined either: these replies share articles at most.
    assert browser.run("document.querySelectorAll('#list .reply.tuned .same').length") == 0


def test_the_list_grows_as_it_is_scrolled(browser: Browser, page: Path) -> None:
    browser.open(page)
    before = browser.run(CARDS)
    browser.run("document.getElementById('more').scrollIntoView()")
    browser.wait(f"{CARDS} > {before}")
    search(browser, "dog love")
    browser.wait(f"{FOUND}.includes(' of ')")
    for _ in range(20):
        browser.run("document.getElementById('list').scrollIntoView({block: 'end'})")
    browser.wait(f"{CARDS} === parseInt({FOUND}) && !document.getElementById('more').checkVisibility()")


def test_words_shared_with_gold_are_marked(browser: Browser, tmp_path: Path, make_whole_report: MakeReport) -> None:
    whole = make_whole_report()
    row = replace(whole.predictions_tuned[9], reference="I am fine , and you ?", prediction="i'm fine and you , Sam ?")
    tuned = [*whole.predictions_tuned[:9], row, *whole.predictions_tuned[10:]]
    base = [*whole.predictions_base[:9], replace(row, prediction=""), *whole.predictions_base[10:]]
    path = tmp_path / "report.html"
    path.write_text(render_html(replace(whole, predictions_base=base, predictions_tuned=tuned)), encoding="utf-8")
    browser.open(path)
    card = "[...document.querySelectorAll('#list article')][9]"
    same = f"{card}.querySelector('.reply.%s').querySelectorAll('.same')"
    marked = [browser.run(f"[...{same % name}].map((each) => each.textContent)") for name in ("gold", "tuned", "base")]
    assert marked == [["I", "fine , and you"], ["i", "fine and you"], []]
    assert browser.run(f"{card}.querySelector('.reply.tuned .bubble').textContent") == row.prediction
    browser.run(f"{card}.querySelector('details').open = true")
    browser.wait(f"{card}.querySelectorAll('.difference').length === 2")
    pieces = f"(tag) => [...{card}.querySelectorAll('.difference')[1].querySelectorAll(tag)].map((e) => e.textContent)"
    assert browser.run(f"({pieces})('del')") == ["I am", ","]
    assert browser.run(f"({pieces})('ins')") == ["i'm", ", Sam"]


def test_tabs_by_arrow_keys(browser: Browser, page: Path) -> None:
    browser.open(page)
    visible = "[...document.querySelectorAll('[role=tabpanel]')].filter((each) => !each.hidden).map((each) => each.id)"
    assert browser.run(visible) == ["panel-random"]
    browser.run("document.getElementById('tab-random').focus()")
    for key, expected in (
        ("ArrowRight", "worst"),
        ("ArrowRight", "best"),
        ("ArrowRight", "random"),
        ("ArrowLeft", "best"),
    ):
        browser.press(key)
        assert browser.run(visible) == [f"panel-{expected}"]
        assert browser.run(HAS_FOCUS) == f"tab-{expected}"


def test_charts_are_read_by_arrow_keys(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.wait("document.querySelector('#curve svg') !== null")
    browser.run("document.querySelector('#curve .plot').focus()")
    browser.press("End")
    read = browser.run("document.querySelector('#curve .readout').textContent")
    assert "optimiser step 120" in read and "validation 2.9000" in read
    browser.press("ArrowLeft")
    assert "optimiser step 119" in browser.run("document.querySelector('#curve .readout').textContent")
    assert "optimiser step 119" in browser.run("document.querySelector('#curve [aria-live]').textContent")


def test_the_theme_is_chosen_and_kept(browser: Browser, page: Path) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    browser.open(page)
    browser.run("document.getElementById('theme').focus()")
    browser.press("Enter")
    assert browser.run(colour) == "rgb(22, 21, 19)"
    browser.open(page)
    assert browser.run(colour) == "rgb(22, 21, 19)"
    browser.open(page, dark=True)
    browser.run("document.getElementById('theme').focus()")
    browser.press("Enter")
    assert browser.run(colour) == "rgb(247, 245, 240)"


def test_without_scripts_it_still_reads(browser: Browser, page: Path) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page)
        text = browser.run("document.body.innerText")
        assert "The worst 10 replies of the tuned model" in text and "20 replies chosen at random" in text
        assert browser.run("document.querySelectorAll('noscript img').length") == 1
        assert "Which reply is better?" not in text
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)


def test_all_of_convai2_is_searched_while_one_types(
    browser: Browser, tmp_path: Path, make_whole_report: MakeReport
) -> None:
    whole = make_whole_report()
    tuned = [replace(row, dialogue_id=f"{row.dialogue_id}-{i}") for i in range(40) for row in whole.predictions_tuned]
    base = [replace(row, dialogue_id=f"{row.dialogue_id}-{i}") for i in range(40) for row in whole.predictions_base]
    path = tmp_path / "large.html"
    path.write_text(
        render_html(replace(whole, predictions_base=base[:7801], predictions_tuned=tuned[:7801])), encoding="utf-8"
    )
    browser.open(path)
    assert browser.run(FOUND) == "All 7,801 replies"
    assert browser.run(CARDS) < 100
    milliseconds = browser.run(
        "{ const start = performance.now(); const s = document.getElementById('order'); s.value = 'best';"
        " document.getElementById('query').value = 'dog'; s.dispatchEvent(new Event('change'));"
        " performance.now() - start }"
    )
    assert browser.run(FOUND).endswith("of 7,801 replies")
    assert milliseconds < 1000  # some 50 on a desktop; far above that only if every card were made
