# SPDX-License-Identifier: Apache-2.0
"""A real browser without a screen, driven over Chromium's DevTools protocol: for tests, measurements
and the pictures of the documentation. Nothing is downloaded; Debian's package `chromium` will do."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import signal
import socket
import stat
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, ClientWebSocketResponse, WSMsgType

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_NOBODY = 65534
_START_S, _LOOK_S = 30.0, 0.05
_CALL_S = 30.0
"""How long an answer of the browser is waited for (asyncio.TimeoutError)."""
_FLAGS = (
    "--headless=new",
    "--no-first-run",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--mute-audio",
    "--enable-unsafe-swiftshader",
    "--remote-debugging-port=0",
)


def find_chromium() -> str | None:
    """The browser's program, $SPINENAV_CHROMIUM first; None where there is none."""
    return next(
        filter(None, map(shutil.which, (os.environ.get("SPINENAV_CHROMIUM", ""), *_NAMES))), None
    )


class BrowserError(RuntimeError):
    """The browser did not do what it was told, or the page's script has thrown."""


class Tab:
    """One page. Errors of its script and requests that were refused are in `errors`; `requests`
    are all addresses that it has asked for; `on`: who hears of an event of the protocol."""

    def __init__(self, socket: ClientWebSocketResponse) -> None:
        self._socket = socket
        self._count = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.on: dict[str, Callable[[dict[str, Any]], object]] = {}
        self._reader = asyncio.ensure_future(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is not WSMsgType.TEXT:
                break
            values = json.loads(message.data)
            if "id" in values:
                future = self._waiting.pop(values["id"], None)
                if future is not None and not future.done():
                    future.set_result(values)
                continue
            method, given = values["method"], values.get("params", {})
            if method == "Runtime.exceptionThrown":
                details = given["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description", details["text"]))
            elif method == "Log.entryAdded" and given["entry"]["level"] == "error":
                self.errors.append(given["entry"]["text"])
            elif method == "Network.requestWillBeSent":
                self.requests.append(given["request"]["url"])
            elif method == "Network.webSocketCreated":
                self.requests.append(given["url"])
            if method in self.on:
                self.on[method](given)

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol. Raises BrowserError."""
        self._count += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._count] = future
        await self._socket.send_json({"id": self._count, "method": method, "params": parameters})
        answer = await asyncio.wait_for(future, _CALL_S)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error']['message']}")
        return dict(answer["result"])

    async def evaluate(self, script: str) -> Any:
        """The value of an expression in the page. Raises BrowserError where it throws."""
        answer = await self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in answer:
            raise BrowserError(str(answer["exceptionDetails"].get("exception", answer)))
        return answer["result"].get("value")

    async def until(self, script: str, timeout_s: float = 60.0) -> Any:
        """Wait until an expression is true; its value. Raises BrowserError with the page's state."""
        end = asyncio.get_running_loop().time() + timeout_s
        while not (value := await self.evaluate(script)):
            if asyncio.get_running_loop().time() > end:
                text = await self.evaluate("document.body.innerText")
                raise BrowserError(f"{script} did not come true; the page says: {text}")
            await asyncio.sleep(_LOOK_S)
        return value

    async def text(self, selector: str) -> str:
        """What an element says."""
        return str(await self.evaluate(f"document.querySelector({selector!r})?.innerText ?? ''"))

    async def size(self, width: int, height: int) -> None:
        """The window's size in pixels."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    async def key(self, key: str, held_s: float = 0.0) -> None:
        """Press a key, hold it, and let it go."""
        text = {"text": key} if len(key) == 1 else {}
        await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        await asyncio.sleep(held_s)
        await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def click(self, selector: str) -> None:
        """Click an element with the mouse, where it lies."""
        x, y = await self.evaluate(
            f"(() => {{const r = document.querySelector({selector!r}).getBoundingClientRect();"
            " return [r.x + r.width / 2, r.y + r.height / 2];})()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            await self.call(
                "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
            )

    async def screenshot(self, path: Path | None = None) -> bytes:
        """The window as PNG, written to `path` where one is given."""
        answer = await self.call("Page.captureScreenshot", format="png")
        data = base64.b64decode(answer["data"])
        if path is not None:
            path.write_bytes(data)
        return data

    async def close(self) -> None:
        """End the connection; the page stays until its browser ends."""
        self._reader.cancel()
        await self._socket.close()


class Browser:
    """A running browser; `pid` is its process."""

    def __init__(self, session: ClientSession, port: int, pid: int) -> None:
        self._session, self._base, self.pid = session, f"http://127.0.0.1:{port}", pid
        self._tabs: list[Tab] = []
        self._control: Tab | None = None

    async def open(self, url: str, width: int = 1280, height: int = 800) -> Tab:
        """A page in a window of that size."""
        if self._control is None:
            async with self._session.get(f"{self._base}/json/version") as answer:
                address = (await answer.json())["webSocketDebuggerUrl"]
            self._control = Tab(await self._session.ws_connect(address))
        # A window of its own: of tabs that share one, the browser draws only the foremost.
        made = await self._control.call("Target.createTarget", url="about:blank", newWindow=True)
        socket = await self._session.ws_connect(
            f"{self._base}/devtools/page/{made['targetId']}", max_msg_size=64 << 20
        )
        tab = Tab(socket)
        self._tabs.append(tab)
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tab.call(f"{domain}.enable")
        await tab.size(width, height)
        await tab.call("Page.navigate", url=url)
        return tab

    async def close(self) -> None:
        """Close the connections."""
        for tab in (*self._tabs, *filter(None, [self._control])):
            with suppress(Exception):
                await tab.close()


@asynccontextmanager
async def browser(*more: str) -> AsyncIterator[Browser]:
    """A browser of its own, with a profile that is thrown away. more: further flags.

    Raises BrowserError where there is none, or it does not start.
    """
    program = find_chromium()
    if program is None:
        raise BrowserError("no chromium; apt-get install chromium, or set SPINENAV_CHROMIUM")
    profile = Path(tempfile.mkdtemp(prefix="spinenav-browser-"))
    flags = [*_FLAGS, *more, f"--user-data-dir={profile}"]
    user = _ordinary_user(Path(program), profile)
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # chromium refuses to run as root with it
    child = await asyncio.create_subprocess_exec(
        program, *flags, "about:blank",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL, start_new_session=True, **user,
    )  # fmt: skip
    try:
        port = await _port(profile / "DevToolsActivePort", child)
        async with ClientSession() as session:
            running = Browser(session, port, child.pid)
            try:
                yield running
            finally:
                await running.close()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(child.wait(), 5.0)
        except asyncio.TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            await child.wait()
        shutil.rmtree(profile, ignore_errors=True)


def _ordinary_user(program: Path, profile: Path) -> dict[str, Any]:
    """How a child of root runs as nobody, as a surgeon's browser does: as root it would give its own
    threads nice -8, before what it is measured beside. Nothing where nobody may not start it."""
    way = (path := program.resolve(), *path.parents)
    if os.geteuid() or not all(p.stat().st_mode & stat.S_IXOTH for p in way):
        return {}
    os.chown(profile, _NOBODY, _NOBODY)
    homes = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), str(profile))
    ids: dict[str, Any] = {"user": _NOBODY, "group": _NOBODY, "extra_groups": ()}
    return {**ids, "env": {**os.environ, **homes}, "cwd": "/"}


async def _port(file: Path, child: asyncio.subprocess.Process) -> int:
    end = asyncio.get_running_loop().time() + _START_S
    while True:
        with suppress(OSError, ValueError, IndexError):
            return int(file.read_text().split()[0])
        if child.returncode is not None or asyncio.get_running_loop().time() > end:
            raise BrowserError("chromium does not start")
        await asyncio.sleep(_LOOK_S)


def served(port: int | None, wait_s: float) -> None:
    """Wait until somebody serves at a port of this machine. Raises BrowserError."""
    end = time.monotonic() + wait_s
    while True:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port or 0)):
                return
        if time.monotonic() > end:
            raise BrowserError(f"no page at port {port} within {wait_s:g} s")
        time.sleep(0.1)
