# SPDX-License-Identifier: Apache-2.0
"""A RealSense camera through pyrealsense2: depth aligned to colour, reconnect when unplugged.

The same code plays a file of `rs.recorder` (.db3, or .bag of librealsense before 2.58).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spine_nav_common.core.align import DepthAligner
from spine_nav_common.core.geometry import transform
from spine_nav_common.core.types import Intrinsics, Rejected, RgbdFrame

from . import SourceError
from .realsense_device import Device, Playback, Wanted, choose, profiles, set_options

_POLL_MS = 100
_GRID_PX = 4  # spacing of exact projections; the distortion is smooth between them


class RealSense:
    """RGB-D frames of one device; see FrameSource.

    Args:
        wanted: which camera, and how it is set.
        file: play this recording instead of a device.
        real_time: a file plays at its own pace and may drop frames; False = every frame.
        silence_s: a device that is silent for this long is taken for unplugged.
        now_ns: clock that hardware timestamps are brought to.
        devices: the cameras that are plugged in; None = librealsense's.

    Attributes:
        clock_domain: whose clock the camera stamps its images with, as librealsense names it; "" before
            the first.
        counts: framesets that were left out, by reason.

    Raises:
        SourceError: pyrealsense2 is not installed, or the file does not exist.
    """

    def __init__(
        self,
        wanted: Wanted | None = None,
        file: Path | None = None,
        real_time: bool = True,
        silence_s: float = 1.0,
        now_ns: Callable[[], int] = time.time_ns,
        devices: Callable[[], Sequence[Any]] | None = None,
    ) -> None:
        try:
            import pyrealsense2
        except ImportError as error:
            raise SourceError(
                f"pyrealsense2 is missing ({error}); run 'make setup' with root for libusb, or "
                "use --source replay:RECORDING"
            ) from error
        if file is not None and not file.is_file():
            raise SourceError(f"{file}: no such RealSense recording; name a .db3 or .bag file")
        self._rs: Any = pyrealsense2
        self._wanted = wanted or Wanted()
        self._file, self._silence_s, self._now_ns = file, silence_s, now_ns
        self._context: Any = None
        self._devices = devices or self._plugged_in
        self.scenes = ("rgbd",)
        self.real_time = real_time if file is not None else True
        self.clock_domain = ""
        self.counts = {"single": 0, "backwards": 0, "apart": 0}
        self._offset_ns: int | None = None
        self._stop = threading.Event()

    def frames(self) -> Iterator[RgbdFrame | Rejected]:
        """See FrameSource. A device that is not there, or goes, is asked for until it is back."""
        while not self._stop.is_set():
            opened = self._open()
            if isinstance(opened, Rejected):
                yield opened
                self._stop.wait(self._silence_s)
                continue
            try:
                yield from self._stream(opened)
            finally:
                opened.stop()
            if self._file is not None:
                return
            if not self._stop.is_set():
                yield Rejected("RealSense camera unplugged or silent; waiting for it")

    def close(self) -> None:
        """See FrameSource."""
        self._stop.set()

    def _plugged_in(self) -> Sequence[Any]:
        if self._context is None:
            self._context = self._rs.context()
        return list(self._context.query_devices())

    def _open(self) -> Device | Playback | Rejected:
        if self._file is not None:
            try:
                return Playback(self._rs, str(self._file), self.real_time)
            except RuntimeError as error:
                raise SourceError(f"{self._file}: cannot be played ({error})") from error
        try:
            device = choose(self._rs, self._devices(), self._wanted.serial)
            if isinstance(device, Rejected):
                return device
            chosen = profiles(self._rs, device, self._wanted)
            if isinstance(chosen, Rejected):
                return chosen
            if problem := set_options(self._rs, device, self._wanted):
                return Rejected(problem)
            return Device(self._rs, device, chosen)
        except RuntimeError as error:
            return Rejected(f"RealSense camera does not start ({error}); plug it into USB 3")

    def _stream(self, opened: Device | Playback) -> Iterator[RgbdFrame | Rejected]:
        rs = self._rs
        scale = np.float32(opened.device.first_depth_sensor().get_depth_scale())
        camera: Camera | None = None
        self._offset_ns = None  # a device that was reset counts from zero again
        heard, last_ms = time.monotonic(), float("-inf")
        while not self._stop.is_set():
            frames = opened.wait(_POLL_MS)
            if frames is None:
                if opened.ended() or time.monotonic() - heard > self._silence_s:
                    return
                continue
            colour, depth = frames.get_color_frame(), frames.get_depth_frame()
            # The first framesets after a start are single, or a new image beside an old one.
            if not (colour and depth):
                # an image that comes alone for ever is a camera of which half has stalled
                if time.monotonic() - heard > self._silence_s:
                    return
                self.counts["single"] += 1
                continue
            if colour.get_timestamp() <= last_ms:
                self.counts["backwards"] += 1
                continue
            apart_ms = 500.0 / max(colour.get_profile().fps(), 1)
            if abs(colour.get_timestamp() - depth.get_timestamp()) > apart_ms:
                self.counts["apart"] += 1
                continue
            last_ms = colour.get_timestamp()
            if camera is None or not camera.fits(colour, depth):
                if camera is not None:
                    yield Rejected(f"the camera has changed its images to {_size(colour)}")
                camera = Camera(rs, colour.get_profile(), depth.get_profile())
            # A copy: librealsense has 16 buffers and stalls when frames are kept.
            rgb = np.asanyarray(colour.get_data()).copy()
            if colour.get_profile().format() == rs.format.bgr8:
                rgb = cv2.cvtColor(rgb, cv2.COLOR_BGR2RGB)
            raw = np.asanyarray(depth.get_data())
            depth_m = np.where(raw == 0, np.float32(np.nan), raw * scale)
            yield camera.frame(self._stamp_ns(colour), rgb, depth_m)
            heard = time.monotonic()  # what the taker spent is no silence of the camera

    def _stamp_ns(self, frame: Any) -> int:
        """Time of exposure in ns: the device's own clock is brought to `now_ns` once per start."""
        stamp_ns = round(frame.get_timestamp() * 1e6)
        domain = frame.get_frame_timestamp_domain()
        self.clock_domain = str(domain).rsplit(".", 1)[-1]
        if domain != self._rs.timestamp_domain.hardware_clock or self._file is not None:
            return stamp_ns
        if self._offset_ns is None:
            self._offset_ns = self._now_ns() - stamp_ns
        return stamp_ns + self._offset_ns


