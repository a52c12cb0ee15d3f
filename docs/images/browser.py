"""Chromium without a window, told what to do through a pipe (the DevTools protocol): what a page loads, says and looks like.

Needs the standard library, and a Chromium or Chrome on the path. Used for the pictures of the docs and by tests/interop.
"""

import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
)  # fmt: skip
MESSAGES = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
"""Events of a page that says, or breaks, something."""


def browser_path() -> str | None:
    """Return the browser that is on the path; None if there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Page:
    """A page that is open."""

    _browser: "Browser"
    _session: str
    requests: list[str] = field(default_factory=list)
    """Addresses that it asked for, its own first."""
    messages: list[str] = field(default_factory=list)
    """What it wrote to the console, and its errors."""

    def ask(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, which the browser runs, not the page."""
        found = self.tell("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in found:
            raise ValueError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def top_of(self, heading: str) -> float:
        """Return how far a heading with these words is below the top of the page. Raises: ValueError if there is none."""
        words = json.dumps(heading)
        found = f"[...document.querySelectorAll('h1, h2')].find((one) => one.textContent.includes({words}))"
        return self.ask(f"{found}.getBoundingClientRect().top + window.scrollY")

    def open_part(self, words: str) -> None:
        """Open the part of the page that a click on these words opens. Raises: ValueError if there is none."""
        found = "[...document.querySelectorAll('summary')]"
        self.ask(f"{found}.find((one) => one.textContent === {json.dumps(words)}).parentElement.open = true")

    def picture(self, *, top: float = 0.0, height: int | None = None) -> bytes:
        """Return it as a PNG: what the window shows, or so many pixels from the top, or what is below it."""
        shown: dict[str, Any] = {"format": "png", "optimizeForSpeed": False}
        if height is not None:
            width = self.ask("window.innerWidth")
            shown |= {
                "captureBeyondViewport": True,
                "clip": {"x": 0, "y": top, "width": width, "height": height, "scale": 1},
            }
        return base64.b64decode(self.tell("Page.captureScreenshot", **shown)["data"])

    def print(self) -> bytes:
        """Return it as a PDF, as it is printed."""
        return base64.b64decode(self.tell("Page.printToPDF", preferCSSPageSize=True)["data"])

    def tell(self, method: str, **settings: Any) -> dict[str, Any]:
        """Send a command of the protocol for this page, and return its answer."""
        return self._browser.tell(method, session=self._session, **settings)

    def note(self, event: dict[str, Any]) -> None:
        """Take in an event."""
        method, told = event["method"], event.get("params", {})
        if method == "Network.requestWillBeSent":
            self.requests.append(told["request"]["url"])
        elif method in MESSAGES:
            self.messages.append(f"{method}: {json.dumps(told)[:500]}")


class Browser:
    """A browser that was started for this; use ``open_browser``."""

    def __init__(self, to: IO[bytes], back: IO[bytes]) -> None:
        self._to, self._back, self._number = to, back, 0
        self._pages: dict[str, Page] = {}
        self._loaded: set[str] = set()

    def open(self, path: Path, *, width: int, height: int, dark: bool = False) -> Page:
        """Open a file in a window of this size, and wait until all of it is loaded."""
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Network", "Runtime", "Log"):
            page.tell(f"{domain}.enable")
        page.tell(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        colours = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        page.tell("Emulation.setEmulatedMedia", features=[colours])
        self._loaded.discard(session)
        page.tell("Page.navigate", url=path.resolve().as_uri())
        while session not in self._loaded:
            self._take(self._next())
        return page

    def tell(self, method: str, *, session: str | None = None, **settings: Any) -> dict[str, Any]:
        """Send a command and return its answer. Raises: ValueError if it is refused."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": settings}
        if session is not None:
            message["sessionId"] = session
        self._to.write(json.dumps(message).encode() + b"\0")
        self._to.flush()
        while (answer := self._next()).get("id") != self._number:
            self._take(answer)
        if "error" in answer:
            raise ValueError(f"{method}: {answer['error']}")
        return answer["result"]

    def _take(self, message: dict[str, Any]) -> None:
        session = message.get("sessionId", "")
        if message.get("method") == "Page.loadEventFired":
            self._loaded.add(session)
        elif "method" in message and session in self._pages:
            self._pages[session].note(message)

    def _next(self) -> dict[str, Any]:
        read = bytearray()
        while not read.endswith(b"\0"):
            byte = self._back.read(1)
            if not byte:
                raise RuntimeError("the browser has ended")
            read += byte
        return json.loads(read[:-1])


@contextlib.contextmanager
def open_browser(path: str) -> Iterator[Browser]:
    """Start a browser with a profile of its own, and end it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        pipes = [folder / "to", folder / "back"]
        for pipe in pipes:
            os.mkfifo(pipe)
        words = [path, *OPTIONS, f"--user-data-dir={folder / 'profile'}"]
        process = subprocess.Popen(
            ["sh", "-c", 'to=$1; back=$2; shift 2; exec "$@" 3<"$to" 4>"$back"', "sh", *map(str, pipes), *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            with pipes[0].open("wb") as to, pipes[1].open("rb") as back:
                yield Browser(to, back)
        finally:
            process.terminate()
            process.wait(30)
