# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import array
import struct
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from spine_nav_common.core.images import (
    ImageError,
    decode_camera_info,
    decode_colour,
    decode_depth,
    decode_image,
    encode_image,
)

RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)
MM = np.random.default_rng(1).integers(0, 60000, (6, 5), dtype=np.uint16)


def image(pixels: np.ndarray, encoding: str, pad: int = 0, big: bool = False):
    """An Image message as a camera driver may send it: padded rows, either byte order."""
    pixels = pixels.astype(pixels.dtype.newbyteorder(">" if big else "<"))
    rows = pixels.reshape(len(pixels), -1).view(np.uint8)
    padded = np.hstack([rows, np.full((len(rows), pad), 171, np.uint8)])
    fields = {
        "height": pixels.shape[0], "width": pixels.shape[1], "encoding": encoding,
        "step": padded.shape[1], "is_bigendian": big, "data": padded.ravel(),
    }  # fmt: skip
    return SimpleNamespace(**fields)


@pytest.mark.parametrize("pad", [0, 7])
@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [
        ("rgb8", RGB),
        ("bgr8", RGB[..., ::-1]),
        ("8UC3", RGB[..., ::-1]),
        ("rgba8", np.dstack([RGB, RGB[..., 0]])),
        ("bgra8", np.dstack([RGB[..., ::-1], RGB[..., 0]])),
    ],
)
def test_colour(encoding, pixels, pad):
    np.testing.assert_array_equal(decode_colour(image(pixels, encoding, pad)), RGB)


@pytest.mark.parametrize("wrap", [np.asarray, bytes, lambda d: array.array("B", bytes(d))])
def test_data_of_rosbags_and_of_rclpy(wrap):
    msg = image(RGB, "rgb8", 3)
    msg.data = wrap(msg.data)
    np.testing.assert_array_equal(decode_image(msg), RGB)


def test_mono_becomes_grey_rgb():
    grey = decode_colour(image(RGB[..., 0], "mono8", 2))
    np.testing.assert_array_equal(grey, np.repeat(RGB[..., :1], 3, axis=2))


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("pad", [0, 2])
def test_depth_in_millimetres(big, pad):
    mm = MM.copy()
    mm[0, 0] = 0
    depth = decode_depth(image(mm, "16UC1", pad, big))
    assert depth.dtype == np.float32
    assert np.isnan(depth[0, 0])
    np.testing.assert_allclose(depth[1:], mm[1:] * 1e-3, rtol=1e-6)


@pytest.mark.parametrize("big", [False, True])
def test_depth_in_metres_without_what_is_no_depth(big):
    m = (MM * 1e-5).astype(np.float32)
    m[0] = (np.nan, np.inf, -np.inf, -0.5, 0.0)
    depth = decode_depth(image(m, "32FC1", 4, big))
    assert np.isnan(depth[0]).all()
    np.testing.assert_array_equal(depth[1:], m[1:])


def test_last_row_may_lack_its_padding():
    msg = image(RGB, "rgb8", 5)
    msg.data = msg.data[:-5]
    np.testing.assert_array_equal(decode_image(msg), RGB)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "bayer_rggb16"}, "bayer_rggb16.*8 bits"),
        ({"encoding": ""}, "encoding"),
        ({"data": np.zeros(80, np.uint8)}, "80 bytes"),
        ({"data": np.zeros(0, np.uint8)}, "0 bytes"),
        ({"step": 14}, "step 14"),
        ({"height": 0}, "5x0"),
        ({"width": 0}, "0x6"),
        ({"height": 7}, "bytes"),
    ],
)
def test_image_that_does_not_fit_its_fields(change, words):
    with pytest.raises(ImageError, match=words):
        decode_image(SimpleNamespace(**{**vars(image(RGB, "rgb8")), **change}))


def test_colour_is_no_depth_and_depth_no_colour():
    with pytest.raises(ImageError, match="16UC1"):
        decode_depth(image(RGB, "rgb8"))
    with pytest.raises(ImageError, match="16UC1"):
        decode_depth(image(RGB[..., 0], "mono8"))
    with pytest.raises(ImageError, match="8 bits"):
        decode_colour(image(MM, "16UC1"))


def compressed(form: str, data: bytes):
    return SimpleNamespace(format=form, data=np.frombuffer(data, np.uint8))


def png(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".png", pixels)[1].tobytes()


