# SPDX-License-Identifier: Apache-2.0
"""Camera messages to arrays and back, for every message object that has the ROS field names.

Works on the attributes of sensor_msgs Image, CompressedImage and CameraInfo, whichever library
made the object (rosbags, rclpy), so that the core needs no ROS.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

from .rvl import decode_rvl
from .types import Intrinsics

_DEPTH_HEADER = 12  # bytes before the image in compressedDepth
_ROTATION_TOLERANCE = 1e-2  # calibrations are written with as few as three digits


class ImageError(ValueError):
    """A message holds no usable image or camera model; the text says why."""


@dataclass(frozen=True)
class _Encoding:
    dtype: str
    channels: int
    to_rgb: int | None = None  # cv2 conversion code; None = already mono or RGB
    # what the geometry must be a multiple of, (height, width): colour is shared by neighbours
    multiple: tuple[int, int] = (1, 1)
    chroma_plane: bool = False  # half as many rows again follow the image (NV12)


_ENCODINGS = {
    "rgb8": _Encoding("u1", 3),
    "bgr8": _Encoding("u1", 3, cv2.COLOR_BGR2RGB),
    "rgba8": _Encoding("u1", 4, cv2.COLOR_RGBA2RGB),
    "bgra8": _Encoding("u1", 4, cv2.COLOR_BGRA2RGB),
    "mono8": _Encoding("u1", 1),
    "8UC1": _Encoding("u1", 1),
    "8UC3": _Encoding("u1", 3, cv2.COLOR_BGR2RGB),  # as OpenCV orders them
    "16UC1": _Encoding("u2", 1),
    "mono16": _Encoding("u2", 1),
    "32FC1": _Encoding("f4", 1),
    **{
        name: _Encoding("u1", 2, code, (1, 2))
        for code, names in (
            (cv2.COLOR_YUV2RGB_UYVY, ("yuv422", "uyvy")),
            (cv2.COLOR_YUV2RGB_YUY2, ("yuv422_yuy2", "yuyv")),
        )
        for name in names
    },
    "nv12": _Encoding("u1", 1, cv2.COLOR_YUV2RGB_NV12, (2, 2), chroma_plane=True),
    "nv21": _Encoding("u1", 1, cv2.COLOR_YUV2RGB_NV21, (2, 2), chroma_plane=True),
    "bayer_rggb8": _Encoding("u1", 1, cv2.COLOR_BayerRGGB2RGB, (2, 2)),
    "bayer_bggr8": _Encoding("u1", 1, cv2.COLOR_BayerBGGR2RGB, (2, 2)),
    "bayer_gbrg8": _Encoding("u1", 1, cv2.COLOR_BayerGBRG2RGB, (2, 2)),
    "bayer_grbg8": _Encoding("u1", 1, cv2.COLOR_BayerGRBG2RGB, (2, 2)),
}
READABLE = ", ".join(_ENCODINGS)


def decode_image(msg: Any) -> np.ndarray:
    """Pixels of an Image or CompressedImage message, as (H, W) or (H, W, 3) RGB.

    Args:
        msg: has encoding, height, width, step, is_bigendian, data (Image), or format and data
            (CompressedImage: jpeg, png, tiff, and image_transport's compressedDepth, PNG or RVL).

    YUV is taken as video range BT.601, as cameras send it; Bayer colour is interpolated.

    Returns:
        uint8 for colour and mono, uint16 for 16UC1 and mono16, float32 for 32FC1; native byte
        order. It may share memory with the message and be read-only.

    Raises:
        ImageError: unknown encoding, or data that do not fit the stated size.
    """
    if not hasattr(msg, "encoding"):
        return _decode_compressed(str(msg.format), _bytes(msg.data))
    encoding = _ENCODINGS.get(msg.encoding)
    if encoding is None:
        raise ImageError(_unknown(str(msg.encoding)))
    height, width, step = int(msg.height), int(msg.width), int(msg.step)
    dtype = np.dtype((">" if msg.is_bigendian else "<") + encoding.dtype)
    row = width * encoding.channels * dtype.itemsize
    data = _bytes(msg.data)
    if height < 1 or width < 1:
        raise ImageError(f"image is {width}x{height}")
    if height % encoding.multiple[0] or width % encoding.multiple[1]:
        raise ImageError(f"image {width}x{height} {msg.encoding} has an odd size")
    rows = height * 3 // 2 if encoding.chroma_plane else height
    # the last row may lack its padding
    if step < row or data.size < (rows - 1) * step + row:
        raise ImageError(
            f"image {width}x{height} {msg.encoding} with step {step} holds {data.size} bytes"
        )
    shape = (rows, width, encoding.channels) if encoding.channels > 1 else (rows, width)
    strides = (step, *((encoding.channels * dtype.itemsize,) if encoding.channels > 1 else ()))
    image = np.ndarray(shape, dtype, data.data, strides=(*strides, dtype.itemsize))
    image = image.astype(dtype.newbyteorder("="), copy=False)
    return image if encoding.to_rgb is None else cv2.cvtColor(image, encoding.to_rgb)


def _unknown(encoding: str) -> str:
    remedy = "set the camera driver to rgb8 or mono8"
    if "bayer" in encoding or encoding.endswith("16"):
        remedy = "set the camera driver to 8 bits per pixel"
    return f"image encoding {encoding!r} is not supported: {remedy} (read are {READABLE})"


def _bytes(data: Any) -> np.ndarray:
    """The payload as a contiguous (N,) uint8 view, without a copy where the object allows it."""
    if not isinstance(data, np.ndarray):
        data = np.frombuffer(data, np.uint8)
    return np.ascontiguousarray(data).reshape(-1).view(np.uint8)


def _decode_compressed(form: str, data: np.ndarray) -> np.ndarray:
    encoding, _, transport = form.partition(";")
    if "compressedDepth" in transport:
        return _decode_compressed_depth(encoding.strip(), "rvl" in transport, data)
    image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if data.size else None
    if image is None:
        raise ImageError(f"compressed image ({form!r}, {data.size} bytes) cannot be decoded")
    if image.ndim == 3:
        code = cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB
        return cv2.cvtColor(image, code)
    source = encoding.strip()
    if not source.startswith("bayer_"):
        return image
    # image_transport compresses the mosaic as if it were a grey image
    known = _ENCODINGS.get(source)
    if known is None or known.to_rgb is None or image.dtype != np.uint8:
        raise ImageError(_unknown(source))
    return cv2.cvtColor(image, known.to_rgb)


def _decode_compressed_depth(encoding: str, rvl: bool, data: np.ndarray) -> np.ndarray:
    """image_transport's compressedDepth: int32 format and two float32, then a PNG or RVL.

    16UC1 is stored as it is; 32FC1 as inverse depth: a / (value - b), 0 for none. librealsense's
    recorder names the transport but leaves the 12 bytes out.
    """
    begin = _DEPTH_HEADER if rvl else data[:64].tobytes().find(b"\x89PNG")
    image: Any = None
    try:
        if rvl:
            image = decode_rvl(data[begin:])
        elif begin >= 0:
            image = cv2.imdecode(data[begin:], cv2.IMREAD_UNCHANGED)
    except ValueError as error:
        raise ImageError(f"compressedDepth: {error}") from error
    if image is None or image.ndim != 2 or image.dtype != np.uint16:
        raise ImageError(f"compressedDepth image ({data.size} bytes) cannot be decoded")
    if encoding != "32FC1":
        return image
    if begin < _DEPTH_HEADER:
        raise ImageError("compressedDepth image of 32FC1 lacks its depth quantisation")
    a, b = struct.unpack("<ff", data[4:_DEPTH_HEADER].tobytes())
    with np.errstate(divide="ignore", invalid="ignore"):
        depth = a / (image.astype(np.float32) - np.float32(b))
    depth[image == 0] = np.nan
    return depth


def decode_colour(msg: Any) -> np.ndarray:
    """(H, W, 3) uint8 RGB of a colour or mono message. Raises ImageError for any other image."""
    image = decode_image(msg)
    if image.dtype != np.uint8:
        raise ImageError(
            f"a colour image has 8 bits per channel, this one is {image.dtype}: set the camera"
            " driver to rgb8"
        )
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image


def decode_depth(msg: Any) -> np.ndarray:
    """(H, W) float32 metres of a depth message: 16UC1 in mm with 0 = none, or 32FC1 in m.

    No depth, NaN, infinite and negative values all become NaN. Raises ImageError for any other
    image.
    """
    image = decode_image(msg)
    if image.ndim != 2 or image.dtype not in (np.uint16, np.float32):
        raise ImageError("a depth image is 16UC1 (mm) or 32FC1 (m)")
    depth = image.astype(np.float32)
    if image.dtype == np.uint16:
        depth *= np.float32(1e-3)
    depth[~(np.isfinite(depth) & (depth > 0.0))] = np.nan
    return depth


def encode_image(image: np.ndarray, encoding: str) -> dict[str, Any]:
    """The fields of an Image message (but header) for an array that fits `encoding`.

    Raises ImageError where dtype or shape do not fit.
    """
    known = _ENCODINGS.get(encoding)
    channels = image.shape[2] if image.ndim == 3 else 1
    if known is None or known.multiple != (1, 1):
        raise ImageError(f"images are not written as {encoding}")
    if channels != known.channels or image.dtype != np.dtype(known.dtype):
        raise ImageError(f"{image.dtype} image of shape {image.shape} is no {encoding}")
    image = np.ascontiguousarray(image, np.dtype("<" + known.dtype))
    return {
        "height": image.shape[0],
        "width": image.shape[1],
        "encoding": encoding,
        "is_bigendian": 0,
        "step": image.strides[0],
        "data": image.reshape(-1).view(np.uint8),
    }


@dataclass(frozen=True)
class CameraModel:
    """What a CameraInfo says: K (3, 3), distortion (N,), R (3, 3), P (3, 4), size in pixels."""

    width: int
    height: int
    K: np.ndarray
    D: np.ndarray
    R: np.ndarray
    P: np.ndarray
    fisheye: bool = False

    @property
    def distorted(self) -> bool:
        """Whether raw pixels differ from a pinhole's by more than rounding."""
        return bool(np.abs(self.D).max(initial=0.0) > 1e-9)

    def same_as(self, other: CameraModel | None) -> bool:
        """Whether both describe the same camera."""
        return (
            other is not None
            and (self.width, self.height, self.fisheye)
            == (other.width, other.height, other.fisheye)
            and all(
                np.array_equal(getattr(self, m), getattr(other, m)) for m in ("K", "D", "R", "P")
            )
        )

    def raw_intrinsics(self) -> Intrinsics:
        """Pinhole of the raw image, from K."""
        return _intrinsics(self.width, self.height, self.K)

    def rectified_intrinsics(self) -> Intrinsics:
        """Pinhole of the rectified image, from P. Raises ImageError where P is zero."""
        if not (self.P[0, 0] > 0.0 and self.P[1, 1] > 0.0):
            raise ImageError("camera_info has no projection (P is zero)")
        return _intrinsics(self.width, self.height, self.P)

    def without_distortion(self, u: float, v: float) -> tuple[float, float]:
        """Where a pixel of the raw image lies in the one that `rectify_maps(raw_intrinsics())` makes.

        NaN: it lies outside of the image.
        """
        if not (0.0 <= u < self.width and 0.0 <= v < self.height):
            return float("nan"), float("nan")
        if not self.distorted:
            return u, v
        R = np.eye(3) if not self.R.any() else self.R
        at = np.array([[[u, v]]], float)
        if self.fisheye:
            x, y = cv2.fisheye.undistortPoints(at, self.K, self.D, R=R, P=self.K).ravel()
        else:
            x, y = cv2.undistortPoints(at, self.K, self.D, R=R, P=self.K).ravel()
        return float(x), float(y)

    def rectify_maps(self, target: Intrinsics) -> tuple[np.ndarray, np.ndarray]:
        """cv2.remap maps (H, W) that bring this camera's raw image to `target`, rotated by R."""
        R = np.eye(3) if not self.R.any() else self.R
        K = np.array([[target.fx, 0, target.cx], [0, target.fy, target.cy], [0, 0, 1.0]])
        make = cv2.fisheye.initUndistortRectifyMap if self.fisheye else cv2.initUndistortRectifyMap
        D = self.D if self.distorted else np.zeros(4)
        return make(self.K, D, R, K, (target.width, target.height), cv2.CV_32FC1)


def _intrinsics(width: int, height: int, K: np.ndarray) -> Intrinsics:
    return Intrinsics(width, height, float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2]))


