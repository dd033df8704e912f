# SPDX-License-Identifier: Apache-2.0
"""The RealSense driver against real librealsense: a .db3 is recorded from a software device, then
played through the driver; devices that are not there or go are played by a fake of the SDK."""

import gc
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

rs = pytest.importorskip("pyrealsense2", reason="pyrealsense2 is not installed; run make setup")

from spine_nav_common.core.types import Rejected
from spine_perception.sources import SourceError
from spine_perception.sources.realsense import RealSense, Rectifier

W, H, N = 640, 480, 8
FX_DEPTH, FX_COLOUR, BASELINE_M = 380.0, 600.0, 0.015
DEPTH_MM = 500
BLOCK = (280, 340)  # columns of the depth image with a block at 0.4 m


def _intrinsics(fx):
    i = rs.intrinsics()
    i.width, i.height, i.ppx, i.ppy, i.fx, i.fy = W, H, W / 2, H / 2, fx, fx
    i.model, i.coeffs = rs.distortion.none, [0.0] * 5
    return i


def _stream(kind, uid, form, bpp, intrinsics):
    v = rs.video_stream()
    v.type, v.index, v.uid, v.width, v.height, v.fps = kind, 0, uid, W, H, 30
    v.bpp, v.fmt, v.intrinsics = bpp, form, intrinsics
    return v


def _shift(x):
    e = rs.extrinsics()
    e.rotation, e.translation = [1, 0, 0, 0, 1, 0, 0, 0, 1], [x, 0, 0]
    return e


@pytest.fixture(scope="module")
def db3(tmp_path_factory):
    """A plane at 0.5 m with a nearer block, colour that counts frames; 30 Hz."""
    path = tmp_path_factory.mktemp("realsense") / "soft.db3"
    device = rs.software_device()
    stereo, rgb = device.add_sensor("Stereo Module"), device.add_sensor("RGB Camera")
    pd = stereo.add_video_stream(
        _stream(rs.stream.depth, 0, rs.format.z16, 2, _intrinsics(FX_DEPTH))
    )
    pc = rgb.add_video_stream(
        _stream(rs.stream.color, 1, rs.format.rgb8, 3, _intrinsics(FX_COLOUR))
    )
    stereo.add_read_only_option(rs.option.depth_units, 0.001)
    pd.register_extrinsics_to(pc, _shift(BASELINE_M))
    pc.register_extrinsics_to(pd, _shift(-BASELINE_M))
    device.create_matcher(rs.matchers.default)
    sync = rs.syncer(100)
    recorder = rs.recorder(str(path), device)
    sensors = {s.get_info(rs.camera_info.name): s for s in recorder.query_sensors()}
    for name, profile in (("Stereo Module", pd), ("RGB Camera", pc)):
        sensors[name].open(profile)
        sensors[name].start(sync)
    depth = np.full((H, W), DEPTH_MM, np.uint16)
    depth[:, BLOCK[0] : BLOCK[1]] = 400
    depth[180:200] = 0  # around row 161 of the colour image
    for i in range(N):
        colour = np.full((H, W, 3), (200, 100, 10 + i), np.uint8)
        for sensor, profile, image, bpp in ((stereo, pd, depth, 2), (rgb, pc, colour, 3)):
            f = rs.software_video_frame()
            f.stride, f.bpp, f.timestamp, f.frame_number = W * bpp, bpp, 1000.0 + i * 33.333, i
            f.domain, f.profile = (
                rs.timestamp_domain.hardware_clock,
                profile.as_video_stream_profile(),
            )
            f.pixels = image
            if bpp == 2:
                f.depth_units = 0.001
            sensor.on_video_frame(f)
        sync.wait_for_frames()
    for sensor in sensors.values():
        sensor.stop()
        sensor.close()
    del recorder, sensors, sensor
    gc.collect()
    return path


@pytest.fixture(scope="module")
def played(db3):
    return list(RealSense(file=db3, real_time=False).frames())


def test_every_frame_of_the_file_comes_once_in_order(played):
    assert len(played) >= N - 2  # librealsense gives the first ones singly
    stamps = [f.stamp_ns for f in played]
    assert stamps == sorted(set(stamps))
    assert np.median(np.diff(stamps)) == pytest.approx(33_333_000, abs=2000)
    assert [f.colour[0, 0, 2] for f in played] == list(
        range(played[0].colour[0, 0, 2], played[0].colour[0, 0, 2] + len(played))
    )


