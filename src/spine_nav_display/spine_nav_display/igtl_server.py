# SPDX-License-Identifier: Apache-2.0
"""Serves OpenIGTLink to 3D Slicer and other clients. Without ROS.

A thread of its own runs the server's loop; all methods may be called by any thread. Of each device
only the newest message waits for a client; a client that does not read is let go. OpenIGTLink knows
no authentication: whoever reaches the port reads everything, and may propose.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from spine_nav_common.core.types import Rejected
from spine_nav_common.parameters import ParameterError

from .core.binding import is_loopback
from .core.igtl_messages import HEADER, Code, Header, pack, read_content, read_header, status_body
from .core.outbox import Outbox

MOST_BYTES = 1 << 20  # of a body that comes; two points of a plan are 300
MOST_CLIENTS = 8
SEND_S, BODY_S, _STOP_S = 5.0, 5.0, 5.0
_BUFFER = 32768  # of the kernel, for each client: what waits there cannot be taken back
STATUS = "SpineNav"
Received = Callable[[str, Header, bytes], None]


class _Client:
    def __init__(self, name: str, writer: asyncio.StreamWriter) -> None:
        self.name, self.writer = name, writer
        self.outbox: Outbox[bytes] = Outbox()
        self.wake = asyncio.Event()
        self.refused: set[str] = set()

    def event(self, data: bytes) -> None:
        if not self.outbox.event(data):
            self.writer.transport.abort()
        self.wake.set()

    def state(self, device: str, data: bytes) -> None:
        self.outbox.state(device, data)
        self.wake.set()


class IgtlServer:
    """The server of one port.

    Args:
        host, port: 0 = any port that is free.
        received: hears, in the server's thread, of each whole message that came: who, header and
            content.
        note: hears, in the server's thread, of what went wrong with a client, in words.
        send_s, body_s: how long a client may take to read, and to send the rest of a message.

    `counts` tells what came and went: connected, malformed, oversized, dropped, refused.
    """

    def __init__(
        self,
        host: str,
        port: int,
        received: Received,
        note: Callable[[str], None] = lambda text: None,
        send_s: float = SEND_S,
        body_s: float = BODY_S,
    ) -> None:
        self.host, self.port, self._received, self._note = host, port, received, note
        self._send_s, self._body_s = send_s, body_s
        self.counts: Counter[str] = Counter()
        self._kept: dict[str, bytes] = {}
        self._clients: dict[str, _Client] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # Life.

    def start(self) -> None:
        """Bind and serve. Raises ParameterError where the port is taken."""
        bound: Future[int] = Future()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(bound)), name="igtl", daemon=True
        )
        self._thread.start()
        try:
            self.port = bound.result()
        except OSError as error:
            raise ParameterError(taken_port("port", self.host, self.port, error)) from error

    def stop(self) -> None:
        """Close every connection and end."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._ended.set)
            self._thread.join(_STOP_S)

    async def _serve(self, bound: Future[int]) -> None:
        self._loop, self._ended = asyncio.get_running_loop(), asyncio.Event()
        try:
            listening = socket.socket(socket.AF_INET6 if ":" in self.host else socket.AF_INET)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            listening.bind((self.host, self.port))
            server = await asyncio.start_server(self._accept, sock=listening)
        except OSError as error:
            bound.set_exception(error)
            return
        bound.set_result(listening.getsockname()[1])
        await self._ended.wait()
        server.close()
        for client in list(self._clients.values()):
            client.writer.transport.abort()
        tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
        await asyncio.wait(tasks, timeout=1.0) if tasks else None

    # From any thread.

    def _soon(self, call: Callable[..., None], *arguments: object) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(call, *arguments)

    @property
    def clients(self) -> tuple[str, ...]:
        """Address of everybody who is connected."""
        return tuple(self._clients)

    def state(self, kind: str, device: str, body: bytes, stamp_ns: int, keep: bool = True) -> None:
        """The newest message of a device, to all clients; keep: to those that come later too."""
        self._soon(self._state, device, pack(kind, device, body, stamp_ns), keep)

    def withdraw(self, device: str) -> None:
        """What waits of this device does not hold any more: it is not sent."""
        self._soon(self._withdraw, device)

    def tell(self, client: str, code: Code, text: str) -> None:
        """A STATUS message to one client, or to all of them under ""."""
        self._soon(self._tell, client, code, text)

    # In the loop.

    def _state(self, device: str, data: bytes, keep: bool) -> None:
        if keep:
            self._kept[device] = data
        for client in self._clients.values():
            client.state(device, data)

    def _withdraw(self, device: str) -> None:
        self._kept.pop(device, None)
        for client in self._clients.values():
            client.outbox.forget(device)

    def _tell(self, name: str, code: Code, text: str) -> None:
        data = pack("STATUS", STATUS, status_body(code, text), time.time_ns())
        for client in list(self._clients.values()):
            if name in ("", client.name):
                client.event(data)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        name = ":".join(map(str, writer.get_extra_info("peername")[:2]))
        if len(self._clients) >= MOST_CLIENTS:
            self.counts["refused"] += 1
            text = f"{MOST_CLIENTS} clients are connected"
            self._note(f"{name} was refused: {text}")
            writer.write(pack("STATUS", STATUS, status_body(Code.BUSY, text), time.time_ns()))
            writer.close()
            return
        writer.transport.set_write_buffer_limits(high=0)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = self._clients[name] = _Client(name, writer)
        self.counts["connected"] += 1
        for device, data in self._kept.items():
            client.state(device, data)
        writing = asyncio.ensure_future(self._write(client))
        try:
            await self._read(client, reader)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # it has gone
        finally:
            self._clients.pop(name, None)
            client.outbox.event(b"")  # after what it is still told
            client.wake.set()
            with suppress(asyncio.TimeoutError, ConnectionError):
                await asyncio.wait_for(writing, self._send_s)
            writer.close()

    async def _write(self, client: _Client) -> None:
        while True:
            data = client.outbox.take()
            if data is None:
                client.wake.clear()
                await client.wake.wait()
                continue
            if not data:
                return
            client.writer.write(data)
            try:
                await asyncio.wait_for(client.writer.drain(), self._send_s)
            except asyncio.TimeoutError:
                self.counts["dropped"] += 1
                self._note(f"{client.name} did not read for {self._send_s:g} s: let go")
                client.writer.transport.abort()
                return
            except ConnectionError:
                return

    async def _read(self, client: _Client, reader: asyncio.StreamReader) -> None:
        while True:
            header = read_header(await reader.readexactly(HEADER.size))
            if isinstance(header, Rejected):
                self._refuse(client, "malformed", Code.ILLEGAL, f"{header.reason}; closed")
                return  # where the next message begins is not known
            if header.size > MOST_BYTES:
                text = f"{header.kind} '{header.device}' is said to have {header.size} bytes, at most {MOST_BYTES} are read; closed"  # fmt: skip
                self._refuse(client, "oversized", Code.OVERFLOW, text)
                return
            try:
                body = await asyncio.wait_for(reader.readexactly(header.size), self._body_s)
            except asyncio.TimeoutError:
                text = f"the rest of {header.kind} '{header.device}' did not come; closed"
                self._refuse(client, "malformed", Code.TIME_OUT, text)
                return
            content = read_content(header, body)
            if isinstance(content, Rejected):
                self._refuse(client, "malformed", Code.CHECKSUM, f"{content.reason}; passed over")
                continue
            self.counts["received"] += 1
            self._received(client.name, header, content)

    def _refuse(self, client: _Client, what: str, code: Code, text: str) -> None:
        self.counts[what] += 1
        self._note(f"{client.name}: {text}")
        self._tell(client.name, code, text)


def taken_port(name: str, host: str, port: int, error: Exception) -> str:
    """What to do about an address that cannot be served. name: of the parameter."""
    why = getattr(error, "strerror", None) or error
    return f"openigtlink.{name}: {host}:{port} cannot be served ({why}); give another port (--igtl-port N)"  # fmt: skip


def check_address(host: str, allow_network: bool) -> None:
    """Raises ParameterError for an address that others reach, unless that is allowed explicitly."""
    if not is_loopback(host) and not allow_network:
        raise ParameterError(
            f"openigtlink.host is {host}: OpenIGTLink knows neither authentication nor encryption,"
            " whoever reaches the port sees this patient's anatomy and may propose plans; on a"
            " network of your own set openigtlink.allow_network=true, or leave the host at 127.0.0.1"
        )
