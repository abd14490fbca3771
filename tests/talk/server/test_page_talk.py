"""A real conversation on the page: `falconer serve` in a process of its own, falcon-mini, and a browser."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from browser import Browser, open_browser
from command_line import ok
from falconer.data.sources import load_dialogues
from small_runs import Small, command

pytestmark = pytest.mark.browser
IS_IDLE = "document.getElementById('stop').hidden"
BUBBLES = "[...document.querySelectorAll('#turns .bubble')].map((each) => each.textContent)"
PERSONA = ["I have two dogs.", "I like the snow."]
TUNED, BASE = "mine", "falcon-mini"


@dataclass(frozen=True)
class Served:
    """A running server: its address, and its run's folder."""

    address: str
    run: Path

    def replies(self, model: str, messages: list[dict[str, str]], **decoding: Any) -> str:
        """Return the reply that the API gives, without the page."""
        body = json.dumps({"model": model, "messages": messages, **decoding}).encode()
        request = Request(f"{self.address}v1/chat/completions", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=60) as answer:
            return str(json.load(answer)["choices"][0]["message"]["content"])

    def num_running(self) -> float:
        with urlopen(f"{self.address}metrics", timeout=60) as answer:
            found = re.search(r"^falconer_\w*running\w* ([\d.]+)$", answer.read().decode(), re.MULTILINE)
        assert found
        return float(found[1])


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("talk")
    # Enough steps for its replies to differ from the base's.
    Small(folder).run(folder / TUNED, f"model.name={BASE}", "train.max_steps=4", "train.validate_every=4")
    # With HTTP in other processes, as on a GPU: every request of the page may reach another one.
    process = command(["serve", "--run", str(folder / TUNED), "--port", "0", "--http-processes", "2"])
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if "Ctrl-C finishes" in line:
                break
        found = re.search(r"page +(http://127.0.0.1:\d+/)", "".join(said))
        assert found, "".join(said)
        yield Served(found[1], folder / TUNED)
    finally:
        process.terminate()
        process.wait(60)
        process.stdout.close()
        process.stderr.close()


@pytest.fixture(scope="module")
def browser(chromium: str, tmp_path_factory: pytest.TempPathFactory, served: Served) -> Iterator[Browser]:
    """The page, talking greedily and briefly."""
    with open_browser(chromium, tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture
def page(browser: Browser, served: Served) -> Browser:
    browser.open(f"{served.address}page/icon.svg")
    browser.run("sessionStorage.clear(); localStorage.clear()")
    browser.open(served.address)
    browser.wait("!document.getElementById('send').disabled")
    write(browser, "persona", "\n".join(PERSONA))
    choose(browser, "temperature", "0")
    choose(browser, "max_tokens", "12")
    return browser


def write(browser: Browser, element: str, text: str) -> None:
    browser.run(f"document.getElementById('{element}').focus(); document.getElementById('{element}').select()")
    browser.type(text)


def choose(browser: Browser, name: str, value: str) -> None:
    write(browser, f"decoding-{name}", value)
    browser.press("Tab")


def send(browser: Browser, text: str) -> None:
    write(browser, "message", text)
    browser.press("Enter")
    browser.wait(IS_IDLE)


def messages(*said: str) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(said)]
    return [{"role": "system", "content": "\n".join(PERSONA)}, *turns]


def all_is_well(browser: Browser, served: Served) -> bool:
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith((served.address, f"blob:{served.address}"))] == []
    return True


def test_the_page_s_replies_are_those_of_the_interface(page: Browser, served: Served) -> None:
    send(page, "Hi! How are you?")
    send(page, "Do you like dogs?")
    said = page.run(BUBBLES)
    assert len(said) == 4
    for end in (1, 3):
        assert said[end] == served.replies(TUNED, messages(*said[:end]), temperature=0, max_tokens=12)
    assert all_is_well(page, served)


