# SPDX-License-Identifier: Apache-2.0
"""A RealSense camera through pyrealsense2: depth aligned to colour, reconnect when unplugged.

The same code plays a file of `rs.recorder` (.db3, or .bag of librealsense before 2.58).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from spine_nav_common.core.types import Intrinsics, Rejected, RgbdFrame

from . import SourceError

_POLL_MS = 100
_GRID_PX = 4  # spacing of exact projections; the distortion is smooth between them


class RealSense:
    """RGB-D frames of one device; see FrameSource.

    Args:
        serial: of the device; empty = the first one.
        width, height, fps: of both streams.
        file: play this recording instead of a device.
        real_time: a file plays at its own pace and may drop frames; False = every frame.
        silence_s: a device that is silent for this long is taken for unplugged.
        now_ns: clock that hardware timestamps are brought to.

    Raises:
        SourceError: pyrealsense2 is not installed, or the file does not exist.
    """

    def __init__(
        self,
        serial: str = "",
        width: int = 640,
        height: int = 480,
        fps: int = 15,
        file: Path | None = None,
        real_time: bool = True,
        silence_s: float = 1.0,
        now_ns: Callable[[], int] = time.time_ns,
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
        self._serial, self._size, self._fps = serial, (width, height), fps
        self._file, self._silence_s, self._now_ns = file, silence_s, now_ns
        self.scenes = ("rgbd",)
        self.real_time = real_time if file is not None else True
        self._offset_ns: int | None = None
        self._stop = threading.Event()

    def frames(self) -> Iterator[RgbdFrame | Rejected]:
        """See FrameSource. A device that is not there, or goes, is asked for until it is back."""
        while not self._stop.is_set():
            pipeline = self._rs.pipeline()
            try:
                absent = self._absent()
                profile = None if absent else pipeline.start(self._config())
            except RuntimeError as error:
                if self._file is not None:
                    raise SourceError(f"{self._file}: cannot be played ({error})") from error
                absent = f"RealSense camera does not start ({error})"
            if absent:
                yield Rejected(f"{absent}; plug it into USB 3, see spinenav doctor")
                self._stop.wait(self._silence_s)
                continue
            try:
                yield from self._stream(pipeline, profile)
            finally:
                _quietly(pipeline.stop)
            if self._file is not None:
                return
            if not self._stop.is_set():
                yield Rejected("RealSense camera unplugged or silent; waiting for it")

    def close(self) -> None:
        """See FrameSource."""
        self._stop.set()

    def _absent(self) -> str:
        """Why there is nothing to start; asked first, since a start without device waits 15 s."""
        if self._file is not None:
            return ""
        name = self._rs.camera_info.serial_number
        serials = [d.get_info(name) for d in self._rs.context().query_devices()]
        if not serials:
            return "no RealSense camera"
        if self._serial and self._serial not in serials:
            return f"no RealSense camera {self._serial}, only {', '.join(serials)}"
        return ""

    def _config(self) -> Any:
        rs, config = self._rs, self._rs.config()
        if self._file is not None:
            config.enable_device_from_file(str(self._file), repeat_playback=False)
            return config
        if self._serial:
            config.enable_device(self._serial)
        config.enable_stream(rs.stream.depth, *self._size, rs.format.z16, self._fps)
        config.enable_stream(rs.stream.color, *self._size, rs.format.rgb8, self._fps)
        return config

    def _stream(self, pipeline: Any, profile: Any) -> Iterator[RgbdFrame]:
        rs, device = self._rs, profile.get_device()
        playback = device.as_playback() if self._file is not None else None
        if playback is not None:
            playback.set_real_time(self.real_time)
        align = rs.align(rs.stream.color)
        scale = np.float32(device.first_depth_sensor().get_depth_scale())
        stream = profile.get_stream(rs.stream.color).as_video_stream_profile()
        camera = Rectifier(rs, stream.get_intrinsics())
        self._offset_ns = None  # a device that was reset counts from zero again
        heard, last_ms = time.monotonic(), float("-inf")
        apart_ms = 500.0 / max(stream.fps(), 1)
        while not self._stop.is_set():
            arrived, frames = pipeline.try_wait_for_frames(_POLL_MS)
            if not arrived:
                stopped = playback is not None and playback.current_status() in (
                    rs.playback_status.stopped,
                    rs.playback_status.unknown,
                )
                if stopped or time.monotonic() - heard > self._silence_s:
                    return
                continue
            heard = time.monotonic()
            first, second = frames.get_color_frame(), frames.get_depth_frame()
            # The first framesets after a start are single, or a new image beside an old one.
            if not (first and second) or first.get_timestamp() <= last_ms:
                continue
            if abs(first.get_timestamp() - second.get_timestamp()) > apart_ms:
                continue
            last_ms = first.get_timestamp()
            aligned = align.process(frames)
            colour, depth = aligned.get_color_frame(), aligned.get_depth_frame()
            # Copies: librealsense has 16 buffers and stalls when frames are kept.
            rgb = np.asanyarray(colour.get_data()).copy()
            if colour.get_profile().format() == rs.format.bgr8:
                rgb = cv2.cvtColor(rgb, cv2.COLOR_BGR2RGB)
            raw = np.asanyarray(depth.get_data())
            depth_m = np.where(raw == 0, np.float32(np.nan), raw * scale)
            yield camera.frame(self._stamp_ns(colour), rgb, depth_m)

    def _stamp_ns(self, frame: Any) -> int:
        """Time of exposure in ns: the device's own clock is brought to `now_ns` once per start."""
        stamp_ns = round(frame.get_timestamp() * 1e6)
        if frame.get_frame_timestamp_domain() != self._rs.timestamp_domain.hardware_clock:
            return stamp_ns
        if self._file is not None:
            return stamp_ns
        if self._offset_ns is None:
            self._offset_ns = self._now_ns() - stamp_ns
        return stamp_ns + self._offset_ns


class Rectifier:
    """Pinhole frames out of a colour stream with lens distortion (D405: several pixels)."""

    def __init__(self, rs: Any, model: Any) -> None:
        self.intrinsics = Intrinsics(
            model.width, model.height, model.fx, model.fy, model.ppx, model.ppy
        )
        self._maps: np.ndarray | None = None
        if model.model != rs.distortion.none and np.abs(model.coeffs).max() > 1e-9:
            self._maps = self._exact_maps(rs, model)

    def _exact_maps(self, rs: Any, model: Any) -> np.ndarray:
        """(H, W, 2) float32: where each pinhole pixel lies in the distorted image."""
        c = self.intrinsics
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
        u, v = np.meshgrid(
            np.arange(c.width, dtype=np.float32), np.arange(c.height, dtype=np.float32)
        )
        dense = cv2.remap(shift, u / _GRID_PX, v / _GRID_PX, cv2.INTER_LINEAR)
        return dense + np.dstack([u, v])

    def frame(self, stamp_ns: int, colour: np.ndarray, depth_m: np.ndarray) -> RgbdFrame:
        """The rectified frame; depth is never interpolated across an edge."""
        if self._maps is not None:
            colour = cv2.remap(colour, self._maps, None, cv2.INTER_LINEAR)
            depth_m = cv2.remap(
                depth_m, self._maps, None, cv2.INTER_NEAREST, borderValue=float("nan")
            )
        return RgbdFrame(stamp_ns, colour, depth_m, self.intrinsics)


def _quietly(stop: Callable[[], None]) -> None:
    try:
        stop()
    except RuntimeError:
        pass  # an unplugged device cannot be stopped; there is nothing left to release
