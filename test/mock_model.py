# SPDX-License-Identifier: Apache-2.0
"""Networks with the bindings of the real ones that see nothing: the graph runs without weights.

Written byte by byte, because the run-time environment has ONNX Runtime but not `onnx`.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

from spine_perception.core.features import CENTRE_SCALE_M, CHANNELS
from spine_perception.core.grid import GRID_SIZE

_FLOAT, _INT64, _TENSOR = 1, 7, 4
_NO_BONE = -20.0  # logit


def _varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def _int(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, kind: int, dims: tuple[int, ...], raw: bytes) -> bytes:
    head = b"".join(_int(1, d) for d in dims)
    return head + _int(2, kind) + _bytes(8, name) + _bytes(9, raw)


def _value(name: str, dims: tuple[int, ...]) -> bytes:
    shape = b"".join(_bytes(1, _int(1, d)) for d in dims)
    return _bytes(1, name) + _bytes(2, _bytes(1, _int(1, _FLOAT) + _bytes(2, shape)))


def _constant(output: str, dims: tuple[int, ...], value: float) -> tuple[bytes, bytes]:
    """(node, initializer) that fill an output with one value."""
    shape = f"{output}_shape"
    attribute = _bytes(1, "value") + _bytes(5, _tensor("v", _FLOAT, (1,), struct.pack("<f", value)))
    node = _bytes(1, shape) + _bytes(2, output) + _bytes(4, "ConstantOfShape")
    node += _bytes(5, attribute + _int(20, _TENSOR))
    return node, _tensor(shape, _INT64, (len(dims),), struct.pack(f"<{len(dims)}q", *dims))


def constant_model(x: tuple[int, ...], outputs: dict[str, tuple[int, ...]], value: float) -> bytes:
    """ONNX bytes: input `x` of that shape is ignored, every output is filled with the value."""
    parts = [_constant(name, dims, value) for name, dims in outputs.items()]
    graph = b"".join(_bytes(1, node) for node, _ in parts) + _bytes(2, "mock")
    graph += b"".join(_bytes(5, tensor) for _, tensor in parts)
    graph += _bytes(11, _value("x", x))
    graph += b"".join(_bytes(12, _value(name, dims)) for name, dims in outputs.items())
    opset = _bytes(1, "") + _int(2, 13)
    return _int(1, 8) + _bytes(7, graph) + _bytes(8, opset)


def write_model(path: Path, data: bytes, card: dict) -> Path:
    """Write the model and its card with the right hash; returns the model's path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    card = {"sha256": hashlib.sha256(data).hexdigest(), **card}
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


def write_constant_model(
    path: Path,
    shape: tuple[int, ...],
    outputs: dict[str, tuple[tuple[int, ...], float]],
    card: dict,
) -> Path:
    """Write a model with one input `x` and constant outputs (shape, value), and its card."""
    parts = [_constant(name, dims, value) for name, (dims, value) in outputs.items()]
    graph = b"".join(_bytes(1, node) for node, _ in parts) + _bytes(2, "mock")
    graph += b"".join(_bytes(5, tensor) for _, tensor in parts)
    graph += _bytes(11, _value("x", shape))
    graph += b"".join(_bytes(12, _value(name, dims)) for name, (dims, _) in outputs.items())
    opset = _bytes(1, "") + _int(2, 13)
    data = _int(1, 8) + _bytes(7, graph) + _bytes(8, opset)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    card = card | {"sha256": hashlib.sha256(data).hexdigest()}
    path.with_suffix(".json").write_text(json.dumps(card))
    return path


def write_mock_model(folder: Path) -> Path:
    """Write spine_unet.onnx and its card; returns the model's path."""
    n = GRID_SIZE
    masks, vectors = ((1, 2, n, n), _NO_BONE), ((1, 9, n // 2, n // 2), _NO_BONE)
    return write_constant_model(
        folder / "spine_unet.onnx",
        (1, len(CHANNELS), n, n),
        {"masks": masks, "vectors": vectors},
        {"input": {"size": n, "channels": list(CHANNELS), "centre_scale_m": CENTRE_SCALE_M}},
    )
