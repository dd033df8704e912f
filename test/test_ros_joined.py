# SPDX-License-Identifier: Apache-2.0
"""Two messages of one stamp are one statement; of two stamps they are none."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, TransformStamped

from spine_nav_common.ros.conversions import header
from spine_nav_common.ros.joined import Joined
from spine_nav_common.ros.runtime import tf_message_type
from spine_nav_common.ros.static_edges import static_edges


class Heard:
    def __init__(self, read=lambda status, poses: (status.header.stamp, len(poses.poses))):
        self.values, self.problems = [], []
        self.joined = Joined(
            read,
            lambda value, status: self.values.append(value[1]),
            lambda why, status: self.problems.append((why, status.header.frame_id)),
        )


def status(stamp_ns):
    return DiagnosticArray(header=header(stamp_ns, "camera"))


def poses(stamp_ns, count=0):
    from geometry_msgs.msg import Pose

    return PoseArray(header=header(stamp_ns, "camera"), poses=[Pose()] * count)


def test_either_may_come_first_and_each_status_counts_once():
    heard = Heard()
    heard.joined.status(status(1))
    heard.joined.poses(poses(1, 1))
    heard.joined.poses(poses(2, 2))
    heard.joined.status(status(2))
    heard.joined.poses(poses(2, 3))  # of a status that comes again with them
    assert heard.values == [1, 2]
    heard.joined.status(status(2))
    assert heard.values == [1, 2, 3]


def test_a_status_is_never_joined_to_poses_of_another_stamp():
    heard = Heard()
    heard.joined.poses(poses(1, 1))
    heard.joined.status(status(2))
    heard.joined.poses(poses(3, 3))
    assert heard.values == []


@pytest.mark.parametrize("error", [ValueError, KeyError, IndexError])
def test_what_cannot_be_read_is_told_with_its_status(error):
    def read(*_):
        raise error("broken on purpose")

    heard = Heard(read)
    heard.joined.poses(poses(1))
    heard.joined.status(status(1))
    ((why, frame),) = heard.problems
    assert "broken on purpose" in why and frame == "camera" and heard.values == []


def test_a_transform_that_is_none_is_told_and_the_others_are_taken():
    kind = tf_message_type()
    if kind is None:
        pytest.skip("no tf2_msgs on this machine")
    good, bad = TransformStamped(), TransformStamped()
    for item, child in ((good, "right"), (bad, "wrong")):
        item.header.frame_id, item.child_frame_id = "left", child
    bad.transform.rotation.w = 0.0
    bad.transform.translation.x = float("nan")
    told = []
    (edge,) = static_edges(kind(transforms=[bad, good]), told.append)
    assert (edge.parent, edge.child) == ("left", "right")
    assert len(told) == 1 and "wrong" in told[0]
