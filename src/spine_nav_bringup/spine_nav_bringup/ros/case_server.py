# SPDX-License-Identifier: Apache-2.0
"""Shows the case: planned trajectories and vertebrae as markers in the frames of tracked vertebrae,
and keeps the live plan: a proposal counts once the surgeon has confirmed it (core/live_plan.py).

A level that is not `tracked` in the newest status, or whose status is silent, is deleted at once.
Markers have a short lifetime too, so that they vanish when this node dies.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import Point
from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from std_msgs.msg import ColorRGBA, String
from visualization_msgs.msg import Marker, MarkerArray

from spine_nav_common.core.case import load_case
from spine_nav_common.core.live_plan import MARGIN_MM, PlanDesk, read_proposal
from spine_nav_common.core.types import Mesh, Rejected, ScrewPlan, Status
from spine_nav_common.guardian import leave, left
from spine_nav_common.parameters import param
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import header
from spine_nav_common.ros.lifecycle import ERROR, OK, SpineNode, StampAge
from spine_nav_common.ros.results import status_fields
from spine_nav_common.ros.runtime import run_node

_KEPT = "plan"
_WORDS = {"yes": True, "no": False}
_REFRESH_S, _LIFETIME_S, _WATCH_S = 1.0, 2, 0.1
_BONE = ColorRGBA(r=0.93, g=0.87, b=0.73, a=0.6)
_PLAN = {
    "left": ColorRGBA(r=0.2, g=0.8, b=1.0, a=1.0),
    "right": ColorRGBA(r=1.0, g=0.6, b=0.2, a=1.0),
}
_WHITE = ColorRGBA(r=1.0, g=1.0, b=1.0, a=1.0)


@dataclass(frozen=True)
class CaseServerConfig:
    """Parameters of the case server."""

    case: str = param("", "folder of the case")
    silence_ms: float = param(
        1000.0, "without a status for this long, all guidance is deleted", "ms", 50.0, 10000.0
    )
    shaft_mm: float = param(2.0, "diameter of a drawn trajectory", "mm", 0.1, 10.0)
    tf_prefix: str = param(
        "", "before 'vertebra_<level>' in the names of frames: two instances keep apart on /tf"
    )
    faces: int = param(1500, "triangles drawn per vertebra", low=100, high=100000)
    plan_margin_mm: float = param(
        MARGIN_MM, "bone around the axis of an edited screw at least; else nobody is asked about it",
        "mm", 0.0, 10.0,
    )  # fmt: skip
    confirm_plan: str = param(
        "",
        "the surgeon's answer to a change of the plan: '<id> yes' or '<id> no', as plan/state gives "
        "the id; refused when another change is asked by now",
        runtime=True,
    )


class CaseServer(SpineNode):
    """See docs/contracts.md, section 6: guidance/trajectories; guidance/vertebrae beside it."""

    config_type = CaseServerConfig
    yields = True

    def __init__(
        self, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__("case_server", values, namespace)
        self._desk: PlanDesk | None = None
        self.add_on_set_parameters_callback(self._on_parameters)

    def configure(self) -> None:
        self._case = load_case(self.config.case)
        self.tell(self._case.notes)
        self._desk = PlanDesk(self._case, self.config.plan_margin_mm)
        if kept := left().get(_KEPT):
            self._desk.restore(kept)
        self._states = self.advertise(String, topics.PLAN_STATE, qos.LATCHED)
        self._triangles = {
            level: _triangle_points(self._case.meshes[level], self.config.faces)
            for level in self._case.exposed_levels
        }
        self._trajectories = self.advertise(MarkerArray, topics.TRAJECTORIES, qos.LATCHED)
        self._vertebrae = self.advertise(MarkerArray, topics.VERTEBRAE, qos.LATCHED)
        self._shown: dict[str, float | None] = {}
        self._age, self._stamp_ns = StampAge(), 0

    def activate(self) -> None:
        self.listen(DiagnosticArray, topics.STATUS, self._on_status, qos.POSE)
        self.listen(String, topics.PLAN_PROPOSAL, self._on_proposal, qos.RESULT)
        self._tell_plan()
        self.every(_WATCH_S, self._on_watch)
        self.every(_REFRESH_S, self._publish)
        self._publish()

    def deactivate(self) -> None:
        self._show({})

    def cleanup(self) -> None:
        self._desk = None

    # The live plan.

    def _on_proposal(self, message: String) -> None:
        read = read_proposal(message.data)
        if isinstance(read, Rejected):
            self.get_logger().warn(read.reason)
            return
        said = self._desk.propose(*read)
        if isinstance(said, Rejected):
            self.get_logger().warn(f"a change of the plan is refused: {said.reason}")
        elif said is not None:
            self.get_logger().info(
                f"a change of the plan waits: {said.text}. Answer: confirm_plan '{said.id} yes' or no"
            )
        self._tell_plan()

    def _on_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        """`confirm_plan` is an answer that names its question."""
        said: str | Rejected = ""
        for text in (c.value for c in changes if c.name == "confirm_plan" and c.value):
            id_, _, word = str(text).strip().partition(" ")
            if word not in _WORDS:
                said = Rejected(f"'{text}': give the id of the change, then yes or no")
            elif self._desk is None or not self.active:
                said = Rejected("the case server is not active; nothing waits for an answer")
            else:
                said = self._desk.answer(id_.upper(), _WORDS[word])
                self._tell_plan()
                self._publish()
        if isinstance(said, Rejected):
            return SetParametersResult(successful=False, reason=said.reason)
        return SetParametersResult(successful=True, reason=said)

    def _tell_plan(self) -> None:
        leave(_KEPT, self._desk.kept())
        self._states.publish(String(data=self._desk.document()))

    def _on_status(self, message: DiagnosticArray) -> None:
        self._age.note(message.header.stamp)
        fields = [status_fields(item) for item in message.status]
        tracked = {
            f["level"]: float(f["predicted_tre_mm"]) if f["predicted_tre_mm"] else None
            for f in fields
            if f["status"] == Status.TRACKED.value
        }
        changed = tracked.keys() != self._shown.keys()
        self._shown, self._stamp_ns = tracked, self._age.stamp_ns
        if changed:
            self._publish()

    def _on_watch(self) -> None:
        if self._shown and self._age.silent_ms() > self.config.silence_ms:
            self._show({})

    def _show(self, tracked: dict[str, float | None]) -> None:
        self._shown = tracked
        self._publish()

    def _publish(self) -> None:
        self._trajectories.publish(MarkerArray(markers=self._plan_markers()))
        if self._vertebrae.get_subscription_count():
            self._vertebrae.publish(MarkerArray(markers=self._bone_markers()))

    def _plan_markers(self) -> list[Marker]:
        markers = []
        for plan in self._desk.plan:
            if plan.level in self._triangles:
                markers += self._screw_markers(plan)
        for level in self._triangles:
            markers.append(self._label_marker(level))
        return markers

    def _screw_markers(self, plan: ScrewPlan) -> list[Marker]:
        arrow = self._marker(f"trajectory/{plan.side}", plan.level, Marker.ARROW, _PLAN[plan.side])
        shaft = self.config.shaft_mm * 1e-3
        arrow.scale.x, arrow.scale.y, arrow.scale.z = shaft, 2.0 * shaft, 3.0 * shaft
        arrow.points = [_point(plan.entry_m), _point(plan.target_m)]
        entry = self._marker(f"entry/{plan.side}", plan.level, Marker.SPHERE, _WHITE)
        entry.pose.position = _point(plan.entry_m)
        entry.scale.x = entry.scale.y = entry.scale.z = 1.5 * shaft
        return [arrow, entry]

    def _label_marker(self, level: str) -> Marker:
        text = self._marker("label", level, Marker.TEXT_VIEW_FACING, _WHITE)
        text.pose.position = _point(self._case.plan_points_m(level).mean(axis=0))
        text.scale.z = 0.008
        bound = self._shown.get(level)
        text.text = level if bound is None else f"{level}  95 % within {bound:.1f} mm"
        return text

    def _bone_markers(self) -> list[Marker]:
        markers = []
        for level, points in self._triangles.items():
            bone = self._marker("vertebra", level, Marker.TRIANGLE_LIST, _BONE)
            bone.scale.x = bone.scale.y = bone.scale.z = 1.0
            bone.points = points if bone.action == Marker.ADD else []
            markers.append(bone)
        return markers

    def _marker(self, namespace: str, level: str, kind: int, colour: ColorRGBA) -> Marker:
        """A marker in the level's frame: to add if the level is tracked, else to delete."""
        marker = Marker(
            header=header(self._stamp_ns, topics.vertebra_frame(level, self.config.tf_prefix)),
            ns=f"{namespace}/{level}",
            type=kind,
            action=Marker.ADD if level in self._shown else Marker.DELETE,
            color=colour,
            lifetime=Duration(sec=_LIFETIME_S),
            frame_locked=True,
        )
        marker.pose.orientation.w = 1.0
        return marker

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        values = {"shown": " ".join(self._shown), "silent_ms": round(self._age.silent_ms(), 1)}
        values["plan"] = self._desk.version if self._desk is not None else ""
        if self.active and self._age.count and self._age.silent_ms() > self.config.silence_ms:
            return ERROR, "no status from the navigation: guidance is withdrawn", values
        return OK, "running" if self.active else "not active", values


def _point(xyz: np.ndarray) -> Point:
    return Point(x=float(xyz[0]), y=float(xyz[1]), z=float(xyz[2]))


def _triangle_points(mesh: Mesh, faces: int) -> list[Point]:
    """Corners of a simplified mesh, three per triangle."""
    import open3d as o3d

    full = o3d.geometry.TriangleMesh(
        o3d.utility.Vector3dVector(mesh.vertices_m), o3d.utility.Vector3iVector(mesh.faces)
    )
    small = full.simplify_quadric_decimation(faces) if len(mesh.faces) > faces else full
    corners = np.asarray(small.vertices)[np.asarray(small.triangles).ravel()]
    return [_point(corner) for corner in corners]


def main() -> int:
    """`ros2 run spine_nav_bringup case_server`."""
    return run_node(CaseServer)


if __name__ == "__main__":
    sys.exit(main())
