"""The chat page in a real browser, by what people do with it; the server's replies are scripted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browser import SHIFT, Browser, open_browser
from falconer.data.sources import load_dialogues
from falconer.talk.server.errors import ApiError
from scripted_server import DECODING, PERSONAS, Script, Scripted, scripted_server

pytestmark = pytest.mark.browser
IS_IDLE = "document.getElementById('stop').hidden"
BUBBLES = "[...document.querySelectorAll('#turns .bubble')].map((each) => each.textContent)"
NOTICE = "document.getElementById('notice').textContent"
SPOKEN = "[...document.querySelectorAll('#spoken p')].map((each) => each.textContent)"
FITS = """[document.documentElement, document.getElementById('conversation')].every((each) =>
  each.scrollWidth <= each.clientWidth)"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scripted]:
    with scripted_server(tmp_path_factory.mktemp("server")) as found:
        yield found


@pytest.fixture(scope="module")
def chromium_page(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(chromium, tmp_path_factory.mktemp("chromium")) as found:
        yield found


@pytest.fixture
def server(running: Scripted) -> Scripted:
    """The server with the script that it has at first, and without votes."""
    for name in Script.__slots__:
        setattr(running.script, name, getattr(Script(), name))
    running.votes.unlink(missing_ok=True)
    return running


@pytest.fixture
def browser(chromium_page: Browser, server: Scripted) -> Browser:
    """A browser that shows the page and remembers nothing."""
    chromium_page.open(f"{server.address}page/icon.svg")  # of the same origin, without a script
    chromium_page.run("sessionStorage.clear(); localStorage.clear()")
    show(chromium_page, server)
    return chromium_page


def show(browser: Browser, server: Scripted, **window: Any) -> None:
    browser.open(server.address, **window)
    browser.wait("!document.getElementById('send').disabled")


def send(browser: Browser, text: str, *, wait: bool = True) -> None:
    browser.run("document.getElementById('message').focus()")
    browser.type(text)
    browser.press("Enter")
    if wait:
        browser.wait(IS_IDLE)


def click(browser: Browser, selector: str) -> None:
    browser.run(f"document.querySelector({json.dumps(selector)}).click()")


def click_text(browser: Browser, text: str, within: str = "body") -> None:
    browser.run(
        f"[...document.querySelectorAll('{within} button')]"
        f".find((each) => each.textContent.startsWith('{text}')).click()"
    )


def write(browser: Browser, element: str, text: str) -> None:
    browser.run(f"document.getElementById('{element}').focus(); document.getElementById('{element}').select()")
    browser.type(text)


def all_is_well(browser: Browser, server: Scripted) -> bool:
    """No message on the console, none of the content policy either, and no request to anybody else."""
    assert browser.problems == []
    assert [url for url in browser.requests if not url.startswith((server.address, f"blob:{server.address}"))] == []
    return True


def test_a_conversation_by_keyboard(browser: Browser, server: Scripted) -> None:
    server.script.says["tuned"] = ["I", " have", " two", " dogs", ".", "\n", "You?"]
    server.script.pause_s = 0.08
    write(browser, "persona", "I have two dogs.\n\n  I teach. ")
    send(browser, "Hi!", wait=False)
    browser.wait("document.querySelector('.reply .bubble')?.textContent.startsWith('I have')")
    assert browser.run("document.getElementById('conversation').getAttribute('aria-busy')") == "true"
    assert browser.run(SPOKEN) == []  # not token by token
    browser.wait(IS_IDLE)
    assert browser.run(BUBBLES) == ["Hi!", "I have two dogs.\nYou?"]
    assert browser.run(SPOKEN) == ["tuned: I have two dogs.\nYou?"]
    assert browser.run("document.getElementById('conversation').getAttribute('aria-busy')") == "false"
    assert "7 tokens" in browser.run("document.querySelector('.meta').textContent")
    server.script.pause_s = 0
    send(browser, "No pets.")
    first, second = server.script.asked
    persona = {"role": "system", "content": "I have two dogs.\nI teach."}
    assert first["messages"] == [persona, {"role": "user", "content": "Hi!"}]
    assert second["messages"] == [
        persona, {"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "I have two dogs.\nYou?"},
        {"role": "user", "content": "No pets."},
    ]  # fmt: skip
    assert browser.run("document.activeElement.id") == "message"
    assert all_is_well(browser, server)


def test_the_server_s_defaults_are_shown_and_sent(browser: Browser, server: Scripted) -> None:
    send(browser, "Hi!")
    (asked,) = server.script.asked
    for field in DECODING:
        shown = browser.run(f"document.getElementById('decoding-{field.name}').value")
        assert shown == ("" if field.default is None else f"{field.default:g}"), field.name
        if field.default is not None:
            assert asked[field.name] == field.default
    assert isinstance(asked["seed"], int)  # a new one each time, which the page shows
    assert f"seed {asked['seed']}" in browser.run("document.querySelector('.meta').textContent")
    assert asked["stream"] is True and asked["model"] == "tuned"
    click(browser, "[data-act=regenerate]")
    browser.wait(f"{IS_IDLE} && document.querySelectorAll('.meta').length === 1")
    assert server.script.asked[1]["seed"] != asked["seed"]


def test_decoding_is_chosen_within_the_server_s_bounds(browser: Browser, server: Scripted) -> None:
    for name, written, kept in (
        ("temperature", "9", 2), ("top_p", "0.5", 0.5), ("top_k", "40.7", 40), ("repetition_penalty", "-3", 0.01),
        ("min_p", "2", 1), ("no_repeat_ngram_size", "3", 3), ("max_tokens", "0", 1), ("seed", "7", 7),
    ):  # fmt: skip
        write(browser, f"decoding-{name}", written)
        browser.press("Tab")
        assert float(browser.run(f"document.getElementById('decoding-{name}').value")) == kept, name
    browser.run(
        "{ const slider = document.querySelector('.knob input[type=range]'); slider.value = '1.25';"
        " slider.dispatchEvent(new Event('input')); }"
    )
    send(browser, "Hi!")
    (asked,) = server.script.asked
    chosen = {field.name: asked[field.name] for field in DECODING}
    assert chosen == {
        "temperature": 1.25, "top_p": 0.5, "top_k": 40, "repetition_penalty": 0.01, "max_tokens": 1, "seed": 7,
        "min_p": 1, "no_repeat_ngram_size": 3,
    }  # fmt: skip
    write(browser, "decoding-temperature", "0")
    browser.press("Tab")
    assert browser.run("document.getElementById('decoding-top_p').disabled")  # greedy: it is of no use
    click(browser, "#reset")
    assert browser.run("document.getElementById('decoding-temperature').value") == "0.7"
    assert browser.run("document.getElementById('decoding-seed').value") == ""
    assert all_is_well(browser, server)


def test_escape_stops_a_reply_and_regenerate_writes_it_anew(browser: Browser, server: Scripted) -> None:
    server.script.says["tuned"] = [f"{i} " for i in range(200)]
    server.script.pause_s = 0.02
    send(browser, "Count!", wait=False)
    browser.wait("document.querySelector('.reply .bubble')?.textContent.startsWith('0 1 2 ')")
    browser.press("Escape")
    browser.wait(IS_IDLE)
    assert "stopped" in browser.run("document.querySelector('.note').textContent")
    assert browser.run(BUBBLES)[1].startswith("0 1 2 ") and not browser.run(BUBBLES)[1].endswith("199 ")
    browser.wait_for(lambda: server.script.num_closed == 1, "the server to see that the page has gone")
    server.script.says["tuned"] = ["Done."]
    click(browser, "[data-act=regenerate]")
    browser.wait(f"{IS_IDLE} && {BUBBLES}[1] === 'Done.'")
    assert server.script.asked[1]["messages"] == [{"role": "user", "content": "Count!"}]
    assert all_is_well(browser, server)


def test_a_message_may_have_lines_and_words_in_composition(browser: Browser, server: Scripted) -> None:
    browser.run("document.getElementById('message').focus()")
    browser.type("one")
    browser.press("Enter", modifiers=SHIFT)
    browser.type("two")
    # As an input method for Chinese or Japanese ends a word.
    browser.run(
        "document.getElementById('message').dispatchEvent("
        "new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true }))"
    )
    assert server.script.asked == [] and browser.run(BUBBLES) == []
    browser.press("Enter")
    browser.wait(f"{IS_IDLE} && {BUBBLES}.length === 2")
    assert server.script.asked[0]["messages"] == [{"role": "user", "content": "one\ntwo"}]
    browser.press("Enter")  # an empty message is none
    assert len(server.script.asked) == 1


def test_an_edited_message_drops_what_came_later_and_undo_brings_it_back(browser: Browser, server: Scripted) -> None:
    send(browser, "first")
    send(browser, "second")
    before = browser.run(BUBBLES)
    click(browser, "[data-act=edit]")
    assert browser.run("document.activeElement.value") == "first"
    browser.press("Escape")
    assert browser.run(BUBBLES) == before
    assert browser.run("document.activeElement.dataset.act") == "edit"
    click(browser, "[data-act=edit]")
    browser.run("document.activeElement.select()")
    browser.type("changed")
    server.script.says["tuned"] = ["New."]
    browser.press("Enter")
    browser.wait(f"{IS_IDLE} && {BUBBLES}.length === 2")
    assert browser.run(BUBBLES) == ["changed", "New."]
    assert server.script.asked[-1]["messages"] == [{"role": "user", "content": "changed"}]
    assert "3 later turns dropped" in browser.run(NOTICE)
    click(browser, "#undo-now")
    assert browser.run(BUBBLES) == before
    assert all_is_well(browser, server)


def test_an_edited_reply_is_what_the_model_said(browser: Browser, server: Scripted) -> None:
    send(browser, "first")
    click(browser, ".self [data-act=edit]")
    browser.run("document.activeElement.select()")
    browser.type("I said this.")
    browser.press("Enter")
    assert browser.run(BUBBLES) == ["first", "I said this."] and len(server.script.asked) == 1
    send(browser, "second")
    assert server.script.asked[-1]["messages"][1] == {"role": "assistant", "content": "I said this."}


def test_two_models_side_by_side_answer_the_same_conversation(browser: Browser, server: Scripted) -> None:
    click(browser, "[value=side]")
    send(browser, "Hi!")
    assert browser.run(BUBBLES) == ["Hi!", "Hello there!", "Hi."]
    one, other = sorted(server.script.asked, key=lambda body: body["model"])
    assert (one.pop("model"), other.pop("model")) == ("base", "tuned") and one == other
    click(browser, "[data-act=keep-1]")
    assert browser.run("document.activeElement.dataset.act") == "keep-1"
    assert browser.run("document.activeElement.getAttribute('aria-pressed')") == "true"
    send(browser, "And you?")
    assert {body["messages"][1]["content"] for body in server.script.asked[2:]} == {"Hi."}
    assert all_is_well(browser, server)


@pytest.mark.parametrize(("is_turned", "key"), [(False, "ArrowLeft"), (True, "ArrowRight"), (True, "ArrowDown")])
def test_a_blind_vote_is_saved_before_the_names_are_shown(
    browser: Browser, server: Scripted, is_turned: bool, key: str
) -> None:
    browser.run(f"crypto.getRandomValues = (array) => array.fill({0 if is_turned else 255})")
    write(browser, "persona", "I ski.")
    click(browser, "[value=blind]")
    send(browser, "Hi!")
    names = ["base", "tuned"] if is_turned else ["tuned", "base"]
    texts = ["".join(server.script.says[name]) for name in names]
    assert browser.run(BUBBLES)[1:] == texts
    turns = browser.run("document.getElementById('turns').outerHTML")
    assert "tuned" not in turns and "base" not in turns and not server.votes.exists()
    assert not any(name in line for name in names for line in browser.run(SPOKEN))
    browser.run("document.querySelector('.ballot').focus()")
    browser.press(key)
    browser.wait("document.querySelectorAll('.ballot').length === 0")
    shown = browser.run("[...document.querySelectorAll('.who')].map((each) => each.textContent)")
    assert shown == [f"A: {names[0]}", f"B: {names[1]}"]
    (row,) = map(json.loads, server.votes.read_text(encoding="utf-8").splitlines())
    vote = {"ArrowLeft": "left", "ArrowRight": "right", "ArrowDown": "tie"}[key]
    assert (row["left"], row["right"], row["vote"]) == (*names, vote)
    assert row["winner"] == (None if vote == "tie" else row[vote])
    assert row["replies"] == {"left": texts[0], "right": texts[1]}
    assert row["persona"] == ["I ski."] and row["history"] == [{"speaker": "partner", "text": "Hi!"}]
    assert row["decoding"]["left"] == row["decoding"]["right"]
    assert row["decoding"]["left"]["temperature"] == 0.7
    # It goes on by the better one.
    send(browser, "Go on.")
    said = {body["messages"][2]["content"] for body in server.script.asked[2:]}
    assert said == {texts[vote == "right"]}
    assert all_is_well(browser, server)


def test_a_vote_that_is_not_saved_shows_no_names(browser: Browser, server: Scripted) -> None:
    server.votes.mkdir()
    try:
        click(browser, "[value=blind]")
        send(browser, "Hi!")
        click_text(browser, "A is better")
        browser.wait(f"{NOTICE}.includes('The vote was not saved.')")
        assert browser.run("document.querySelector('.who').textContent") == "A"
    finally:
        server.votes.rmdir()
    click_text(browser, "Try again", "#notice")
    browser.wait("document.querySelector('.who').textContent !== 'A'")
    assert len(server.votes.read_text(encoding="utf-8").splitlines()) == 1


def test_equal_or_broken_replies_can_t_be_voted_on(browser: Browser, server: Scripted) -> None:
    server.script.says = {"tuned": ["The same"], "base": ["The", " same"]}
    click(browser, "[value=blind]")
    send(browser, "Hi!")
    assert "Both replies are the same" in browser.run("document.querySelector('.ballot').textContent")
    click_text(browser, "Show the names")
    assert "tuned" in browser.run("document.getElementById('turns').textContent")
    server.script.broken = "cut"
    send(browser, "Again!")
    assert "two whole replies" in browser.run("document.querySelector('.ballot').textContent")
    assert not server.votes.exists()


def choose_file(browser: Browser, path: Path) -> None:
    document = browser.call("DOM.getDocument")["root"]["nodeId"]
    node = browser.call("DOM.querySelector", nodeId=document, selector="#file")["nodeId"]
    browser.call("DOM.setFileInputFiles", nodeId=node, files=[str(path)])


def test_an_exported_conversation_is_data_and_comes_back(
    browser: Browser, server: Scripted, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert browser.run("document.getElementById('export').disabled")
    write(browser, "persona", "I have two dogs.\nI teach.")
    send(browser, "Hi \U0001f600 <b>שלום</b>")
    send(browser, "再见")
    click(browser, "#export")
    folder = tmp_path_factory.getbasetemp()
    browser.wait_for(lambda: any(folder.rglob("falconer-chat-*.jsonl")), "the exported file")
    (path,) = folder.rglob("falconer-chat-*.jsonl")
    (dialogue,) = load_dialogues(str(path)).dialogues
    assert dialogue.persona == ("I have two dogs.", "I teach.")
    assert [(turn.speaker, turn.text) for turn in dialogue.turns] == [
        ("partner", "Hi \U0001f600 <b>שלום</b>"), ("self", "Hello there!"), ("partner", "再见"),
        ("self", "Hello there!"),
    ]  # fmt: skip
    before = browser.run(BUBBLES)
    click(browser, "#new")
    write(browser, "persona", "Somebody else.")
    choose_file(browser, path)
    browser.wait(f"{BUBBLES}.length === 4")
    assert browser.run(BUBBLES) == before
    assert browser.run("document.getElementById('persona').value") == "I have two dogs.\nI teach."
    send(browser, "Still there?")
    assert [m["content"] for m in server.script.asked[-1]["messages"]][1:] == [*before, "Still there?"]
    path.unlink()
    assert all_is_well(browser, server)


BAD_FILES = (
    (b"", "is empty"),
    (b"\x1f\x8b\x08", "is compressed"),
    (b"\xff\xfe\x00", "not text in UTF-8"),
    (b"hello\n", "line 1: not JSON"),
    (b'{"messages": []}', "line 1: the field 'turns' is missing"),
    (b'{"persona": "I ski.", "turns": [{"speaker": "partner", "text": "hi"}]}', "'persona' is no list"),
    (b'{"persona": [], "turns": []}', "'turns' is no list of turns"),
    (b'{"persona": [], "turns": [{"speaker": "bot", "text": "hi"}]}', "'turns[0]' has the speaker \"bot\""),
    (b'\n{"persona": [], "turns": [{"speaker": "self", "text": 3}]}', "line 2: 'turns[0]' has no text"),
)


def test_what_is_wrong_with_a_file_is_said(browser: Browser, server: Scripted, tmp_path: Path) -> None:
    for number, (content, problem) in enumerate(BAD_FILES):
        path = tmp_path / f"bad-{number}.jsonl"
        path.write_bytes(content)
        choose_file(browser, path)
        browser.wait(f"!document.getElementById('notice').hidden && {NOTICE}.includes('{path.name}')")
        assert problem in browser.run(NOTICE)
        assert browser.run(BUBBLES) == []
    assert all_is_well(browser, server)


def test_one_of_several_dialogues_is_chosen(browser: Browser, server: Scripted, tmp_path: Path) -> None:
    rows = [{"persona": [], "turns": [{"speaker": "partner", "text": text}]} for text in ("one", "two")]
    (tmp_path / "two.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    choose_file(browser, tmp_path / "two.jsonl")
    browser.wait("document.getElementById('choice-dialog').open")
    browser.press("ArrowDown", "Tab", "Enter")
    browser.wait(f"{BUBBLES}.length === 1")
    assert browser.run(BUBBLES) == ["two"]
    click(browser, "[data-act=answer]")  # the last message waits for a reply
    browser.wait(f"{IS_IDLE} && {BUBBLES}.length === 2")
    assert all_is_well(browser, server)


def test_hostile_text_is_inert(browser: Browser, server: Scripted) -> None:
    attack = "<img src=x onerror=alert(1)><script>alert(2)</script>\x1b[31mred\x07\u202eevil\u2066 javascript:alert(3)"
    server.script.says["tuned"] = [attack, "\x9b31m", "x" * 100_000]
    num_images = browser.run("document.images.length")
    write(browser, "persona", attack)
    send(browser, attack)
    said = browser.run(BUBBLES)[1]
    assert said.startswith("<img src=x onerror=alert(1)><script>alert(2)</script>␛[31mred␇U+202Eevil")
    assert "U+009B31m" in said and said.count("x") > 100_000
    assert browser.run("document.images.length") == num_images
    assert browser.run("document.querySelectorAll('#turns script, #welcome script').length") == 0
    assert browser.run("document.querySelectorAll('.self .control').length") == 5
    assert "\x1b" not in "".join(browser.run(SPOKEN))
    # What was written is sent as it was written, not as it is shown.
    assert server.script.asked[0]["messages"][1]["content"] == attack
    assert all_is_well(browser, server)
    assert browser.run("(() => { try { document.body.innerHTML = 'x'; } catch (error) { return error.name; } })()") == (
        "TypeError"
    )


def test_a_long_reply_is_shown_as_it_comes(browser: Browser, server: Scripted) -> None:
    """A piece costs as much as it is long: 100 KB in small pieces take a moment, not minutes."""
    server.script.says["tuned"] = ["four"] * 25_000
    milliseconds = browser.run(
        """(async () => {
          const { append } = await import('./page/text.js');
          const bubble = document.createElement('div'), start = performance.now();
          for (let i = 0; i < 25_000; i++) append(bubble, 'four');
          const isWhole = bubble.childNodes.length === 1 && bubble.textContent.length === 100_000;
          return isWhole ? performance.now() - start : -1;
        })()"""
    )
    assert 0 <= milliseconds < 1000
    send(browser, "Much!")
    assert browser.run(f"{BUBBLES}[1].length") == 100_000
    area = "document.getElementById('conversation')"
    assert browser.run(f"{area}.scrollHeight - {area}.scrollTop - {area}.clientHeight") < 60  # the end is in sight
    # Who reads further up stays there.
    server.script.says["tuned"], server.script.pause_s = ["four"] * 40, 0.01
    send(browser, "More!", wait=False)
    browser.wait(f"{BUBBLES}.length === 4 && {BUBBLES}[3].startsWith('four')")
    browser.run(f"{area}.scrollTop -= 500")
    place = browser.run(f"{area}.scrollTop")
    browser.wait(IS_IDLE)
    assert browser.run(f"{area}.scrollTop") == place


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_needs_no_sideways_scrolling(browser: Browser, server: Scripted, dark: bool) -> None:
    server.script.says = {
        "tuned": ["Donaudampfschifffahrt" * 9, "语言模型" * 30],
        "base": ["https://x.org/" + "a" * 300],
    }
    show(browser, server, width=320, height=640, dark=dark)
    assert browser.run(FITS)
    assert browser.run("getComputedStyle(document.body).backgroundColor") == (
        "rgb(22, 21, 19)" if dark else "rgb(247, 245, 240)"
    )
    for mode in ("one", "side", "blind"):
        click(browser, f"[value={mode}]")
        send(browser, "Rindfleischetikettierungsüberwachung" * 3)
        assert browser.run(FITS), mode
    click(browser, "#open-settings")
    assert browser.run("document.activeElement.id") == "close-settings"
    assert browser.run("document.getElementById('main').inert")
    assert browser.run(
        "document.getElementById('settings').scrollWidth <= document.getElementById('settings').clientWidth"
    )
    browser.press("Escape")
    assert browser.run("document.activeElement.id") == "open-settings"
    assert browser.run("document.getElementById('settings').inert && !document.getElementById('main').inert")
    assert all_is_well(browser, server)


def test_everything_is_reached_by_keyboard_and_seen_when_it_is(browser: Browser, server: Scripted) -> None:
    click(browser, "[value=blind]")
    send(browser, "Hi!")
    browser.run("document.activeElement.blur()")
    wanted = set(browser.run(
        """[...document.querySelectorAll('button, input, select, textarea, [tabindex="0"], a')].filter((each) =>
          !each.disabled && each.checkVisibility({ visibilityProperty: true })
          && !(each.type === 'radio' && !each.checked)).map((each, i) => each.dataset.number = String(i))"""
    ))  # fmt: skip
    reached = set()
    for _ in range(len(wanted) + 5):
        browser.press("Tab")
        number, is_seen = browser.run(
            """(() => { const each = document.activeElement, shown = each.type === 'radio' ? each.nextSibling : each;
              const { outlineStyle, outlineWidth } = getComputedStyle(shown);
              return [each.dataset.number ?? null, outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2];
            })()"""
        )
        if number is not None:
            assert is_seen, browser.run("document.activeElement.outerHTML")
            reached.add(number)
    assert wanted - reached == set(), browser.run(
        f'{json.dumps(sorted(wanted - reached))}.map((n) => document.querySelector(`[data-number="${{n}}"]`).outerHTML)'
    )


def test_every_control_has_a_name_for_screen_readers(browser: Browser, server: Scripted) -> None:
    click(browser, "[value=side]")
    send(browser, "Hi!")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "textbox", "combobox", "slider", "spinbutton", "radio", "region", "article", "log", "link"}
    named = [node for node in nodes if not node["ignored"] and node.get("role", {}).get("value") in roles]
    nameless = [node["role"]["value"] for node in named if not node.get("name", {}).get("value", "").strip()]
    assert len(named) > 25 and nameless == []
    assert browser.run("document.getElementById('spoken').getAttribute('aria-live')") == "polite"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ApiError(400, "The conversation is 12 tokens too long."), "12 tokens too long"),
        (ApiError(429, "full", headers={"Retry-After": "7"}), "The server is busy. Try again in 7 seconds."),
        (ApiError(503, "stopping"), "starting or shutting down"),
        (ApiError(503, "The GPU is full.", code="engine_failed"), "The GPU is full."),
        (ApiError(500, "The engine ran out of memory."), "The engine ran out of memory. Its log may say more."),
    ],
    ids=["400", "429", "503", "503 told", "500"],
)
def test_an_error_says_what_to_do_and_the_next_message_takes_its_place(
    browser: Browser, server: Scripted, error: ApiError, words: str
) -> None:
    server.script.error = error
    send(browser, "Hi!")
    assert words in browser.run("document.querySelector('.note').textContent")
    assert any(words in line for line in browser.run(SPOKEN))
    server.script.error = None
    send(browser, "Hello?")
    assert browser.run(BUBBLES) == ["Hello?", "Hello there!"]
    assert server.script.asked[-1]["messages"] == [{"role": "user", "content": "Hello?"}]


