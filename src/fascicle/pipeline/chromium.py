"""Drive a headless Chromium over its DevTools protocol, through a pair of pipes: for pictures of the viewer, and tests.

https://chromedevtools.github.io/devtools-protocol/ ; messages are JSON, ended by a zero byte, on the file descriptors 3
and 4 of the browser (`--remote-debugging-pipe`), so that no port and no WebSocket library is needed.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import select
import shutil
import signal
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fascicle.errors import FascicleError

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--force-color-profile=srgb",
    "--remote-debugging-pipe",
)
_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "chrome")

READY = """(() => {
  const viewer = window.viewer;
  if (!viewer || !viewer.display.panels.size) return false;
  const layers = viewer.layerManager.managedLayers;
  return layers.length > 0 && layers.every((layer) => layer.isReady()) && viewer.display.isReady();
})()"""
"""Whether Neuroglancer has everything on the graphics card that its panels show."""


def program() -> str | None:
    """The path of a Chromium of this machine: FASCICLE_CHROMIUM, or one on the PATH."""
    return os.environ.get("FASCICLE_CHROMIUM") or next(filter(None, map(shutil.which, _PROGRAMS)), None)


class BrowserError(FascicleError):
    """There is no browser, it refused a command, or it ended."""


class Chromium:
    """One browser with one page; use it in a `with` block."""

    def __init__(self, width: int = 1024, height: int = 768) -> None:
        self._width, self._height = width, height
        self._numbers = itertools.count(1)
        self._buffer = b""
        self._session = ""
        self.console: list[str] = []
        """What the page wrote to its console, and its uncaught errors."""
        self.requests: dict[str, tuple[str, int]] = {}
        """URL and status of every answered request, by its id."""

    def __enter__(self) -> Chromium:
        path = program()
        if path is None:
            raise BrowserError("no Chromium on this machine")
        try:
            import fcntl
        except ImportError:
            raise BrowserError("a browser can only be driven on Linux and macOS") from None
        self._profile = tempfile.mkdtemp(prefix="fascicle-chromium-")
        commands_out, self._commands = os.pipe()
        self._answers, answers_in = os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20) for fd in (commands_out, answers_in)]
        with open(os.devnull, "r+b") as nothing:
            quiet = [(os.POSIX_SPAWN_DUP2, nothing.fileno(), fd) for fd in (0, 1, 2)]
            self._pid = os.posix_spawn(
                path,
                [path, *FLAGS, f"--window-size={self._width},{self._height}", f"--user-data-dir={self._profile}"],
                os.environ,
                file_actions=[*quiet, (os.POSIX_SPAWN_DUP2, high[0], 3), (os.POSIX_SPAWN_DUP2, high[1], 4)],
                setsid=True,
            )
        for fd in (commands_out, answers_in, *high):
            os.close(fd)
        try:
            page = self.command("Target.createTarget", url="about:blank")["targetId"]
            self._session = self.command("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self.command(f"{domain}.enable")
            self.command(
                "Emulation.setDeviceMetricsOverride",
                width=self._width,
                height=self._height,
                deviceScaleFactor=1,
                mobile=False,
            )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._commands)
        os.close(self._answers)
        shutil.rmtree(self._profile, ignore_errors=True)

    def command(self, method: str, timeout_s: float = 60.0, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its result. Raises BrowserError if it fails or takes too long."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + timeout_s
        while True:
            answer = self._read(deadline)
            if answer is None:
                raise BrowserError(f"{method} was not answered within {timeout_s:g} s")
            if answer.get("id") == number:
                if "error" in answer:
                    raise BrowserError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result

    def _read(self, deadline: float) -> dict[str, Any] | None:
        while b"\0" not in self._buffer:
            if not select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            piece = os.read(self._answers, 1 << 20)
            if not piece:
                raise BrowserError("the browser ended")
            self._buffer += piece
        text, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, params: dict[str, Any]) -> None:
        if event == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif event == "Runtime.exceptionThrown":
            self.console.append(f"uncaught: {params['exceptionDetails'].get('exception', {}).get('description')}")
        elif event == "Log.entryAdded":
            self.console.append(f"{params['entry']['level']}: {params['entry']['text']}")
        elif event == "Network.responseReceived":
            self.requests[params["requestId"]] = (params["response"]["url"], params["response"]["status"])

    def evaluate(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression; promises are waited for."""
        result = self.command("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise BrowserError(f"{expression[:200]}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def open(self, url: str) -> None:
        """Load a page from scratch, also if only the part after # is new."""
        self.command("Page.navigate", url="about:blank")
        self.command("Page.navigate", url=url)

    def wait_for(self, expression: str, timeout_s: float = 90.0) -> None:
        """Wait until an expression is true. Raises BrowserError with the page's console if it never is."""
        deadline = time.monotonic() + timeout_s
        while not self.evaluate(expression):
            if time.monotonic() > deadline:
                raise BrowserError(f"never true: {expression[:300]}\n" + "\n".join(self.console[-30:]))
            time.sleep(0.1)

    def wait_for_viewer(self, timeout_s: float = 120.0) -> None:
        """Wait until Neuroglancer shows everything its state asks for, three looks in a row."""
        for _ in range(3):
            self.wait_for(READY, timeout_s)
            time.sleep(0.3)

    def screenshot(self, selector: str | None = None) -> NDArray[np.uint8]:
        """The page, or the first element that a CSS selector finds, as u8 `[y, x, rgb]`."""
        return np.asarray(Image.open(io.BytesIO(self.screenshot_png(selector))).convert("RGB"))

    def screenshot_png(self, selector: str | None = None) -> bytes:
        params: dict[str, Any] = {"format": "png"}
        if selector is not None:
            box = self.evaluate(
                f"(() => {{ const box = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
                " return { x: box.x, y: box.y, width: box.width, height: box.height, scale: 1 }; })()"
            )
            params["clip"] = box
        return base64.b64decode(self.command("Page.captureScreenshot", **params)["data"])

    def save(self, path: Path, selector: str | None = None) -> None:
        path.write_bytes(self.screenshot_png(selector))
