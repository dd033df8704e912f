# SPDX-License-Identifier: Apache-2.0
"""Serves the page and talks to every page that is open. Without ROS.

A thread of its own runs the server's loop; `publish`, `picture` and their like may be called by any
thread. Each page has two connections: `/control` for words, and `/video`, so that no word ever
waits behind a picture. A picture is packed once for all pages.
"""

from __future__ import annotations

import asyncio
import json
import math
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from spine_nav_common.core.clock import GUIDANCE_MS
from spine_nav_common.core.types import Rejected
from spine_nav_common.parameters import ParameterError

from .core.binding import COOKIE, HEADERS, Exposure, taken_port
from .core.checks import check_word
from .core.messages import Moment, to_text
from .core.outbox import Outbox, VideoGate
from .core.questions import VERBS, Answer, Desk, Question, Taken, told
from .pictures import Packed, pack
from .snapshot import write_snapshot

STATIC = Path(__file__).with_name("static")
CHECK = "check"
ACTIONS = (*VERBS, "register", "pause", "resume", "snapshot", CHECK)
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}  # fmt: skip
STEREO_MS = 500.0
"""Of a stereo picture: its overlay draws screws of pairs up to 400 ms old, which then come here."""
_MOST_PAGES = 32
_MESSAGE_BYTES = 4096  # of a page
_MOST_COUNTED = (
    2**53
)  # whole numbers of JavaScript; no float holds the largest that fit in a message
_STAMP_DIGITS = 19
_SEND_S, _ACT_S, _STOP_S = 10.0, 8.0, 5.0
_HEARTBEAT_S = 5.0  # a connection that answers no ping is closed after one and a half
VIEWS = ("bulls_eye",)
"""Pictures that are no camera's: a page asks for them by name, beside a camera's."""
Act = Callable[[str, Taken | None, str], "Future[tuple[bool, str]]"]


@dataclass(frozen=True)
class Limits:
    """When a page covers what it shows, in ms: picture_ms: age of the RGB-D camera's picture and of
    the vertebrae; stereo_ms: of the stereo camera's picture; silence_ms: nothing came. snapshots: where they go; None: nowhere."""

    picture_ms: float = GUIDANCE_MS
    stereo_ms: float = STEREO_MS
    silence_ms: float = 700.0
    snapshots: Path | None = None


class _Page:
    """One open page's control connection."""

    def __init__(self, name: str, socket: web.WebSocketResponse, request: web.Request) -> None:
        self.name, self.socket, self._request = name, socket, request
        self.outbox: Outbox[str] = Outbox()
        self.wake = asyncio.Event()

    def event(self, text: str) -> None:
        if not self.outbox.event(text):
            self.drop()
        self.wake.set()

    def state(self, kind: str, text: str) -> None:
        self.outbox.state(kind, text)
        self.wake.set()

    def drop(self) -> None:
        """It does not read: nothing more is kept for it."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def write(self) -> None:
        while not self.socket.closed:
            text = self.outbox.take()
            if text is None:
                self.wake.clear()
                await self.wake.wait()
                continue
            try:
                await asyncio.wait_for(self.socket.send_str(text), _SEND_S)
            except (asyncio.TimeoutError, ConnectionError):
                self.drop()
                return


class _Viewer:
    """One open page's picture connection; `show`: which picture."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket, self.show = socket, ""
        self.gate: VideoGate[Packed] = VideoGate()