def test_compressed_colour():
    bgr = np.ascontiguousarray(RGB[..., ::-1])
    np.testing.assert_array_equal(decode_colour(compressed("rgb8; png compressed", png(bgr))), RGB)
    smooth = cv2.resize(bgr, (64, 48), interpolation=cv2.INTER_CUBIC)
    jpeg = cv2.imencode(".jpg", smooth, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
    back = decode_colour(compressed("jpeg", jpeg)).astype(int)
    assert np.abs(back - smooth[..., ::-1]).mean() < 6
    np.testing.assert_array_equal(decode_image(compressed("png", png(RGB[..., 1]))), RGB[..., 1])


def test_compressed_depth_with_and_without_its_header():
    for header in (struct.pack("<iff", 0, 0.0, 0.0), b""):
        msg = compressed("16UC1; compressedDepth png", header + png(MM))
        np.testing.assert_array_equal(decode_image(msg), MM)
    np.testing.assert_allclose(decode_depth(compressed("png", png(MM))), MM * 1e-3, rtol=1e-6)


def test_compressed_depth_of_metres_is_inverse_depth():
    a, b = 100.0, 3.0  # as compressed_depth_image_transport writes it: png = a / z + b
    z = np.linspace(0.3, 0.8, 30, dtype=np.float32).reshape(6, 5)
    quantised = np.rint(a / z + b).astype(np.uint16)
    quantised[0, 0] = 0
    data = struct.pack("<iff", 1, a, b) + png(quantised)
    depth = decode_depth(compressed("32FC1; compressedDepth png", data))
    assert np.isnan(depth[0, 0])
    np.testing.assert_allclose(depth[1:], z[1:], atol=0.005)


@pytest.mark.parametrize(
    ("form", "data"),
    [
        ("jpeg", b""),
        ("jpeg", b"\xff\xd8 no picture"),
        ("16UC1; compressedDepth png", b"123456789012"),
        ("16UC1; compressedDepth png", png(RGB)),
        ("32FC1; compressedDepth png", png(MM)),
        ("16UC1; compressedDepth rvl", b"123456789012"),
        ("16UC1; compressedDepth rvl", b"123456789012" + struct.pack("<II", 5, 6) + bytes(4)),
        ("16UC1; compressedDepth rvl", b"123456789012" + struct.pack("<II", 1 << 20, 1 << 20)),
    ],
)
def test_compressed_image_that_cannot_be_decoded(form, data):
    with pytest.raises(ImageError):
        decode_image(compressed(form, data))


@pytest.mark.parametrize(
    ("encoding", "pixels"),
    [("rgb8", RGB), ("mono8", RGB[..., 2]), ("16UC1", MM), ("32FC1", MM.astype(np.float32))],
)
def test_encode_inverts_decode(encoding, pixels):
    np.testing.assert_array_equal(
        decode_image(SimpleNamespace(**encode_image(pixels, encoding))), pixels
    )


def test_encode_refuses_what_does_not_fit():
    for pixels, encoding in ((RGB, "mono8"), (MM, "rgb8"), (RGB, "yuv422"), (MM, "32FC1")):
        with pytest.raises(ImageError):
            encode_image(pixels, encoding)


def info(**more):
    fields = {
        "width": 640, "height": 480, "distortion_model": "plumb_bob", "d": [0.0] * 5,
        "k": [600.0, 0, 320, 0, 601, 240, 0, 0, 1], "r": np.eye(3).ravel(),
        "p": [590.0, 0, 321, -35.4, 0, 590, 241, 0, 0, 0, 1, 0],
    }  # fmt: skip
    return SimpleNamespace(**{**fields, **more})


def test_camera_info():
    model = decode_camera_info(info())
    assert not model.distorted
    raw, rectified = model.raw_intrinsics(), model.rectified_intrinsics()
    assert (raw.width, raw.height, raw.fx, raw.fy, raw.cx, raw.cy) == (640, 480, 600, 601, 320, 240)
    assert (rectified.fx, rectified.cx, rectified.cy) == (590, 321, 241)
    assert decode_camera_info(info(d=[0.1, 0, 0, 0, 0])).distorted
    assert not model.same_as(decode_camera_info(info(d=[0.1, 0, 0, 0, 0])))
    assert model.same_as(decode_camera_info(info()))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": [0.0] * 9}, "zero"),
        ({"k": [np.nan] * 9}, "NaN"),
        ({"p": [np.inf] * 12}, "NaN"),
        ({"width": 0}, "size"),
        ({"d": [0.1, 0.0]}, "2 distortion values"),
        ({"d": [0.1] * 5, "distortion_model": "equidistant"}, "equidistant has 4"),
        ({"d": [0.1] * 4, "distortion_model": "double_sphere"}, "double_sphere.*rectified"),
        ({"r": [1.0] * 9}, "no rotation"),
        ({"r": (2.0 * np.eye(3)).ravel()}, "no rotation"),
    ],
)
def test_camera_info_of_no_camera(change, words):
    with pytest.raises(ImageError, match=words):
        decode_camera_info(info(**change))


