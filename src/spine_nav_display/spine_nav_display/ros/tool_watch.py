# SPDX-License-Identifier: Apache-2.0
"""A tracked tool against the plan, in words: heard, placed and judged as the overlay does it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from geometry_msgs.msg import PoseWithCovarianceStamped

from rod_bending_ar.core.extras import Extras, Limits, place_tool, tool_deviation, usable
from rod_bending_ar.ros.overlay_inputs import OverlayInputs
from spine_nav_common.core.static_frames import StaticTransform
from spine_nav_common.core.types import Case, NavigationResult, Rejected


class ToolWatch:
    """Of the executor's thread. age_ms, bound_mm: older or worse known than this is not told."""

    def __init__(
        self, calibration: Sequence[StaticTransform], topic: str, age_ms: float, bound_mm: float
    ) -> None:
        self._inputs = OverlayInputs(list(calibration), topic)
        self._limits = Limits(tool_age_ms=age_ms, tool95_mm=bound_mm)
        self._heard = False

    def clear(self) -> None:
        """No tool was heard yet."""
        self._inputs.clear()
        self._heard = False

    def hear(self, message: PoseWithCovarianceStamped) -> None:
        """A pose of the tool: origin at its tip, z to its handle."""
        self._heard = True
        self._inputs.on_tool(message)

    def on_tf_static(self, message: Any) -> None:
        """Fixed transforms."""
        self._inputs.on_tf_static(message)

    def words(
        self, result: NavigationResult, frame_id: str, case: Case | None
    ) -> dict[str, Any] | None:
        """By a new result: level, side and deviation, or the reason why none is told; None where no
        tool was ever heard."""
        self._inputs.note(result, frame_id)
        if not self._heard or case is None:
            return None
        tool = self._inputs.heard().tool
        if tool is None:
            return {"reason": "no tool is tracked"}
        if isinstance(tool.T_camera_tool, Rejected):
            return {"reason": tool.T_camera_tool.reason}
        axis = place_tool(
            tool.T_camera_tool,
            tool.bound95_mm,
            tool.turn_rad2,
            tool.stamp_ns,
            tool.moment,
            case.plan,
        )
        if isinstance(axis, Rejected):
            return {"reason": axis.reason}
        left = usable(Extras(tool=axis, limits=self._limits), result)
        off = tool_deviation(left.tool, case.plan) if left.tool is not None else None
        if left.tool is None or off is None:
            return {"reason": "; ".join(left.notes) or "no plan is near the tool"}
        return {
            "level": off.plan.level,
            "side": off.plan.side,
            "entry_mm": round(off.entry_mm, 2),
            "entry95_mm": round(off.entry95_mm, 2),
            "angle_deg": round(off.angle_deg, 2),
            "angle95_deg": round(off.angle95_deg, 2),
            "depth_mm": round(off.depth_mm, 1),
        }
