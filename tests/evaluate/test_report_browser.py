"""The report in a real browser: no error, no request, nothing wider than a phone."""

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from falconer.evaluate.report import Report, render_html

pytestmark = pytest.mark.browser


def load(chromium: str, page: Path, dark: bool = False) -> tuple[str, list[str], list[str]]:
    """Load a page in headless Chromium; return its final DOM, its console messages, and the URLs that it asked for."""
    net_log = page.with_suffix(".net.json")
    command = [
        chromium,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--no-first-run",
        "--host-resolver-rules=MAP * ~NOTFOUND",  # Chromium's own calls home end here too
        f"--user-data-dir={page.with_suffix('.profile')}",
        "--enable-logging=stderr",
        f"--log-net-log={net_log}",
        "--window-size=1400,900",
        *(["--blink-settings=preferredColorScheme=0"] if dark else []),
        "--dump-dom",
        page.as_uri(),
    ]
    home = {**os.environ, "HOME": str(page.parent)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=home)
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    asked = [event.get("params", {}) for event in json.loads(net_log.read_text(encoding="utf-8"))["events"]]
    # Chromium's own requests have "not an origin" for their initiator, a page's have its origin.
    urls = [
        event["url"] for event in asked if "url" in event and event.get("initiator", "not an origin") != "not an origin"
    ]
    return done.stdout, console, urls


@pytest.mark.parametrize("dark", [False, True])
def test_no_console_message_and_no_request(
    chromium: str, tmp_path: Path, make_report: Callable[..., Report], dark: bool
) -> None:
    page = tmp_path / "report.html"
    page.write_text(render_html(make_report()), encoding="utf-8")
    dom, console, urls = load(chromium, page, dark=dark)
    assert 'id="samples"' in dom
    assert console == []
    assert urls == []


def test_the_check_itself_sees_errors_and_requests(chromium: str, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><img src="http://example.invalid/x.png"><script>missing()</script>', encoding="utf-8"
    )
    _, console, urls = load(chromium, page)
    assert any("missing is not defined" in line for line in console)
    assert urls == ["http://example.invalid/x.png"]


@pytest.mark.parametrize("width", [360, 1200])
def test_only_the_tables_scroll_sideways(
    chromium: str, tmp_path: Path, make_report: Callable[..., Report], width: int
) -> None:
    """A copy without the content policy measures itself in a frame of the given width and writes it into its title."""
    policy = re.compile(r"<meta http-equiv=.*?>\n")
    html = render_html(make_report())
    assert policy.search(html)
    measure = (
        "<script>wide = (what) => document.documentElement[what + 'Width'];"
        "onload = () => parent.postMessage([wide('client'), wide('scroll')], '*')</script>"
    )
    (tmp_path / "inner.html").write_text(policy.sub("", html).replace("</body>", f"{measure}</body>"), encoding="utf-8")
    outer = tmp_path / "outer.html"
    outer.write_text(
        "<!doctype html><script>onmessage = (event) => { document.title = event.data.join('/') }</script>"
        f'<iframe src="inner.html" style="width:{width}px;height:800px;border:0"></iframe>',
        encoding="utf-8",
    )
    dom, _, _ = load(chromium, outer)
    [(visible, whole)] = re.findall(r"<title>(\d+)/(\d+)</title>", dom)
    assert visible == whole
    assert width - 20 <= int(visible) <= width  # the frame's own scrollbar
