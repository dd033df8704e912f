# SPDX-License-Identifier: Apache-2.0
"""What a camera's images cost on one core before anything sees them: depth aligned to colour beside
librealsense's own, and compressed depth unpacked."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

from spine_nav_common.core.align import DepthAligner
from spine_nav_common.core.images import decode_image
from spine_nav_common.core.types import Intrinsics, Rejected

from .bench_timing import percentiles

DEPTH = Intrinsics(848, 480, 610.0, 610.0, 424.0, 240.0)
COLOUR = Intrinsics(1280, 720, 920.0, 920.0, 640.0, 360.0)
BASELINE_M = 0.015
SEED, REPEATS = 430_000, 200


class _Compressed:
    """What a CompressedImage has."""

    def __init__(self, form: str, data: bytes) -> None:
        self.format, self.data = form, np.frombuffer(data, np.uint8)


def depth_image(width: int, height: int, seed: int) -> np.ndarray:
    """(h, w) uint16 mm: a wavy surface at half a metre with a stereo camera's noise, one block in ten
    without depth."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    mm = 500.0 + 60.0 * np.sin(x / 50.0) + 40.0 * np.cos(y / 37.0) + rng.normal(0.0, 1.5, x.shape)
    holes = rng.random((height // 8, width // 8)) < 0.1
    mm[holes.repeat(8, axis=0).repeat(8, axis=1)] = 0.0
    return mm.astype(np.uint16)


def encode_rvl(image: np.ndarray) -> bytes:
    """The body of a compressedDepth message in RVL; as slow as Python is."""
    nibbles: list[int] = []

    def put(value: int) -> None:
        more = True
        while more:
            low, value = value & 7, value >> 3
            more = value > 0
            nibbles.append(low | 8 * more)

    flat = image.astype(int).ravel()
    ends = np.flatnonzero(np.diff(np.concatenate([[True], flat == 0, [flat[-1] != 0]]))).tolist()
    at, previous = 0, 0
    for k, end in enumerate(ends):  # zeros and others in turn, zeros first
        put(end - at)
        for value in flat[at:end].tolist() if k % 2 else ():
            step = value - previous
            put(2 * step if step >= 0 else -2 * step - 1)
            previous = value
        at = end
    nibbles += [0] * (-len(nibbles) % 8)
    words = np.array(nibbles, np.uint32).reshape(-1, 8) << np.arange(28, -1, -4, dtype=np.uint32)
    return struct.pack("<II", *image.shape[::-1]) + words.sum(axis=1).astype("<u4").tobytes()


def _times_ms(call: Callable[[], object], repeats: int) -> list[float]:
    call()
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        call()
        times.append(1e3 * (time.perf_counter() - begin))
    return times


def librealsense_align() -> Callable[[], object] | Rejected:
    """librealsense's own alignment of the same image, on frames of its software device."""
    try:
        import pyrealsense2 as rs
    except ImportError as error:
        return Rejected(f"pyrealsense2 is not there ({error})")
    device = rs.software_device()
    sensors = [device.add_sensor(name) for name in ("Stereo Module", "RGB Camera")]

    def stream(sensor: Any, kind: Any, uid: int, form: Any, bpp: int, k: Intrinsics) -> Any:
        inner = rs.intrinsics()
        inner.width, inner.height = k.width, k.height
        inner.fx, inner.fy, inner.ppx, inner.ppy = k.fx, k.fy, k.cx, k.cy
        inner.model, inner.coeffs = rs.distortion.none, [0.0] * 5
        video = rs.video_stream()
        video.type, video.uid, video.fmt, video.bpp = kind, uid, form, bpp
        video.width, video.height, video.fps, video.intrinsics = k.width, k.height, 30, inner
        return sensor.add_video_stream(video)

    depth = stream(sensors[0], rs.stream.depth, 0, rs.format.z16, 2, DEPTH)
    colour = stream(sensors[1], rs.stream.color, 1, rs.format.rgb8, 3, COLOUR)
    sensors[0].add_read_only_option(rs.option.depth_units, 0.001)
    for a, b, x in ((depth, colour, BASELINE_M), (colour, depth, -BASELINE_M)):
        shift = rs.extrinsics()
        shift.rotation, shift.translation = [1, 0, 0, 0, 1, 0, 0, 0, 1], [x, 0, 0]
        a.register_extrinsics_to(b, shift)
    device.create_matcher(rs.matchers.default)
    sync = rs.syncer(100)
    for sensor, profile in zip(sensors, (depth, colour), strict=True):
        sensor.open(profile)
        sensor.start(sync)
    images = (
        (sensors[0], depth, depth_image(DEPTH.width, DEPTH.height, SEED), 2),
        (sensors[1], colour, np.zeros((COLOUR.height, COLOUR.width, 3), np.uint8), 3),
    )
    frames = None
    for n in range(5):  # the first ones come singly
        for sensor, profile, image, bpp in images:
            frame = rs.software_video_frame()
            frame.pixels, frame.stride, frame.bpp = image, image.shape[1] * bpp, bpp
            frame.timestamp, frame.frame_number = 1000.0 + 33.3 * n, n
            frame.domain = rs.timestamp_domain.hardware_clock
            frame.profile = profile.as_video_stream_profile()
            if bpp == 2:
                frame.depth_units = 0.001
            sensor.on_video_frame(frame)
            came = sync.wait_for_frames(1000) if n else None
            if came is not None and came.get_depth_frame() and came.get_color_frame():
                frames = came
    if frames is None:
        return Rejected("its syncer gave no pair")
    frames.keep()
    align = rs.align(rs.stream.color)

    def call(keep: Any = (device, sensors, sync)) -> object:
        return align.process(frames).get_depth_frame()

    return call


def cameras_record(smoke: bool = False) -> dict[str, Any]:
    """Times in ms on one core; the two alignments of the same image take turns."""
    repeats = 5 if smoke else REPEATS
    cores = os.sched_getaffinity(0)
    peer = librealsense_align()  # before: it starts threads of its own
    os.sched_setaffinity(0, {min(cores)})
    try:
        T = np.eye(4)
        T[0, 3] = BASELINE_M
        align = DepthAligner(DEPTH, COLOUR, T)
        mm = depth_image(DEPTH.width, DEPTH.height, SEED)
        metres = np.where(mm == 0, np.nan, mm * 1e-3).astype(np.float32)
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(repeats // 5):
            ours += _times_ms(lambda: align(metres), 5)
            if not isinstance(peer, Rejected):
                theirs += _times_ms(peer, 5)
        packed = depth_image(640, 480, SEED)
        head = struct.pack("<iff", 0, 0.0, 0.0)
        rvl = _Compressed("16UC1; compressedDepth rvl", head + encode_rvl(packed))
        png = _Compressed(
            "16UC1; compressedDepth png", head + cv2.imencode(".png", packed)[1].tobytes()
        )
        for message in (rvl, png):
            if not np.array_equal(decode_image(message), packed):
                raise AssertionError(f"{message.format} does not come back")
        return {
            "seeds": [SEED],
            "align_ms": percentiles(ours),
            "librealsense_ms": percentiles(theirs) if theirs else None,
            "librealsense_note": peer.reason if isinstance(peer, Rejected) else "",
            "rvl_ms": percentiles(_times_ms(lambda: decode_image(rvl), repeats)),
            "png_ms": percentiles(_times_ms(lambda: decode_image(png), repeats)),
        }
    finally:
        os.sched_setaffinity(0, cores)
