"""Headless Chromium over its DevTools protocol: open a file at a size and in a colour scheme, ask, press, look."""

import base64
import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
STARTED = 30  # seconds; half of one is usual

FLAGS = (
    "--headless=new",
    "--no-sandbox",  # root in a container cannot have one; what is opened is our own file
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-port=0",
)


def executable() -> str | None:
    """The browser in PATH, if there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One browser with one tab; close it.

    Args:
        program: path of the browser.
        folder: an empty folder for its profile.
    """

    def __init__(self, program: str, folder: Path) -> None:
        command = [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            port, path = self._address(folder / "DevToolsActivePort")
            self._socket = connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None)
        except BaseException:
            self._process.kill()
            raise
        self._number, self._session = 0, None
        (tab,) = [t for t in self.send("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        attached = self.send("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self._session = attached["sessionId"]

    def _address(self, file: Path) -> list[str]:
        end = time.monotonic() + STARTED
        while time.monotonic() < end and self._process.poll() is None:
            if file.exists() and len(lines := file.read_text().split()) == 2:
                return lines
            time.sleep(0.05)
        raise RuntimeError(f"{self._process.args[0]} did not start within {STARTED} s")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._socket.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        while (answer := json.loads(self._socket.recv(timeout=60))).get("id") != self._number:
            pass  # events
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, file: Path, width: int, dark: bool) -> None:
        """Show a file in a window of that many CSS pixels."""
        height = 844 if width < 600 else 900
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        phone = {"mobile": width < 600, "deviceScaleFactor": 2 if width < 600 else 1}
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, **phone)
        self.send("Page.navigate", url=file.resolve().as_uri())
        end = time.monotonic() + STARTED
        while self.ask("[location.href, document.readyState]") != [file.resolve().as_uri(), "complete"]:
            assert time.monotonic() < end, f"{file} is not loaded after {STARTED} s"
            time.sleep(0.02)

    def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press_tab(self) -> None:
        """The key, as a keyboard sends it."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)

    def picture(self, file: Path) -> None:
        """The whole page as PNG."""
        size = self.send("Page.getLayoutMetrics")["cssContentSize"]
        clip = size | {"scale": 1}
        image = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        file.write_bytes(base64.b64decode(image["data"]))

    def close(self) -> None:
        """End the browser and everything that it started."""
        try:
            self._session = None
            self.send("Browser.close")
            self._process.wait(timeout=10)
        finally:
            self._process.kill()
            self._process.wait()
            self._socket.close()