_FISHEYE = ("equidistant", "fisheye")
# Names that mean OpenCV's polynomial; drivers leave the name empty where there is no distortion.
_POLYNOMIAL = ("", "plumb_bob", "rational_polynomial", "radial")


def decode_camera_info(msg: Any) -> CameraModel:
    """The camera model of a CameraInfo message (fields k, d, r, p or K, D, R, P), of the image that
    is sent: binning and region of interest are worked in.

    Raises ImageError: K is zero or not finite (an uncalibrated camera), the size is zero, or
    distortion or R are none that are known here, or the region does not lie in the image.
    """

    def matrix(name: str, shape: tuple[int, ...]) -> np.ndarray:
        value = getattr(msg, name) if hasattr(msg, name) else getattr(msg, name.upper())
        return np.array(value, dtype=np.float64).reshape(shape)

    model = CameraModel(
        width=int(msg.width),
        height=int(msg.height),
        K=matrix("k", (3, 3)),
        D=matrix("d", (-1,)),
        R=matrix("r", (3, 3)),
        P=matrix("p", (3, 4)),
        fisheye=str(msg.distortion_model) in _FISHEYE,
    )
    if not all(np.isfinite(m).all() for m in (model.K, model.D, model.R, model.P)):
        raise ImageError("camera_info holds NaN or infinity")
    if not (model.K[0, 0] > 0.0 and model.K[1, 1] > 0.0):
        raise ImageError("camera_info is zero (K has no focal length)")
    if model.width < 1 or model.height < 1:
        raise ImageError("camera_info gives no image size")
    if model.distorted:
        known = (4,) if model.fisheye else (4, 5, 8, 12, 14)
        name = str(msg.distortion_model)
        if name not in _FISHEYE + _POLYNOMIAL:
            raise ImageError(
                f"camera_info has the distortion model {name!r}: send rectified images, or one of"
                f" {', '.join(m for m in _POLYNOMIAL + _FISHEYE if m)}"
            )
        if model.D.size not in known:
            raise ImageError(
                f"camera_info has {model.D.size} distortion values, {name or 'plumb_bob'} has"
                f" {' or '.join(map(str, known))}: calibrate again"
            )
    off = np.abs(np.clip(model.R, -2.0, 2.0) @ np.clip(model.R, -2.0, 2.0).T - np.eye(3)).max()
    if model.R.any() and off > _ROTATION_TOLERANCE:
        raise ImageError("camera_info's R is no rotation: calibrate again")
    return _of_sent_image(model, msg)


