# SPDX-License-Identifier: Apache-2.0
"""How late a pose is in 3D Slicer: a client by pyigtl, which is other people's, at the bridge."""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from spine_nav_common.core.case import write_case
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.run import Progress
from spine_nav_common.core.types import Case
from spine_nav_sim.core.anatomy import make_anatomy
from spine_nav_sim.core.splits import anatomy_seeds

from .bench_timing import percentiles

SECONDS = 15.0
LEVELS = ("L1", "L2", "L3", "L4", "L5")
_PERIOD_S = 1.0 / 15.0
_UP_S, _END_S, _LOOK_S = 60.0, 10.0, 0.0002


def bridges_record(
    cache: Path, *, seconds: float = SECONDS, progress: Progress | None = None
) -> dict[str, Any]:
    """Five levels at 15 Hz through the openigtlink node, with and without pictures beside them."""
    for module, remedy in (("rclpy", "run 'make setup'"), ("pyigtl", "pip install pyigtl")):
        if importlib.util.find_spec(module) is None:
            raise InputError("bench", "--only bridges", f"{module} is missing", remedy)
    seed = anatomy_seeds("judge")[-3]
    anatomy = make_anatomy(np.random.default_rng(seed), LEVELS)
    case = Case("bridges", "LPS", anatomy.meshes, LEVELS, anatomy.plan, "")
    folder = write_case(cache / "bridges-case", case).parent
    runs = []
    for pictures in (False, True):
        runs.append({"pictures": pictures, **_run(folder, seconds, pictures)})
        if progress is not None:
            progress(len(runs), 2)
    return {"runs": runs, "levels": len(LEVELS), "rate_hz": 15.0, "seeds": [seed]}


def _run(case: Path, seconds: float, pictures: bool) -> dict[str, Any]:
    port = _free_port()
    code = (
        "import sys; from spine_nav_display.executables import openigtlink; sys.exit(openigtlink())"
    )
    values = {"case": case, "port": port, "image_port": port + 1}
    given = [part for name, value in values.items() for part in ("-p", f"{name}:={value}")]
    bridge = subprocess.Popen(
        [sys.executable, "-c", code, "--ros-args", "-r", "__ns:=/spine", *given],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    feed = subprocess.Popen(
        [sys.executable, "-m", "spine_nav_bench.bridge_feed", str(case), str(seconds + 5.0)],
        stdout=subprocess.DEVNULL,
    )
    clients = []
    try:
        _wait_for(port, feed)
        clients = [_client(port)] + ([_client(port + 1)] if pictures else [])
        delays = _delays(clients[0], seconds)
        shown = getattr(clients[-1], "pictures", 0)
    finally:
        for client in clients:
            client.stop()
        for process in (feed, bridge):
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
    if not delays:
        raise InputError("bench", "--only bridges", "no pose has come", "see the lines above")
    sent = round(seconds / _PERIOD_S)
    return {"delay_ms": percentiles(delays), "poses": len(delays), "sent": sent * len(LEVELS), "pictures_shown": shown}  # fmt: skip


def _client(port: int) -> Any:
    """A client of pyigtl that notes how old each matrix is once it is decoded."""
    pyigtl = importlib.import_module("pyigtl")

    class Client(pyigtl.OpenIGTLinkClient):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            self.delays: list[float] = []
            self.pictures = 0
            super().__init__("127.0.0.1", port)

        def _receive_message_from_socket(self, source: Any) -> bool:
            try:  # pyigtl forgets the half of a header that has come when the other half is late
                if len(source.recv(58, socket.MSG_PEEK)) < 58:
                    return False
            except TimeoutError:
                return False
            done = bool(super()._receive_message_from_socket(source))
            now = time.time()
            for message in self.incoming_messages.values():
                if message.message_type == "TRANSFORM":
                    self.delays.append((now - message.timestamp) * 1e3)
                self.pictures += message.message_type == "IMAGE"
            self.incoming_messages.clear()
            return done

    return Client()


def _delays(client: Any, seconds: float) -> list[float]:
    """Of what comes in `seconds`, after the first second."""
    end = time.monotonic() + _UP_S
    while not client.delays and time.monotonic() < end:
        time.sleep(_LOOK_S)
    time.sleep(1.0)
    client.delays.clear()
    time.sleep(seconds)
    return list(client.delays)


def _wait_for(port: int, feed: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _UP_S
    while time.monotonic() < end and feed.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise InputError("bench", "--only bridges", "the bridge did not come up", "see the lines above")


def _free_port() -> int:
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
