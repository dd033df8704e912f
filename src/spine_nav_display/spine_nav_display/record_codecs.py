# SPDX-License-Identifier: Apache-2.0
"""Measures what the session record may store pictures as: size, speed and whether it is lossless.

`python -m spine_nav_display.record_codecs RECORDING [REMAP]` prints one line per codec; docs/record.md
holds its table. REMAP: as `spinenav replay --remap` takes it.
"""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from mcap.reader import make_reader
from mcap.writer import CompressionType, Writer

from spine_nav_common.core.recorded_messages import load_remap
from spine_nav_common.core.recording import open_recording

_FRAMES = 45
_CHUNK = 6  # frames: 0.4 s at 15 Hz, as the record closes its chunks
_Codec = Callable[[list[np.ndarray]], tuple[int, list[bytes]]]  # images to size and what comes back


def _chunk(compression: CompressionType) -> _Codec:
    def codec(images: list[np.ndarray]) -> tuple[int, list[bytes]]:
        out = io.BytesIO()
        writer = Writer(out, chunk_size=1 << 40, compression=compression)
        writer.start()
        channel = writer.register_channel("/image", "cdr", 0)
        for number, image in enumerate(images):
            writer.add_message(channel, number, image.tobytes(), number)
        writer.finish()
        size = out.tell()
        out.seek(0)
        return size, [m.data for _, _, m in make_reader(out).iter_messages()]

    return codec


def _picture(suffix: str, *options: int) -> _Codec:
    def codec(images: list[np.ndarray]) -> tuple[int, list[bytes]]:
        parts = [cv2.imencode(suffix, image, options)[1] for image in images]
        back = [cv2.imdecode(part, cv2.IMREAD_UNCHANGED).tobytes() for part in parts]
        return sum(map(len, parts)), back

    return codec


_CODECS: dict[str, _Codec] = {
    "MCAP chunks, plain": _chunk(CompressionType.NONE),
    "MCAP chunks, lz4": _chunk(CompressionType.LZ4),
    "MCAP chunks, zstd": _chunk(CompressionType.ZSTD),
    "PNG, level 1": _picture(".png", cv2.IMWRITE_PNG_COMPRESSION, 1),
    "PNG, level 3": _picture(".png", cv2.IMWRITE_PNG_COMPRESSION, 3),
    "JPEG, quality 95": _picture(".jpg", cv2.IMWRITE_JPEG_QUALITY, 95),
}


def main() -> int:
    """Print the table of one recording."""
    remap = load_remap(sys.argv[2]) if len(sys.argv) > 2 else None
    frames = list(islice(open_recording(Path(sys.argv[1]), remap).rgbd_frames(), _FRAMES))
    kinds = {
        "colour rgb8": [np.ascontiguousarray(f.colour) for f in frames],
        "depth 16UC1": [np.rint(1e3 * np.nan_to_num(f.depth_m)).astype(np.uint16) for f in frames],
        "depth 32FC1": [f.depth_m for f in frames],
    }
    for kind, images in kinds.items():
        for name, codec in _CODECS.items():
            if ("JPEG" in name and "colour" not in kind) or ("PNG" in name and "32F" in kind):
                continue  # these do not hold such an image
            print(_line(kind, name, codec, images))
    return 0


def _line(kind: str, name: str, codec: _Codec, images: list[np.ndarray]) -> str:
    size, spent_s, same = 0, 0.0, True
    for i in range(0, len(images), _CHUNK):
        chunk = images[i : i + _CHUNK]
        start = time.thread_time()
        part, back = codec(chunk)
        spent_s += time.thread_time() - start
        size += part
        same &= back == [image.tobytes() for image in chunk]
    each = size / len(images)
    return (
        f"{kind:12} {name:19} {each / 1e3:6.0f} kB {60 * 15 * each / 1e6:6.0f} MB/min at 15 Hz "
        f"{1e3 * spent_s / len(images):6.2f} ms to write and read {'lossless' if same else 'LOSSY'}"
    )


if __name__ == "__main__":
    sys.exit(main())
