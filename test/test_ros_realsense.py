# SPDX-License-Identifier: Apache-2.0
"""The RealSense driver against real librealsense and its software device: a .db3 that was recorded from
it, and cameras that are absent, doubled, of another mode, unplugged, stalled or changed in mid-run."""

import gc
import itertools
import sys

import cv2
import numpy as np
import pytest

rs = pytest.importorskip("pyrealsense2", reason="pyrealsense2 is not installed; run make setup")

from soft_realsense import (
    BASELINE_M,
    BLOCK,
    FX_COLOUR,
    FX_DEPTH,
    H,
    SoftCamera,
    W,
    intrinsics,
)

from spine_nav_bringup.import_data import import_realsense
from spine_nav_common.core.errors import InputError
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.types import Rejected, RgbdFrame
from spine_perception.sources import SourceError
from spine_perception.sources.realsense import RealSense, maps
from spine_perception.sources.realsense_device import Wanted

N = 8
MODE = Wanted(width=W, height=H, fps=30)


@pytest.fixture(scope="module")
def db3(tmp_path_factory):
    """A plane at 0.5 m with a nearer block, colour that counts frames; 30 Hz."""
    path = tmp_path_factory.mktemp("realsense") / "soft.db3"
    camera = SoftCamera()
    sync = rs.syncer(100)
    recorder = rs.recorder(str(path), camera.device)
    sensors = {s.get_info(rs.camera_info.name): s for s in recorder.query_sensors()}
    depth, colour = camera.pairs[W, H]
    for name, profile in (("Stereo Module", depth), ("RGB Camera", colour)):
        sensors[name].open(profile)
        sensors[name].start(sync)
    for _ in range(N):
        camera.send()
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
    assert len(played) == N
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


def plugged(*cameras, wanted=MODE, silence_s=30.0, **more):
    """A driver that finds these software devices plugged in; a busy machine is no silent camera."""
    there = list(cameras)
    source = RealSense(
        wanted, devices=lambda: [c.device for c in there], silence_s=silence_s, **more
    )
    return source, there


def until(items, want, most=400):
    """The items up to the first for which `want` holds."""
    seen = []
    for item in itertools.islice(items, most):
        seen.append(item)
        if want(item):
            return seen
    raise AssertionError([getattr(i, "reason", type(i).__name__) for i in seen[-5:]])


def is_frame(item):
    return isinstance(item, RgbdFrame)


def says(words):
    return lambda item: isinstance(item, Rejected) and words in item.reason


