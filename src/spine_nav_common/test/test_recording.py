# SPDX-License-Identifier: Apache-2.0
"""Recordings that are as docs/contracts.md, section 2 says, in all its variants."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from spine_nav_common.core.errors import RecordingError
from spine_nav_common.core.geometry import project
from spine_nav_common.core.images import encode_image
from spine_nav_common.core.recorded_messages import load_remap
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.storage import recording_sha256
from spine_nav_common.core.types import Intrinsics

COLOUR = "/camera/camera/color/image_raw"
COLOUR_INFO = "/camera/camera/color/camera_info"
DEPTH = "/camera/camera/aligned_depth_to_color/image_raw"
IMAGE, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
COMPRESSED = "sensor_msgs/msg/CompressedImage"


def record(path: Path, frames, **options) -> Path:
    with RecordingWriter(path, **options) as writer:
        for frame in frames:
            (writer.write_stereo if hasattr(frame, "left") else writer.write_rgbd)(frame)
    return path


def same(a, b) -> None:
    assert (a.stamp_ns, a.intrinsics, a.frame_id) == (b.stamp_ns, b.intrinsics, b.frame_id)
    np.testing.assert_array_equal(a.colour, b.colour)
    np.testing.assert_allclose(a.depth_m, b.depth_m, atol=1e-6)  # NaN where NaN


@pytest.mark.parametrize("options", [{}, {"compress": False}, {"sqlite3": True},
                                     {"depth_encoding": "32FC1"}])  # fmt: skip
def test_rgbd_round_trip(tmp_path, rgbd, options):
    frames = [rgbd(i) for i in range(5)]
    recording = open_recording(record(tmp_path / "rec", frames, **options))
    assert recording.has_rgbd
    assert not recording.has_stereo
    for a, b in zip(recording.rgbd_frames(), frames, strict=True):
        same(a, b)
    assert recording.counts == {"read": 5, "duplicated": 0, "late": 0, "unpaired": 0, "bad": 0}
    assert recording.truncated is None
    assert recording.slop_ns == 16_666_666
    assert recording.topics[COLOUR] == IMAGE


@pytest.mark.parametrize("grey", [True, False])
def test_stereo_round_trip(tmp_path, stereo, grey):
    frames = [stereo(i) for i in range(4)]
    if not grey:
        frames = [
            type(f)(f.stamp_ns, np.dstack([f.left] * 3), np.dstack([f.right] * 3), f.intrinsics,
                    f.baseline_m)
            for f in frames
        ]  # fmt: skip
    recording = open_recording(record(tmp_path / "rec", frames))
    for a, b in zip(recording.stereo_frames(), frames, strict=True):
        assert (a.stamp_ns, a.intrinsics) == (b.stamp_ns, b.intrinsics)
        assert a.baseline_m == pytest.approx(b.baseline_m)
        np.testing.assert_array_equal(a.left, b.left)
        np.testing.assert_array_equal(a.right, b.right)
    assert recording.counts["read"] == 4


def test_iterating_twice_gives_and_counts_the_same(tmp_path, rgbd):
    recording = open_recording(record(tmp_path / "rec", [rgbd(0), rgbd(1), rgbd(1)]))
    first = [f.stamp_ns for f in recording.rgbd_frames()], dict(recording.counts)
    assert ([f.stamp_ns for f in recording.rgbd_frames()], recording.counts) == first


@pytest.mark.parametrize("sqlite3", [False, True])
def test_folder_without_metadata_single_file_and_split_bag(tmp_path, rgbd, sqlite3):
    suffix = "db3" if sqlite3 else "mcap"
    parts = [
        record(tmp_path / f"p{i}", [rgbd(2 * i), rgbd(2 * i + 1)], sqlite3=sqlite3)
        for i in range(11)
    ]
    folder = tmp_path / "bag"
    folder.mkdir()
    for i, part in enumerate(parts):  # bag_10 must follow bag_9, not bag_1
        shutil.copy(next(part.glob(f"*.{suffix}")), folder / f"bag_{i}.{suffix}")
    stamps = [f.stamp_ns for f in open_recording(folder).rgbd_frames()]
    assert stamps == [rgbd(i).stamp_ns for i in range(22)]
    one = open_recording(folder / f"bag_3.{suffix}")
    assert [f.stamp_ns for f in one.rgbd_frames()] == stamps[6:8]


def test_damaged_metadata_does_not_hide_whole_files(tmp_path, rgbd):
    path = record(tmp_path / "rec", [rgbd(0), rgbd(1)])
    (path / "metadata.yaml").write_text("rosbag2_bagfile_information: {version: [")
    recording = open_recording(path)
    assert len(list(recording.rgbd_frames())) == 2
    assert recording.truncated is None


def test_hash_is_of_the_storage_alone(tmp_path, rgbd):
    path = record(tmp_path / "rec", [rgbd(0)])
    first = recording_sha256(path)
    (path / "metadata.yaml").unlink()
    assert recording_sha256(path) == first == recording_sha256(path / "rec.mcap")
    assert recording_sha256(record(tmp_path / "other", [rgbd(1)])) != first


def test_remap_lets_other_names_in(tmp_path, rgbd):
    frame = rgbd(0)
    with RecordingWriter(tmp_path / "rec") as writer:
        mine = {}

        def other(topic: str, msgtype: str, msg, stamp_ns: int, write=writer.write) -> None:
            # No driver's names: those of known ones need no remap.
            mine[topic] = topic.replace("/camera/camera/color", "/cam0/view")
            mine[topic] = mine[topic].replace("/camera/camera/aligned_depth_to_color", "/cam0/far")
            write(mine[topic], msgtype, msg, stamp_ns)

        writer.write = other
        writer.write_rgbd(frame)
    with pytest.raises(RecordingError, match=r"color/image_raw.*/cam0/view/image_raw.*--remap"):
        open_recording(tmp_path / "rec").rgbd_frames()
    file = tmp_path / "remap.yaml"
    for lines in (mine.items(), [(v, k) for k, v in mine.items()]):  # either order is clear
        file.write_text("".join(f"{a}: {b}\n" for a, b in lines))
        recording = open_recording(tmp_path / "rec", load_remap(file))
        same(next(recording.rgbd_frames()), frame)


@pytest.mark.parametrize("text", ["", "[a]", "{", "/cam: /other", "/camera/camera/color/x: 3"])
def test_bad_remap(tmp_path, text):
    (tmp_path / "remap.yaml").write_text(text)
    with pytest.raises(RecordingError, match="remap"):
        load_remap(tmp_path / "remap.yaml")


def _info(writer: RecordingWriter, stamp_ns: int, camera: Intrinsics, **more):
    fields = {**writer._camera(camera, 0.0), **more}
    return writer.message(INFO, header=writer.header(stamp_ns, "cam"), **fields)


def _image(writer: RecordingWriter, stamp_ns: int, pixels: np.ndarray, encoding: str):
    header = writer.header(stamp_ns, "cam")
    return writer.message(IMAGE, header=header, **encode_image(pixels, encoding))


def _mm(depth_m: np.ndarray) -> np.ndarray:
    return np.rint(1e3 * np.nan_to_num(depth_m)).astype(np.uint16)


def test_compressed_colour_and_depth(tmp_path, rgbd):
    frame = rgbd(0)
    with RecordingWriter(tmp_path / "rec") as w:
        for topic, form, pixels in (
            (COLOUR + "/compressed", "rgb8; png compressed bgr8", frame.colour[..., ::-1]),
            (DEPTH + "/compressedDepth", "16UC1; compressedDepth png", _mm(frame.depth_m)),
        ):
            data = cv2.imencode(".png", np.ascontiguousarray(pixels))[1].reshape(-1)
            if "Depth" in form:
                data = np.concatenate([np.zeros(12, np.uint8), data])
            header = w.header(frame.stamp_ns, frame.frame_id)
            msg = w.message(COMPRESSED, header=header, format=form, data=data)
            w.write(topic, COMPRESSED, msg, frame.stamp_ns)
        w.write(COLOUR_INFO, INFO, _info(w, frame.stamp_ns, frame.intrinsics), frame.stamp_ns)
    same(next(open_recording(tmp_path / "rec").rgbd_frames()), frame)


def test_camera_info_may_come_after_its_image_and_may_change(tmp_path, rgbd):
    """Each image gets the camera_info of its own stamp, though that is written later."""
    cameras = [Intrinsics(48, 32, 60.0 + i, 61.0, 23.5, 15.5) for i in range(4)]
    frames = [rgbd(i, camera) for i, camera in enumerate(cameras)]
    with RecordingWriter(tmp_path / "rec") as w:
        for f in frames:
            w.write(COLOUR, IMAGE, _image(w, f.stamp_ns, f.colour, "rgb8"), f.stamp_ns)
            w.write(DEPTH, IMAGE, _image(w, f.stamp_ns, _mm(f.depth_m), "16UC1"), f.stamp_ns + 1)
            w.write(COLOUR_INFO, INFO, _info(w, f.stamp_ns, f.intrinsics), f.stamp_ns + 2)
    got = list(open_recording(tmp_path / "rec").rgbd_frames())
    assert [f.intrinsics.fx for f in got] == [60.0, 61.0, 62.0, 63.0]


def test_one_camera_info_at_the_very_end_serves_all(tmp_path, rgbd):
    frames = [rgbd(i) for i in range(6)]
    with RecordingWriter(tmp_path / "rec") as w:
        for f in frames:
            w.write(COLOUR, IMAGE, _image(w, f.stamp_ns, f.colour, "rgb8"), f.stamp_ns)
            w.write(DEPTH, IMAGE, _image(w, f.stamp_ns, _mm(f.depth_m), "16UC1"), f.stamp_ns)
        w.write(COLOUR_INFO, INFO, _info(w, 5, f.intrinsics), f.stamp_ns + 10**9)
    recording = open_recording(tmp_path / "rec")
    assert [f.intrinsics for f in recording.rgbd_frames()] == [f.intrinsics] * 6


def test_depth_stamped_a_little_later_still_pairs_and_the_colour_stamp_rules(tmp_path, rgbd):
    with RecordingWriter(tmp_path / "rec") as w:
        for f in (rgbd(i) for i in range(5)):
            late = f.stamp_ns + 9_000_000
            w.write(COLOUR, IMAGE, _image(w, f.stamp_ns, f.colour, "rgb8"), f.stamp_ns)
            w.write(COLOUR_INFO, INFO, _info(w, f.stamp_ns, f.intrinsics), f.stamp_ns)
            w.write(DEPTH, IMAGE, _image(w, late, _mm(f.depth_m), "16UC1"), late)
    recording = open_recording(tmp_path / "rec")
    for a, b in zip(recording.rgbd_frames(), (rgbd(i) for i in range(5)), strict=True):
        assert a.stamp_ns == b.stamp_ns
        np.testing.assert_allclose(a.depth_m, b.depth_m, atol=1e-6)
    assert recording.counts["unpaired"] == 0


def test_lens_distortion_of_the_colour_camera_is_removed(tmp_path):
    """A dot drawn where the distorted lens puts a point is found where the pinhole has it."""
    camera = Intrinsics(160, 120, 150.0, 150.0, 79.5, 59.5)
    D = np.array([-0.3, 0.1, 0.0, 0.0, 0.0])
    point = np.array([[0.15, 0.1, 0.4]])
    K = np.array([[150.0, 0, 79.5], [0, 150.0, 59.5], [0, 0, 1]])
    raw = cv2.projectPoints(point, np.zeros(3), np.zeros(3), K, D)[0].reshape(2)
    v, u = np.indices((120, 160))
    dot = np.exp(-((u - raw[0]) ** 2 + (v - raw[1]) ** 2) / 8.0)
    colour = np.dstack([(255 * dot).astype(np.uint8)] * 3)
    depth = np.where(dot > 0.1, 400, 500).astype(np.uint16)
    with RecordingWriter(tmp_path / "rec") as w:
        w.write(COLOUR, IMAGE, _image(w, 10**9, colour, "rgb8"), 10**9)
        w.write(DEPTH, IMAGE, _image(w, 10**9, depth, "16UC1"), 10**9)
        w.write(COLOUR_INFO, INFO, _info(w, 10**9, camera, d=D), 10**9)
    frame = next(open_recording(tmp_path / "rec").rgbd_frames())
    expected = project(camera, point)[0]
    assert np.linalg.norm(expected - raw) > 3.0  # else the test would show nothing
    weight = frame.colour[..., 0].astype(float)
    found = np.array([(weight * u).sum(), (weight * v).sum()]) / weight.sum()
    np.testing.assert_allclose(found, expected, atol=0.3)
    x, y = np.rint(expected).astype(int)
    assert frame.depth_m[y, x] == pytest.approx(0.4)
    assert set(np.unique(frame.depth_m[np.isfinite(frame.depth_m)])) <= {
        np.float32(0.4), np.float32(0.5)
    }  # no depth between front and back was invented  # fmt: skip


def test_raw_stereo_is_rectified(tmp_path):
    """Turned, distorted cameras; after rectification a point lies on one line at its disparity."""
    size = (320, 240)
    K = np.array([[300.0, 0, 160.0], [0, 300.0, 120.0], [0, 0, 1]])
    D = [np.array([-0.2, 0.05, 0, 0, 0]), np.array([-0.15, 0.02, 0, 0, 0])]
    R, _ = cv2.Rodrigues(np.array([0.02, -0.03, 0.01]))
    t = np.array([[-0.06], [0.001], [0.002]])
    R1, R2, P1, P2 = cv2.stereoRectify(K, D[0], K, D[1], size, R, t, alpha=0)[:4]
    point = np.array([[0.03, -0.02, 0.5]])
    v, u = np.indices(size[::-1])
    with RecordingWriter(tmp_path / "rec") as w:
        for eye, (rvec, tvec), d, r, p in (
            ("left", (np.zeros(3), np.zeros(3)), D[0], R1, P1),
            ("right", (cv2.Rodrigues(R)[0], t), D[1], R2, P2),
        ):
            uv = cv2.projectPoints(point, rvec, tvec, K, d)[0].reshape(2)
            dot = 255 * np.exp(-((u - uv[0]) ** 2 + (v - uv[1]) ** 2) / 8.0)
            fields = {"k": K.ravel(), "d": d, "r": r.ravel(), "p": p.ravel()}
            info = _info(w, 10**9, Intrinsics(*size, 1, 1, 0, 0), **fields)
            w.write(f"/stereo/{eye}/camera_info", INFO, info, 10**9)
            image = _image(w, 10**9, dot.astype(np.uint8), "mono8")
            w.write(f"/stereo/{eye}/image_raw", IMAGE, image, 10**9)
    (frame,) = open_recording(tmp_path / "rec").stereo_frames()

    def centre(image: np.ndarray) -> np.ndarray:
        weight = image.astype(float)
        return np.array([(weight * u).sum(), (weight * v).sum()]) / weight.sum()

    left, right = centre(frame.left), centre(frame.right)
    assert left[1] == pytest.approx(right[1], abs=0.2)
    z = frame.intrinsics.fx * frame.baseline_m / (left[0] - right[0])
    rectified = R1 @ point[0]
    assert z == pytest.approx(rectified[2], rel=0.01)
    np.testing.assert_allclose(left, project(frame.intrinsics, rectified), atol=0.3)


def test_rectified_pair_with_principal_points_apart_gets_zero_disparity_at_infinity(
    tmp_path, stereo
):
    pair = stereo(0)
    with RecordingWriter(tmp_path / "rec") as w:
        for eye, image, cx in (("left", pair.left, 23.5), ("right", pair.right, 20.5)):
            camera = Intrinsics(48, 32, 60.0, 60.0, cx, 15.5)
            p = w._camera(camera, 0.06 if eye == "right" else 0.0)["p"]
            info = _info(w, 10**9, camera, p=p)
            w.write(f"/stereo/{eye}/camera_info", INFO, info, 10**9)
            image = _image(w, 10**9, image, "mono8")
            w.write(f"/stereo/{eye}/image_rect", IMAGE, image, 10**9)
    (frame,) = open_recording(tmp_path / "rec").stereo_frames()
    np.testing.assert_array_equal(frame.left, pair.left)
    np.testing.assert_array_equal(frame.right[:, 3:], pair.right[:, :-3])


def test_writer_does_not_overwrite_and_keeps_what_came_before_an_error(tmp_path, rgbd):
    with pytest.raises(FileExistsError):
        RecordingWriter(tmp_path)
    with pytest.raises(ValueError, match="depth_encoding"):
        RecordingWriter(tmp_path / "x", depth_encoding="mono16")
    with pytest.raises(ZeroDivisionError), RecordingWriter(tmp_path / "rec") as writer:
        writer.write_rgbd(rgbd(0))
        raise ZeroDivisionError
    assert len(list(open_recording(tmp_path / "rec").rgbd_frames())) == 1


def test_frames_are_streamed(tmp_path, rgbd, monkeypatch):
    """When the first frame is given, the last ones have not been decoded yet."""
    path = record(tmp_path / "rec", [rgbd(i) for i in range(40)], compress=False)
    from spine_nav_common.core import recording as module

    decoded = []
    real = module.decode_colour
    monkeypatch.setattr(module, "decode_colour", lambda m: decoded.append(m) or real(m))
    frames = open_recording(path).rgbd_frames()
    probed = len(decoded)
    next(frames)
    assert len(decoded) == probed + 1


def test_any_message_can_ride_along(tmp_path, rgbd):
    with RecordingWriter(tmp_path / "rec") as w:
        w.write_rgbd(rgbd(0))
        text = w.message("std_msgs/msg/String", data="L3 opened")
        w.write("/notes", "std_msgs/msg/String", text, 3)
    recording = open_recording(tmp_path / "rec")
    assert recording.topics["/notes"] == "std_msgs/msg/String"
    assert len(list(recording.rgbd_frames())) == 1


def test_namespace_objects_stand_for_rclpy_messages(rgbd):
    from spine_nav_common.core.images import decode_colour

    fields = encode_image(rgbd(0).colour, "rgb8")
    np.testing.assert_array_equal(decode_colour(SimpleNamespace(**fields)), rgbd(0).colour)
