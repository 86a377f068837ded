"""A headless Chromium that is driven over a pipe: pages are opened, keys pressed, and the document asked, with no library between."""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
KEYS = {"Tab": 9, "Enter": 13, " ": 32, "ArrowDown": 40}


class Tab:
    """One page of the browser."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read = os.fdopen(write, "wb", buffering=0), os.fdopen(read, "rb")
        self._number, self._session, self._loaded = 0, "", False
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters} | ({"sessionId": self._session} if self._session else {})
        self._write.write(json.dumps(message).encode() + b"\0")
        while True:
            found = self._receive()
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]

    def _receive(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._read.read(1)) != b"\0":
            assert byte, "the browser has ended"
            text += byte
        found = json.loads(text)
        if found.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.complaints.append(json.dumps(found["params"]))
        self._loaded |= found.get("method") == "Page.loadEventFired"
        return found

    def open(self, url: str, width: int, height: int = 1000) -> None:
        """Open a page in a window of some width, in pixels; below 500 as a phone does."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        for address in ("about:blank", url):
            self._loaded = False
            self._call("Page.navigate", url=address)
            while not self._loaded:
                self._receive()

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, *keys: str) -> None:
        """Press keys, one after another."""
        for key in keys:
            own: dict[str, Any] = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": KEYS[key]}
            text = {"Enter": {"text": "\r"}, " ": {"text": " "}}.get(key, {})
            self._call("Input.dispatchKeyEvent", type="keyDown", **own, **text)
            self._call("Input.dispatchKeyEvent", type="keyUp", **own)

    def picture(self, path: Path, height: int) -> None:
        """Write what a window of some height shows as PNG."""
        width = self.ask("window.innerWidth")
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 500)
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def close(self) -> None:
        """Close both ends of the pipe."""
        self._write.close()
        self._read.close()


@contextmanager
def browsing(folder: Path) -> Iterator[Tab]:
    """A browser with its profile in a folder; it ends with the block."""
    (command, write), (read, reply) = os.pipe(), os.pipe()
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe", f"--user-data-dir={folder}"]
    script = f'exec "$0" "$@" 3<&{command} 4>&{reply}'
    process = subprocess.Popen(
        ["bash", "-c", script, str(BROWSER), *arguments], pass_fds=(command, reply), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(command)
    os.close(reply)
    tab = Tab(write, read)
    try:
        yield tab
    finally:
        with suppress(AssertionError, OSError):
            tab._session = ""
            tab._call("Browser.close")
        tab.close()
        process.wait(timeout=60)