def test_colour_is_rgb_and_depth_is_metres_on_the_colour_grid(played):
    frame = played[-1]
    assert frame.colour.shape == (H, W, 3) and frame.depth_m.shape == (H, W)
    assert tuple(frame.colour[10, 10, :2]) == (200, 100)
    assert frame.depth_m.dtype == np.float32
    assert frame.depth_m[H // 2, W - 60] == pytest.approx(0.5, abs=1e-6)
    assert np.isnan(frame.depth_m[161, W - 60]), "0 is no depth"
    assert (frame.intrinsics.fx, frame.intrinsics.cx) == (FX_COLOUR, W / 2)


def test_depth_is_aligned_with_the_right_sign(played):
    """The near block lies where the geometry puts it, not where a flipped baseline would."""
    near = np.flatnonzero(played[-1].depth_m[H // 2] < 0.45)
    left, right = ((u - W / 2) / FX_DEPTH + BASELINE_M / 0.4 for u in BLOCK)
    assert near[0] == pytest.approx(left * FX_COLOUR + W / 2, abs=3)
    assert near[-1] == pytest.approx(right * FX_COLOUR + W / 2, abs=3)


def test_frames_are_copies_that_survive_the_device(played):
    played[0].colour[0, 0] = 7
    assert played[1].colour[0, 0, 0] == 200


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SourceError, match="no such RealSense recording"):
        RealSense(file=tmp_path / "none.db3")


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "bad.db3").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="cannot be played"):
        list(RealSense(file=tmp_path / "bad.db3").frames())


def test_without_a_device_the_source_says_so_and_keeps_asking():
    camera = RealSense(silence_s=0.01)
    first, second = itertools.islice(camera.frames(), 2)
    assert isinstance(first, Rejected) and "no RealSense camera" in first.reason
    assert isinstance(second, Rejected)
    camera.close()
    assert list(camera.frames()) == []


def test_another_serial_number_is_not_taken():
    camera = RealSense(serial="77", silence_s=0.01)
    camera._rs = Unplugged()
    assert next(camera.frames()).reason.startswith("no RealSense camera 77, only 1234")


class Unplugged:
    """An SDK whose device sends two frames, goes silent, and is back at the next start."""

    def __init__(self):
        self.starts = 0
        self.stream = SimpleNamespace(depth=0, color=1)
        self.format = SimpleNamespace(z16=0, rgb8=1, bgr8=2)
        self.distortion = rs.distortion
        self.timestamp_domain = SimpleNamespace(hardware_clock="hardware", system_time="system")
        self.config = lambda: SimpleNamespace(enable_stream=lambda *a: None)
        self.camera_info = rs.camera_info
        plugged = SimpleNamespace(get_info=lambda name: "1234")
        self.context = lambda: SimpleNamespace(query_devices=lambda: [plugged])
        self.align = lambda stream: SimpleNamespace(process=lambda frames: frames)
        self.pipeline = lambda: self

    def start(self, config):
        self.starts += 1
        self.left = 2
        device = SimpleNamespace(
            first_depth_sensor=lambda: SimpleNamespace(get_depth_scale=lambda: 0.001)
        )
        profile = SimpleNamespace(get_intrinsics=lambda: _intrinsics(FX_COLOUR), fps=lambda: 30)
        video = SimpleNamespace(as_video_stream_profile=lambda: profile)
        return SimpleNamespace(get_device=lambda: device, get_stream=lambda s: video)

    def stop(self):
        raise RuntimeError("device is gone")

    def try_wait_for_frames(self, timeout_ms):
        if not self.left:
            return False, None
        self.left -= 1
        return True, SimpleNamespace(
            get_color_frame=lambda: self._frame(np.zeros((H, W, 3), np.uint8)),
            get_depth_frame=lambda: self._frame(np.full((H, W), DEPTH_MM, np.uint16)),
        )

    def _frame(self, data):
        return SimpleNamespace(
            get_data=lambda: data,
            get_profile=lambda: SimpleNamespace(format=lambda: self.format.rgb8),
            get_timestamp=lambda: 5000.0 - self.left,
            get_frame_timestamp_domain=lambda: "hardware",
        )


def test_an_unplugged_camera_is_told_and_taken_up_again_when_it_is_back():
    camera = RealSense(silence_s=0.01, now_ns=lambda: 10**18)
    camera._rs = sdk = Unplugged()
    items = list(itertools.islice(camera.frames(), 5))
    kinds = [isinstance(item, Rejected) for item in items]
    assert kinds == [False, False, True, False, False]
    assert "unplugged" in items[2].reason and sdk.starts == 2
    assert items[0].stamp_ns == 10**18, "hardware time is brought to the system's clock"
    assert items[1].stamp_ns - items[0].stamp_ns == 1_000_000


def test_distortion_is_removed_as_the_sdk_defines_it():
    model = _intrinsics(400.0)
    model.model, model.coeffs = rs.distortion.brown_conrady, [-0.06, 0.07, 0.0005, 0.0003, 0.0]
    rectifier = Rectifier(rs, model)
    point = [0.11, -0.07, 0.4]
    u, v = rs.rs2_project_point_to_pixel(model, point)
    colour = np.zeros((H, W, 3), np.uint8)
    yy, xx = np.mgrid[:H, :W]
    colour[..., 0] = 250 * np.exp(-((xx - u) ** 2 + (yy - v) ** 2) / 8.0)
    frame = rectifier.frame(0, colour, np.full((H, W), 0.4, np.float32))
    weight = frame.colour[..., 0].astype(float)
    seen = np.array([(xx * weight).sum(), (yy * weight).sum()]) / weight.sum()
    ideal = (point[0] / point[2] * 400 + W / 2, point[1] / point[2] * 400 + H / 2)
    assert np.hypot(u - ideal[0], v - ideal[1]) > 0.5, "the lens must move the point"
    np.testing.assert_allclose(seen, ideal, atol=0.1)
