"""A headless browser for the tests of pages."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

_OPTIONS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")


def _chromium() -> str:
    chromium = shutil.which("chromium")
    if chromium is None:
        assert os.geteuid() != 0, "tools/system installs chromium"
        pytest.skip("there is no chromium; tools/system installs it")
    return chromium


def _environment(folder: Path) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "HOME": str(folder), "LANG": "C.UTF-8"}


def look(url: str, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Render a page in Chromium: the DOM goes to stdout, messages to stderr. Chromium's own files go to `folder`."""
    line = [_chromium(), *_OPTIONS, "--dump-dom"]
    line += ["--virtual-time-budget=5000", f"--user-data-dir={folder}/profile", *words, url]
    done = subprocess.run(line, env=_environment(folder), capture_output=True, text=True, timeout=120)
    assert 0 == done.returncode, done.stderr
    return done


class Tab:
    """A page in a running Chromium, controlled by the DevTools protocol over a pair of pipes.

    https://chromedevtools.github.io/devtools-protocol/: each message is JSON, followed by a null byte.
    """

    def __init__(self, reader: int, writer: int) -> None:
        self._reader, self._writer = reader, writer
        self._data = b""
        self._number = 0
        self._session = ""
        self.requests: list[str] = []
        """the URL of each request since the last `show`"""
        self.problems: list[str] = []
        """errors and warnings of the console, exceptions and failed requests since the last `show`"""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer["error"])
                return dict(answer["result"])

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._data:
            ready, _, _ = select.select([self._reader], [], [], 120.0)
            assert ready, "Chromium has not answered within 120 s"
            more = os.read(self._reader, 1 << 16)
            assert more, "Chromium has exited"
            self._data += more
        text, _, self._data = self._data.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        method, params = message.get("method"), message.get("params", {})
        if method == "Network.requestWillBeSent" and not params["request"]["url"].startswith("data:"):
            self.requests.append(params["request"]["url"])
        elif method == "Network.responseReceived" and params["response"]["status"] >= 400:
            self.problems.append(f"{params['response']['status']} {params['response']['url']}")
        elif method == "Network.loadingFailed" and not params.get("canceled"):
            self.problems.append(params["errorText"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(params["exceptionDetails"]))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("warning", "error"):
            self.problems.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("warning", "error"):
            self.problems.append(str(params["args"]))
        return message

    def size(self, width: int, height: int, dark: bool = False) -> None:
        """Set the size of the window, and which of light and dark the user prefers."""
        phone = width < 600
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])

    def show(self, url: str) -> None:
        """Open a page, and wait until it and what it loads are loaded."""
        self.requests.clear()
        self.problems.clear()
        failed = self.send("Page.navigate", url=url).get("errorText")
        assert not failed, (url, failed)
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def run(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript; of a promise, what it resolves to."""
        done = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def picture(self, path: Path, whole: bool = False) -> None:
        """Write a PNG of the window, or of the whole page."""
        taken = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def tab(folder: Path) -> Iterator[Tab]:
    """Start Chromium with one page, and end it. It writes in `folder`."""
    chromium = _chromium()
    with ExitStack() as stack:
        ours: list[int] = []
        theirs: list[int] = []
        for mine in (1, 0):  # Chromium reads commands from descriptor 3, and writes answers to 4
            ends = os.pipe()
            ours.append(ends[mine])
            theirs.append(fcntl.fcntl(ends[1 - mine], fcntl.F_DUPFD, 10))  # above those that the shell overwrites
            os.close(ends[1 - mine])
            stack.callback(os.close, ends[mine])
        commands, answers = theirs
        script = f'exec "$0" "$@" 3<&{commands} 4>&{answers} {commands}<&- {answers}>&-'
        line = ["bash", "-c", script, chromium, *_OPTIONS, "--remote-debugging-pipe"]
        with (folder / "chromium.log").open("wb") as log:
            process = subprocess.Popen(
                [*line, f"--user-data-dir={folder}/profile"],
                env=_environment(folder),
                pass_fds=theirs,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for end in theirs:
            os.close(end)
        try:
            page = Tab(ours[1], ours[0])
            yield page
            page._session = ""
            page.send("Browser.close")
            process.wait(120)
        finally:
            process.kill()
            process.wait()