@pytest.mark.parametrize("d", [[], [0.0], [0.0] * 3])
def test_without_distortion_its_length_and_name_do_not_matter(d):
    model = decode_camera_info(info(d=d, distortion_model="anything", r=[0.0] * 9))
    u, v = model.rectify_maps(model.raw_intrinsics())
    assert (float(u[240, 320]), float(v[240, 320])) == pytest.approx((320.0, 240.0))


@pytest.mark.parametrize(
    ("d", "name"),
    [([], ""), ([-0.3, 0.1, 1e-3, 0.0, 0.0], "plumb_bob"), ([0.05, 0.01, 0.0, 0.0], "equidistant")],
)
def test_a_pixel_without_distortion_lies_where_the_maps_have_it(d, name):
    model = decode_camera_info(info(d=d, distortion_model=name))
    u, v = model.rectify_maps(model.raw_intrinsics())
    for column, row in ((40, 30), (320, 240), (600, 400)):
        raw = float(u[row, column]), float(v[row, column])
        assert model.without_distortion(*raw) == pytest.approx((column, row), abs=0.2)
    assert np.isnan(model.without_distortion(-1.0, 5.0)).all()
    assert np.isnan(model.without_distortion(5.0, float("nan"))).all()


def test_camera_without_projection_has_no_rectified_image():
    with pytest.raises(ImageError, match="P is zero"):
        decode_camera_info(info(p=[0.0] * 12)).rectified_intrinsics()


def test_binning_and_region_of_interest_change_the_model():
    """A point's pixel in the sent image is the mean of the sensor's pixels that were joined."""
    K = np.array([600.0, 0, 320, 0, 601, 240, 0, 0, 1])
    roi = SimpleNamespace(x_offset=100, y_offset=60, width=400, height=300, do_rectify=False)
    model = decode_camera_info(info(k=K, binning_x=2, binning_y=3, roi=roi))
    assert (model.width, model.height) == (200, 100)
    point = np.array([0.03, -0.02, 0.5])
    u, v = (K.reshape(3, 3) @ point)[:2] / point[2]
    sent = (model.K @ point)[:2] / point[2]
    # the sent pixel (i, j) joins the sensor's 100 + 2i, 100 + 2i + 1 and 60 + 3j ... 60 + 3j + 2
    assert 100 + 2 * sent[0] + 0.5 == pytest.approx(u)
    assert 60 + 3 * sent[1] + 1.0 == pytest.approx(v)
    assert model.P[0, 3] == pytest.approx(-35.4 / 2), "the baseline stays what it was"
    assert -model.P[0, 3] / model.P[0, 0] == pytest.approx(35.4 / 590)


def test_a_region_that_is_the_whole_image_changes_nothing():
    roi = SimpleNamespace(x_offset=0, y_offset=0, width=640, height=480, do_rectify=False)
    none = SimpleNamespace(x_offset=0, y_offset=0, width=0, height=0, do_rectify=False)
    for more in ({"roi": roi, "binning_x": 1, "binning_y": 1}, {"roi": none, "binning_x": 0}):
        assert decode_camera_info(info(**more)).same_as(decode_camera_info(info()))


@pytest.mark.parametrize("place", [(300, 0, 400, 480), (0, 1, 640, 480), (0, 0, 1, 480)])
def test_a_region_outside_of_the_image_is_refused(place):
    x, y, w, h = place
    roi = SimpleNamespace(x_offset=x, y_offset=y, width=w, height=h, do_rectify=False)
    with pytest.raises(ImageError, match="region"):
        decode_camera_info(info(roi=roi, binning_x=2))


def test_binned_camera_without_projection_has_none_still():
    model = decode_camera_info(info(p=[0.0] * 12, binning_x=2, binning_y=2))
    assert not model.P.any()
