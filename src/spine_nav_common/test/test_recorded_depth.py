# SPDX-License-Identifier: Apache-2.0
"""Recordings whose depth is of a camera of its own: aligned with the driver's extrinsics, or refused
with what to do, and never taken for aligned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from spine_nav_common.core.align import DepthAligner
from spine_nav_common.core.errors import RecordingError
from spine_nav_common.core.geometry import exp_so3, transform
from spine_nav_common.core.images import encode_image
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.static_frames import StaticTransform
from spine_nav_common.core.types import Intrinsics

DEPTH = Intrinsics(60, 44, 52.0, 53.0, 29.3, 21.8)
COLOUR = Intrinsics(88, 66, 79.0, 80.0, 43.1, 33.4)
OPTICAL = transform(np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]]), np.zeros(3))
T_LINK_COLOUR = transform(exp_so3(np.array([0.004, 0.01, -0.006])), np.array([0.001, 0.015, 0.0]))
TREE = (
    StaticTransform("camera_link", "camera_depth_frame", np.eye(4), "driver"),
    StaticTransform("camera_depth_frame", "camera_depth_optical_frame", OPTICAL, "driver"),
    StaticTransform("camera_link", "camera_color_frame", T_LINK_COLOUR, "driver"),
    StaticTransform("camera_color_frame", "camera_color_optical_frame", OPTICAL, "driver"),
)
T_COLOUR_DEPTH = np.linalg.inv(T_LINK_COLOUR @ OPTICAL) @ OPTICAL
OWN, ALIGNED = (
    "/camera/camera/depth/image_rect_raw",
    ("/camera/camera/aligned_depth_to_color/image_raw"),
)
IMAGE = "sensor_msgs/msg/Image"


def depth_mm(i: int) -> np.ndarray:
    rng = np.random.default_rng(i)
    image = (500 + rng.normal(0, 2, (DEPTH.height, DEPTH.width))).astype(np.uint16)
    image[10:20, 15:30] = 400
    image[rng.random(image.shape) < 0.1] = 0
    return image


class Writer(RecordingWriter):
    """Colour and depth each with a frame and a camera_info of its own; `tf`, `info`: recorded."""

    def pair(
        self, i, topic=OWN, frame="camera_depth_optical_frame", info=True, camera=DEPTH, mm=None
    ):
        stamp = 1_700_000_000_000_000_000 + i * 33_333_333
        mm = depth_mm(i) if mm is None else mm
        for name, image, encoding, at, k in (
            ("/camera/camera/color/image_raw", self.colour(i), "rgb8", "camera_color_optical_frame", COLOUR),
            (topic, mm, "16UC1", frame, camera),
        ):  # fmt: skip
            msg = self.message(
                IMAGE, header=self.header(stamp, at), **encode_image(image, encoding)
            )
            self.write(name, IMAGE, msg, stamp)
            if info or name != topic:
                told = SimpleNamespace(intrinsics=k, stamp_ns=stamp, frame_id=at)
                self.write_camera_info(f"{name.rsplit('/', 1)[0]}/camera_info", told)

    def colour(self, i):
        return np.random.default_rng(i).integers(0, 256, (COLOUR.height, COLOUR.width, 3), np.uint8)


def bag(path: Path, tf=TREE, count=3, **options) -> Path:
    with Writer(path) as writer:
        if tf:
            writer.write_static(tf, 1)
        for i in range(count):
            writer.pair(i, **options)
    return path


def expected(i: int) -> np.ndarray:
    metres = np.where(depth_mm(i) == 0, np.nan, depth_mm(i) * 1e-3).astype(np.float32)
    return DepthAligner(DEPTH, COLOUR, T_COLOUR_DEPTH)(metres)


def check(recording, count=3, **options) -> None:
    frames = list(recording.rgbd_frames(**options))
    assert len(frames) == count
    for i, frame in enumerate(frames):
        assert frame.intrinsics == COLOUR
        np.testing.assert_allclose(frame.depth_m, expected(i), atol=1e-5)
        assert np.isfinite(frame.depth_m).mean() > 0.3
    told = " ".join(recording.notes)
    assert "aligned to colour with the driver's extrinsics" in told
    assert "-15.0" in told or "15.0" in told


def test_depth_of_its_own_camera_is_aligned_with_tf_and_that_is_told(tmp_path):
    recording = open_recording(bag(tmp_path / "rec"))
    assert recording.has_rgbd
    check(recording)


def test_extrinsics_of_a_calibration_file_do_as_well(tmp_path):
    given = StaticTransform(
        "camera_color_optical_frame", "camera_depth_optical_frame", T_COLOUR_DEPTH, "file"
    )
    check(open_recording(bag(tmp_path / "rec", tf=())), transforms=[given])


def test_a_topic_that_is_called_aligned_and_is_not_is_aligned(tmp_path):
    check(open_recording(bag(tmp_path / "rec", topic=ALIGNED)))


def refused(path: Path, *words: str) -> None:
    with pytest.raises(RecordingError) as caught:
        open_recording(path).rgbd_frames()
    for word in words:
        assert word in str(caught.value), str(caught.value)


def test_without_extrinsics_it_is_refused_with_the_remedy(tmp_path):
    refused(
        bag(tmp_path / "rec", tf=()), OWN, "no transform", "--calibration", "/tf_static", "align"
    )


def test_half_of_the_tree_is_no_extrinsics(tmp_path):
    refused(bag(tmp_path / "rec", tf=TREE[:2]), "no transform joins")


def test_one_frame_for_both_cameras_is_not_believed(tmp_path):
    refused(bag(tmp_path / "rec", frame="camera_color_optical_frame"), "state the same frame")


def test_without_its_camera_info_it_is_refused(tmp_path):
    refused(bag(tmp_path / "rec", info=False), "camera_info was not recorded")


def test_depth_of_the_same_size_beside_the_colour_camera_is_not_taken_for_aligned(tmp_path):
    same = np.full((COLOUR.height, COLOUR.width), 500, np.uint16)
    path = bag(tmp_path / "rec", topic=ALIGNED, info=False, mm=same)
    refused(path, "not aligned")


def test_images_of_another_size_than_their_camera_info(tmp_path):
    half = np.full((22, 30), 500, np.uint16)
    refused(bag(tmp_path / "rec", mm=half), "30x22", "60x44")


def test_extrinsics_of_another_unit_are_refused(tmp_path):
    far = transform(np.eye(3), np.array([0.0, 1.5, 0.0]))
    refused(
        bag(tmp_path / "rec", tf=(*TREE[:2], StaticTransform("camera_link", "camera_color_frame", far, "d"), TREE[3])),
        "1.5 m apart",
    )  # fmt: skip


def test_depth_that_changes_its_size_in_mid_run_is_counted_and_the_rest_goes_on(tmp_path):
    with Writer(tmp_path / "rec") as writer:
        writer.write_static(TREE, 1)
        for i in range(6):
            writer.pair(i, mm=np.full((22, 30), 500, np.uint16) if i in (4, 5) else None)
    recording = open_recording(tmp_path / "rec")
    frames = list(recording.rgbd_frames())
    assert [bool(np.isfinite(f.depth_m).any()) for f in frames] == [True] * 4 + [False] * 2
    assert recording.counts["bad"] == 2 and recording.counts["read"] == 6
    assert {f.depth_m.shape for f in frames} == {(COLOUR.height, COLOUR.width)}


def test_aligned_depth_is_preferred_where_both_are_recorded(tmp_path):
    mine = np.full((COLOUR.height, COLOUR.width), 600, np.uint16)
    with Writer(tmp_path / "rec") as writer:
        writer.write_static(TREE, 1)
        for i in range(3):
            writer.pair(i)
            writer.pair(
                i, topic=ALIGNED, camera=COLOUR, mm=mine, frame="camera_color_optical_frame"
            )
    recording = open_recording(tmp_path / "rec")
    for frame in recording.rgbd_frames():
        np.testing.assert_allclose(frame.depth_m, 0.6, atol=1e-6)
    assert not recording.notes


def test_depth_that_is_without_the_lens_already_is_not_taken_through_it_again(tmp_path, rgbd):
    """As depthai-ros sends it: colour with distortion, depth on the same pinhole without."""
    lens = np.array([-0.3, 0.1, 0.0, 0.0, 0.0])

    class Bent(RecordingWriter):
        def write(self, topic, msgtype, msg, stamp_ns):
            if topic == "/camera/camera/color/camera_info":
                msg = replace(msg, d=lens)
            super().write(topic, msgtype, msg, stamp_ns)

    with Bent(tmp_path / "rec") as writer:
        for i in range(3):
            writer.write_rgbd(rgbd(i))
    recording = open_recording(tmp_path / "rec")
    for i, frame in enumerate(recording.rgbd_frames()):
        np.testing.assert_allclose(frame.depth_m, rgbd(i).depth_m, atol=1e-6)
        assert (frame.colour != rgbd(i).colour).any(), "colour is taken through the lens"
    assert "without its lens" in recording.notes[0]
