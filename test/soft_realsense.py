# SPDX-License-Identifier: Apache-2.0
"""A camera of librealsense's own software device: real profiles, sensors, syncer and options."""

from __future__ import annotations

import threading
import time

import numpy as np
import pyrealsense2 as rs

W, H = 640, 480
FX_DEPTH, FX_COLOUR, BASELINE_M = 380.0, 600.0, 0.015
DEPTH_MM = 500
BLOCK = (280, 340)  # columns of the depth image with a block at 0.4 m


def intrinsics(fx, size=(W, H)):
    i = rs.intrinsics()
    i.width, i.height = size
    i.ppx, i.ppy, i.fx, i.fy = size[0] / 2, size[1] / 2, fx, fx
    i.model, i.coeffs = rs.distortion.none, [0.0] * 5
    return i


def stream(kind, uid, form, bpp, fx, size=(W, H), fps=30):
    v = rs.video_stream()
    v.type, v.index, v.uid, v.fps = kind, 0, uid, fps
    v.width, v.height = size
    v.bpp, v.fmt, v.intrinsics = bpp, form, intrinsics(fx, size)
    return v


def shift(x):
    e = rs.extrinsics()
    e.rotation, e.translation = [1, 0, 0, 0, 1, 0, 0, 0, 1], [x, 0, 0]
    return e


def scene(size=(W, H)):
    """Depth image in mm: a plane at 0.5 m with a nearer block and rows without depth."""
    depth = np.full(size[::-1], DEPTH_MM, np.uint16)
    depth[:, BLOCK[0] : BLOCK[1]] = 400
    depth[180:200] = 0
    return depth


class SoftCamera:
    """A software device that streams while it is asked to. `second`: another size that both streams
    have too."""

    def __init__(self, serial="012345", second=None):
        self.device = rs.software_device()
        self.device.register_info(rs.camera_info.serial_number, serial)
        self.device.register_info(rs.camera_info.name, "Software D415")
        self.stereo = self.device.add_sensor("Stereo Module")
        self.rgb = self.device.add_sensor("RGB Camera")
        self.stereo.add_read_only_option(rs.option.depth_units, 0.001)
        on = rs.option_range()
        on.min, on.max, on.default, on.step = 0.0, 2.0, 1.0, 1.0
        self.stereo.add_option(rs.option.emitter_enabled, on, True)
        exposure = rs.option_range()
        exposure.min, exposure.max, exposure.default, exposure.step = 1.0, 165000.0, 8500.0, 1.0
        self.stereo.add_option(rs.option.exposure, exposure, True)
        self.pairs = {}
        for k, size in enumerate([(W, H), *([second] if second else [])]):
            depth = self.stereo.add_video_stream(
                stream(rs.stream.depth, 2 * k, rs.format.z16, 2, FX_DEPTH, size), k == 0
            )
            colour = self.rgb.add_video_stream(
                stream(rs.stream.color, 2 * k + 1, rs.format.rgb8, 3, FX_COLOUR, size), k == 0
            )
            depth.register_extrinsics_to(colour, shift(BASELINE_M))
            colour.register_extrinsics_to(depth, shift(-BASELINE_M))
            self.pairs[size] = depth, colour
        self.device.create_matcher(rs.matchers.default)
        self.sent = 0
        self._stop = threading.Event()
        self._thread = None

    def send(self, size=(W, H), depth=True, stamp_ms=None):
        """One image of each stream; what no sensor streams is dropped by librealsense."""
        i = self.sent
        self.sent += 1
        stamp_ms = 1000.0 + i * 33.333 if stamp_ms is None else stamp_ms
        colour = np.full((size[1], size[0], 3), (200, 100, i % 250), np.uint8)
        pd, pc = self.pairs[size]
        images = [(self.rgb, pc, colour, 3)]
        images = [(self.stereo, pd, scene(size), 2), *images] if depth else images
        for sensor, profile, image, bpp in images:
            f = rs.software_video_frame()
            f.stride, f.bpp, f.timestamp, f.frame_number = size[0] * bpp, bpp, stamp_ms, i
            f.domain = rs.timestamp_domain.hardware_clock
            f.profile = profile.as_video_stream_profile()
            f.pixels = image
            if bpp == 2:
                f.depth_units = 0.001
            sensor.on_video_frame(f)

    def stream(self, **more):
        """Send from a thread until `stall`."""

        def run():
            while not self._stop.wait(0.01):
                self.send(**more)

        self._stop.clear()
        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        return self

    def stall(self):
        """Send nothing any more, without a word."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        time.sleep(0)