def test_a_camera_streams_aligned_frames_with_stamps_of_the_systems_clock():
    camera = SoftCamera().stream()
    source, _ = plugged(camera, now_ns=lambda: 10**18)
    frames = list(itertools.islice(filter(is_frame, source.frames()), 5))
    source.close()
    camera.stall()
    assert frames[0].stamp_ns == 10**18
    stamps = [f.stamp_ns for f in frames]
    assert stamps == sorted(set(stamps)) and source.clock_domain == "hardware_clock"
    near = np.flatnonzero(frames[0].depth_m[H // 2] < 0.45)
    left, right = ((u - W / 2) / FX_DEPTH + BASELINE_M / 0.4 for u in BLOCK)
    assert near[0] == pytest.approx(left * FX_COLOUR + W / 2, abs=3)
    assert near[-1] == pytest.approx(right * FX_COLOUR + W / 2, abs=3)
    assert tuple(frames[0].colour[0, 0, :2]) == (200, 100)


def test_without_pyrealsense2_it_says_what_to_do(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyrealsense2", None)
    with pytest.raises(SourceError, match="pyrealsense2 is missing.*make setup"):
        RealSense(MODE)


def test_without_a_camera_the_source_says_so_and_keeps_asking():
    source, _ = plugged(silence_s=0.01)
    first, second = itertools.islice(source.frames(), 2)
    assert all(says("no RealSense camera; plug it into USB 3")(i) for i in (first, second))
    source.close()
    assert list(source.frames()) == []


def test_librealsense_finds_no_camera_on_this_machine_or_one():
    source = RealSense(MODE, silence_s=0.01)
    assert isinstance(source._plugged_in(), list)


@pytest.mark.parametrize(
    ("serials", "serial", "words"),
    [
        (("1", "2"), "", "2 RealSense cameras: 1, 2; name one, as --source realsense:1"),
        (("1", "2"), "77", "no RealSense camera 77, only 1, 2"),
        (("1", "1"), "1", "2 RealSense cameras say that they are 1"),
    ],
)
def test_one_of_several_is_never_taken_by_chance(serials, serial, words):
    cameras = [SoftCamera(s) for s in serials]
    source, _ = plugged(*cameras, wanted=Wanted(serial, W, H, 30))
    assert words in next(source.frames()).reason


def test_the_named_one_of_two_streams():
    first, second = SoftCamera("1").stream(), SoftCamera("2").stream()
    second.sent = 200
    source, _ = plugged(first, second, wanted=Wanted("2", W, H, 30))
    frame = until(source.frames(), is_frame)[-1]
    source.close()
    first.stall()
    second.stall()
    assert frame.colour[0, 0, 2] >= 200


@pytest.mark.parametrize("wrong", [{"width": 1280, "height": 720}, {"fps": 90}])
def test_a_mode_that_the_camera_lacks_is_refused_with_those_that_it_has(wrong):
    source, _ = plugged(
        SoftCamera(), wanted=Wanted(**{"width": W, "height": H, "fps": 30, **wrong})
    )
    reason = next(source.frames()).reason
    assert "640x480 at 30 Hz" in reason and "camera_source.width" in reason


def test_an_unplugged_camera_is_told_and_taken_up_again_when_it_is_back():
    camera = SoftCamera().stream()
    source, there = plugged(camera, silence_s=0.5)
    items = source.frames()
    until(items, is_frame)
    there.clear()
    camera.stall()
    until(items, says("unplugged or silent"))
    until(items, says("no RealSense camera"))
    back = SoftCamera().stream()
    there.append(back)
    until(items, is_frame)
    source.close()
    back.stall()


def test_a_camera_that_stalls_without_a_word_is_told_and_goes_on():
    camera = SoftCamera().stream()
    source, _ = plugged(camera, silence_s=0.5)
    items = source.frames()
    until(items, is_frame)
    camera.stall()
    until(items, says("silent"))
    camera.stream()
    until(items, is_frame)
    source.close()
    camera.stall()


def test_a_camera_of_which_half_stalls_is_told():
    camera = SoftCamera().stream(depth=False)
    source, _ = plugged(camera, silence_s=0.5)
    until(source.frames(), says("silent"))
    source.close()
    camera.stall()


def test_images_that_change_their_size_in_mid_run_are_told_and_go_on_with_their_own_camera():
    camera = SoftCamera(second=(424, 240)).stream()
    source, _ = plugged(camera)
    items = source.frames()
    until(items, is_frame)
    camera.stall()
    camera.stream(size=(424, 240))
    until(items, says("changed its images to 424x240"))
    frame = until(items, is_frame)[-1]
    source.close()
    camera.stall()
    assert frame.colour.shape == (240, 424, 3) and frame.depth_m.shape == (240, 424)
    assert (frame.intrinsics.width, frame.intrinsics.cx) == (424, 212)


def test_stamps_that_go_back_give_no_frame():
    camera = SoftCamera().stream()
    source, _ = plugged(camera, silence_s=0.5)
    items = source.frames()
    until(items, is_frame)
    camera.stall()
    camera.stream(stamp_ms=10.0)
    stamps = [i.stamp_ns for i in until(items, says("silent"))[:-1]]
    source.close()
    camera.stall()
    assert stamps == sorted(set(stamps))


@pytest.mark.parametrize(
    ("wanted", "option", "value"),
    [
        ({"emitter": "off"}, "emitter_enabled", 0.0),
        ({"emitter": "on"}, "emitter_enabled", 1.0),
        ({"exposure_us": 4000}, "exposure", 4000.0),
    ],
)
def test_emitter_and_exposure_are_set(wanted, option, value):
    camera = SoftCamera().stream()
    camera.stereo.set_option(rs.option.emitter_enabled, 2.0)
    source, _ = plugged(camera, wanted=Wanted("", W, H, 30, **wanted))
    until(source.frames(), is_frame)
    source.close()
    camera.stall()
    assert camera.stereo.get_option(getattr(rs.option, option)) == value


def test_an_exposure_beyond_the_cameras_reach_is_refused():
    source, _ = plugged(SoftCamera(), wanted=Wanted("", W, H, 30, exposure_us=900_000))
    assert "not within the camera's 1 to 165000" in next(source.frames()).reason


def test_distortion_is_removed_as_the_sdk_defines_it():
    model = intrinsics(400.0)
    model.model, model.coeffs = rs.distortion.brown_conrady, [-0.06, 0.07, 0.0005, 0.0003, 0.0]
    point = [0.11, -0.07, 0.4]
    u, v = rs.rs2_project_point_to_pixel(model, point)
    yy, xx = np.mgrid[:H, :W]
    colour = (250 * np.exp(-((xx - u) ** 2 + (yy - v) ** 2) / 8.0)).astype(np.float32)
    weight = cv2.remap(colour, maps(rs, model), None, cv2.INTER_LINEAR).astype(float)
    seen = np.array([(xx * weight).sum(), (yy * weight).sum()]) / weight.sum()
    ideal = (point[0] / point[2] * 400 + W / 2, point[1] / point[2] * 400 + H / 2)
    assert np.hypot(u - ideal[0], v - ideal[1]) > 0.5, "the lens must move the point"
    np.testing.assert_allclose(seen, ideal, atol=0.1)
    assert maps(rs, intrinsics(400.0)) is None


def test_a_file_of_librealsense_is_imported_as_the_driver_plays_it(db3, tmp_path):
    done = import_realsense(db3, tmp_path / "out")
    shown = list(open_recording(done.written[0]).rgbd_frames())
    played = [f for f in RealSense(file=db3, real_time=False).frames()]
    assert [f.stamp_ns for f in shown] == [f.stamp_ns for f in played] and len(shown) == N
    for a, b in zip(shown, played, strict=True):
        np.testing.assert_array_equal(a.colour, b.colour)
        np.testing.assert_allclose(a.depth_m, b.depth_m, atol=5e-4)
    (tmp_path / "no.bag").write_bytes(b"#ROSBAG V2.0\n" + b"\0" * 100)
    with pytest.raises(InputError, match="cannot be played"):
        import_realsense(tmp_path / "no.bag", tmp_path / "none")
