"""A headless Chromium, driven by its own driver over the WebDriver protocol (W3C): the few commands
that tests of the live page need are shorter than a client library.
"""

import http.client
import json
import re
import shutil
import socket
import subprocess
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

from harness.waiting import eventually

Connect = Callable[[int], socket.socket]
"""Connects to a port of loopback where the browser runs."""
FLAGS: Final = (
    "--headless=new",
    # Tests run as root, for whom Chromium has no sandbox.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    # Where there is no internet, looking for it takes half a minute.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-extensions",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
SECONDS: Final = 60.0


def absent_program() -> str | None:
    """The Debian package that is missing for a browser; None when there is one."""
    for program, package in (("chromedriver", "chromium-driver"), ("chromium", "chromium")):
        if shutil.which(program) is None:
            return package
    return None


class Browser:
    """One window, for as long as the block runs."""

    def __init__(self, folder: Path, prefix: tuple[str, ...] = (), connect: Connect | None = None):
        """`prefix` runs a command in another network namespace, which `connect` reaches."""
        self._folder = folder
        self._prefix = prefix
        self._connect = connect or (lambda port: socket.create_connection(("127.0.0.1", port)))
        self._session = ""

    def __enter__(self) -> Self:
        self._driver = subprocess.Popen(
            (*self._prefix, "chromedriver", "--port=0"),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            assert self._driver.stdout is not None
            for line in self._driver.stdout:
                if match := re.search(r"successfully on port (\d+)", line):
                    self._port = int(match[1])
                    break
            else:
                raise AssertionError("chromedriver does not start")
            profile = f"--user-data-dir={self._folder / 'chromium'}"
            wanted = {
                "goog:chromeOptions": {"args": [*FLAGS, profile]},
                "goog:loggingPrefs": {"browser": "ALL"},
            }
            created = self._ask("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
            self._session = f"/session/{created['sessionId']}"
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *raised: object) -> None:
        try:
            self._ask("DELETE", self._session)
        finally:
            self._end()

    def _end(self) -> None:
        self._driver.kill()
        self._driver.communicate()

    def open(self, url: str) -> None:
        """Go there, and wait until the document is loaded."""
        self._command("POST", "/url", url=url)

    def run(self, script: str, *arguments: object) -> Any:
        """What a function body returns."""
        return self._command("POST", "/execute/sync", script=script, args=list(arguments))

    def text(self, selector: str) -> str:
        """What the first such element shows; empty when there is none, or it is hidden."""
        script = (
            "const found = document.querySelector(arguments[0]);"
            "return found?.checkVisibility() ? found.innerText : ''"
        )
        return str(self.run(script, selector))

    def until(self, selector: str, text: str) -> None:
        """Wait until the first such element shows this text."""
        eventually(lambda: text in self.text(selector))

    def click(self, selector: str) -> None:
        """Press it with the pointer, as a person would: what covers it gets the click."""
        (element,) = self._command(
            "POST", "/element", **{"using": "css selector", "value": selector}
        ).values()
        self._command("POST", f"/element/{element}/click")

    def press(self, *keys: str) -> None:
        """Press and release keys, one after another, on what has the focus."""
        actions = [
            {"type": kind, "value": KEYS.get(key, key)}
            for key in keys
            for kind in ("keyDown", "keyUp")
        ]
        keyboard = {"type": "key", "id": "keyboard", "actions": actions}
        self._command("POST", "/actions", actions=[keyboard])

    def resize(self, width: int, height: int) -> None:
        """Show the page as on a screen of this size."""
        self._chromium(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def prefer(self, scheme: str) -> None:
        """Let the reader like light or dark."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self._chromium("Emulation.setEmulatedMedia", features=[feature])

    def picture(self, path: Path, *, is_whole: bool = False) -> None:
        """Write what the page looks like, as PNG; `is_whole`: also what is beyond the screen."""
        answer = self._chromium("Page.captureScreenshot", captureBeyondViewport=is_whole)
        path.write_bytes(b64decode(answer["data"]))

    def print(self, path: Path) -> None:
        """Write the page as PDF, as it comes on paper, on the paper that it asks for."""
        answer = self._chromium("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        path.write_bytes(b64decode(answer["data"]))

    def console(self) -> list[str]:
        """What the browser has said about the page since the last call. What it says about its own
        page for a new tab, which it leaves for ours, is none of that.
        """
        messages = [entry["message"] for entry in self._command("POST", "/se/log", type="browser")]
        return [message for message in messages if not message.startswith("chrome://")]

    def _chromium(self, command: str, **parameters: object) -> Any:
        return self._command("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def _command(self, method: str, path: str, **body: object) -> Any:
        return self._ask(method, self._session + path, body)

    def _ask(self, method: str, path: str, body: object = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=SECONDS)
        connection.sock = self._connect(self._port)
        connection.sock.settimeout(SECONDS)
        text = None if method == "DELETE" else json.dumps(body or {})
        connection.request(method, path, text, {"Content-Type": "application/json"})
        answer = json.loads(connection.getresponse().read())["value"]
        connection.close()
        assert not (isinstance(answer, dict) and "error" in answer), answer
        return answer


KEYS: Final = {
    "Enter": "\ue007",
    "Escape": "\ue00c",
    "Tab": "\ue004",
    "ArrowUp": "\ue013",
    "ArrowDown": "\ue015",
}
"""As WebDriver writes keys without a character."""
