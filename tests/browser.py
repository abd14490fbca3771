"""A headless Chromium that tests can look at and type into, over its debugging pipe: no driver, no port, no network."""

import base64
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

KEYS = {
    "Backspace": 8, "Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40,
}  # fmt: skip
SHIFT = 8  # the DevTools protocol's bit for it
SECONDS = 60
# Chromium reads commands from descriptor 3 and answers on 4. Both pipes are copied first, one may itself be 3 or 4; a
# copy that lands there already would be closed.
WIRE = """
import os, sys
inward, outward = (os.dup(int(number)) for number in sys.argv[1:3])
os.dup2(inward, 3)
os.dup2(outward, 4)
os.set_inheritable(3, True)
os.set_inheritable(4, True)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One page of a Chromium.

    `problems` holds what its console and its uncaught errors said, `requests` the addresses it asked for other than the
    page's own file.
    """

    def __init__(self, send: int, receive: int) -> None:
        self._send, self._receive = send, receive
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session and not method.startswith(("Target.", "Browser.")):
            message["sessionId"] = self._session
        os.write(self._send, json.dumps(message).encode("utf-8") + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer.get("result", {})
            self.events.append(answer)

    def open(self, page: Path | str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Show a file, or an address of this machine, in a window of the given size and theme, and wait until it
        stands.
        """
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        # Without motion a jump to a section is there at once.
        self.call("Emulation.setEmulatedMedia", features=[theme, {"name": "prefers-reduced-motion", "value": "reduce"}])
        self.events.clear()
        self.call("Page.navigate", url=page if isinstance(page, str) else page.as_uri())
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Return the value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        self.wait_for(lambda: bool(self.run(condition)), condition)

    def wait_for(self, is_so: Callable[[], bool], what: str) -> None:
        end = time.monotonic() + SECONDS
        while not is_so():
            assert time.monotonic() < end, f"waited {SECONDS} s for: {what}"
            time.sleep(0.02)

    def press(self, *keys: str, modifiers: int = 0) -> None:
        """Press keys as a person does: names of `KEYS`, or single characters; `modifiers` such as SHIFT are held."""
        for key in keys:
            code = KEYS.get(key) or ord(key.upper())
            fields = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            self.call("Input.dispatchKeyEvent", type="keyDown", **fields, **({"text": text} if text else {}))
            self.call("Input.dispatchKeyEvent", type="keyUp", **fields)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def picture(self) -> bytes:
        """Return what the window shows, as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    @property
    def problems(self) -> list[str]:
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in kinds]

    @property
    def requests(self) -> list[str]:
        asked = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        urls = [event["request"]["url"] for event in asked if event.get("type") != "Document"]
        return [url for url in urls if not url.startswith("data:")]

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._receive], [], [], SECONDS)
            assert ready, f"Chromium said nothing for {SECONDS} s"
            chunk = os.read(self._receive, 1 << 20)
            assert chunk, "Chromium ended"
            self._buffer += chunk
        message, self._buffer = self._buffer.split(b"\0", 1)
        return dict(json.loads(message))


@contextmanager
def open_browser(chromium: str, folder: Path) -> Iterator[Browser]:
    """Start a headless Chromium whose profile and downloads lie in `folder`; it ends with the block."""
    to_child, send = os.pipe()
    receive, from_child = os.pipe()

    options = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", "--no-first-run", "--remote-debugging-pipe",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", f"--user-data-dir={folder / 'profile'}",
    )  # fmt: skip
    with (folder / "chromium.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", WIRE, str(to_child), str(from_child), chromium, *options, "about:blank"],
            pass_fds=(to_child, from_child), stdout=log, stderr=log, env={**os.environ, "HOME": str(folder)},
        )  # fmt: skip
        os.close(to_child)
        os.close(from_child)
        try:
            browser = Browser(send, receive)
            browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
            yield browser
            browser.call("Browser.close")
            process.wait(SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            os.close(send)
            os.close(receive)
