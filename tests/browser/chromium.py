"""A small client of Chromium's DevTools protocol, over a pair of pipes: no driver, no package, no port."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-gpu-rasterization",
    "--disable-gpu-compositing",
    "--disable-software-rasterizer",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-features=Translate,MediaRouter",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--lang=en-US",
)


_AS_3_AND_4 = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


class BrowserError(RuntimeError):
    """Chromium ended, answered with an error, or the page threw one."""


class Chromium:
    """The connection to one browser: commands out, answers and events in."""

    def __init__(self, process: subprocess.Popen, reader: int, writer: int) -> None:
        self._process, self._reader, self._writer = process, reader, writer
        self._buffer, self._last = b"", 0
        self.listeners: dict[str, Any] = {}

    def call(self, method: str, session: str | None = None, *, timeout: float = 90, **parameters: Any) -> Any:
        """Send a command and wait for its answer; events that come meanwhile go to their session's listener."""
        self._last += 1
        number = self._last
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": session} if session else {})}
        self._send(message)
        ends = time.monotonic() + timeout
        while True:
            answer = self._next(ends - time.monotonic())
            if answer is None:
                raise BrowserError(f"Chromium did not answer {method} within {timeout:.0f} s.")
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                return answer["result"]

    def listen(self, seconds: float) -> None:
        """Take in events for a while."""
        ends = time.monotonic() + seconds
        while (left := ends - time.monotonic()) > 0:
            self._next(left)

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._writer, data[:60_000]) :]

    def _next(self, timeout: float) -> dict[str, Any] | None:
        ends = time.monotonic() + timeout
        while b"\0" not in self._buffer:
            left = ends - time.monotonic()
            if left <= 0 or not select.select([self._reader], [], [], left)[0]:
                return None
            piece = os.read(self._reader, 1 << 20)
            if not piece:
                raise BrowserError(f"Chromium ended with code {self._process.poll()}.")
            self._buffer += piece
        line, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(line)
        if "method" in message and (listener := self.listeners.get(message.get("sessionId", ""))):
            listener(message["method"], message["params"])
        return message


