# SPDX-License-Identifier: Apache-2.0
"""Watches every planned screw against the tracked poses: publishes planning/trajectories and
planning/safety, and plans anew when asked. Whatever is missing, old or unsure is told as a stop.

A stop of this node is no stop of a robot: who drives one must stop by itself when nothing comes.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from sensor_msgs.msg import TimeReference
from std_msgs.msg import String
from std_srvs.srv import Trigger
from visualization_msgs.msg import MarkerArray

from rod_bending_ar.core.error_shape import usable_covariance
from rod_bending_ar.core.extras import SAME_NS
from rod_bending_ar.ros.overlay_inputs import PoseCovariances
from spine_nav_common.core.case import load_case
from spine_nav_common.core.clock import StreamClock
from spine_nav_common.core.geometry import check_transform
from spine_nav_common.core.static_frames import StaticFrames
from spine_nav_common.core.statistics import SIGMAS_3D_95
from spine_nav_common.core.types import NavigationResult, Rejected, Status
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import announced, header, pose_array, stamp_to_ns
from spine_nav_common.ros.joined import Joined
from spine_nav_common.ros.lifecycle import OK, WARN, SpineNode, StampAge
from spine_nav_common.ros.live_plan import plan_state
from spine_nav_common.ros.results import result_from_messages
from spine_nav_common.ros.runtime import run_node, tf_message_type
from spine_nav_common.ros.static_edges import static_edges
from spine_planning.core.replan import Replanned
from spine_planning.core.safety import Drill
from spine_planning.core.screw_guard import ScrewGuard, ScrewSafety, Tool

from .safety_config import SafetyConfig
from .safety_output import safety_message, trajectories_message

_WATCH_S = 0.05
_AGAIN_S = 0.5  # a stop is told again, for whoever comes late
_KEPT_TOOLS = 64
_AHEAD_MS = 50.0  # simulated time lags so far; a stamp farther ahead is of no clock of ours


class SafetyNode(SpineNode):
    """Publishes planning/trajectories and planning/safety (docs/contracts.md, section 6)."""

    config_type = SafetyConfig

    def __init__(
        self, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__("safety", values, namespace)

    def configure(self) -> None:
        self._case = load_case(self.config.case)
        self._trajectories = self.advertise(MarkerArray, topics.PLAN_TRAJECTORIES, qos.POSE)
        self._safety = self.advertise(DiagnosticArray, topics.PLAN_SAFETY, qos.POSE)
        self.serve(Trigger, "replan", self._on_replan)
        self._guard = self._guard_of_case()
        self._begin()

    def _guard_of_case(self) -> ScrewGuard:
        c = self.config
        guard = ScrewGuard(
            self._case, c.drill_diameter_mm, c.screw_diameter_mm, c.limits(), c.freedom(),
            c.speed_mm_s,
        )  # fmt: skip
        guard.prepare()
        return guard

    def _begin(self) -> None:
        self._stream = StreamClock(bool(self.get_parameter("use_sim_time").value))
        self._results = StampAge()
        self._result: NavigationResult | None = None
        self._waiting = self._ticked = False  # for a covariance, over one tick at most
        self._frame, self._stopped, self._told_s = "", "", float("-inf")
        self._tools: deque[PoseWithCovarianceStamped] = deque(maxlen=_KEPT_TOOLS)
        self._statics = StaticFrames([])
        self._screws: tuple[ScrewSafety, ...] = ()
        self._replan_ms: float | None = None

    def activate(self) -> None:
        self._begin()
        self._covariances = PoseCovariances(self._case.exposed_levels)
        levels = Joined(
            result_from_messages,
            self._on_result,
            lambda why, _: self._stop(f"a result cannot be read: {why}"),
        )
        self.listen(PoseArray, topics.VERTEBRA_POSES, levels.poses, qos.POSE)
        for kind, topic, note, profile in self._covariances.streams():
            self.listen(kind, topic, partial(self._on_pose, note), profile)
        self.listen(DiagnosticArray, topics.STATUS, levels.status, qos.POSE)
        self.listen(String, topics.PLAN_STATE, self._on_plan, qos.LATCHED)
        self.listen(TimeReference, topics.CAMERA_CLOCK, self._on_camera_clock, qos.LATCHED)
        if self.config.tool_topic:
            self.listen(PoseWithCovarianceStamped, self.config.tool_topic, self._tools.append,
                        qos.SENSOR_IN)  # fmt: skip
        if (tf := tf_message_type()) is not None:
            self.listen(tf, "/tf_static", self._on_tf_static, qos.TF_STATIC)
        self.every(_WATCH_S, self._on_watch)
        self._stop("no pose has come")

    def deactivate(self) -> None:
        self._stop("the safety node is not active")

    # What comes in.

    def _on_camera_clock(self, message: TimeReference) -> None:
        said = announced(message)
        if isinstance(said, Rejected):
            self.get_logger().warn(said.reason, throttle_duration_sec=10.0)
            return
        self._stream.announced = said

    def _on_tf_static(self, message: Any) -> None:
        for edge in static_edges(message):
            self._statics.add(edge)

    def _on_plan(self, message: String) -> None:
        state = plan_state(self, message)
        case = state.of(self._case) if state is not None else None
        if case is not None and case is not self._case:
            self._case = case
            self._stop("the plan has changed")
            self._guard = self._guard_of_case()

    def _on_result(self, result: NavigationResult, status: DiagnosticArray) -> None:
        self._results.note(result.stamp_ns)
        self._stream.note(result.stamp_ns, self.now_ns(), time.monotonic())
        self._result, self._frame = result, status.header.frame_id
        self._waiting = True
        self._judge_if_whole()

    def _on_pose(self, note: Callable[[Any], None], message: PoseWithCovarianceStamped) -> None:
        note(message)
        self._judge_if_whole()

    def _judge_if_whole(self) -> None:
        """A pose's covariance may come after the status of its stamp; a watch tick waits for it."""
        if self._waiting and self._result is not None:
            joined = self._covariances.joined(self._result)
            tracked = [e for e in joined.levels if e.status is Status.TRACKED]
            if all(e.covariance is not None for e in tracked):
                self._judge(joined)

    def _judge(self, result: NavigationResult) -> None:
        self._result, self._waiting, self._stopped = result, False, ""
        self._show(self._guard.judge(result, self._age_ms(), self._tool()))

    def _on_replan(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self.active or self._result is None or self._waiting or self._stopped:
            why = self._stopped or "no pose with its covariance is there now"
            response.message = f"stop: {why if self.active else 'the safety node is not active'}"
            return response
        started = time.perf_counter()
        found = self._guard.replan(self._result, self._age_ms(), self._tool())
        self._replan_ms = 1e3 * (time.perf_counter() - started) / max(len(found), 1)
        self._show(self._guard.judge(self._result, self._age_ms(), self._tool()))
        response.success = any(isinstance(f, Replanned) for f in found.values())
        response.message = "; ".join(f"{name}: {_words(f)}" for name, f in found.items())
        return response

    # What goes out.

    def _on_watch(self) -> None:
        limit_ms, silent_ms = self.config.max_age_ms, self._results.silent_ms()
        if self._results.count and silent_ms > limit_ms:
            self._stop("no pose comes any more")
        elif self._result is not None and self._age_ms() > limit_ms:
            self._stop("the newest pose is too old")
        elif self._waiting and self._result is not None:
            if self._ticked:
                self._judge(self._covariances.joined(self._result))
            self._ticked = not self._ticked
        if self._stopped and time.monotonic() - self._told_s > _AGAIN_S:
            self._show(self._guard.stopped(self._stopped))

    def _stop(self, reason: str) -> None:
        if reason != self._stopped:
            self._stopped = reason
            self._show(self._guard.stopped(reason))

    def _show(self, screws: tuple[ScrewSafety, ...]) -> None:
        stamp_ns = self._result.stamp_ns if self._result is not None else self.real_ns()
        top = header(stamp_ns, self._frame)
        self._screws, self._told_s = screws, time.monotonic()
        self._safety.publish(safety_message(screws, top))
        self._trajectories.publish(trajectories_message(screws, top))

    def _age_ms(self) -> float:
        assert self._result is not None
        age_ms = self._stream.age_ms(self._result.stamp_ns, self.now_ns())
        return max(age_ms, 0.0) if age_ms > -_AHEAD_MS else age_ms

    def _tool(self) -> Tool | Rejected | None:
        """The tool at the moment of the result; None where none was ever heard of."""
        if not self._tools or self._result is None:
            return None
        stamp_ns = self._result.stamp_ns
        nearest = min(self._tools, key=lambda m: abs(stamp_to_ns(m.header.stamp) - stamp_ns))
        if abs(stamp_to_ns(nearest.header.stamp) - stamp_ns) > SAME_NS:
            return Rejected("the tool has no pose of the same moment")
        to_camera = self._statics.lookup(self._frame, nearest.header.frame_id)
        if isinstance(to_camera, Rejected):
            return Rejected(f"the tool: {to_camera.reason}")
        try:
            T = to_camera @ check_transform(pose_array(nearest.pose.pose), "tool")
        except ValueError as error:
            return Rejected(f"the tool: {error}")
        told = np.array(nearest.pose.covariance, float).reshape(6, 6)[:3, :3]
        covariance = usable_covariance(told)
        if covariance is None:
            return Rejected("the tool's pose has no covariance")
        R = to_camera[:3, :3]
        covariance = R @ covariance @ R.T
        bound_mm = 1e3 * SIGMAS_3D_95 * float(np.sqrt(np.linalg.eigvalsh(covariance)[-1]))
        if bound_mm > self.config.tool_bound_mm:
            return Rejected(f"the tool is known within {bound_mm:.1f} mm only")
        return Tool(Drill(T[:3, 3], -T[:3, 2]), covariance)

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        if not self.active:
            return WARN, "not active", {}
        values: dict[str, object] = {
            "screws": len(self._screws), "stopped": sum(bool(s.stop) for s in self._screws),
            "replan_ms": None if self._replan_ms is None else f"{self._replan_ms:.1f}",
        }  # fmt: skip
        return (
            (WARN, f"stop: {self._stopped}", values) if self._stopped else (OK, "running", values)
        )


def _words(found: Replanned | Rejected) -> str:
    if isinstance(found, Rejected):
        return f"stop: {found.reason}"
    depth = "to the planned depth" if found.complete else "short of the planned depth"
    return f"leans {found.lean_deg:.1f} deg, shifts {found.shift_mm:.1f} mm, {depth}"


def main() -> int:
    """`ros2 run spine_planning safety`."""
    return run_node(SafetyNode)


if __name__ == "__main__":
    sys.exit(main())
