# SPDX-License-Identifier: Apache-2.0
"""What the overlay hears beside images and poses: screws, rods, the next bend, a tracked tool. It
only keeps and joins; nothing is computed here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from visualization_msgs.msg import MarkerArray

from rod_bending_ar.core.error_shape import usable_covariance
from rod_bending_ar.core.extras import Moments, NextBend
from rod_bending_ar.core.placing import Heard, Implanted, PlannedRods, Tool
from spine_nav_common.core.geometry import check_transform
from spine_nav_common.core.static_frames import StaticFrames, StaticTransform
from spine_nav_common.core.statistics import SIGMAS_3D_95
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Rejected
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import pose_array, stamp_to_ns
from spine_nav_common.ros.implants import Implants, implants_from_messages
from spine_nav_common.ros.joined import Joined
from spine_nav_common.ros.static_edges import static_edges

from .guidance_output import planned_rods

_KEPT_POSES = 32  # of each level
_SAME_POSE = 1e-6


class OverlayInputs:
    """Everything is of the executor's thread. frames: joins the cameras, from calibration files;
    /tf_static adds to it."""

    def __init__(self, calibration: list[StaticTransform], tool_topic: str) -> None:
        self._edges = list(calibration)
        self._frames = StaticFrames(self._edges)
        self._tool_topic = tool_topic
        self.clear()

    def clear(self) -> None:
        """Forget what was heard, but where the cameras stand."""
        self._moments = Moments()
        self._camera_frame = ""
        self._screws = Joined(implants_from_messages, self._on_implants, self._on_unreadable)
        self._implants: tuple[Implants, str] | None = None
        self._curves: tuple[int, str, Mapping[str, np.ndarray]] | None = None
        self._bending: DiagnosticArray | None = None
        self._bending_markers: MarkerArray | None = None
        self._bends: tuple[NextBend, ...] = ()
        self._tool: PoseWithCovarianceStamped | None = None

    def streams(self) -> tuple[tuple[type, str, Callable[[Any], None], Any], ...]:
        """What is heard: message type, topic, callback, profile."""
        wanted: list[tuple[type, str, Callable[[Any], None], Any]] = [
            (DiagnosticArray, topics.SCREW_STATUS, self._screws.status, qos.POSE),
            (PoseArray, topics.SCREW_POSES, self._screws.poses, qos.POSE),
            (DiagnosticArray, topics.BENDING_STATUS, self._on_bending, qos.STATE),
            (MarkerArray, topics.BENDING, self._on_bending_markers, qos.LATCHED),
        ]
        if self._tool_topic:
            wanted.append(
                (PoseWithCovarianceStamped, self._tool_topic, self.on_tool, qos.SENSOR_IN)
            )
        return tuple(wanted)

    def note(self, result: NavigationResult, frame_id: str) -> None:
        """A result of the registration, in the camera's frame."""
        self._moments.note(result)
        self._camera_frame = frame_id

    def heard(self) -> Heard:
        """All of it as it is now; immutable."""
        implanted = planned = tool = None
        if self._implants is not None:
            i, frame = self._implants
            moment, T = self._moments.at(i.stamp_ns), self._to_camera(frame)
            implanted = Implanted(i.stamp_ns, moment, T, i.screws, i.rods, i.reason)
        if self._curves is not None:
            stamp_ns, frame, curves = self._curves
            moment, T = self._moments.at(stamp_ns), self._to_camera(frame)
            planned = PlannedRods(stamp_ns, moment, T, curves)
        if self._tool is not None:
            tool = self._tool_of(self._tool)
        return Heard(implanted, planned, self._bends, tool)

    def _to_camera(self, frame: str) -> np.ndarray | Rejected:
        return self._frames.lookup(self._camera_frame, frame)

    def on_tf_static(self, message: Any) -> None:
        """Fixed transforms; another robot's frames are no concern of this node."""
        for edge in static_edges(message):
            self._frames.add(edge)

    def _on_implants(self, implants: Implants, status: DiagnosticArray) -> None:
        self._implants = implants, status.header.frame_id

    def _on_unreadable(self, why: str, status: DiagnosticArray) -> None:
        implants = Implants(stamp_to_ns(status.header.stamp), reason=f"not readable: {why}")
        self._on_implants(implants, status)

    def _on_bending(self, message: DiagnosticArray) -> None:
        self._bending = message
        self._join_bending()

    def _on_bending_markers(self, message: MarkerArray) -> None:
        self._bending_markers = message
        self._join_bending()

    def _join_bending(self) -> None:
        """The next bend needs no markers; a planned rod is where the markers of the same stamp are."""
        status, markers = self._bending, self._bending_markers
        if status is None:
            return
        top = markers.markers[0].header if markers is not None and markers.markers else None
        together = top is not None and top.stamp == status.header.stamp
        try:
            rods = planned_rods(status, markers if together else MarkerArray())
        except (KeyError, ValueError):
            rods = ()
        stamp_ns = stamp_to_ns(status.header.stamp)
        self._bends = tuple(
            NextBend(r.side, r.state, r.text, r.next_bend, len(r.steps), stamp_ns) for r in rods
        )
        curves = {r.side: r.curve_m for r in rods if r.curve_m is not None}
        self._curves = (stamp_ns, top.frame_id, curves) if top is not None and curves else None

    def on_tool(self, message: PoseWithCovarianceStamped) -> None:
        """The tool's newest pose."""
        self._tool = message

    def _tool_of(self, message: PoseWithCovarianceStamped) -> Tool:
        stamp_ns = stamp_to_ns(message.header.stamp)
        pose: np.ndarray | Rejected
        try:
            pose = check_transform(pose_array(message.pose.pose), "tool")
        except ValueError as error:
            pose = Rejected(str(error))
        covariance = np.array(message.pose.covariance, float).reshape(6, 6)
        turn = covariance[3:, 3:]
        if not isinstance(pose, Rejected):
            T = self._to_camera(message.header.frame_id)
            if isinstance(T, Rejected):
                pose = T
            else:
                pose, turn = T @ pose, T[:3, :3] @ turn @ T[:3, :3].T
        bound = float("nan")
        if (shift := usable_covariance(covariance[:3, :3])) is not None:
            bound = 1e3 * SIGMAS_3D_95 * float(np.sqrt(np.linalg.eigvalsh(shift)[-1]))
        return Tool(stamp_ns, self._moments.at(stamp_ns), pose, bound, turn)