@pytest.mark.parametrize(("broken", "words"), [("cut", "broke off before its end"), ("error", "ran out of memory")])
def test_a_broken_stream_keeps_what_came_and_says_so(
    browser: Browser, server: Scripted, broken: str, words: str
) -> None:
    server.script.says["tuned"], server.script.broken = ["I ", "was ", "saying "], broken
    send(browser, "Hi!")
    assert browser.run(BUBBLES)[1] == "I "
    assert words in browser.run("document.querySelector('.note').textContent")
    server.script.broken = ""
    click(browser, "[data-act=regenerate]")
    browser.wait(f"{IS_IDLE} && {BUBBLES}[1] === 'I was saying '")
    assert all_is_well(browser, server)


def test_a_lost_connection_is_said_and_nothing_is_lost(browser: Browser, server: Scripted) -> None:
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    send(browser, "Hi!")
    browser.call("Network.emulateNetworkConditions", offline=True, **offline)
    try:
        send(browser, "Are you there?")
        assert "can’t be reached" in browser.run("document.querySelector('.note').textContent")
    finally:
        browser.call("Network.emulateNetworkConditions", offline=False, **offline)
    browser.run("[...document.querySelectorAll('[data-act=regenerate]')].at(-1).click()")
    browser.wait(f"{IS_IDLE} && {BUBBLES}.length === 4 && {BUBBLES}[3] === 'Hello there!'")


