# SPDX-License-Identifier: Apache-2.0
"""RVL depth against an encoder written from its paper, and against bytes worked out by hand."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import numpy as np
import pytest

from spine_nav_common.core.images import ImageError, decode_depth, decode_image
from spine_nav_common.core.rvl import decode_rvl


def encode(image: np.ndarray) -> bytes:
    """Runs of zeros and of others in turn, each length and zigzag difference in 3-bit nibbles."""
    nibbles: list[int] = []

    def put(value: int) -> None:
        while True:
            value, low = value >> 3, value & 7
            nibbles.append(low | 8 if value else low)
            if not value:
                return

    values, at, previous = image.ravel().tolist(), 0, 0
    while at < len(values):
        start = at
        while at < len(values) and not values[at]:
            at += 1
        put(at - start)
        start = at
        while at < len(values) and values[at]:
            at += 1
        put(at - start)
        for value in values[start:at]:
            step = value - previous
            put(2 * step if step >= 0 else -2 * step - 1)
            previous = value
    nibbles += [0] * (-len(nibbles) % 8)
    words = [
        int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8)
    ]
    return struct.pack("<II", image.shape[1], image.shape[0]) + struct.pack(
        f"<{len(words)}I", *words
    )


def depth_image(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    image = (500 + rng.normal(0, 30, (40, 64)).cumsum(axis=1)).clip(1, 65535).astype(np.uint16)
    image[rng.random(image.shape) < 0.2] = 0
    image[5:9] = 0
    image[20, 10:20] = (1, 65535) * 5  # the longest differences
    return image


def data(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_what_was_encoded_comes_back(seed):
    image = depth_image(seed)
    np.testing.assert_array_equal(decode_rvl(data(encode(image))), image)


@pytest.mark.parametrize("value", [0, 7])
def test_an_image_of_one_value(value):
    image = np.full((3, 5), value, np.uint16)
    np.testing.assert_array_equal(decode_rvl(data(encode(image))), image)


def test_bytes_worked_out_by_hand():
    # no zeros; two others: +9 (zigzag 18 = 2 + 8 * 2: nibbles a, 2), -1 (zigzag 1); one zero
    raw = struct.pack("<II", 3, 1) + struct.pack("<I", 0x02A21100)
    np.testing.assert_array_equal(decode_rvl(data(raw)), [[9, 8, 0]])


@pytest.mark.parametrize("seed", range(20))
def test_damaged_bytes_are_an_image_or_an_error_and_never_a_crash(seed):
    rng = np.random.default_rng(seed)
    raw = bytearray(encode(depth_image(seed)))
    for at in rng.integers(8, len(raw), 30):
        raw[at] = rng.integers(256)
    try:
        assert decode_rvl(data(bytes(raw))).shape == (40, 64)
    except ValueError as error:
        assert "damaged" in str(error)


def test_every_cut_is_refused():
    whole = encode(depth_image(0))
    for end in (0, 7, 8, 12, len(whole) // 2, len(whole) - 4):
        with pytest.raises(ValueError, match="RVL"):
            decode_rvl(data(whole[:end]))


def message(form: str, raw: bytes) -> SimpleNamespace:
    return SimpleNamespace(format=form, data=data(raw))


def test_compressed_depth_in_rvl():
    image = depth_image(1)
    header = struct.pack("<iff", 0, 0.0, 0.0)
    for form in ("16UC1; compressedDepth rvl", "16UC1;compressedDepth rvl"):
        np.testing.assert_array_equal(decode_image(message(form, header + encode(image))), image)
    with pytest.raises(ImageError, match="cut off"):
        decode_image(message("16UC1; compressedDepth rvl", header + encode(image)[:-400]))


def test_compressed_depth_of_metres_in_rvl_is_inverse_depth():
    a, b = 100.0, 3.0
    z = np.linspace(0.3, 0.8, 30, dtype=np.float32).reshape(6, 5)
    quantised = np.rint(a / z + b).astype(np.uint16)
    quantised[0, 0] = 0
    raw = struct.pack("<iff", 1, a, b) + encode(quantised)
    depth = decode_depth(message("32FC1; compressedDepth rvl", raw))
    assert np.isnan(depth[0, 0])
    np.testing.assert_allclose(depth[1:], z[1:], atol=0.005)
