# SPDX-License-Identifier: Apache-2.0
"""Pictures as files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from .errors import InputError


def png_bytes(image: np.ndarray) -> bytes:
    """Image (H, W, 3) uint8 RGB as PNG. Raises OSError."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise OSError("the picture cannot be encoded as PNG")
    return bytes(data.tobytes())


def write_png(path: Path, image: np.ndarray) -> None:
    """Write image (H, W, 3) uint8 RGB. Raises OSError."""
    path.write_bytes(png_bytes(image))


def read_png(path: Path) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a picture with 8 bits. Raises InputError."""
    return cv2.cvtColor(_read(path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def read_depth_png(path: Path, m_per_unit: float) -> np.ndarray:
    """(H, W) float32 metres of a picture with 16 bits, 0 becomes NaN. Raises InputError."""
    raw = _read(path, cv2.IMREAD_UNCHANGED)
    if raw.dtype != np.uint16 or raw.ndim != 2:
        kind = f"{raw.dtype} of {raw.ndim} axes"
        raise InputError(path, "", f"holds {kind}, no depth", "export depth as 16 bit PNG")
    return np.where(raw == 0, np.nan, raw * m_per_unit).astype(np.float32)


def _read(path: Path, flags: int) -> np.ndarray:
    data = np.fromfile(path, np.uint8) if path.is_file() else np.zeros(0, np.uint8)
    image = cv2.imdecode(data, flags) if data.size else None
    if image is None:
        raise InputError(path, "", "no readable picture", "put it there again")
    return np.asarray(image)