class Page:
    """One page, with what it asked for and what it complained about.

    Attributes:
        requests: the URL of every request, in order.
        asked_by: for each request, the URLs of the scripts on its stack, over promises and timers too; "" for none.
        complaints: (level, text, where) of console errors and warnings, and of uncaught errors.
        dialogs: the texts of alerts, which are closed at once.
    """

    def __init__(self, browser: Chromium, *, width: int = 1400, height: int = 900) -> None:
        self._browser = browser
        self.requests: list[str] = []
        self.asked_by: list[str] = []
        self.complaints: list[tuple[str, str, str]] = []
        self.dialogs: list[str] = []
        self.context = browser.call("Target.createBrowserContext")["browserContextId"]
        target = browser.call(
            "Target.createTarget", url="about:blank", browserContextId=self.context, width=width, height=height
        )["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        browser.listeners[self._session] = self._heard
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Runtime.setAsyncCallStackDepth", maxDepth=32)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def call(self, method: str, **parameters: Any) -> Any:
        return self._browser.call(method, self._session, **parameters)

    def close(self) -> None:
        self._browser.call("Target.disposeBrowserContext", browserContextId=self.context)

    def _heard(self, method: str, event: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])
            initiator = event.get("initiator", {})
            self.asked_by.append(f"{initiator.get('url', '')} {_places(initiator.get('stack'))}".strip())
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "warning"):
            text = " ".join(str(a.get("value", a.get("description", ""))) for a in event["args"])
            self.complaints.append((event["type"], text, _places(event.get("stackTrace"))))
        elif method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            text = details.get("exception", {}).get("description", details["text"])
            self.complaints.append(("exception", text, details.get("url", "") + _places(details.get("stackTrace"))))
        elif method == "Log.entryAdded" and event["entry"]["level"] in ("error", "warning"):
            entry = event["entry"]
            self.complaints.append((entry["level"], entry["text"], entry.get("url", "")))
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(event["message"])
            # Sent without waiting: this runs inside the wait for another answer.
            self._browser._send(
                {
                    "id": 0,
                    "method": "Page.handleJavaScriptDialog",
                    "params": {"accept": True},
                    "sessionId": self._session,
                }
            )

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def run(self, expression: str, *arguments: Any, timeout: float = 90) -> Any:
        """The JSON value of an expression, awaited; with arguments, of a function called with them.

        Raises:
            BrowserError: it threw.
        """
        code = f"({expression})(...{json.dumps(arguments)})" if arguments else expression
        answer = self._browser.call(
            "Runtime.evaluate",
            self._session,
            expression=code,
            awaitPromise=True,
            returnByValue=True,
            userGesture=True,
            timeout=timeout,
        )
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description", details["text"]) + f"\nin {code[:300]}")
        return answer["result"].get("value")

    def wait(self, expression: str, *arguments: Any, timeout: float = 120) -> Any:
        """The expression's value once it is truthy.

        Raises:
            BrowserError: it was not within ``timeout`` seconds.
        """
        ends = time.monotonic() + timeout
        while True:
            with contextlib.suppress(BrowserError):
                if value := self.run(expression, *arguments):
                    return value
            if time.monotonic() > ends:
                raise BrowserError(f"Not within {timeout:.0f} s: {expression[:500]} {arguments}")
            self._browser.listen(0.1)

    def until(self, done: Callable[[], bool], *, timeout: float = 60) -> None:
        """Let the page go on until something outside it is so.

        Raises:
            BrowserError: it was not within ``timeout`` seconds.
        """
        ends = time.monotonic() + timeout
        while not done():
            if time.monotonic() > ends:
                raise BrowserError(f"Not within {timeout:.0f} s.")
            self._browser.listen(0.05)

    def rest(self, seconds: float) -> None:
        """Let the page go on for a while."""
        self._browser.listen(seconds)

    def move(self, x: float, y: float) -> None:
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, x: float, y: float, *, shift: bool = False) -> None:
        self.move(x, y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1, modifiers=8 * shift)

    def press(self, key: str, *, control: bool = False) -> None:
        """Press and release one key by its DOM name ("ArrowDown", "Enter", "c")."""
        codes = {
            "ArrowLeft": 37,
            "ArrowUp": 38,
            "ArrowRight": 39,
            "ArrowDown": 40,
            "Enter": 13,
            "Escape": 27,
            "Home": 36,
            "End": 35,
            "Tab": 9,
            " ": 32,
            "Delete": 46,
        }
        code = codes.get(key) or ord(key.upper())
        text = {"Enter": "\r", " ": " "}.get(key, key if len(key) == 1 and not control else "")
        for kind in ("keyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=code,
                modifiers=2 * control,
                code=f"Key{key.upper()}" if len(key) == 1 and key.isalpha() else key,
                **({"text": text} if text and kind == "keyDown" else {}),
            )

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


def _places(stack: dict[str, Any] | None) -> str:
    places = []
    while stack:
        places += [frame["url"] for frame in stack.get("callFrames", [])]
        stack = stack.get("parent")
    return " ".join(places)


@contextlib.contextmanager
def running_chromium(program: str, profile: Path) -> Iterator[Chromium]:
    """A headless browser with an empty profile, ended when the block ends."""
    commands, writer = os.pipe()
    reader, answers = os.pipe()
    # Above 9: neither is then in the other's way when they become 3 and 4, where Chromium looks for them.
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers)]
    command = [sys.executable, "-I", "-S", "-c", _AS_3_AND_4, *map(str, ends), program, *FLAGS]
    with (profile.parent / "chromium.log").open("w") as log:
        process = subprocess.Popen(
            [*command, f"--user-data-dir={profile}"], pass_fds=ends, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    for end in (commands, answers, *ends):
        os.close(end)
    browser = Chromium(process, reader, writer)
    try:
        browser.call("Browser.getVersion")
        yield browser
    finally:
        with contextlib.suppress(BrowserError, OSError):
            browser.call("Browser.close", timeout=10)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
        os.close(reader)
        os.close(writer)
