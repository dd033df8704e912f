# SPDX-License-Identifier: Apache-2.0
"""One RealSense device through its sensors: which one, with which profiles and options, and its frames.

The sensors are opened one by one and not through a pipeline, so that the same code runs on a camera and
on librealsense's software device, which no pipeline finds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from spine_nav_common.core.types import Rejected

_QUEUE = 4  # framesets; librealsense stalls when more are kept


@dataclass(frozen=True)
class Wanted:
    """What is asked of a camera. serial: empty = the only one. emitter: of the depth camera's pattern,
    `default`, `on` or `off`. exposure_us: of the depth camera, 0 = automatic."""

    serial: str = ""
    width: int = 640
    height: int = 480
    fps: int = 15
    emitter: str = "default"
    exposure_us: int = 0


def _info(rs: Any, device: Any, name: str) -> str:
    kind = getattr(rs.camera_info, name)
    return str(device.get_info(kind)) if device.supports(kind) else ""


def choose(rs: Any, devices: Sequence[Any], serial: str) -> Any | Rejected:
    """The camera that is meant, never one of several by chance."""
    if not devices:
        return Rejected("no RealSense camera; plug it into USB 3, see spinenav doctor")
    serials = [_info(rs, d, "serial_number") for d in devices]
    able = [d for d, s in zip(devices, serials, strict=True) if serial in ("", s)]
    if not able:
        return Rejected(f"no RealSense camera {serial}, only {', '.join(serials)}; plug it in")
    if len(able) > 1 and serial:
        return Rejected(
            f"{len(able)} RealSense cameras say that they are {serial}; unplug one of them"
        )
    if len(able) > 1:
        return Rejected(
            f"{len(able)} RealSense cameras: {', '.join(serials)}; name one, as --source"
            f" realsense:{serials[0]}"
        )
    return able[0]


def _is(profile: Any, stream: Any, formats: Sequence[Any], wanted: Wanted) -> bool:
    if profile.stream_type() != stream or not profile.is_video_stream_profile():
        return False
    video = profile.as_video_stream_profile()
    return profile.format() in formats and (video.width(), video.height(), profile.fps()) == (
        wanted.width,
        wanted.height,
        wanted.fps,
    )


def profiles(rs: Any, device: Any, wanted: Wanted) -> list[tuple[Any, list[Any]]] | Rejected:
    """Each sensor with what it is to stream: depth and colour of the size and rate that are wanted."""
    needs = {"depth": (rs.stream.depth, (rs.format.z16,)),
             "colour": (rs.stream.color, (rs.format.rgb8, rs.format.bgr8))}  # fmt: skip
    sensors = list(device.query_sensors())
    all_of = [(sensor, sensor.get_stream_profiles()) for sensor in sensors]
    opened: list[tuple[Any, list[Any]]] = [(sensor, []) for sensor in sensors]
    for name, (stream, formats) in needs.items():
        found = [
            (i, p)
            for i, (_, of) in enumerate(all_of)
            for p in of
            if _is(p, stream, formats, wanted)
        ]
        if not found:
            there = sorted(
                {
                    (v.width(), v.height(), p.fps())
                    for _, of in all_of
                    for p in of
                    if p.stream_type() == stream and p.is_video_stream_profile()
                    for v in (p.as_video_stream_profile(),)
                }
            )
            modes = ", ".join(f"{w}x{h} at {fps} Hz" for w, h, fps in there) or "none at all"
            return Rejected(
                f"the camera has no {name} of {wanted.width}x{wanted.height} at {wanted.fps} Hz (USB 2"
                f" has fewer modes); it has {modes}; set camera_source.width, height, fps"
            )
        # rgb8 before bgr8
        i, profile = min(found, key=lambda f: formats.index(f[1].format()))
        opened[i][1].append(profile)
    return [(sensor, chosen) for sensor, chosen in opened if chosen]


def set_options(rs: Any, device: Any, wanted: Wanted) -> str:
    """Set emitter and exposure of the depth sensor; why that is not possible, or ""."""
    sensor = device.first_depth_sensor()
    asked: list[tuple[str, Any, float]] = []
    if wanted.emitter != "default":
        asked.append(("emitter", rs.option.emitter_enabled, float(wanted.emitter == "on")))
    if wanted.exposure_us:
        asked.append(("exposure_us", rs.option.exposure, float(wanted.exposure_us)))
        if sensor.supports(rs.option.enable_auto_exposure):
            sensor.set_option(rs.option.enable_auto_exposure, 0.0)
    for name, option, value in asked:
        if not sensor.supports(option):
            return f"the camera has no such option: leave camera_source.{name} out"
        reach = sensor.get_option_range(option)
        if not reach.min <= value <= reach.max:
            return (
                f"camera_source.{name}: {value:g} is not within the camera's {reach.min:g} to"
                f" {reach.max:g}"
            )
        sensor.set_option(option, value)
    return ""


class Device:
    """A camera that streams; `wait` gives its framesets.

    Raises RuntimeError as librealsense does: the camera cannot be opened.
    """

    def __init__(self, rs: Any, device: Any, chosen: list[tuple[Any, list[Any]]]) -> None:
        self._sync = rs.syncer(_QUEUE)
        self._running: list[Any] = []
        self.device = device
        for sensor, of in chosen:
            try:
                sensor.open(of)
                sensor.start(self._sync)
            except RuntimeError:
                self.stop()
                raise
            self._running.append(sensor)

    def wait(self, timeout_ms: int) -> Any | None:
        """The next frameset, or None."""
        arrived, frames = self._sync.try_wait_for_frames(timeout_ms)
        return frames if arrived else None

    def ended(self) -> bool:
        """Never by itself: a camera that is gone is silent."""
        return False

    def stop(self) -> None:
        """Close the sensors; one that is gone cannot be, and there is nothing left to release."""
        for sensor in self._running:
            for end in (sensor.stop, sensor.close):
                with suppress(RuntimeError):
                    end()
        self._running = []


class Playback:
    """A recorded file of librealsense; `wait` gives its framesets.

    Raises RuntimeError as librealsense does: the file cannot be played.
    """

    def __init__(self, rs: Any, file: str, real_time: bool) -> None:
        self._rs, self._pipeline = rs, rs.pipeline()
        config = rs.config()
        config.enable_device_from_file(file, repeat_playback=False)
        # Before the start: what plays by the clock already may drop its first images.
        self.device = config.resolve(rs.pipeline_wrapper(self._pipeline)).get_device()
        self._playback = self.device.as_playback()
        self._playback.set_real_time(real_time)
        self._pipeline.start(config)

    def wait(self, timeout_ms: int) -> Any | None:
        """The next frameset, or None."""
        arrived, frames = self._pipeline.try_wait_for_frames(timeout_ms)
        return frames if arrived else None

    def ended(self) -> bool:
        """Whether the file is at its end."""
        states = self._rs.playback_status
        return self._playback.current_status() in (states.stopped, states.unknown)

    def stop(self) -> None:
        """Close the file."""
        with suppress(RuntimeError):
            self._pipeline.stop()


Open = Callable[[], "Device | Playback | Rejected"]
