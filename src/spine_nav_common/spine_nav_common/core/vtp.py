# SPDX-License-Identifier: Apache-2.0
"""A small reader of VTK XML PolyData (.vtp): polygons and strips, in every encoding VTK writes."""

from __future__ import annotations

import base64
import re
import sys
import zlib
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np

_TYPES = {
    "Int8": "i1", "UInt8": "u1", "Int16": "i2", "UInt16": "u2", "Int32": "i4", "UInt32": "u4",
    "Int64": "i8", "UInt64": "u8", "Float32": "f4", "Float64": "f8",
}  # fmt: skip
_APPENDED = re.compile(rb"<AppendedData[^>]*?encoding=[\"'](\w+)[\"'][^>]*>\s*_", re.DOTALL)


class VtpError(ValueError):
    """The file is no VTK XML PolyData that this reader understands."""


@dataclass(frozen=True)
class _File:
    """What the arrays of one file share: number layout, compression, and the appended block."""

    order: str
    header: np.dtype
    compressed: bool
    appended: bytes
    appended_encoding: str

    def array(self, element: ElementTree.Element) -> np.ndarray:
        """The values of one DataArray, flat."""
        kind = element.get("type", "")
        if kind not in _TYPES:
            raise VtpError(f"DataArray type {kind!r} is unknown")
        dtype = np.dtype(self.order + _TYPES[kind])
        form = element.get("format", "ascii")
        if form == "ascii":
            return np.array((element.text or "").split(), dtype=np.float64).astype(dtype)
        if form == "binary":
            raw = self._payload((element.text or "").strip().encode(), "base64")
        elif form == "appended":
            raw = self._payload(
                self.appended[int(element.get("offset", "0")) :], self.appended_encoding
            )
        else:
            raise VtpError(f"DataArray format {form!r} is unknown")
        if len(raw) % dtype.itemsize:
            raise VtpError("a DataArray is cut off")
        return np.frombuffer(raw, dtype)

    def _payload(self, data: bytes, encoding: str) -> bytes:
        """The bytes of one array that starts at data[0]: header, then blocks."""
        if not self.compressed:
            size = int(self._header(data, 1, encoding)[0])
            if encoding == "raw":
                return _exactly(data, self.header.itemsize, size)
            whole = _decode64(data, self.header.itemsize + size)
            return _exactly(whole, self.header.itemsize, size)
        blocks = int(self._header(data, 1, encoding)[0])
        if blocks > len(data):
            raise VtpError("a block count is larger than the file")
        if blocks == 0:
            return b""
        sizes = self._header(data, 3 + blocks, encoding)[3:].astype(int)
        header_bytes = (3 + blocks) * self.header.itemsize
        if encoding == "raw":
            body = data[header_bytes:]
        else:  # header and blocks are two base64 texts, each padded on its own
            body = _decode64(data[-(-header_bytes // 3) * 4 :], int(sizes.sum()))
        ends = np.cumsum(sizes)
        return b"".join(
            zlib.decompress(_exactly(body, int(end - size), int(size)))
            for end, size in zip(ends, sizes, strict=True)
        )

    def _header(self, data: bytes, count: int, encoding: str) -> np.ndarray:
        size = count * self.header.itemsize
        raw = data[:size] if encoding == "raw" else _decode64(data, size)
        return np.frombuffer(_exactly(raw, 0, size), self.header)


def _decode64(text: bytes, size: int) -> bytes:
    return base64.b64decode(text[: -(-size // 3) * 4], validate=False)


def _exactly(data: bytes, start: int, size: int) -> bytes:
    if len(data) < start + size:
        raise VtpError("a DataArray is cut off")
    return data[start : start + size]


def read_vtp(content: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (N, 3) float64 in the file's unit and triangles (M, 3) int64 of a .vtp file.

    Polygons are cut into fans, strips into triangles; several pieces are joined.
    Raises VtpError, also where the file is cut off.
    """
    appended, encoding = b"", "raw"
    match = _APPENDED.search(content)
    if match:  # raw bytes are no XML: take them out before parsing
        end = content.rfind(b"</AppendedData>")
        if end < match.end():
            raise VtpError("the appended data is cut off")
        appended, encoding = content[match.end() : end], match[1].decode()
        content = content[: match.start()] + content[end + len(b"</AppendedData>") :]
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise VtpError("document type declarations are not accepted")
    try:
        root = ElementTree.fromstring(content)
        if root.tag != "VTKFile" or root.get("type") != "PolyData":
            raise VtpError("this is no VTKFile of type PolyData")
        compressor = root.get("compressor", "")
        if compressor not in ("", "vtkZLibDataCompressor"):
            raise VtpError(f"compressor {compressor} is not supported")
        order = {"LittleEndian": "<", "BigEndian": ">"}.get(root.get("byte_order", ""))
        order = order or ("<" if sys.byteorder == "little" else ">")
        header = np.dtype(order + _TYPES.get(root.get("header_type", "UInt32"), "u4"))
        file = _File(order, header, bool(compressor), appended, encoding)
        return _pieces(file, root)
    except VtpError:
        raise
    except (ElementTree.ParseError, zlib.error, ValueError, IndexError, OverflowError) as error:
        raise VtpError(f"not readable ({error})") from error


def _pieces(file: _File, root: ElementTree.Element) -> tuple[np.ndarray, np.ndarray]:
    vertices: list[np.ndarray] = []
    faces: list[np.ndarray] = []
    offset = 0
    for piece in root.iter("Piece"):
        element = piece.find("Points/DataArray")
        if element is None:
            continue
        points = file.array(element).astype(np.float64).reshape(-1, 3)
        for kind, triangulate in (("Polys", _fan), ("Strips", _strip)):
            arrays = {a.get("Name"): file.array(a) for a in piece.findall(f"{kind}/DataArray")}
            if "connectivity" not in arrays or "offsets" not in arrays:
                continue
            ids = arrays["connectivity"].astype(np.int64)
            for cell in np.split(ids, arrays["offsets"].astype(np.int64)[:-1]):
                faces.append(triangulate(cell) + offset)
        vertices.append(points)
        offset += len(points)
    if not vertices:
        return np.empty((0, 3)), np.empty((0, 3), dtype=np.int64)
    joined = np.concatenate(faces) if faces else np.empty((0, 3), dtype=np.int64)
    return np.concatenate(vertices), joined


def _fan(cell: np.ndarray) -> np.ndarray:
    n = max(len(cell) - 2, 0)
    return np.stack([np.repeat(cell[:1], n), cell[1 : n + 1], cell[2 : n + 2]], axis=1)


def _strip(cell: np.ndarray) -> np.ndarray:
    n = max(len(cell) - 2, 0)
    faces = np.stack([cell[:n], cell[1 : n + 1], cell[2 : n + 2]], axis=1)
    faces[1::2] = faces[1::2, ::-1]  # every second triangle of a strip turns the other way
    return faces
