# SPDX-License-Identifier: Apache-2.0
"""Recordings of known drivers are read without a hand-written remap, and two cameras are asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from spine_nav_common.core.errors import RecordingError
from spine_nav_common.core.known_cameras import cameras_in, folder, named, recognise
from spine_nav_common.core.recorded_messages import load_remap
from spine_nav_common.core.recording import open_recording
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.roles import ROLES, SCENE_ROLES
from spine_nav_common.core.types import Rejected

FILES = sorted((Path(__file__).parents[3] / "config" / "cameras").glob("*.yaml"))
CANONICAL = {name for names in ROLES.values() for name in names}


class Renamed(RecordingWriter):
    """Topics under other names; those that have none are left out."""

    def __init__(self, path, *names):
        super().__init__(path)
        self.names = names

    def write(self, topic, msgtype, msg, stamp_ns):
        for names in self.names:
            if topic in names:
                super().write(names[topic], msgtype, msg, stamp_ns)


def drivers_of(*scenes: str) -> list[str]:
    return [
        f.stem for f in FILES
        if all(any(ROLES[r[0]][0] in yaml.safe_load(f.read_text()) for r in SCENE_ROLES[s]) for s in scenes)
    ]  # fmt: skip


def test_the_files_are_found_and_map_names_that_are_looked_for_and_cite_where_they_are_from():
    assert folder() == FILES[0].parent and len(FILES) >= 5
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert "https://" in text.split("/camera/camera/color")[0], file
        assert set(load_remap(file)) <= CANONICAL, file


@pytest.mark.parametrize("prefix", ["", "/theatre/left_arm"])
@pytest.mark.parametrize("driver", drivers_of("rgbd"))
def test_rgbd_of_a_known_driver_is_read_and_the_choice_is_told(tmp_path, rgbd, driver, prefix):
    names = named(f"{driver}:{prefix}" if prefix else driver)
    with Renamed(tmp_path / "rec", names) as writer:
        for i in range(3):
            writer.write_rgbd(rgbd(i))
    recording = open_recording(tmp_path / "rec")
    frames = list(recording.rgbd_frames())
    assert len(frames) == 3
    np.testing.assert_allclose(frames[1].depth_m, rgbd(1).depth_m, atol=1e-6)
    assert any(f"config/cameras/{driver}.yaml" in note for note in recording.notes)


@pytest.mark.parametrize("driver", drivers_of("stereo"))
def test_stereo_of_a_known_driver_is_read(tmp_path, stereo, driver):
    with Renamed(tmp_path / "rec", named(driver)) as writer:
        for i in range(3):
            writer.write_stereo(stereo(i))
    recording = open_recording(tmp_path / "rec")
    assert recording.scenes == ("stereo",)
    assert len(list(recording.stereo_frames())) == 3
    assert any(f"config/cameras/{driver}.yaml" in note for note in recording.notes)


def test_two_cameras_are_asked_about_and_the_answer_is_taken(tmp_path, rgbd):
    first, second = named("orbbec:/near"), named("orbbec:/far")
    with Renamed(tmp_path / "rec", first, second) as writer:
        for i in range(3):
            writer.write_rgbd(rgbd(i))
    with pytest.raises(RecordingError) as caught:
        open_recording(tmp_path / "rec")
    assert "orbbec:/far" in str(caught.value) and "orbbec:/near" in str(caught.value)
    assert "--remap orbbec:/" in str(caught.value)
    recording = open_recording(tmp_path / "rec", load_remap("orbbec:/near"))
    assert len(list(recording.rgbd_frames())) == 3


def test_two_drivers_are_no_less_ambiguous():
    topics = {*named("zed").values(), *named("orbbec").values()}
    found = recognise(topics, ("rgbd",))
    assert isinstance(found, Rejected) and "zed:/zed/zed_node" in found.reason


def test_an_rgbd_camera_beside_another_stereo_camera_is_not_ambiguous():
    zed = {k: v for k, v in named("zed").items() if k.startswith("/stereo")}
    found = recognise({*zed.values(), *named("orbbec").values()}, SCENE_ROLES)
    assert [(c.driver, c.scenes) for c in found] == [("orbbec", ("rgbd",)), ("zed", ("stereo",))]


def test_half_a_camera_is_none():
    topics = set(named("orbbec").values())
    assert cameras_in(topics)
    for missing in (
        "/camera/color/camera_info",
        "/camera/depth/image_raw",
        "/camera/color/image_raw",
    ):
        assert not cameras_in(topics - {missing})


def test_canonical_names_are_read_as_ever(tmp_path, rgbd):
    canonical = {name: name for name in CANONICAL}
    with Renamed(tmp_path / "rec", canonical, named("orbbec:/other")) as writer:
        for i in range(3):
            writer.write_rgbd(rgbd(i))
    recording = open_recording(tmp_path / "rec")
    assert len(list(recording.rgbd_frames())) == 3 and not recording.notes


def test_compressed_topics_are_found():
    names = named("realsense_ros")
    topics = {
        "/camera/color/image_raw/compressed", "/camera/color/camera_info",
        "/camera/depth/image_rect_raw/compressedDepth", "/camera/depth/camera_info",
    }  # fmt: skip
    (camera,) = cameras_in(topics)
    assert camera.remap["/camera/camera/color/image_raw/compressed"] in topics
    assert camera.remap["/camera/camera/depth/image_rect_raw/compressedDepth"] in topics
    assert camera.driver == "realsense_ros" and set(names)


def test_a_name_that_no_driver_has_is_looked_for_as_a_file():
    with pytest.raises(RecordingError, match="not readable"):
        load_remap("kinect_of_1999")
