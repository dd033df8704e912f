# SPDX-License-Identifier: Apache-2.0
"""Messages of OpenIGTLink, written and read after its specification (protocol 3, headers 1 and 2).

https://github.com/openigtlink/OpenIGTLink/tree/master/Documents/Protocol. Numbers are big-endian.
Nothing that comes from a socket is trusted: a size that is too large, a wrong checksum or a body
that does not hold what it says is Rejected.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from spine_nav_common.core.compiled import compiled
from spine_nav_common.core.types import Rejected

HEADER = struct.Struct(">H12s20sIIQQ")
_EXTENDED = struct.Struct(">HHII")
_POINT = struct.Struct(">64s32s4B3ff20s")
_IMAGE = struct.Struct(">HBBBB3H12f3H3H")
_POLYDATA = struct.Struct(">10I")
_UINT8, _LITTLE, _RAS = 3, 2, 1
_POLYNOMIAL = 0x42F0E1EBA9EA3693  # ECMA-182
MOST_NAME = 20


class Code(IntEnum):
    """Codes of a STATUS message."""

    OK = 1
    DENIED = 5
    BUSY = 6
    TIME_OUT = 7
    OVERFLOW = 8
    CHECKSUM = 9
    ILLEGAL = 12


@dataclass(frozen=True)
class Header:
    """The first 58 bytes. size: of the body in bytes."""

    version: int
    kind: str
    device: str
    stamp_ns: int
    size: int
    checksum: int


@dataclass(frozen=True)
class Point:
    """One point of a POINT message, in mm."""

    name: str
    xyz_mm: tuple[float, float, float]
    group: str = ""


def _table() -> np.ndarray:
    table = np.zeros(256, np.uint64)
    for byte in range(256):
        value = byte << 56
        for _ in range(8):
            value = (value << 1) ^ _POLYNOMIAL if value >> 63 else value << 1
            value &= (1 << 64) - 1
        table[byte] = value
    return table


_TABLE = _table()


@compiled
def _crc64(data: np.ndarray, table: np.ndarray) -> np.uint64:
    value = np.uint64(0)
    for i in range(len(data)):
        top = (value >> np.uint64(56)) ^ np.uint64(data[i])
        value = table[top] ^ (value << np.uint64(8))
    return value


def crc64(data: bytes) -> int:
    """The checksum of a body."""
    return int(_crc64(np.frombuffer(data, np.uint8), _TABLE))


# Written.


def pack(kind: str, device: str, body: bytes, stamp_ns: int) -> bytes:
    """A whole message with header 1, which every version of the protocol reads.

    Raises ValueError for a device's name that does not fit (20 ASCII characters).
    """
    name = device.encode("ascii")
    if len(name) > MOST_NAME:
        raise ValueError(f"device name {device}: at most {MOST_NAME} characters")
    seconds, rest = divmod(stamp_ns, 1_000_000_000)
    fraction = (rest << 32) // 1_000_000_000
    head = (1, kind.encode("ascii"), name, seconds & 0xFFFFFFFF, fraction, len(body), crc64(body))
    return HEADER.pack(*head) + body


def transform_body(T_mm: np.ndarray) -> bytes:
    """A (4, 4) matrix in mm: the columns of the rotation, then the translation."""
    return np.ascontiguousarray(np.asarray(T_mm)[:3].T, dtype=">f4").tobytes()


def string_body(text: str) -> bytes:
    """A text; what is longer than 65535 bytes is cut."""
    encoded = text.encode()[:65535]
    return struct.pack(">HH", 3 if text.isascii() else 106, len(encoded)) + encoded


def status_body(code: Code, text: str) -> bytes:
    """A status with its words, which end with a zero."""
    name = b"OK" if code is Code.OK else b"Error"
    return struct.pack(">Hq20s", code, 0, name) + text.encode() + b"\0"


def point_body(points: Sequence[Point]) -> bytes:
    """Points in mm."""
    return b"".join(
        _POINT.pack(p.name.encode(), p.group.encode(), 255, 200, 0, 255, *p.xyz_mm, 0.0, b"")
        for p in points
    )


def polydata_body(
    points_mm: np.ndarray, triangles: np.ndarray | None = None, lines: np.ndarray | None = None
) -> bytes:
    """Surfaces and lines: points (N, 3) mm, triangles (M, 3) and lines (K, 2) of indices. Without
    points the viewer shows nothing under this name any more."""
    cells = []
    for indices in (lines, triangles):
        given = np.zeros((0, 3), np.int64) if indices is None else np.asarray(indices)
        counted = np.insert(given, 0, given.shape[1], axis=1)
        cells.append((len(given), np.ascontiguousarray(counted, dtype=">u4").tobytes()))
    (n_lines, lines_data), (n_triangles, triangles_data) = cells
    head = _POLYDATA.pack(
        len(points_mm), 0, 0, n_lines, len(lines_data), n_triangles, len(triangles_data), 0, 0, 0
    )
    points = np.ascontiguousarray(points_mm, dtype=">f4").tobytes()
    return head + points + lines_data + triangles_data


def image_body(image: np.ndarray) -> bytes:
    """A picture (H, W, 3) uint8 RGB as one slice with pixels of 1 mm: rows run towards the feet and
    columns towards the patient's left, as Slicer shows an axial slice upright."""
    height, width, channels = image.shape
    head = _IMAGE.pack(
        1, channels, _UINT8, _LITTLE, _RAS, width, height, 1,
        -1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0,
        0, 0, 0, width, height, 1,
    )  # fmt: skip
    return head + np.ascontiguousarray(image, np.uint8).tobytes()


# Read.


def read_header(data: bytes) -> Header | Rejected:
    """The header of a message that comes."""
    version, kind, device, seconds, fraction, size, checksum = HEADER.unpack(data)
    if version not in (1, 2, 3):
        return Rejected(f"header version {version} is none of OpenIGTLink's")
    try:
        names = [part.rstrip(b"\0 ").decode("ascii") for part in (kind, device)]
    except UnicodeDecodeError:
        return Rejected("the names in the header are no ASCII")
    if not names[0] or not all(c.isalnum() or c == "_" for c in names[0]):
        return Rejected(f"{names[0]!r} is no type of message")
    stamp_ns = seconds * 1_000_000_000 + (fraction * 1_000_000_000 >> 32)
    return Header(version, names[0], names[1], stamp_ns, size, checksum)


def read_content(header: Header, body: bytes) -> bytes | Rejected:
    """What a body holds between the extended header and the metadata of header 2."""
    if crc64(body) != header.checksum:
        return Rejected(f"{header.kind} '{header.device}': its checksum is wrong")
    if header.version == 1:
        return body
    if len(body) < _EXTENDED.size:
        return Rejected(f"{header.kind} '{header.device}': its extended header is cut off")
    size, meta_head, meta_body, _ = _EXTENDED.unpack(body[: _EXTENDED.size])
    end = len(body) - meta_head - meta_body
    if not _EXTENDED.size <= size <= end:
        return Rejected(f"{header.kind} '{header.device}': its extended header is wrong")
    return body[size:end]


def read_points(content: bytes) -> tuple[Point, ...] | Rejected:
    """The points of a POINT message."""
    if len(content) % _POINT.size:
        return Rejected(f"{len(content)} bytes are no whole number of points")
    points = []
    for values in _POINT.iter_unpack(content):
        xyz = (values[6], values[7], values[8])
        if not all(map(math.isfinite, xyz)):
            return Rejected("a point is not finite")
        points.append(Point(_text(values[0]), xyz, _text(values[1])))
    return tuple(points)


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "replace").strip()
