"""A headless Chromium, driven through the two pipes of its DevTools protocol: no port, no driver, no package."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Chromium reads commands from descriptor 3 and answers on 4; the numbers are free only in a process of its own.
_LAUNCH = """
import fcntl, os, sys
commands, answers = (fcntl.fcntl(int(each), fcntl.F_DUPFD, 10) for each in sys.argv[1:3])
os.dup2(commands, 3)
os.dup2(answers, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def chromium() -> str | None:
    """Path of an installed Chromium or Chrome."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for path in map(shutil.which, names) if path), None)


class Tab:
    """One page; what it logs, throws and asks for is kept in ``trouble`` and ``requests``."""

    def __init__(self, commands: int, answers: int, seconds: float = 60.0) -> None:
        self._commands, self._answers, self._seconds = commands, answers, seconds
        self._number, self._rest = 0, b""
        self._session: str | None = None
        self.trouble: list[str] = []
        self.requests: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self._session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        """A command and its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        number = self._number
        answer = self._until(lambda message: message.get("id") == number)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _until(self, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + self._seconds
        while time.monotonic() < end:
            while b"\0" in self._rest:
                text, self._rest = self._rest.split(b"\0", 1)
                message = json.loads(text)
                self._note(message)
                if wanted(message):
                    return message
            if select.select([self._answers], [], [], 1.0)[0]:
                data = os.read(self._answers, 1 << 20)
                if not data:
                    raise RuntimeError("chromium ended")
                self._rest += data
        raise TimeoutError(f"chromium: no answer within {self._seconds:g} s")

    def _note(self, message: dict[str, Any]) -> None:
        method, params = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.trouble.append(str(params["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.trouble.append(str(params["args"]))
        elif method == "Log.entryAdded":
            self.trouble.append(f"{params['entry']['level']}: {params['entry']['text']}")
        elif method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])

    def size(self, width: int, height: int, *, dark: bool = False, phone: bool = False) -> None:
        """Size of the window, and whether its user likes it dark."""
        self(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        still = {"name": "prefers-reduced-motion", "value": "reduce"}  # a click must not miss what scrolls
        self("Emulation.setEmulatedMedia", features=[scheme, still])

    def open(self, path: Path) -> None:
        """Load a file."""
        self("Page.navigate", url=path.resolve().as_uri())
        self._until(lambda message: message.get("method") == "Page.loadEventFired")

    def run(self, expression: str, *, by_user: bool = False) -> Any:
        """The value of an expression, awaited; ``by_user`` counts as a click, without which no sound starts."""
        answer = self(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=by_user
        )  # fmt: skip
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 20.0) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"still not true after {seconds:g} s: {expression}")
            time.sleep(0.05)

    def key(self, key: str) -> None:
        """Press and release a key, named as in ``KeyboardEvent.key``."""
        code = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowUp": 38, "ArrowDown": 40, "Home": 36, "End": 35, "Tab": 9}
        number = code.get(key, ord(key.upper()[0]))
        text = {"text": key} if len(key) == 1 else {}
        how = {"key": key, "windowsVirtualKeyCode": number}
        self("Input.dispatchKeyEvent", type="keyDown", **how, **text)
        self("Input.dispatchKeyEvent", type="keyUp", **how)

    def click(self, x: float, y: float) -> None:
        """A click at a place in the window."""
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """A picture of what is in the window, or of the whole page."""
        more: dict[str, Any] = {"captureBeyondViewport": whole}
        data = self("Page.captureScreenshot", format="png", **more)["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def opened(profile: Path) -> Iterator[Tab]:
    """A tab of a Chromium of its own, whose every name lookup fails.

    Args:
        profile: an empty folder for what it keeps.
    """
    program = chromium()
    assert program, "no Chromium"
    ours, theirs = os.pipe(), os.pipe()
    options = [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--mute-audio",
        "--disable-extensions", "--host-resolver-rules=MAP * ~NOTFOUND", "--remote-debugging-pipe",
        "--hide-scrollbars", f"--user-data-dir={profile}", "about:blank",
    ]  # fmt: skip
    launch = [sys.executable, "-S", "-c", _LAUNCH, str(ours[0]), str(theirs[1]), program, *options]
    process = subprocess.Popen(
        launch, pass_fds=(ours[0], theirs[1]), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(ours[0])
    os.close(theirs[1])
    try:
        yield Tab(ours[1], theirs[0])
    finally:
        os.close(ours[1])  # the end of its commands is the end of Chromium
        os.close(theirs[0])
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
