# SPDX-License-Identifier: Apache-2.0
"""The safety node in a small ROS graph: what may be drilled is told, and withdrawn for every reason."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed; run make setup")

import ros_support as support
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from ros_world import NAMESPACE, World
from std_msgs.msg import String
from std_srvs.srv import Trigger
from visualization_msgs.msg import Marker, MarkerArray

from spine_nav_bringup.live_options import LiveOptions, configure
from spine_nav_common.core.case import load_case
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status
from spine_nav_common.parameters import ParameterError
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import header, pose_message, stamp_to_ns
from spine_nav_common.ros.results import result_messages, status_fields
from spine_planning.ros.safety_node import SafetyNode

pytestmark = pytest.mark.ros
WORLD = World
FRAME = "camera_color_optical_frame"
T = np.eye(4)
T[:3, 3] = (0.01, 0.02, 0.5)
NAMES = {f"{level}_{side}" for level in support.LEVELS for side in ("left", "right")}


class Around:
    """Publishes what the navigation and a tool tracker would, and hears what the node says."""

    def __init__(self, world, case, **values):
        self.world, self.case = world, load_case(case)
        publisher = world.node.create_publisher
        self.status = publisher(DiagnosticArray, topics.STATUS, qos.RESULT)
        self.poses = publisher(PoseArray, topics.VERTEBRA_POSES, qos.RESULT)
        self.levels = {
            v: publisher(PoseWithCovarianceStamped, topics.pose_topic(v), qos.RESULT)
            for v in support.LEVELS
        }
        self.tool = publisher(PoseWithCovarianceStamped, topics.TOOL_POSE, qos.SENSOR_OUT)
        self.safety = world.listen(DiagnosticArray, topics.PLAN_SAFETY)
        self.lines = world.listen(MarkerArray, topics.PLAN_TRAJECTORIES)
        given = {"case": case, "max_age_ms": 10_000.0, **values}
        self.node = world.add(SafetyNode(given, NAMESPACE))
        heard = (self.status, self.poses, self.tool, *self.levels.values())
        world.until(lambda: all(p.get_subscription_count() for p in heard))
        world.until(lambda: self.safety and self.lines)

    def publish(self, index, states=(Status.TRACKED,) * 2, tre_mm=1.0, sigma_m=3e-4, without=()):
        """One result; levels in `without` come without their covariance."""
        shown = (Status.TRACKED, Status.OCCLUDED)
        covariance = np.diag([sigma_m**2] * 3 + [0.005**2] * 3)
        levels = tuple(
            LevelEstimate(v, s, T, covariance, T[:3, 3], tre_mm) if s in shown
            else LevelEstimate(v, s, reason="on purpose")
            for v, s in zip(support.LEVELS, states, strict=True)
        )  # fmt: skip
        stamp = support.frame(index).stamp_ns
        messages = result_messages(NavigationResult(stamp, levels), FRAME)
        for level, message in messages.poses.items():
            if level not in without:
                self.levels[level].publish(message)
        self.poses.publish(messages.vertebra_poses)
        self.status.publish(messages.status)
        return stamp

    def put_tool(self, stamp_ns, depth_m, off_m=0.0, name="L3_left", sigma_m=1e-4, frame=FRAME):
        """The drill so deep on the axis of a planned screw, or beside it."""
        plan = next(p for p in self.case.plan if f"{p.level}_{p.side}" == name)
        way = plan.target_m - plan.entry_m
        way = way / np.linalg.norm(way)
        z, x = -way, np.array([1.0, 0.0, 0.0])  # the case's screws run along y
        pose = np.eye(4)
        pose[:3, :3] = np.stack([x, np.cross(z, x), z], axis=1)
        pose[:3, 3] = T[:3, 3] + plan.entry_m + depth_m * way + off_m * x
        message = PoseWithCovarianceStamped(header=header(stamp_ns, frame))
        message.pose.pose = pose_message(pose)
        message.pose.covariance = np.diag([sigma_m**2] * 3 + [1e-6] * 3).reshape(36)
        self.tool.publish(message)
        self.world.until(lambda: any(stamp_to_ns(m.header.stamp) == stamp_ns for m in self.node._tools))  # fmt: skip

    def told(self, stamp_ns, condition=lambda fields: True):
        """What is said of each screw at that stamp, once the condition holds."""
        return self.until(lambda m: stamp_to_ns(m.header.stamp) == stamp_ns, condition)

    def until(self, wanted, condition):
        found = {}

        def there():
            for message in reversed(self.safety):
                fields = {
                    f"{f['level']}_{f['side']}": f for f in map(status_fields, message.status)
                }
                if wanted(message) and condition(fields):
                    found["it"] = SimpleNamespace(message=message, fields=fields)
                    return True
            return False

        self.world.until(there)
        return found["it"]

    def drawn(self, stamp_ns):
        """Names of the screws whose line is to be seen at that stamp, by the newest message."""
        self.world.until(lambda: any(stamp_to_ns(m.markers[0].header.stamp) == stamp_ns for m in self.lines))  # fmt: skip
        newest = [m for m in self.lines if stamp_to_ns(m.markers[0].header.stamp) == stamp_ns][-1]
        assert newest.markers[0].action == Marker.DELETEALL
        return {m.ns.removeprefix("planning/"): m for m in newest.markers[1:]}


@pytest.fixture
def around(world, case):
    return Around(world, case)


def all_stop(fields):
    return set(fields) == NAMES and all(f["stop"] for f in fields.values())


def test_before_a_pose_comes_everything_stops(around):
    found = around.until(lambda m: True, all_stop)
    assert {f["stop"] for f in found.fields.values()} == {"no pose has come"}
    assert all(s.level == DiagnosticStatus.ERROR for s in found.message.status)
    answer = around.world.call(Trigger, "replan", Trigger.Request())
    assert not answer.success and "stop: no pose has come" in answer.message


def test_tracked_screws_have_a_probability_a_margin_and_a_line_in_the_camera_s_frame(around):
    stamp = around.publish(0)
    found = around.told(stamp, lambda f: set(f) == NAMES and not any(x["stop"] for x in f.values()))
    assert found.message.header.frame_id == FRAME
    for name, fields in found.fields.items():
        assert 0.0 < float(fields["p_breach"]) < 1e-3, name
        assert float(fields["margin_mm"]) > 5.0 and float(fields["sigma_mm"]) > 0.0
        assert fields["allowed_advance_mm"] == "", "no tool is there: nothing is known of one"
    lines = around.drawn(stamp)
    assert set(lines) == NAMES
    for plan in around.case.plan:
        line = lines[f"{plan.level}_{plan.side}"]
        ends = np.array([[p.x, p.y, p.z] for p in line.points])
        np.testing.assert_allclose(ends, np.array([plan.entry_m, plan.target_m]) + T[:3, 3])
        assert line.header.frame_id == FRAME and line.action == Marker.ADD


def test_a_level_that_is_lost_stops_and_its_line_goes(around):
    around.publish(0)
    for index, state in ((1, Status.LOST), (2, Status.OCCLUDED)):
        stamp = around.publish(index, (Status.TRACKED, state))
        found = around.told(stamp, lambda f: f and f["L3_left"]["stop"])
        assert "not tracked" in found.fields["L3_left"]["stop"]
        assert found.fields["L3_left"]["allowed_advance_mm"] == "0.00"
        assert not found.fields["L2_left"]["stop"]
        assert set(around.drawn(stamp)) == {"L2_left", "L2_right"}
    stamp = around.publish(3)
    around.told(stamp, lambda f: f and not f["L3_left"]["stop"])
    assert set(around.drawn(stamp)) == NAMES


def test_a_pose_that_is_not_known_well_enough_stops(around):
    stamp = around.publish(0, tre_mm=4.5)
    assert "4.5 mm only" in around.told(stamp, all_stop).fields["L2_right"]["stop"]
    stamp = around.publish(1, without=("L2",))
    found = around.told(stamp, lambda f: f and f["L2_left"]["stop"])
    assert "no covariance" in found.fields["L2_left"]["stop"]
    assert not found.fields["L3_left"]["stop"]


def test_a_navigation_that_falls_silent_stops_everything(world, case):
    around = Around(world, case, max_age_ms=400.0)
    stamp = around.publish(0)
    found = around.told(stamp, lambda f: all_stop(f) and "no pose comes" in f["L2_left"]["stop"])
    assert found.message.status[0].message.startswith("stop: ")
    world.until(lambda: not around.drawn(stamp))


def test_the_tool_s_tip_may_go_as_far_as_its_own_screw_allows(around):
    stamp = support.frame(0).stamp_ns
    around.put_tool(stamp, 0.010)
    assert around.publish(0) == stamp
    found = around.told(stamp, lambda f: f and f["L3_left"]["allowed_advance_mm"])
    fields = found.fields["L3_left"]
    assert float(fields["allowed_advance_mm"]) == pytest.approx(30.0, abs=0.01)
    assert fields["limit"] == "plan" and 0.0 < float(fields["allowed_speed_mm_s"]) <= 5.0
    assert found.fields["L2_left"]["allowed_advance_mm"] == ""
    stamp = support.frame(1).stamp_ns
    around.put_tool(stamp, 0.010, off_m=0.0085)  # 4.5 mm off the box's side, 2.75 beside the drill
    around.publish(1)
    near = around.told(stamp, lambda f: f and f["L3_left"]["allowed_advance_mm"])
    assert float(near.fields["L3_left"]["wall_mm"]) < float(fields["wall_mm"])
    stamp = support.frame(2).stamp_ns
    around.put_tool(stamp, 0.010, off_m=0.012)
    around.publish(2)
    wall = around.told(stamp, lambda f: f and f["L3_left"]["allowed_advance_mm"])
    assert float(wall.fields["L3_left"]["allowed_advance_mm"]) == 0.0
    assert wall.fields["L3_left"]["limit"] == "wall"


@pytest.mark.parametrize(
    ("values", "why"),
    [({"sigma_m": 2e-3}, "known within"), ({"sigma_m": 0.0}, "no covariance"),
     ({"frame": "robot_base"}, "robot_base")],
)  # fmt: skip
def test_a_tool_that_is_not_sure_stops_everything(around, values, why):
    stamp = support.frame(0).stamp_ns
    around.put_tool(stamp, 0.010, **values)
    around.publish(0)
    assert why in around.told(stamp, all_stop).fields["L3_left"]["stop"]


def test_a_tool_that_falls_silent_stops_everything(around):
    around.put_tool(support.frame(0).stamp_ns, 0.010)
    stamp = around.publish(0)
    around.told(stamp, lambda f: f and f["L3_left"]["allowed_advance_mm"])
    stamp = around.publish(5)
    assert "same moment" in around.told(stamp, all_stop).fields["L3_left"]["stop"]


def test_planning_anew_keeps_to_the_hole_and_a_refusal_stops_its_screw_alone(around):
    stamp = around.publish(0)
    around.told(stamp, lambda f: f and not any(x["stop"] for x in f.values()))
    answer = around.world.call(Trigger, "replan", Trigger.Request())
    assert answer.success and answer.message.count("to the planned depth") == 4
    stamp = support.frame(1).stamp_ns
    around.put_tool(stamp, 0.010, off_m=0.012)  # its hole runs along the wall
    around.publish(1)
    around.told(stamp, lambda f: f and f["L3_left"]["limit"] == "wall")
    answer = around.world.call(Trigger, "replan", Trigger.Request())
    assert answer.success and "L3_left: stop: L3 left: no trajectory is safe" in answer.message
    found = around.told(stamp, lambda f: f and f["L3_left"]["stop"])
    assert "planned anew" in found.fields["L3_left"]["stop"]
    assert not found.fields["L3_right"]["stop"]
    stamp = support.frame(2).stamp_ns  # a stop stands until planning anew finds one
    around.put_tool(stamp, 0.010)
    around.publish(2)
    around.told(stamp, lambda f: f and "planned anew" in f["L3_left"]["stop"])
    assert around.world.call(Trigger, "replan", Trigger.Request()).success
    around.told(stamp, lambda f: f and not f["L3_left"]["stop"])


def test_nonsense_from_others_ends_nothing(around):
    plan = around.world.node.create_publisher(String, topics.PLAN_STATE, qos.LATCHED)
    plan.publish(String(data="{"))
    broken = DiagnosticArray(header=header(7, FRAME), status=[DiagnosticStatus(name="x")])
    around.poses.publish(PoseArray(header=header(7, FRAME)))
    around.status.publish(broken)
    around.until(lambda m: True, lambda f: all_stop(f) and "cannot be read" in f["L2_left"]["stop"])
    stamp = around.publish(3)
    around.told(stamp, lambda f: f and not any(x["stop"] for x in f.values()))


def test_an_end_of_the_node_withdraws(around):
    stamp = around.publish(0)
    around.told(stamp, lambda f: f and not any(x["stop"] for x in f.values()))
    around.node.trigger_deactivate()
    found = around.told(stamp, all_stop)
    assert found.fields["L2_left"]["stop"] == "the safety node is not active"


def test_live_starts_it_where_it_is_asked_for(case, tmp_path):
    assert "safety" not in configure(LiveOptions(case, "virtual", tmp_path))[1]
    values = configure(LiveOptions(case, "virtual", tmp_path, safety=True))[1]
    assert values["safety"]["case"] == str(case)
    with pytest.raises(ParameterError, match="--safety"):
        configure(LiveOptions(None, "stereo", tmp_path, safety=True))