class PoseCovariances:
    """How well each pose is known, from `registration/<level>/pose`, for the results of equal
    stamps. Of the executor's thread."""

    def __init__(self, levels: Iterable[str]) -> None:
        self._heard: dict[str, OrderedDict[int, PoseWithCovarianceStamped]] = {
            level: OrderedDict() for level in levels
        }

    def streams(self) -> tuple[tuple[type, str, Callable[[Any], None], Any], ...]:
        """What is heard: message type, topic, callback, profile."""
        return tuple(
            (PoseWithCovarianceStamped, topics.pose_topic(level), partial(self._on_pose, level),
             qos.POSE)
            for level in self._heard
        )  # fmt: skip

    def _on_pose(self, level: str, message: PoseWithCovarianceStamped) -> None:
        heard = self._heard[level]
        heard[stamp_to_ns(message.header.stamp)] = message
        while len(heard) > _KEPT_POSES:
            heard.popitem(last=False)

    def joined(self, result: NavigationResult) -> NavigationResult:
        """The result with the covariances of its poses; a pose of which none was heard stays
        without, and so does one that another node says. They are published before the status."""
        heard = {v: kept.get(result.stamp_ns) for v, kept in self._heard.items()}
        return replace(
            result, levels=tuple(_with_covariance(e, heard.get(e.level)) for e in result.levels)
        )


def _with_covariance(
    estimate: LevelEstimate, message: PoseWithCovarianceStamped | None
) -> LevelEstimate:
    T = estimate.T_camera_ct
    if T is None or message is None:
        return estimate
    try:
        same = np.allclose(pose_array(message.pose.pose), T, rtol=0.0, atol=_SAME_POSE)
    except ValueError:
        return estimate
    if not same:
        return estimate
    # ROS means the child's origin, and turns about the header frame's axes through it
    covariance = np.array(message.pose.covariance, float).reshape(6, 6)
    return replace(estimate, covariance=covariance, anchor_camera_m=T[:3, 3])
