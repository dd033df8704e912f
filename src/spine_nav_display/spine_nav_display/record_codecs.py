# SPDX-License-Identifier: Apache-2.0
"""Measures what the session record may store pictures as: size, speed and whether it is lossless.

`python -m spine_nav_display.record_codecs RECORDING [FRAMES]` prints one line per codec; docs/record.md
holds its table.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import lz4.frame
import numpy as np
import zstandard

from spine_nav_common.core.recording import open_recording

_FRAMES = 45
_CHUNK = 7  # frames: half a second at 15 Hz, as the record closes its chunks
_Encode = Callable[[list[np.ndarray]], list[bytes]]
_Decode = Callable[[list[bytes], list[np.ndarray]], list[np.ndarray]]


def _together(compress: Callable[[bytes], bytes]) -> _Encode:
    return lambda images: [compress(b"".join(i.tobytes() for i in images))]


def _apart(decompress: Callable[[bytes], bytes]) -> _Decode:
    def decode(parts: list[bytes], like: list[np.ndarray]) -> list[np.ndarray]:
        whole = np.frombuffer(decompress(parts[0]), like[0].dtype)
        return list(whole.reshape(len(like), *like[0].shape))

    return decode


def _png(level: int) -> _Encode:
    options = [cv2.IMWRITE_PNG_COMPRESSION, level]
    return lambda images: [cv2.imencode(".png", i, options)[1].tobytes() for i in images]


def _jpeg(images: list[np.ndarray]) -> list[bytes]:
    return [cv2.imencode(".jpg", i, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes() for i in images]


def _decode_image(parts: list[bytes], like: list[np.ndarray]) -> list[np.ndarray]:
    return [cv2.imdecode(np.frombuffer(p, np.uint8), cv2.IMREAD_UNCHANGED) for p in parts]


def _zstd(level: int) -> tuple[_Encode, _Decode]:
    compressor = zstandard.ZstdCompressor(level=level)
    return _together(compressor.compress), _apart(zstandard.ZstdDecompressor().decompress)


_CODECS: dict[str, tuple[_Encode, _Decode]] = {
    "raw": (_together(lambda data: data), _apart(lambda data: data)),
    "lz4 chunks": (_together(lz4.frame.compress), _apart(lz4.frame.decompress)),
    "zstd chunks, level 1": _zstd(1),
    "zstd chunks, level 3": _zstd(3),
    "PNG, level 1": (_png(1), _decode_image),
    "PNG, level 3": (_png(3), _decode_image),
    "JPEG, quality 95": (_jpeg, _decode_image),
}


def main() -> int:
    """Print the table of one recording."""
    frames = list(islice(open_recording(Path(sys.argv[1])).rgbd_frames(), _frames()))
    mm = [np.rint(1e3 * np.nan_to_num(f.depth_m)).astype(np.uint16) for f in frames]
    kinds = {
        "colour rgb8": [np.ascontiguousarray(f.colour) for f in frames],
        "depth 16UC1": mm,
        "depth 32FC1": [f.depth_m for f in frames],
    }
    for kind, images in kinds.items():
        for name, codec in _CODECS.items():
            if ("JPEG" in name and "colour" not in kind) or ("PNG" in name and "32F" in kind):
                continue  # these do not hold such an image
            print(_line(kind, name, codec, images))
    return 0


def _frames() -> int:
    return int(sys.argv[2]) if len(sys.argv) > 2 else _FRAMES


def _line(kind: str, name: str, codec: tuple[_Encode, _Decode], images: list[np.ndarray]) -> str:
    encode, decode = codec
    size, spent_s, same = 0, 0.0, True
    for i in range(0, len(images), _CHUNK):
        chunk = images[i : i + _CHUNK]
        start = time.thread_time()
        parts = encode(chunk)
        spent_s += time.thread_time() - start
        size += sum(map(len, parts))
        back = decode(parts, chunk)
        same &= all(a.tobytes() == b.tobytes() for a, b in zip(chunk, back, strict=True))
    per_image = size / len(images)
    return (
        f"{kind:12} {name:22} {per_image / 1e3:8.0f} kB/image {60 * 15 * per_image / 1e6:7.0f} MB/min"
        f" at 15 Hz {1e3 * spent_s / len(images):6.2f} ms/image {'lossless' if same else 'LOSSY'}"
    )


if __name__ == "__main__":
    sys.exit(main())
