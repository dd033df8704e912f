# SPDX-License-Identifier: Apache-2.0
"""RVL, the lossless code of depth images (Wilson 2017), as image_transport's compressedDepth writes it:
columns and rows as two uint32, then runs of zeros and of zigzag differences in nibbles."""

from __future__ import annotations

import struct

import numpy as np

from .compiled import compiled

_MOST_PIXELS = 1 << 26  # a damaged head must not ask for all memory


def decode_rvl(data: np.ndarray) -> np.ndarray:
    """(rows, columns) uint16 of a contiguous (N,) uint8.

    Raises ValueError: the size is impossible, or the runs do not fill the image exactly.
    """
    if data.size < 8:
        raise ValueError(f"RVL image has {data.size} bytes")
    columns, rows = struct.unpack("<II", data[:8].tobytes())
    if not 0 < rows * columns <= _MOST_PIXELS:
        raise ValueError(f"RVL image is {columns}x{rows}")
    body = data[8:]
    words = np.frombuffer(body[: body.size // 4 * 4].tobytes(), "<u4").astype(np.uint32, copy=False)
    out = np.empty(rows * columns, np.uint16)
    if not _unpack(words, out):
        raise ValueError(f"RVL image of {columns}x{rows} is cut off or damaged")
    return out.reshape(rows, columns)


@compiled
def _unpack(words: np.ndarray, out: np.ndarray) -> bool:
    """Fill `out` from the nibbles of `words`; False where they do not make it up."""
    at, left, word = 0, 0, np.int64(0)  # next word, nibbles left of the one in hand
    done, run, zeros = 0, 0, False
    previous = 0
    total, count = out.size, words.size
    reading_run = True
    while done < total:
        value, bits = 0, 0
        while True:
            if left == 0:
                if at >= count:
                    return False
                word, left = np.int64(words[at]), 8
                at += 1
            left -= 1
            nibble = (word >> (4 * left)) & 15
            if bits > 30:
                return False
            value |= (nibble & 7) << bits
            bits += 3
            if nibble < 8:
                break
        if reading_run:
            zeros = not zeros
            run = value
            if run > total - done:
                return False
            if zeros:
                for i in range(done, done + run):
                    out[i] = 0
                done += run
            else:
                reading_run = run == 0
            continue
        previous += (value >> 1) ^ -(value & 1)
        out[done] = np.uint16(previous & 0xFFFF)
        done += 1
        run -= 1
        reading_run = run == 0
    return True