def test_a_reply_is_stopped_regenerated_and_its_message_edited(page: Browser, served: Served) -> None:
    choose(page, "temperature", "2")
    choose(page, "top_p", "1")
    choose(page, "max_tokens", "200")
    write(page, "message", "Tell me everything!")
    page.press("Enter")
    page.wait("document.querySelector('.reply .bubble')?.textContent.length > 5")
    page.press("Escape")
    page.wait(IS_IDLE)
    assert "stopped" in page.run("document.querySelector('.note').textContent")
    page.wait_for(lambda: served.num_running() == 0, "the reply's slot to be free")
    choose(page, "temperature", "0")
    choose(page, "max_tokens", "12")
    page.run("document.querySelector('[data-act=regenerate]').click()")
    page.wait(f"{IS_IDLE} && !document.querySelector('.note.bad')")
    expected = served.replies(TUNED, messages("Tell me everything!"), temperature=0, max_tokens=12)
    assert page.run(BUBBLES) == ["Tell me everything!", expected]
    page.run("document.querySelector('.partner [data-act=edit]').click(); document.activeElement.select()")
    page.type("Do you have cats?")
    page.press("Enter")
    page.wait(f"{IS_IDLE} && {BUBBLES}.length === 2 && {BUBBLES}[0] === 'Do you have cats?'")
    expected = served.replies(TUNED, messages("Do you have cats?"), temperature=0, max_tokens=12)
    assert page.run(BUBBLES)[1] == expected
    assert all_is_well(page, served)


def test_base_and_tuned_answer_and_a_vote_is_counted_by_compare(page: Browser, served: Served) -> None:
    page.run("document.querySelector('[value=side]').click()")
    send(page, "What do you like?")
    said = page.run(BUBBLES)
    one, other = (served.replies(model, messages(said[0]), temperature=0, max_tokens=12) for model in (TUNED, BASE))
    assert said[1:] == [one, other] and one != other
    page.run("document.querySelector('[value=blind]').click()")
    send(page, "And dogs?")
    page.run("document.querySelector('.ballot').focus()")
    page.press("ArrowLeft")
    page.wait("document.querySelectorAll('.ballot').length === 0")
    (row,) = map(json.loads, (served.run / "votes.jsonl").read_text(encoding="utf-8").splitlines())
    assert {row["left"], row["right"]} == {TUNED, BASE} and row["winner"] == row["left"]
    assert row["persona"] == PERSONA
    assert [turn["text"] for turn in row["history"]] == [said[0], said[1], "And dogs?"]
    expected = served.replies(row["left"], messages(said[0], said[1], "And dogs?"), temperature=0, max_tokens=12)
    assert row["replies"]["left"] == expected
    counted = json.loads(ok("compare", "--json", served.run / "votes.jsonl").out)["votes"]
    assert sorted(counted[0]["wins"]) == [0, 1]
    (dialogue,) = load_dialogues(str(served.run / "votes.jsonl")).dialogues
    assert dialogue.turns[-1].text == expected.strip()
    assert all_is_well(page, served)


def test_a_long_conversation_names_the_turns_that_do_not_fit(page: Browser, served: Served, tmp_path: Path) -> None:
    turns = [
        {"speaker": ("partner", "self")[i % 2], "text": f"This is sentence number {i}, and I like it."}
        for i in range(80)
    ]
    path = tmp_path / "long.jsonl"
    path.write_text(json.dumps({"id": "1", "persona": PERSONA, "turns": turns}) + "\n", encoding="utf-8")
    document = page.call("DOM.getDocument")["root"]["nodeId"]
    node = page.call("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
    page.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])
    page.wait(f"{BUBBLES}.length === 80")
    send(page, "Which one was the first?")
    note = page.run("document.querySelector('.note').textContent")
    assert re.search(r"The oldest \d+ turns did not fit into the model’s context and were left out", note)
    assert all_is_well(page, served)


def test_a_message_that_is_too_long_is_explained(page: Browser, served: Served) -> None:
    send(page, "word " * 3000)
    note = page.run("document.querySelector('.note').textContent")
    assert re.search(r"[\d,]+ tokens too long", note), note
    send(page, "Hi!")
    assert page.run(f"{BUBBLES}.length") == 2
