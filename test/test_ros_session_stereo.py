# SPDX-License-Identifier: Apache-2.0
"""`live --session` with a stereo camera: screws and rods of its record are computed again bit by bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support
import stereo_support

from spine_nav_bringup import cli, live
from spine_nav_bringup.live import run_live
from spine_nav_bringup.live_options import LiveOptions
from spine_nav_common.core.case import load_case
from spine_nav_common.core.implant_outputs import read_rods, read_screws
from spine_nav_common.core.recording_writer import RecordingWriter
from spine_nav_common.core.tables import read_json
from spine_nav_common.ros.runtime import tf_message_type
from spine_nav_display.core.session_audit import judge_pair
from spine_nav_display.core.session_reading import open_session
from spine_nav_display.core.session_replay_pairs import PairMeans, compute_pairs_again
from spine_nav_sim.core.operation import simulate
from spine_nav_sim.core.stereo_config import StereoConfig
from spine_registration.ros.navigation import NavigationNode
from stereo_screw_tracker.core.load import StereoCore
from stereo_screw_tracker.core.named import NamedTracker
from stereo_screw_tracker.ros.stereo_config import NodeCore
from stereo_screw_tracker.ros.stereo_tracker import StereoTrackerNode

pytestmark = pytest.mark.ros
PAIRS = 5


@pytest.fixture(scope="module", autouse=True)
def _domain():
    ros_support.own_domain()


# -- the real core


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A virtual operation, tracked by the real nodes and recorded."""
    folder = tmp_path_factory.mktemp("stereo")
    operation = folder / "operation"
    stereo = StereoConfig()
    stereo = replace(stereo, scene=replace(stereo.scene, fps=5.0), sizes=((640, 480),))
    simulate(operation, None, 400007, PAIRS / 5.0, ("stereo",), stereo_config=stereo)
    ended = ros_support.spinenav(
        "live", "--case", operation / "case", "--source", f"replay:{operation / 'recording'}",
        "--out", folder / "out", "--session", folder / "session",
        "--set", "camera_source.rate=0.2", "--set", "stereo_tracker.max_stamp_age_ms=60000",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return operation, folder / "out", folder / "session"


def test_the_journal_holds_every_pair(recorded):
    session = open_session(recorded[2])
    (life,) = session.pair_lives
    pairs = [n.pair for n in life if n.pair is not None]
    assert life[0].op == "begin" and len(pairs) == len(session.pairs_shown) >= 2
    assert session.pairs_unexplained == [] and session.notes == []


def test_a_session_replays_to_the_same_screws_and_rods(recorded, tmp_path):
    operation, out, session = recorded
    assert len(read_screws(out / "screws.csv")) > 4
    ended = ros_support.spinenav("replay", session, "--case", operation / "case", "--out", tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert (tmp_path / "screws.csv").read_bytes() == (out / "screws.csv").read_bytes()
    assert (tmp_path / "rods.json").read_bytes() == (out / "rods.json").read_bytes()
    stereo = read_json(tmp_path / "summary.json")["stereo"]
    assert stereo["drops"]["as_published"] == stereo["frames"] >= 2
    assert read_rods(tmp_path / "rods.json")[0] is not None


def test_an_audit_counts_pairs_and_tells_another_result(recorded, capsys, monkeypatch):
    operation, _, session = recorded
    arguments = ["audit", str(session), "--case", str(operation / "case"), "--recompute"]
    pairs = len(open_session(session).pairs_shown)
    assert cli.main([*arguments, "all"]) == 0
    told = capsys.readouterr().out
    assert f"pairs computed again: {pairs} same" in told
    assert "the screw tracker begins" in told
    real = NamedTracker.process

    def moved(self, frame, vertebrae=None):
        result = real(self, frame, vertebrae)
        for screw in getattr(result, "screws", ()):
            screw.head.point_m[2] = np.nextafter(screw.head.point_m[2], 1.0)
        return result

    monkeypatch.setattr(NamedTracker, "process", moved)
    stamp_ns = max(s for s, (_, shown) in open_session(session).pairs_shown.items() if shown.screws)
    assert cli.main([*arguments, str(stamp_ns)]) == 1
    told = capsys.readouterr().out
    assert f"pair {stamp_ns}: different: head" in told


# -- the real nodes around cores that are fakes, with both cameras


class Hangs(stereo_support.FakeTracker):
    """A tracker whose heads lie where the vertebrae say."""

    def process(self, frame, vertebrae=None, case=None):
        result = super().process(frame, vertebrae, case)
        shift_m = float(vertebrae["L2"][0, 3]) if vertebrae else 0.0
        tracks = stereo_support.tracks(shift_m=shift_m + float(frame.left.mean()) * 1e-6)
        return replace(result, screws=tracks)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """A session of both cameras, whose transform is recorded; None where tf2_msgs is not there."""
    folder = tmp_path_factory.mktemp("both")
    case = ros_support.write_small_case(folder / "case")
    with RecordingWriter(folder / "rec", compress=False) as writer:
        stereo_support.record_tf_static(writer)
        for index in range(32):  # a pair must come after a vertebra was registered
            writer.write_rgbd(ros_support.frame(index))
            writer.write_stereo(stereo_support.frame(index))

    def make(values, namespace):
        given = dict(values)
        core = NodeCore(StereoCore(Hangs(), "fake", "0" * 64), load_case(case))
        loader = ros_support.fake_loader([], register_after=0)
        return {
            "navigation": NavigationNode(given.pop("navigation"), namespace, loader),
            "stereo_tracker": StereoTrackerNode(
                given.pop("stereo_tracker"), namespace, lambda _: core
            ),
            **live.default_nodes(given, namespace),
        }

    late = (
        "stereo_tracker.pose_age_ms=10000", "navigation.max_stamp_age_ms=60000",
        "stereo_tracker.max_stamp_age_ms=60000",
    )  # fmt: skip
    options = LiveOptions(
        case, f"replay:{folder / 'rec'}", folder / "out", assignments=late,
        session=folder / "session",
    )  # fmt: skip
    assert run_live(options, None, make).exit_code == 0
    return load_case(case), open_session(folder / "session")


def again(case, session):
    means = PairMeans(case, lambda _: StereoCore(Hangs(), "fake", "0" * 64))
    found = list(compute_pairs_again(session, means))
    return found, [judge_pair(session, a) for a in found]


@pytest.mark.skipif(tf_message_type() is None, reason="tf2_msgs is not installed")
def test_vertebrae_that_were_handed_in_come_out_of_the_journal(both):
    case, session = both
    found, decisions = again(case, session)
    assert any(a.noted.pair.vertebrae for a in found)
    assert {d.verdict for d in decisions} == {"same"}, decisions


@pytest.mark.skipif(tf_message_type() is None, reason="tf2_msgs is not installed")
def test_other_vertebrae_come_out_different_and_lost_ones_are_not_guessed(both):
    case, session = both
    (life,) = session.pair_lives
    k = next(i for i, n in enumerate(life) if n.pair is not None and n.pair.vertebrae)
    other = replace(life[k], pair=replace(life[k].pair, vertebrae=None))
    _, decisions = again(case, replace(session, pair_lives=[[*life[:k], other, *life[k + 1 :]]]))
    stamp_ns = life[k].pair.stamp_ns
    assert [d.stamp_ns for d in decisions if d.verdict == "different"] == [stamp_ns]
    found, _ = again(case, replace(session, pair_lives=[[*life[:k], *life[k + 1 :]]]))
    after = [a for a in found if a.noted.values["n"] > k]
    assert after and not any(a.sure for a in after)
    assert stamp_ns not in [a.noted.pair.stamp_ns for a in found]
