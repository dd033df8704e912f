# SPDX-License-Identifier: Apache-2.0
"""Colour as UVC and industrial cameras send it: YUV and Bayer, against values worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from spine_nav_common.core.images import ImageError, decode_colour, decode_image, encode_image

H, W = 16, 24
# video-range BT.601 (Y, U, V) of saturated colours, as tables of it give them
COLOURS = {
    (255, 0, 0): (81, 90, 240),
    (0, 255, 0): (145, 54, 34),
    (0, 0, 255): (41, 240, 110),
    (255, 255, 255): (235, 128, 128),
    (0, 0, 0): (16, 128, 128),
}
YUV422 = {"yuv422": "UYVY", "uyvy": "UYVY", "yuv422_yuy2": "YUYV", "yuyv": "YUYV"}


def message(data: np.ndarray, encoding: str, step: int, height: int = H, width: int = W):
    return SimpleNamespace(
        height=height, width=width, encoding=encoding, step=step, is_bigendian=False,
        data=np.ascontiguousarray(data, np.uint8).ravel(),
    )  # fmt: skip


def padded(rows: np.ndarray, pad: int) -> np.ndarray:
    return np.hstack([rows, np.full((len(rows), pad), 171, np.uint8)])


def yuv422(y: int, u: int, v: int, order: str, pad: int) -> np.ndarray:
    one = [{"Y": y, "U": u, "V": v}[letter] for letter in order]
    return padded(np.tile(np.array(one, np.uint8), (H, W // 2)), pad)


def semi_planar(y: int, first: int, second: int, pad: int) -> np.ndarray:
    chroma = np.tile(np.array([first, second], np.uint8), (H // 2, W // 2))
    return padded(np.vstack([np.full((H, W), y, np.uint8), chroma]), pad)


@pytest.mark.parametrize("pad", [0, 8])
@pytest.mark.parametrize("rgb", COLOURS)
@pytest.mark.parametrize("encoding", [*YUV422, "nv12", "nv21"])
def test_yuv(encoding, rgb, pad):
    y, u, v = COLOURS[rgb]
    if encoding in YUV422:
        msg = message(yuv422(y, u, v, YUV422[encoding], pad), encoding, 2 * W + pad)
    else:
        chroma = (u, v) if encoding == "nv12" else (v, u)
        msg = message(semi_planar(y, *chroma, pad), encoding, W + pad)
    image = decode_colour(msg)
    assert image.shape == (H, W, 3) and image.dtype == np.uint8
    np.testing.assert_allclose(image, np.broadcast_to(rgb, image.shape), atol=3)


def mosaic(rgb: np.ndarray, pattern: str) -> np.ndarray:
    """What a sensor with this 2x2 pattern (row by row, as ROS names it) sees of an RGB image."""
    plane = np.zeros(rgb.shape[:2], np.uint8)
    for i, letter in enumerate(pattern):
        at = (slice(i // 2, None, 2), slice(i % 2, None, 2))
        plane[at] = rgb[(*at, "rgb".index(letter))]
    return plane


@pytest.mark.parametrize("pad", [0, 8])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer(pattern, pad):
    rgb = np.empty((H, W, 3), np.uint8)
    rgb[:] = (200, 90, 20)
    rgb[:, W // 2 :] = (10, 60, 220)
    plane = padded(mosaic(rgb, pattern), pad)
    image = decode_colour(message(plane, f"bayer_{pattern}8", W + pad))
    far = np.ones((H, W), bool)  # a mosaic has no colour of its own beside an edge
    far[:, W // 2 - 2 : W // 2 + 2] = False
    np.testing.assert_array_equal(image[far], rgb[far])


@pytest.mark.parametrize("pattern", ["rggb", "gbrg"])
def test_a_compressed_mosaic_is_no_grey_image(pattern):
    rgb = np.empty((H, W, 3), np.uint8)
    rgb[:] = (200, 90, 20)
    png = cv2.imencode(".png", mosaic(rgb, pattern))[1].ravel()
    msg = SimpleNamespace(format=f"bayer_{pattern}8; png compressed ", data=png)
    np.testing.assert_array_equal(decode_image(msg), rgb)
    msg.format = f"bayer_{pattern}16; png compressed "
    with pytest.raises(ImageError, match="8 bits"):
        decode_image(msg)


@pytest.mark.parametrize(
    ("encoding", "step", "height", "width", "rows"),
    [("yuv422", 50, 16, 23, 16), ("nv12", 24, 15, 24, 23), ("bayer_rggb8", 23, 16, 23, 16)],
)
def test_odd_sizes_are_refused(encoding, step, height, width, rows):
    with pytest.raises(ImageError, match="odd size"):
        decode_image(message(np.zeros((rows, step)), encoding, step, height, width))


def test_nv12_without_its_colour_plane_is_refused():
    with pytest.raises(ImageError, match="384 bytes"):
        decode_image(message(np.zeros((H, W)), "nv12", W))


@pytest.mark.parametrize(
    ("encoding", "remedy"),
    [
        ("bayer_rggb16", "8 bits per pixel"), ("rgb16", "8 bits per pixel"),
        ("nv24", "rgb8 or mono8"), ("h264", "rgb8 or mono8"), ("", "rgb8 or mono8"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_refused_with_what_to_set(encoding, remedy):
    with pytest.raises(ImageError, match=remedy) as caught:
        decode_image(message(np.zeros((H, 6 * W)), encoding, 6 * W))
    assert "rgb8" in str(caught.value)
    assert repr(encoding) in str(caught.value)


def test_they_are_read_and_never_written():
    with pytest.raises(ImageError, match="not written"):
        encode_image(np.zeros((H, W), np.uint8), "bayer_rggb8")