class DisplayServer:
    """The server of one display.

    Args:
        exposure: where it is served.
        act: does what a page asks for (an action, the answer that was taken for confirm and reject, the
            word of a landmark check); its Future gives whether it was done, and words.
        limits: told to the pages.
        note: hears, in the server's thread, of every action and what came of it, and of what the
            pages show: for the record.
    """

    def __init__(
        self,
        exposure: Exposure,
        act: Act,
        limits: Limits | None = None,
        note: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self.exposure, self._act, self.limits = exposure, act, limits or Limits()
        self._note = note or (lambda values: None)
        self.desk = Desk()
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._pages: set[_Page] = set()
        self._viewers: set[_Viewer] = set()
        self._states: dict[str, str] = {}
        self._pictures: dict[str, Packed] = {}
        self._names: set[str] = set()  # of all pictures that have come
        self._case = "{}"
        self._count = 0
        self._number = 0
        self._ticked = time.monotonic()
        self._sends: set[asyncio.Task[None]] = set()
        self._files = {
            f"/{path.relative_to(STATIC).as_posix()}": (path.read_bytes(), _TYPES[path.suffix])
            for path in sorted(STATIC.rglob("*"))
            if path.suffix in _TYPES
        }

    # Life.

    def start(self) -> None:
        """Bind and serve. Raises ParameterError where the port is taken or TLS cannot be set up."""
        context = None
        if self.exposure.tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            try:
                context.load_cert_chain(str(self.exposure.certificate), str(self.exposure.key))
            except (ssl.SSLError, OSError) as error:
                raise ParameterError(f"display.tls_certificate: {error}") from error
        bound: Future[int] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(context, bound), name="display", daemon=True
        )
        self._thread.start()
        try:
            self.port = bound.result()
        except OSError as error:
            raise ParameterError(taken_port(self.exposure, error)) from error

    @property
    def url(self) -> str:
        """Where the page is."""
        return self.exposure.url(self.port)

    def stop(self) -> None:
        """Tell every page and end."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(_STOP_S)

    def _run(self, context: ssl.SSLContext | None, bound: Future[int]) -> None:
        asyncio.run(self._serve(context, bound))

    async def _serve(self, context: ssl.SSLContext | None, bound: Future[int]) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        application = web.Application(middlewares=[self._guard])
        application.on_response_prepare.append(_harden)
        application.router.add_get("/", self._index)
        application.router.add_get("/control", self._control)
        application.router.add_get("/video", self._video)
        application.router.add_get("/case.json", self._case_json)
        application.router.add_get("/{path:.+}", self._file)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        await runner.setup()
        try:
            site = web.TCPSite(runner, self.exposure.host, self.exposure.port, ssl_context=context)
            await site.start()
        except OSError as error:
            bound.set_exception(error)
            await runner.cleanup()
            return
        bound.set_result(runner.addresses[0][1])
        await self._ended.wait()
        await site.stop()  # first: a page that is told comes back at once
        for socket in [*(p.socket for p in self._pages), *(v.socket for v in self._viewers)]:
            with suppress(Exception):
                await asyncio.wait_for(socket.close(code=WSCloseCode.GOING_AWAY), 0.5)
        await runner.cleanup()

    # From any thread.

    def _soon(self, call: Callable[..., None], *arguments: Any) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(call, *arguments)

    def wants(self, name: str) -> bool:
        """Whether a page shows the picture of this name, or pages cannot choose it yet, because none
        has come."""
        viewers = tuple(self._viewers)
        if name in VIEWS:
            return any(v.show == name for v in viewers)
        known = name in self._names
        return bool(viewers) and (not known or any(v.show in ("", name) for v in viewers))

    @property
    def pages(self) -> int:
        """How many pages are open."""
        return len(self._pages)

    def tick(self) -> None:
        """Whoever feeds this server lives: without it the pages cover what they show."""
        self._ticked = time.monotonic()

    def case(self, values: Mapping[str, Any]) -> None:
        """The case, before `start`."""
        self._case = json.dumps(values, allow_nan=False, separators=(",", ":"))

    def publish(self, kind: str, values: Mapping[str, Any]) -> None:
        """The newest state of a kind, to all pages and to those that come later."""
        self._soon(self._publish, kind, to_text(kind, values))

    def picture(self, name: str, jpeg: bytes, moment: Moment) -> None:
        """A new picture of a camera."""
        self._soon(self._picture, name, jpeg, moment)

    def forget(self, name: str) -> None:
        """Nothing of this name comes any more for now: the last picture is not kept as if it were
        of now, neither for a page that chooses it nor for a snapshot."""
        self._soon(self._pictures.pop, name, None)

    def begin(self, session: str) -> None:
        """The core has started (anew): no answer to what was asked before counts."""
        self._soon(self._begin, session)

    def ask(self, question: Question | None) -> None:
        """What the newest status asks; call it before the levels are published that show it."""
        self._soon(self.desk.ask, question)

    # In the loop.

    def _publish(self, kind: str, text: str) -> None:
        self._states[kind] = text
        for page in self._pages:
            page.state(kind, text)

    def _begin(self, session: str) -> None:
        self.desk.begin(session)
        self._publish("session", to_text("session", {"session": session}))

    def _picture(self, name: str, jpeg: bytes, moment: Moment) -> None:
        self._number += 1
        packed = self._pictures[name] = pack(name, self._number, jpeg, moment)
        if name not in VIEWS:
            self._names.add(name)
            self._publish("pictures", to_text("pictures", {"names": sorted(self._names)}))
        for viewer in self._viewers:
            if viewer.show == name or (not viewer.show and name not in VIEWS):
                viewer.show = name
                self._send(viewer, viewer.gate.offer(packed))

    def _send(self, viewer: _Viewer, packed: Packed | None) -> None:
        if packed is None or viewer.socket.closed:
            return
        task = asyncio.ensure_future(_quietly(viewer.socket, packed.data))
        self._sends.add(task)
        task.add_done_callback(self._sends.discard)

    def _everybody(self, kind: str, values: Mapping[str, Any]) -> None:
        text = to_text(kind, values)
        for page in self._pages:
            page.event(text)

    # Requests.

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if not self.exposure.may_ask(request.headers.get("Host"), request.headers.get("Origin")):
            raise web.HTTPForbidden(text="this page is served under another name")
        if self.exposure.token:
            if "token" in request.query and self.exposure.token_fits(request.query["token"]):
                found = web.HTTPFound("/")
                found.set_cookie(
                    COOKIE, self.exposure.token, httponly=True, secure=True, samesite="Strict"
                )
                raise found
            if not self.exposure.token_fits(request.cookies.get(COOKIE)):
                raise web.HTTPUnauthorized(text="open this page with ?token=TOKEN")
        return await handler(request)

    async def _index(self, request: web.Request) -> web.Response:
        return self._static("/index.html")

    async def _file(self, request: web.Request) -> web.Response:
        return self._static(f"/{request.match_info['path']}")

    def _static(self, name: str) -> web.Response:
        if name not in self._files:
            raise web.HTTPNotFound
        data, kind = self._files[name]
        return web.Response(body=data, content_type=kind, charset="utf-8")

    async def _case_json(self, request: web.Request) -> web.Response:
        return web.Response(text=self._case, content_type="application/json")

    async def _video(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(
            max_msg_size=_MESSAGE_BYTES, compress=False, heartbeat=_HEARTBEAT_S
        )
        self._room(self._viewers, 1 + len(VIEWS))
        await socket.prepare(request)
        viewer = _Viewer(socket)
        self._viewers.add(viewer)
        try:
            async for message in socket:
                values = _parsed(message)
                if values is None:
                    break
                if isinstance(number := values.get("shown"), int):
                    self._send(viewer, viewer.gate.acknowledge(number))
                if isinstance(name := values.get("show"), str):
                    viewer.show = name
                    viewer.gate.forget()
                    if name in self._pictures:
                        self._send(viewer, viewer.gate.offer(self._pictures[name]))
        finally:
            self._viewers.discard(viewer)
        return socket

    async def _control(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(
            max_msg_size=_MESSAGE_BYTES, compress=False, heartbeat=_HEARTBEAT_S
        )
        self._room(self._pages)
        await socket.prepare(request)
        self._count += 1
        page = _Page(str(self._count), socket, request)
        hello = {
            "page": page.name,
            "session": self.desk.session,
            "picture_ms": self.limits.picture_ms,
            "stereo_ms": self.limits.stereo_ms,
            "silence_ms": self.limits.silence_ms,
            "snapshots": self.limits.snapshots is not None,
        }
        page.event(to_text("hello", hello))
        for kind, text in self._states.items():
            page.state(kind, text)
        self._pages.add(page)
        writer = asyncio.ensure_future(page.write())
        try:
            async for message in socket:
                values = _parsed(message)
                if values is None:
                    break
                self._heard(page, values)
        finally:
            self._pages.discard(page)
            writer.cancel()
            self._note({"what": "page_closed", "page": page.name})
        return socket

    @staticmethod
    def _room(there: set[Any], each: int = 1) -> None:
        if len(there) >= each * _MOST_PAGES:
            raise web.HTTPServiceUnavailable(text=f"{_MOST_PAGES} pages are open; close one")

    # What pages say.

    def _heard(self, page: _Page, values: dict[str, Any]) -> None:
        kind = values.get("kind")
        if kind == "ping":
            now = time.monotonic()
            t = values.get("t")
            pong = {
                "t": t if isinstance(t, float) and math.isfinite(t) else _whole(t),
                "server_ms": round(now * 1e3, 2),
                "core_ms": round((now - self._ticked) * 1e3, 1),
            }
            page.state("pong", to_text("pong", pong))
        elif kind == "shows":
            shown: dict[str, Any] = {k: str(values.get(k, "")) for k in ("picture", "covered")}
            shown["levels"] = (
                [str(v) for v in levels] if isinstance(levels := values.get("levels"), list) else []
            )
            self._note({"what": "shown", "page": page.name, **shown})
        elif kind == "act":
            task = asyncio.ensure_future(self._do(page, values))
            self._sends.add(task)
            task.add_done_callback(self._sends.discard)

    async def _do(self, page: _Page, values: dict[str, Any]) -> None:
        # A number that is none could not be told to the other pages, nor to the record.
        number = _whole(values.get("n"))
        action = str(values.get("action"))
        taken: Taken | Rejected | None = None
        if action not in ACTIONS:
            taken = Rejected(f"'{action}' is nothing that this page can ask for")
        elif action in VERBS:
            taken = self.desk.answer(_answer(page.name, action, values))
        elif str(values.get("session")) != self.desk.session:
            taken = Rejected("the navigation was started again; look again")
        word = check_word(values) if action == CHECK else ""
        refused = next((x for x in (taken, word) if isinstance(x, Rejected)), None)
        if refused is not None:
            self._tell(page, action, number, False, refused.reason, values)
            return
        done, text = await self._carried_out(action, taken, word)
        if taken is not None and not done:
            self.desk.failed(taken)
        if taken is not None and done:
            text = told(taken) + (f": {text}" if text else "")
        self._tell(page, action, number, done, text, values)

    async def _carried_out(self, action: str, taken: Taken | None, word: str) -> tuple[bool, str]:
        try:
            if action == "snapshot":
                return await asyncio.to_thread(
                    write_snapshot, self.limits.snapshots, dict(self._pictures), dict(self._states)
                )
            return await asyncio.wait_for(
                asyncio.wrap_future(self._act(action, taken, word)), _ACT_S
            )
        except asyncio.TimeoutError:
            return False, f"no answer from the navigation within {_ACT_S:g} s"
        except Exception as error:  # noqa: BLE001 - told to the page that asked
            return False, str(error) or type(error).__name__

    def _tell(
        self, page: _Page, action: str, number: Any, done: bool, text: str, asked: Mapping[str, Any]
    ) -> None:
        outcome = {"page": page.name, "action": action, "n": number, "ok": done, "text": text}
        if done:
            self._everybody("outcome", outcome)
        else:
            page.event(to_text("outcome", outcome))
        named = ("question", "stamp_ns", "session", "do", "level")
        question = {k: str(asked[k])[:80] for k in named if k in asked}
        self._note({"what": "action", **outcome, **question})


def _answer(page: str, verb: str, values: Mapping[str, Any]) -> Answer:
    stamp = str(values.get("stamp_ns", ""))
    return Answer(
        page,
        str(values.get("session")),
        str(values.get("question")),
        verb,
        int(stamp) if stamp.isdecimal() and len(stamp) <= _STAMP_DIGITS else 0,
    )


def _parsed(message: Any) -> dict[str, Any] | None:
    """A page's message; None for one that no page of ours sends: the connection is closed."""
    if message.type is not WSMsgType.TEXT:
        return None
    try:
        values = json.loads(message.data)
    except (ValueError, RecursionError):  # nested beyond reason too
        return None
    return values if isinstance(values, dict) else None


def _whole(value: Any) -> int:
    """A number as it is told again; 0 for one that is none, or that nobody counts to."""
    return value if isinstance(value, int) and abs(value) <= _MOST_COUNTED else 0


async def _quietly(socket: web.WebSocketResponse, data: bytes) -> None:
    with suppress(ConnectionError, RuntimeError):
        await socket.send_bytes(data)


async def _harden(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
