# SPDX-License-Identifier: Apache-2.0
"""VTP files built byte by byte here, after VTK's file format description."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np
import pytest
import yaml

from spine_nav_common.core.case import CaseError, load_case
from spine_nav_common.core.types import Case
from spine_nav_common.core.vtp import VtpError, read_vtp

POINTS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.5, 0.5, 1.25]], np.float32)
POLYS = [[0, 3, 2, 1], [0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]  # a pyramid, base a quad


def _block(data: bytes, head: str, compressed: bool) -> tuple[bytes, bytes]:
    """(header, body) of one array; compressed in blocks of 40 bytes, the last one partial."""
    if not compressed:
        return struct.pack(head, len(data)), data
    blocks = [zlib.compress(data[i : i + 40]) for i in range(0, len(data), 40)]
    last = len(data) % 40
    sizes = [len(blocks), 40, last, *map(len, blocks)]
    return b"".join(struct.pack(head, s) for s in sizes), b"".join(blocks)


def build(mode: str, compressed: bool, big: bool, wide: bool, points=POINTS, polys=POLYS) -> bytes:
    order = ">" if big else "<"
    head = order + ("Q" if wide else "I")
    arrays = [
        ("Points", "Float32", 3, points.astype(order + "f4")),
        ("connectivity", "Int64", 1, np.concatenate(polys).astype(order + "i8")),
        ("offsets", "Int64", 1, np.cumsum([len(p) for p in polys]).astype(order + "i8")),
    ]
    appended = b""
    texts = {}
    for name, kind, n, values in arrays:
        attributes = f'type="{kind}" Name="{name}" NumberOfComponents="{n}"'
        if mode == "ascii":
            text = f'<DataArray {attributes} format="ascii">' + " ".join(map(str, values.ravel()))
        else:
            header, body = _block(values.tobytes(), head, compressed)
            if mode == "raw":
                payload = header + body
            elif compressed:  # VTK encodes header and blocks apart
                payload = base64.b64encode(header) + base64.b64encode(body)
            else:
                payload = base64.b64encode(header + body)
            if mode == "binary":
                text = f'<DataArray {attributes} format="binary">\n {payload.decode()}\n'
            else:
                text = f'<DataArray {attributes} format="appended" offset="{len(appended)}">'
                appended += payload
        texts[name] = text + "</DataArray>"
    compressor = ' compressor="vtkZLibDataCompressor"' if compressed else ""
    tail = b""
    if mode in ("raw", "base64"):
        tail = f'<AppendedData encoding="{mode}">\n _'.encode() + appended + b"</AppendedData>"
    return (
        (
            f'<?xml version="1.0"?><VTKFile type="PolyData" version="1.0" '
            f'byte_order="{"Big" if big else "Little"}Endian" '
            f'header_type="UInt{64 if wide else 32}"{compressor}><PolyData><Piece>'
            f"<Points>{texts['Points']}</Points>"
            f"<Polys>{texts['connectivity']}{texts['offsets']}</Polys></Piece></PolyData>"
        ).encode()
        + tail
        + b"</VTKFile>"
    )


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("mode", ["ascii", "binary", "raw", "base64"])
def test_every_encoding(mode, compressed, big, wide):
    vertices, faces = read_vtp(build(mode, compressed, big, wide))
    np.testing.assert_allclose(vertices, POINTS)
    assert faces.tolist() == [[0, 3, 2], [0, 2, 1], [0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]]


def test_strips_turn_every_second_triangle():
    content = build("ascii", False, False, False, polys=[[0, 1, 2, 3]])
    content = content.replace(b"Polys", b"Strips")
    assert read_vtp(content)[1].tolist() == [[0, 1, 2], [3, 2, 1]]


def test_pieces_are_joined():
    content = build("ascii", False, False, False)
    piece = content[content.index(b"<Piece>") : content.index(b"</PolyData>")]
    vertices, faces = read_vtp(content.replace(piece, piece + piece))
    assert len(vertices) == 10
    assert faces.max() == 9


@pytest.mark.parametrize("mode", ["ascii", "binary", "raw", "base64"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.8, 0.97])
def test_cut_off_file(mode, share):
    content = build(mode, True, False, True)
    with pytest.raises(VtpError):
        read_vtp(content[: int(share * len(content))])


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"solid",
        b'<VTKFile type="UnstructuredGrid"/>',
        b'<!DOCTYPE x [<!ENTITY a "b">]><VTKFile type="PolyData"/>',
        b'<VTKFile type="PolyData" compressor="vtkLZMADataCompressor"/>',
        build("ascii", False, False, False).replace(b"Float32", b"String"),
    ],
)
def test_not_for_this_reader(content):
    with pytest.raises(VtpError):
        read_vtp(content)


def test_a_case_may_hold_vtp(case_dir, case: Case):
    for level, mesh in case.meshes.items():
        content = build("raw", True, False, False, 1e3 * mesh.vertices_m, list(mesh.faces))
        (case_dir / f"{level}.vtp").write_bytes(content)
    file = case_dir / "case.yaml"
    file.write_text(file.read_text().replace(".ply", ".vtp"))
    back = load_case(case_dir)
    np.testing.assert_allclose(
        back.meshes["L2"].vertices_m, case.meshes["L2"].vertices_m, atol=1e-7
    )
    (case_dir / "L2.vtp").write_bytes(content[:900])
    with pytest.raises(CaseError, match=r"L2\.vtp: vertebrae/L2: .*export"):
        load_case(case_dir)
    assert yaml.safe_load(file.read_text())["version"] == 1
