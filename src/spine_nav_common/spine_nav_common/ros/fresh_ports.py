# SPDX-License-Identifier: Apache-2.0
"""A node that was started again takes other DDS ports than the process that died.

Fast DDS numbers a participant by the first free UDP port, and its shared memory by that number: the
next process would take that of the dead one, into whose memory everybody else writes for another
second or two. What is lost meanwhile (discovery, requests, images) costs that time again. With other
ports a node of two processes is heard after 0.1 s instead of 2.0.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .. import guardian

_LEFT = "ports"
_MOST = 20  # of the newest lives; a domain has room for more than a hundred
_SEGMENT = "/dev/shm/fastrtps_port{}"


@contextmanager
def fresh_ports() -> Iterator[None]:
    """While the node is made: the ports of the processes before it are taken; its own are noted."""
    used: list[int] = guardian.left().get(_LEFT, [])
    held = []
    for port in used:
        with suppress(OSError):  # somebody lives there by now
            held.append(_bound(port))
    try:
        yield
    finally:
        for s in held:
            s.close()
    guardian.leave(_LEFT, [*used, *(p for p in own_ports() if p not in used)][-_MOST:])


def own_ports() -> list[int]:
    """The UDP port of this process by which each of its participants is numbered: the one after it is
    its own too and numbers its shared memory. None where DDS has no such memory."""
    sockets = set()
    try:
        for fd in os.listdir("/proc/self/fd"):
            with suppress(OSError):  # the listing's own
                sockets.add(os.readlink(f"/proc/self/fd/{fd}"))
        lines = Path("/proc/self/net/udp").read_text(encoding="ascii").splitlines()[1:]
    except OSError:
        return []
    bound = [(line.split()[1], line.split()[9]) for line in lines]
    mine = {int(at.rpartition(":")[2], 16) for at, node in bound if f"socket:[{node}]" in sockets}
    return sorted(p for p in mine if p + 1 in mine and os.path.exists(_SEGMENT.format(p + 1)))


def _bound(port: int) -> socket.socket:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        s.bind(("", port))
    except OSError:
        s.close()
        raise
    return s