def test_a_key_is_asked_for_only_if_the_server_wants_one(browser: Browser, server: Scripted) -> None:
    assert not browser.run("document.getElementById('key-dialog').open")
    server.script.key = "s3cret"
    browser.open(server.address)
    browser.wait("document.getElementById('key-dialog').open")
    browser.press("Escape")
    browser.wait(f"{NOTICE}.includes('needs an API key')")
    click_text(browser, "Try again", "#notice")
    browser.wait("document.getElementById('key-dialog').open")
    browser.type("wrong")
    browser.press("Enter")
    browser.wait("document.getElementById('key-problem').textContent.includes('does not accept')")
    browser.type("s3cret")
    browser.press("Enter")
    browser.wait("!document.getElementById('send').disabled && !document.getElementById('key-dialog').open")
    send(browser, "Hi!")
    assert browser.run(BUBBLES) == ["Hi!", "Hello there!"]
    show(browser, server)  # kept in this tab over a reload
    assert browser.run("JSON.stringify(localStorage)") == "{}"
    assert browser.run("document.getElementById('key').value") == ""


def test_the_conversation_outlives_a_reload(browser: Browser, server: Scripted) -> None:
    write(browser, "persona", "I have two dogs.")
    click(browser, "[value=side]")
    send(browser, "Hi!")
    write(browser, "decoding-max_tokens", "33")
    browser.press("Tab")
    browser.run("document.getElementById('message').focus()")
    browser.type("half a mess")
    before = browser.run(BUBBLES)
    show(browser, server)
    assert browser.run(BUBBLES) == before
    assert browser.run("document.getElementById('persona').value") == "I have two dogs."
    assert browser.run("document.getElementById('message').value") == "half a mess"
    assert browser.run("document.querySelector('[name=mode]:checked').value") == "side"
    assert browser.run("document.getElementById('decoding-max_tokens').value") == "33"
    assert all_is_well(browser, server)