def _size(image: Any) -> str:
    return f"{image.get_width()}x{image.get_height()}"


class Camera:
    """Pinhole frames out of the two streams' profiles: lens distortion out (D405: several pixels), depth
    aligned to colour."""

    def __init__(self, rs: Any, colour: Any, depth: Any) -> None:
        models = [p.as_video_stream_profile().get_intrinsics() for p in (colour, depth)]
        self.intrinsics = pinhole(models[0])
        self._sizes = [(m.width, m.height) for m in models]
        self._colour_maps, self._depth_maps = (maps(rs, m) for m in models)
        given = depth.get_extrinsics_to(colour)
        R = np.array(given.rotation, float).reshape(3, 3).T  # librealsense writes columns
        T = transform(R, np.array(given.translation, float))
        self._align = DepthAligner(pinhole(models[1]), self.intrinsics, T)

    def fits(self, colour: Any, depth: Any) -> bool:
        """Whether the images are still of the size that the streams began with."""
        return [(i.get_width(), i.get_height()) for i in (colour, depth)] == self._sizes

    def frame(self, stamp_ns: int, colour: np.ndarray, depth_m: np.ndarray) -> RgbdFrame:
        """The frame on the colour camera's pinhole; depth is never interpolated across an edge."""
        if self._colour_maps is not None:
            colour = cv2.remap(colour, self._colour_maps, None, cv2.INTER_LINEAR)
        if self._depth_maps is not None:
            depth_m = cv2.remap(
                depth_m, self._depth_maps, None, cv2.INTER_NEAREST, borderValue=float("nan")
            )
        return RgbdFrame(stamp_ns, colour, self._align(depth_m), self.intrinsics)


def pinhole(model: Any) -> Intrinsics:
    """A stream's camera without its lens."""
    return Intrinsics(model.width, model.height, model.fx, model.fy, model.ppx, model.ppy)


def maps(rs: Any, model: Any) -> np.ndarray | None:
    """(H, W, 2) float32: where each pinhole pixel lies in the distorted image; None without distortion."""
    if model.model == rs.distortion.none or np.abs(model.coeffs).max() <= 1e-9:
        return None
    c = pinhole(model)
    us = np.arange(0, c.width + _GRID_PX, _GRID_PX)
    vs = np.arange(0, c.height + _GRID_PX, _GRID_PX)
    shift = np.array(
        [
            [
                np.subtract(
                    rs.rs2_project_point_to_pixel(
                        model, [(u - c.cx) / c.fx, (v - c.cy) / c.fy, 1.0]
                    ),
                    (u, v),
                )
                for u in us
            ]
            for v in vs
        ],
        np.float32,
    )
    u, v = np.meshgrid(np.arange(c.width, dtype=np.float32), np.arange(c.height, dtype=np.float32))
    dense = cv2.remap(shift, u / _GRID_PX, v / _GRID_PX, cv2.INTER_LINEAR)
    return dense + np.dstack([u, v])
