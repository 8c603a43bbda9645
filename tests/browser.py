"""Headless Chromium for tests of pages, spoken to over a pipe: no driver, no websocket and no package is needed."""

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-quic"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe"),
)
# Seconds for an answer or an event.
PATIENCE = 30


def chromium() -> str | None:
    """The browser's program: CORRAL_CHROMIUM, or what is on the PATH."""
    return os.environ.get("CORRAL_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One Chromium; it reads commands from its file 3, writes answers and events to its file 4, zero-ended."""

    def __init__(self, program: str, folder: Path) -> None:
        read_here, write_there = os.pipe()
        read_there, write_here = os.pipe()
        # Above 3 and 4, so that neither is overwritten before it is moved there.
        there = [fcntl.fcntl(one, fcntl.F_DUPFD_CLOEXEC, 20) for one in (read_there, write_there)]
        quiet = os.open(os.devnull, os.O_RDWR)
        moves = [(os.POSIX_SPAWN_DUP2, quiet, one) for one in (0, 1, 2)]
        moves += [(os.POSIX_SPAWN_DUP2, there[0], 3), (os.POSIX_SPAWN_DUP2, there[1], 4)]
        command = [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        self.pid = os.posix_spawn(program, command, os.environ, file_actions=moves, setpgroup=0)
        for one in (*there, read_there, write_there, quiet):
            os.close(one)
        self._read, self._write, self._count, self._rest = read_here, write_here, 0, b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """A command's result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        os.write(self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while (answer := self._next()).get("id") != self._count:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        found: dict[str, Any] = answer["result"]
        return found

    def wait(self, method: str, session: str | None = None, **wanted: Any) -> dict[str, Any]:
        """The next event of this name with these parameters; it is taken out of `events`."""
        ends = time.monotonic() + PATIENCE
        while True:
            for event in self.events:
                same = event.get("method") == method and event.get("sessionId") == session
                if same and wanted.items() <= event["params"].items():
                    self.events.remove(event)
                    parameters: dict[str, Any] = event["params"]
                    return parameters
            assert time.monotonic() < ends, f"no {method} within {PATIENCE} s"
            self.events.append(self._next())

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], PATIENCE)
            assert ready, f"Chromium says nothing for {PATIENCE} s"
            part = os.read(self._read, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found

    def close(self) -> None:
        """End it and its processes."""
        for one in (self._read, self._write):
            os.close(one)
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Tab:
    """One page in a browser, 1280 pixels wide and light unless it is told otherwise."""

    def __init__(self, browser: Browser, path: Path) -> None:
        self.browser = browser
        self.target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log", "Accessibility", "DOM"):
            self.call(f"{domain}.enable")
        self.size(1280, 800)
        self.call("Page.navigate", url=path.resolve().as_uri())
        browser.wait("Page.loadEventFired", self.session)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """A command's result."""
        return self.browser.call(method, self.session, **parameters)

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def size(self, width: int, height: int) -> None:
        """Give the window a size, in pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def scheme(self, name: str) -> None:
        """Prefer light or dark."""
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def press(self, key: str) -> None:
        """Press a key, such as Tab, Enter or ArrowRight."""
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowRight": 39}
        text = {"Enter": "\r", " ": " "}.get(key)
        about = {"key": key, "windowsVirtualKeyCode": codes[key], **({"text": text} if text else {})}
        self.call("Input.dispatchKeyEvent", type="keyDown", **about)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=codes[key])

    def point(self, x: float, y: float) -> None:
        """Move the pointer to a place in the window."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def download(self, script: str, folder: Path) -> str:
        """The content of the file that a script has the page save."""
        self.browser.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder), eventsEnabled=True)
        self.run(script)
        name = self.browser.wait("Browser.downloadWillBegin")["suggestedFilename"]
        self.browser.wait("Browser.downloadProgress", state="completed")
        return (folder / name).read_text(encoding="utf-8")

    def nodes(self) -> list[dict[str, Any]]:
        """The accessibility tree's nodes: role, name, and level of a heading."""
        found = []
        for node in self.call("Accessibility.getFullAXTree")["nodes"]:
            if not node.get("ignored"):
                level = next((p["value"]["value"] for p in node.get("properties", ()) if p["name"] == "level"), None)
                name = node.get("name", {}).get("value", "")
                found.append({"role": node["role"]["value"], "name": name, "level": level})
        return found

    def picture(self, path: Path, *, whole: bool = True) -> None:
        """Save a screenshot, of the whole page or of the window."""
        shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def troubles(self) -> list[str]:
        """What went wrong: errors on the console, exceptions, and requests to anywhere."""
        found = []
        for event in self.browser.events:
            if event.get("sessionId") != self.session:
                continue
            method, about = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append(str(about["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and about["type"] in ("error", "warning", "assert"):
                found.append(str(about["args"]))
            elif method == "Log.entryAdded" and about["entry"]["level"] in ("error", "warning"):
                found.append(about["entry"]["text"])
            elif method == "Network.requestWillBeSent" and not about["request"]["url"].startswith(
                ("file:", "data:", "blob:")
            ):
                found.append(f"requested {about['request']['url']}")
        return found

    def close(self) -> None:
        """Close it."""
        self.browser.call("Target.closeTarget", targetId=self.target)
