# SPDX-License-Identifier: Apache-2.0
"""OpenIGTLink: our messages and server against pyigtl, which is other people's. No ROS."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pyigtl = pytest.importorskip("pyigtl", reason="pyigtl is not installed; run make setup")
from pyigtl import messages as theirs

from spine_nav_common.core.live_plan import same_line
from spine_nav_common.core.types import Rejected, ScrewPlan
from spine_nav_common.parameters import ParameterError
from spine_nav_display.core import igtl_messages as ours
from spine_nav_display.core import igtl_scene as scene
from spine_nav_display.igtl_server import MOST_BYTES, MOST_CLIENTS, IgtlServer, check_address

STAMP_NS = 1_700_000_000_123_456_789
POSE = np.array([[0, -1, 0, 10.5], [1, 0, 0, -20.25], [0, 0, 1, 512.0], [0, 0, 0, 1.0]])


def read_by_pyigtl(data: bytes) -> Any:
    fields = theirs.MessageBase.parse_header(data[:58])
    assert fields["body_size"] == len(data) - 58
    message = theirs.MessageBase.create_message(fields["message_type"])
    message.unpack(fields, data[58:])
    assert struct.unpack(">Q", data[50:58])[0] == theirs.CRC64(data[58:])
    return message


def test_a_transform_reads_as_the_matrix_that_was_sent() -> None:
    data = ours.pack("TRANSFORM", "VertebraT12ToCamera", ours.transform_body(POSE), STAMP_NS)
    message = read_by_pyigtl(data)
    np.testing.assert_allclose(message.matrix, POSE)
    assert message.device_name == "VertebraT12ToCamera"
    assert message.timestamp == pytest.approx(STAMP_NS * 1e-9, abs=1e-6)


def test_words_points_and_pictures_read_as_they_were_sent() -> None:
    text = read_by_pyigtl(ours.pack("STRING", "S", ours.string_body("lost: höher"), STAMP_NS))
    assert text.string == "lost: höher"
    points = (ours.Point("entry", (1.5, -2.0, 3.0)), ours.Point("target", (4.0, 5.0, -6.5)))
    read = read_by_pyigtl(ours.pack("POINT", "L3_left", ours.point_body(points), STAMP_NS))
    np.testing.assert_allclose(read.positions, [p.xyz_mm for p in points])
    assert read.names == ["entry", "target"]
    picture = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    image = read_by_pyigtl(ours.pack("IMAGE", "I", ours.image_body(picture), STAMP_NS))
    np.testing.assert_array_equal(image.image[0], picture)


def test_a_surface_has_the_bytes_that_pyigtl_writes() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3.5]])
    triangles = np.array([[0, 2, 1], [0, 1, 3]])
    flat = np.array([3, 0, 2, 1, 3, 0, 1, 3])
    message = theirs.PolyDataMessage(points=points, polygons=flat)
    assert ours.polydata_body(points, triangles) == message._pack_content()
    assert struct.unpack(">10I", ours.polydata_body(np.zeros((0, 3)))) == (0,) * 10


@pytest.mark.parametrize("version", [1, 2])
def test_points_of_either_header_are_read(version: int) -> None:
    message = pyigtl.PointMessage([[1, 2, 3], [4, 5, 6]], device_name="L3_left")
    message.header_version = version
    message.metadata = {"MRMLNodeName": "L3_left"} if version == 2 else {}
    data = message.pack()
    header = ours.read_header(data[:58])
    assert not isinstance(header, Rejected)
    content = ours.read_content(header, data[58:])
    assert isinstance(content, bytes)
    points = ours.read_points(content)
    assert not isinstance(points, Rejected)
    assert [p.xyz_mm for p in points] == [(1, 2, 3), (4, 5, 6)]


def test_a_body_that_was_changed_on_the_way_is_refused() -> None:
    data = bytearray(ours.pack("STRING", "S", ours.string_body("L3"), STAMP_NS))
    header = ours.read_header(bytes(data[:58]))
    assert not isinstance(header, Rejected)
    data[60] ^= 1
    assert isinstance(ours.read_content(header, bytes(data[58:])), Rejected)


def test_a_name_that_a_header_does_not_hold_is_no_message() -> None:
    with pytest.raises(ValueError, match="at most 20"):
        ours.pack("TRANSFORM", "V" * 21, b"", 0)


# Coordinates: a phantom that no mirror and no swap of axes leaves as it is.

PHANTOM_LPS_MM = np.array([[31.0, 7.0, 3.0], [-5.0, 41.0, 11.0], [2.0, -13.0, 53.0]])


def test_left_is_left_whichever_frame_the_case_has() -> None:
    ras = PHANTOM_LPS_MM * (-1.0, -1.0, 1.0)
    np.testing.assert_allclose(scene.to_ras_mm(PHANTOM_LPS_MM * 1e-3, "LPS"), ras)
    np.testing.assert_allclose(scene.to_ras_mm(ras * 1e-3, "RAS"), ras)
    for frame in ("LPS", "RAS"):
        there = scene.to_ras_mm(PHANTOM_LPS_MM * 1e-3, frame)
        np.testing.assert_allclose(scene.from_ras_mm(there, frame), PHANTOM_LPS_MM * 1e-3)


@pytest.mark.parametrize("frame", ["LPS", "RAS"])
def test_a_pose_puts_every_point_where_the_camera_sees_it(frame: str) -> None:
    T = np.eye(4)
    T[:3, :3] = [[0, 0, 1], [1, 0, 0], [0, 1, 0]]  # a cycle of the axes: no symmetry
    T[:3, 3] = (0.01, -0.02, 0.5)
    points_m = PHANTOM_LPS_MM * 1e-3  # in the case's own frame
    seen_mm = 1e3 * (points_m @ T[:3, :3].T + T[:3, 3])
    sent = scene.vertebra_to_camera_mm(T, frame)
    ras = scene.to_ras_mm(points_m, frame)
    np.testing.assert_allclose(ras @ sent[:3, :3].T + sent[:3, 3], seen_mm)
    assert np.linalg.det(sent[:3, :3]) == pytest.approx(1.0)


def test_a_planned_screw_goes_out_and_comes_back_the_same() -> None:
    plan = ScrewPlan(
        "L3", "left", np.array([0.012, 0.030, -0.035]), np.array([0.010, -0.010, -0.03])
    )
    for frame in ("LPS", "RAS"):
        body = ours.point_body(scene.plan_points(plan, frame))
        back = scene.read_line("L3_left", body, frame)
        assert not isinstance(back, Rejected)
        assert same_line(plan, back)


def test_points_that_are_no_planned_screw_are_refused_with_the_reason() -> None:
    def reason(device: str, *points: tuple[float, float, float]) -> str:
        body = ours.point_body([ours.Point("", p) for p in points])
        answer = scene.read_line(device, body, "LPS")
        assert isinstance(answer, Rejected)
        return answer.reason

    assert "names no planned screw" in reason("F", (0, 0, 0), (1, 1, 1))
    assert "3 points" in reason("L3_left", (0, 0, 0), (1, 1, 1), (2, 2, 2))
    assert "not finite" in reason("L3_left", (0, float("nan"), 0), (1, 1, 1))
    assert isinstance(scene.read_line("L3_left", b"x" * 100, "LPS"), Rejected)


def test_the_shaft_is_a_closed_body_around_the_axis() -> None:
    import trimesh

    plan = ScrewPlan("L3", "left", np.array([0.0, 0.03, 0.0]), np.array([0.0, -0.01, 0.02]))
    points, triangles = scene.shaft(plan, "LPS", radius_mm=2.0, corners=32)
    body = trimesh.Trimesh(points, triangles, process=False)
    length = 1e3 * np.linalg.norm(plan.target_m - plan.entry_m)
    assert body.is_watertight
    assert body.volume == pytest.approx(np.pi * 4.0 * length, rel=0.01)


# The server.


class Slicer(pyigtl.OpenIGTLinkClient):
    """A client by pyigtl that keeps all that came."""

    def __init__(self, port: int) -> None:
        self.came: list[Any] = []
        super().__init__("127.0.0.1", port, start_now=True)

    def _receive_message_from_socket(self, source: Any) -> bool:
        try:  # pyigtl forgets the half of a header that has come when the other half is late
            if len(source.recv(58, socket.MSG_PEEK)) < 58:
                return False
        except TimeoutError:
            return False
        done = super()._receive_message_from_socket(source)
        with self.lock_incoming_messages:
            self.came += self.incoming_messages.values()
            self.incoming_messages.clear()
        return done

    def of(self, device: str) -> list[Any]:
        return [m for m in list(self.came) if m.device_name == device]


def until(true: Callable[[], Any], timeout_s: float = 60.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.005)


class Served:
    def __init__(self, **given: Any) -> None:
        self.got: list[tuple[str, ours.Header, bytes]] = []
        self.notes: list[str] = []
        self.server = IgtlServer(
            "127.0.0.1", 0, lambda *m: self.got.append(m), self.notes.append, **given
        )
        self.server.start()
        self._open: list[Any] = []

    def slicer(self) -> Slicer:
        count = len(self.server.clients)
        client = Slicer(self.server.port)
        self._open.append(client.stop)
        until(lambda: len(self.server.clients) > count)
        return client

    def raw(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.server.port), timeout=10.0)
        self._open.append(connection.close)
        return connection

    def pose(self, number: float) -> None:
        T = POSE.copy()
        T[0, 3] = number
        self.server.state("TRANSFORM", "P", ours.transform_body(T), STAMP_NS, keep=False)

    def close(self) -> None:
        for end in self._open:
            end()
        self.server.stop()


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served(send_s=0.5, body_s=0.3)
    yield made
    made.close()


def test_a_client_of_other_people_gets_poses_and_sends_points(served: Served) -> None:
    client = served.slicer()
    served.pose(7.0)
    until(lambda: client.of("P"))
    assert client.of("P")[-1].matrix[0, 3] == 7.0
    client.send_message(pyigtl.PointMessage([[1, 2, 3], [4, 5, 6]], device_name="L3_left"))
    until(lambda: served.got)
    assert served.got[0][1].device == "L3_left"


def test_who_comes_late_or_again_gets_what_holds_and_no_old_pose(served: Served) -> None:
    served.pose(1.0)
    served.server.state("STRING", "VertebraL3Status", ours.string_body("lost"), STAMP_NS)
    first = served.slicer()
    until(lambda: first.of("VertebraL3Status"))
    first.stop()
    until(lambda: not served.server.clients)
    served.server.state("STRING", "VertebraL3Status", ours.string_body("tracked"), STAMP_NS)
    again = served.slicer()
    until(lambda: again.of("VertebraL3Status"))
    assert again.of("VertebraL3Status")[-1].string == "tracked"
    assert not first.of("P") and not again.of("P")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1:18944\r\nAccept: everything there is\r\n",
            "malformed",
        ),
        (struct.pack(">H12s20sIIQQ", 1, b"PO\xffNT", b"L3_left", 0, 0, 10, 0), "malformed"),
        (struct.pack(">H12s20sIIQQ", 1, b"POINT", b"L3_left", 0, 0, 1 << 62, 0), "oversized"),
        (struct.pack(">H12s20sIIQQ", 1, b"POINT", b"x", 0, 0, MOST_BYTES + 1, 0), "oversized"),
        (struct.pack(">H12s20sIIQQ", 1, b"POINT", b"L3_left", 0, 0, 272, 0) + b"cut", "malformed"),
    ],
    ids=["another protocol", "no ASCII", "4 EB", "a byte too many", "cut off"],
)
def test_what_is_no_message_is_named_and_its_sender_let_go(
    served: Served, data: bytes, what: str
) -> None:
    other = served.slicer()
    bad = served.raw()
    bad.sendall(data)
    heard = b""
    while chunk := bad.recv(4096):
        heard += chunk
    assert served.server.counts[what] == 1 and served.notes
    assert b"STATUS" in heard and b"closed" in heard, "its sender is told why"
    assert not served.got
    served.pose(3.0)
    until(lambda: other.of("P"))


def test_a_wrong_checksum_costs_one_message(served: Served) -> None:
    bad = served.raw()
    whole = pyigtl.PointMessage([[1, 2, 3], [4, 5, 6]], device_name="L3_left").pack()
    bad.sendall(whole[:-1] + bytes([whole[-1] ^ 1]) + whole)
    until(lambda: served.got)
    assert served.server.counts["malformed"] == 1 and len(served.got) == 1
    assert "checksum" in served.notes[0]


def test_who_never_reads_is_let_go_and_costs_nobody_else_anything() -> None:
    served = Served()
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(("127.0.0.1", served.server.port))
    until(lambda: served.server.clients)  # else it could be counted for the reader
    reader = served.slicer()
    points, triangles = np.zeros((3000, 3)), np.zeros((6000, 3), int)
    body = ours.polydata_body(points, triangles)
    for number in range(1, 100):  # 13 MB, more than any socket holds for the deaf one
        served.server.state("POLYDATA", "M", body, STAMP_NS, keep=False)
        served.pose(float(number))
        until(lambda n=number: reader.of("P") and reader.of("P")[-1].matrix[0, 3] == n)
        if served.server.counts["dropped"]:
            break
    assert number > 30, "others got theirs while the deaf one was waited for"
    until(lambda: served.server.counts["dropped"])
    assert "did not read" in served.notes[0]
    assert len(served.server.clients) == 1
    deaf.close()
    served.close()


def test_a_slow_reader_gets_the_newest_and_not_what_was_taken_back(served: Served) -> None:
    taken = []

    class Slow(threading.Thread):
        """Reads nothing until it is let."""

        def __init__(self) -> None:
            super().__init__()
            self.go = threading.Event()
            self.connection = socket.socket()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            self.connection.connect(("127.0.0.1", served.server.port))

        def run(self) -> None:
            self.go.wait()
            self.connection.settimeout(0.5)
            try:
                while chunk := self.connection.recv(1 << 16):
                    taken.append(chunk)
            except OSError:
                pass

    slow = Slow()
    slow.start()
    until(lambda: served.server.clients)
    body = ours.polydata_body(np.zeros((30000, 3)))  # more than what the kernel takes
    served.server.state("POLYDATA", "M", body, STAMP_NS)
    served.pose(1.0)
    served.pose(2.0)
    served.server.withdraw("P")
    served.server.state("STRING", "end", ours.string_body("end"), STAMP_NS)
    slow.go.set()
    slow.join()
    slow.connection.close()
    all_ = b"".join(taken)
    assert b"end" in all_ and b"POLYDATA" in all_
    assert b"TRANSFORM" not in all_


def test_too_many_clients_are_told(served: Served) -> None:
    for _ in range(MOST_CLIENTS):
        served.raw()
    until(lambda: len(served.server.clients) == MOST_CLIENTS)
    one_more = served.raw()
    heard = b""
    while chunk := one_more.recv(4096):
        heard += chunk
    assert b"8 clients" in heard and served.server.counts["refused"] == 1


def test_a_taken_port_is_told_with_the_remedy(served: Served) -> None:
    with pytest.raises(ParameterError, match="--igtl-port"):
        IgtlServer("127.0.0.1", served.server.port, lambda *m: None).start()


def test_a_network_is_served_only_where_that_is_asked_for() -> None:
    check_address("127.0.0.1", False)
    check_address("0.0.0.0", True)
    with pytest.raises(ParameterError, match="neither authentication"):
        check_address("0.0.0.0", False)
