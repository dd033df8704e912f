# SPDX-License-Identifier: Apache-2.0
"""Frame sources without ROS: a recording that loops and stops, the virtual operation of a case."""

import itertools

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support as support
import stereo_support

from spine_nav_bringup.live_options import LiveOptions, configure
from spine_nav_common.core.errors import CaseError, RecordingError
from spine_nav_common.parameters import ParameterError
from spine_perception.ros.camera_source import CameraSourceConfig, make_source
from spine_perception.sources.recorded import Recorded
from spine_perception.sources.virtual import Virtual


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return support.write_small_recording(tmp_path_factory.mktemp("sources") / "rec", 4)


def test_a_loop_goes_on_in_time(recording):
    frames = list(itertools.islice(Recorded(recording, loop=True).frames(), 10))
    stamps = np.array([f.stamp_ns for f in frames])
    assert (np.diff(stamps) > 0).all() and np.diff(stamps).max() < 70_000_000
    assert [int(f.colour[0, 0, 0]) for f in frames] == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


PERIOD_NS = support.PERIOD_NS


@pytest.mark.parametrize(
    ("since", "lap_known", "expected"),
    [
        (2, False, [(2, 2), (3, 3), (4, 0), (5, 1)]),  # in the first round: period, picture
        (9, True, [(9, 1), (10, 2), (11, 3), (12, 0)]),  # in the third
        (9, False, [(9, 0), (10, 1), (11, 2), (12, 3)]),  # nobody knows how long a round is
        (3.5, True, [(4, 0), (5, 1), (6, 2), (7, 3)]),  # between two rounds
        (11.5, True, [(12, 0), (13, 1), (14, 2), (15, 3)]),
    ],
)
def test_a_recording_goes_on_where_it_would_be(recording, since, lap_known, expected):
    source = Recorded(recording, loop=True)
    list(itertools.islice(source.frames(), 5))
    lap_ns = source.lap_ns
    assert lap_ns == pytest.approx(4 * PERIOD_NS, abs=10)
    source = Recorded(recording, loop=True)
    source.go_on(
        support.START_NS, support.START_NS + round(since * PERIOD_NS) - 1000, lap_known * lap_ns
    )
    got = list(itertools.islice(source.frames(), 4))
    seen = [
        (round((f.stamp_ns - support.START_NS) / PERIOD_NS), int(f.colour[0, 0, 0])) for f in got
    ]
    assert seen == expected
    assert (np.diff([f.stamp_ns for f in got]) > 0).all()


def test_a_recording_that_ended_meanwhile_gives_nothing_more(recording):
    source = Recorded(recording)
    source.go_on(support.START_NS, support.START_NS + 9 * PERIOD_NS, 0)
    assert list(source.frames()) == []


@pytest.mark.parametrize("scene", ["rgbd", "stereo"])
def test_a_scene_that_the_recording_does_not_hold_is_refused_and_not_waited_for(tmp_path, scene):
    folder = tmp_path / "rec"
    if scene == "rgbd":
        stereo_support.write_stereo_recording(folder, 2)
    else:
        support.write_small_recording(folder, 2)
    missing = {"rgbd": "/camera/camera/color/image_raw", "stereo": "/stereo/left/image_rect"}[scene]
    with pytest.raises(RecordingError, match=missing):
        Recorded(folder, scenes=(scene,))


def test_without_loop_the_end_is_the_end_and_close_ends_it_early(recording):
    source = Recorded(recording)
    frames = source.frames()
    assert next(frames).stamp_ns == support.START_NS
    source.close()
    assert list(frames) == []
    assert len(list(Recorded(recording).frames())) == 4


@pytest.mark.parametrize(
    ("values", "error", "match"),
    [
        ({"source": "replay"}, ParameterError, "name a recording"),
        ({"source": "replay", "recording": "/nowhere"}, RecordingError, "no such recording"),
        ({"source": "virtual"}, ParameterError, "name the folder of a case"),
        ({"source": "virtual", "case": "/nowhere"}, CaseError, "there is no case"),
        ({"source": "realsense", "recording": "/nowhere.db3"}, ParameterError, "no such RealSense"),
        ({"source": "pair", "pair": "a.mp4"}, ParameterError, "left_calibration"),
    ],
)
def test_a_source_that_cannot_start_says_why(values, error, match):
    if values["source"] == "realsense":
        pytest.importorskip("pyrealsense2")
    with pytest.raises(error, match=match):
        make_source(CameraSourceConfig(**values))


def test_the_virtual_operation_of_a_case_repeats_with_its_seed(tmp_path):
    case = support.write_small_case(tmp_path / "case")
    first, again = (Virtual(case, seed=3, fps=15.0, seconds=0.1) for _ in range(2))
    frames = list(first.frames())
    assert len(frames) == 2
    assert frames[1].stamp_ns - frames[0].stamp_ns == round(1e9 / 15)
    assert frames[0].colour.shape == (480, 640, 3)
    assert 0.2 < np.nanmedian(frames[0].depth_m) < 1.0
    repeated = next(again.frames())
    np.testing.assert_array_equal(frames[0].colour, repeated.colour)
    np.testing.assert_array_equal(frames[0].depth_m, repeated.depth_m)


@pytest.mark.parametrize(
    ("source", "values"),
    [
        ("realsense", {"source": "realsense"}),
        ("realsense:0123", {"source": "realsense", "serial": "0123"}),
        ("realsense:rec.db3", {"source": "realsense", "recording": "rec.db3"}),
        ("pair:0,2", {"source": "pair", "pair": "0,2"}),
    ],
)
def test_a_source_may_name_its_camera(tmp_path, source, values):
    options = LiveOptions(tmp_path, source, tmp_path / "out")
    assert values.items() <= configure(options)[1]["camera_source"].items()


@pytest.mark.parametrize("source", ["pair", "replay", "virtual:x", "ros:x", "kinect"])
def test_what_is_no_source_is_refused(tmp_path, source):
    with pytest.raises(ParameterError, match="is no source"):
        configure(LiveOptions(tmp_path, source, tmp_path / "out"))
