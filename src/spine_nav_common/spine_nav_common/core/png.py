# SPDX-License-Identifier: Apache-2.0
"""Pictures as files."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def png_bytes(image: np.ndarray) -> bytes:
    """Image (H, W, 3) uint8 RGB as PNG. Raises OSError."""
    ok, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not ok:
        raise OSError("the picture cannot be encoded as PNG")
    return bytes(data.tobytes())


def write_png(path: Path, image: np.ndarray) -> None:
    """Write image (H, W, 3) uint8 RGB. Raises OSError."""
    path.write_bytes(png_bytes(image))
