# SPDX-License-Identifier: Apache-2.0
"""`spinenav live` with a stereo pair: replay to files, both cameras at once, faults, clean end.

The real nodes around fake cores.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support
import stereo_support as support

from rod_bending_ar.ros.rod_guidance import RodGuidance
from spine_nav_bringup import live
from spine_nav_bringup.live import run_live
from spine_nav_bringup.live_options import LiveOptions
from spine_nav_common.core.case import load_case
from spine_nav_common.core.errors import RecordingError
from spine_nav_common.core.implant_outputs import read_rods, read_screws
from spine_nav_common.core.outputs import read_poses, read_timings
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.tables import read_json
from spine_nav_common.parameters import ParameterError
from spine_nav_common.ros.runtime import tf_message_type
from spine_registration.ros.navigation import NavigationNode
from stereo_screw_tracker.core.load import StereoCore
from stereo_screw_tracker.ros.stereo_config import NodeCore
from stereo_screw_tracker.ros.stereo_tracker import StereoTrackerNode

pytestmark = pytest.mark.ros
COUNT = 8


@pytest.fixture(scope="module", autouse=True)
def _domain():
    ros_support.own_domain()


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return ros_support.write_small_case(tmp_path_factory.mktemp("live") / "case")


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return support.write_stereo_recording(tmp_path_factory.mktemp("live") / "rec", COUNT)


def nodes_with(tracker, case=None):
    """The real nodes, but for what computes."""

    def make(values, namespace):
        given, nodes = dict(values), {}
        if "navigation" in given:
            nodes["navigation"] = NavigationNode(
                given.pop("navigation"), namespace, ros_support.fake_loader([], register_after=0)
            )
        core = NodeCore(
            StereoCore(tracker, "fake", "0" * 64), None if case is None else load_case(case)
        )
        if "stereo_tracker" in given:
            nodes["stereo_tracker"] = StereoTrackerNode(
                given.pop("stereo_tracker"), namespace, lambda _: core
            )
        return {**nodes, **live.default_nodes(given, namespace)}

    return make


def run(case, source, out, tracker, **options):
    # On a busy machine pairs come out late, and would be withdrawn for it.
    options["assignments"] = (
        "stereo_tracker.max_stamp_age_ms=60000", *options.get("assignments", ()),
    )  # fmt: skip
    return run_live(LiveOptions(case, source, out, **options), None, nodes_with(tracker))


def test_a_stereo_recording_gives_screws_rods_and_guidance(case, recording, tmp_path):
    tracker = support.FakeTracker()
    outcome = run(
        case, f"replay:{recording}", tmp_path, tracker,
        assignments=("rod_guidance.steady_frames=2",),
    )  # fmt: skip
    assert outcome.exit_code == 0
    rows = read_screws(tmp_path / "screws.csv")
    assert [r.stamp_ns for r in rows] == [s for s in tracker.stamps for _ in range(8)]
    stamp_ns, rods = read_rods(tmp_path / "rods.json")
    assert stamp_ns == support.frame(COUNT - 1).stamp_ns and len(rods) == 2
    assert "stereo_refine" in read_timings(tmp_path / "timings.csv")
    assert not (tmp_path / "poses.csv").exists()
    summary = read_json(tmp_path / "summary.json")
    assert summary["stereo"]["heads_at_end"] == 8 and "status_counts" not in summary
    assert summary["hashes"]["stereo_model"] == "0" * 64
    assert set(summary["stereo"]["guidance"]) == {"left", "right"}
    assert "8 screw heads and 2 rods" in outcome.text()


def test_both_cameras_in_one_recording_run_side_by_side(case, tmp_path):
    with RecordingWriter(tmp_path / "rec", compress=False) as writer:
        for index in range(COUNT):
            writer.write_rgbd(ros_support.frame(index))
            writer.write_stereo(support.frame(index))
    outcome = run(case, f"replay:{tmp_path / 'rec'}", tmp_path / "out", support.FakeTracker())
    assert outcome.exit_code == 0
    assert len(read_poses(tmp_path / "out" / "poses.csv")) == COUNT * len(ros_support.LEVELS)
    assert len(read_screws(tmp_path / "out" / "screws.csv")) > 8
    assert {"update", "stereo_refine"} <= set(read_timings(tmp_path / "out" / "timings.csv"))


def test_a_fault_in_the_core_loses_one_pair(case, recording, tmp_path):
    tracker = support.FakeTracker(error_at=2)
    outcome = run(case, f"replay:{recording}", tmp_path, tracker)
    assert outcome.exit_code == 0 and tracker.resets == 1
    stamps = {r.stamp_ns for r in read_screws(tmp_path / "screws.csv")}
    assert stamps == set(tracker.stamps) - {tracker.stamps[1]}
    assert read_json(tmp_path / "summary.json")["drops"]["stereo"]["faults"] == 1


def test_a_gap_withdraws_what_was_shown(case, tmp_path):
    with RecordingWriter(tmp_path / "rec") as writer:
        for index in (0, 1, 2, 20, 21):
            writer.write_stereo(support.frame(index))
    outcome = run(case, f"replay:{tmp_path / 'rec'}", tmp_path, support.FakeTracker())
    withdrawn = outcome.summary["stereo"]["withdrawals"]
    assert any(w["reason"].startswith("no stereo pairs for ") for w in withdrawn)


def test_a_pair_without_baseline_is_refused_before_anything_starts(case, tmp_path):
    with RecordingWriter(tmp_path / "rec") as writer:
        writer.write_stereo(replace(support.frame(0), baseline_m=0.0))
    with pytest.raises(RecordingError, match="no baseline"):
        run(case, f"replay:{tmp_path / 'rec'}", tmp_path / "out", support.FakeTracker())
    assert not (tmp_path / "out").exists()


def test_only_a_stereo_pair_goes_without_a_case(recording, tmp_path):
    outcome = run(None, f"replay:{recording}", tmp_path / "out", support.FakeTracker())
    assert outcome.exit_code == 0 and outcome.summary["hashes"]["case"] == ""
    with pytest.raises(ParameterError, match="needs --case"):
        run(None, "ros", tmp_path / "o", support.FakeTracker())


@pytest.mark.parametrize(("source", "names"), [
    ("stereo", {"stereo_tracker", "rod_guidance", "stereo_overlay"}),
    ("ros", {
        "navigation", "case_server", "overlay", "stereo_tracker", "rod_guidance", "stereo_overlay",
    }),
])  # fmt: skip
def test_a_camera_of_others_is_listened_to(case, tmp_path, source, names):
    """No camera is there: the graph runs until its time is over and writes empty files."""
    remap = tmp_path / "remap.yaml"
    remap.write_text("/stereo/left/image_rect: /zed/left\n")
    seen = {}

    def make(values, namespace):
        nodes = nodes_with(support.FakeTracker())(values, namespace)
        seen.update(nodes)
        return nodes

    options = LiveOptions(case, source, tmp_path / "out", seconds=0.5, remap=remap)
    outcome = run_live(options, None, make)
    assert outcome.exit_code == 0 and set(seen) == names
    assert isinstance(seen["rod_guidance"], RodGuidance)
    assert seen["stereo_tracker"].config.left_topic == "/zed/left"
    assert read_screws(tmp_path / "out" / "screws.csv") == []


def test_a_recording_with_one_broken_camera_plays_the_other_and_ends_with_1(case, tmp_path):
    with RecordingWriter(tmp_path / "rec", compress=False) as writer:
        for index in range(COUNT):
            writer.write_rgbd(ros_support.frame(index))
            writer.write_stereo(replace(support.frame(index), baseline_m=0.0))
    outcome = run(case, f"replay:{tmp_path / 'rec'}", tmp_path / "out", support.FakeTracker())
    assert len(read_poses(tmp_path / "out" / "poses.csv")) == COUNT * len(ros_support.LEVELS)
    assert not (tmp_path / "out" / "screws.csv").exists()
    assert outcome.exit_code == 1
    assert "the stereo part cannot be used" in outcome.stopped and "no baseline" in outcome.stopped
    notes = read_json(tmp_path / "out" / "summary.json")["notes"]
    assert any("no baseline" in note for note in notes)


@pytest.mark.parametrize("known", [True, False])
def test_a_recorded_rig_lets_vertebrae_name_screws_of_the_other_camera(case, tmp_path, known):
    with RecordingWriter(tmp_path / "rec", compress=False) as writer:
        if known:
            support.record_tf_static(writer)
        for index in range(4 * COUNT):  # a pair must come after a vertebra was registered
            writer.write_rgbd(ros_support.frame(index))
            writer.write_stereo(support.frame(index))
    tracker = support.FakeTracker()
    # On a busy machine the vertebrae come late, and would name nothing for it.
    late = ("stereo_tracker.pose_age_ms=10000", "navigation.max_stamp_age_ms=60000")
    outcome = run_live(
        LiveOptions(case, f"replay:{tmp_path / 'rec'}", tmp_path / "out", assignments=late), None,
        nodes_with(tracker, ros_support.write_small_case(tmp_path / "case")),
    )  # fmt: skip
    named = [v for v in tracker.vertebrae if v]
    if known and tf_message_type() is not None:
        at = support.T_LEFT_COLOUR @ (0.01, 0.02, 0.5, 1.0)
        np.testing.assert_allclose(named[-1]["L2"][:3, 3], at[:3], atol=1e-6)
        assert not any("name no screws" in note for note in outcome.summary["notes"])
    else:
        assert named == []
        assert any("no transform joins" in note for note in outcome.summary["notes"])