def _of_sent_image(model: CameraModel, msg: Any) -> CameraModel:
    """The model of the image that is sent; width, height, K and P of the message are the sensor's.

    Binning joins pixels, so that the first one's centre lies at (b - 1) / 2 of the sensor's.
    """
    bx, by = (max(1, int(getattr(msg, f"binning_{axis}", 0))) for axis in "xy")
    roi = getattr(msg, "roi", None)
    x, y, w, h = (
        int(getattr(roi, name, 0)) for name in ("x_offset", "y_offset", "width", "height")
    )
    w, h = w or model.width, h or model.height
    if (x, y, w, h, bx, by) == (0, 0, model.width, model.height, 1, 1):
        return model
    if x + w > model.width or y + h > model.height or w < bx or h < by:
        raise ImageError(
            f"camera_info has a region of {w}x{h} at ({x}, {y}), binned {bx}x{by}, in an image of"
            f" {model.width}x{model.height}"
        )

    def sent(matrix: np.ndarray) -> np.ndarray:
        out = matrix.copy()
        for row, first, binned in ((0, x, bx), (1, y, by)):
            out[row, 2] -= first + 0.5 * (binned - 1)
            out[row] /= binned
        return out

    # a P of zeros stays one
    P = sent(model.P) if model.P.any() else model.P
    return replace(model, width=w // bx, height=h // by, K=sent(model.K), P=P)