def test_a_reload_while_a_reply_is_written_keeps_what_came(browser: Browser, server: Scripted) -> None:
    server.script.says["tuned"], server.script.pause_s = ["word "] * 100, 0.05
    send(browser, "Hi!", wait=False)
    browser.wait("document.querySelector('.reply .bubble')?.textContent.startsWith('word word')")
    show(browser, server)
    assert browser.run(BUBBLES)[1].startswith("word word")
    assert "reload" in browser.run("document.querySelector('.note').textContent")


def test_turns_that_did_not_fit_and_replies_that_were_cut_are_named(browser: Browser, server: Scripted) -> None:
    server.script.num_dropped, server.script.finish = 3, "length"
    send(browser, "Hi!")
    note = browser.run("document.querySelector('.note').textContent")
    assert "The oldest 3 turns did not fit" in note and "Cut off at the most tokens" in note


def test_each_text_runs_in_its_own_direction(browser: Browser, server: Scripted) -> None:
    server.script.says["tuned"] = ["שלום לך!"]
    send(browser, "Hello!")
    directions = browser.run(
        "[...document.querySelectorAll('.bubble')].map((each) => getComputedStyle(each).direction)"
    )
    assert directions == ["ltr", "rtl"]


def test_a_persona_of_the_sample_and_the_die(browser: Browser, server: Scripted) -> None:
    browser.run(
        "{ const list = document.getElementById('examples'); list.value = '1';"
        " list.dispatchEvent(new Event('change')); }"
    )
    assert browser.run("document.getElementById('persona').value") == "\n".join(PERSONAS[1])
    seen = {browser.run("document.getElementById('persona').value")}
    for _ in range(6):
        before = browser.run("document.getElementById('persona').value")
        click(browser, "#dice")
        seen.add(browser.run("document.getElementById('persona').value"))
        assert browser.run("document.getElementById('persona').value") != before
    assert seen <= {"\n".join(lines) for lines in PERSONAS}
    assert all_is_well(browser, server)


def test_light_and_dark_are_chosen_and_kept(browser: Browser, server: Scripted) -> None:
    colour = "getComputedStyle(document.body).backgroundColor"
    assert browser.run(colour) == "rgb(247, 245, 240)"
    click(browser, "#theme")
    assert browser.run(colour) == "rgb(22, 21, 19)"
    show(browser, server)
    assert browser.run(colour) == "rgb(22, 21, 19)"
