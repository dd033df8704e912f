# SPDX-License-Identifier: Apache-2.0
"""Writes poses.csv and timings.csv from what the nodes publish, as any subscriber sees it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo

from spine_nav_common.core.live_rows import LiveRows
from spine_nav_common.core.outputs import ResultWriter
from spine_nav_common.core.types import NavigationResult
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import stamp_to_ns
from spine_nav_common.ros.results import result_from_messages, status_fields

_PARTS = 3  # status, poses and stages of one stamp


class Collector(Node):
    """One row per level and colour frame (see LiveRows), flushed frame by frame.

    Args:
        out: folder for the files.
        info_topic: camera_info of the colour stream; tells which frames there were.
        latency_ms: from a stamp to now, or None where the clocks do not allow to say.
        levels: exposed levels in the order of the case.
    """

    def __init__(
        self,
        out: Path,
        namespace: str,
        info_topic: str,
        latency_ms: Callable[[int], float | None],
        levels: tuple[str, ...],
    ) -> None:
        super().__init__("collector", namespace=namespace)
        self._writer = ResultWriter(out)
        self.timings = self._writer.timings
        self._latency_ms = latency_ms
        self._rows = LiveRows(levels, self._writer.write)
        self._rows.on_result = self._on_result
        self.counts = self._rows.counts
        self._parts: dict[int, dict[str, Any]] = {}
        self._complete_ns = -1
        self.withdrawals: list[dict[str, Any]] = []
        self.last: NavigationResult | None = None
        self.on_result: Callable[[NavigationResult], None] | None = None
        for kind, topic, key in (
            (DiagnosticArray, topics.STATUS, "status"),
            (PoseArray, topics.VERTEBRA_POSES, "poses"),
            (DiagnosticArray, topics.LATENCY, "stages"),
        ):
            self.create_subscription(
                kind, topic, lambda message, k=key: self._take(k, message), qos.RESULT
            )
        self.create_subscription(CameraInfo, info_topic, self._on_info, qos.RESULT)

    def _on_info(self, message: CameraInfo) -> None:
        self._rows.frame(stamp_to_ns(message.header.stamp))

    def _take(self, key: str, message: Any) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        if stamp_ns <= self._complete_ns:
            if key == "status":
                self._note_withdrawal(stamp_ns, message)
            return
        parts = self._parts.setdefault(stamp_ns, {})
        parts[key] = message
        if len(parts) == _PARTS:
            latency_ms = self._latency_ms(stamp_ns)
            self._complete_ns = stamp_ns
            self._parts = {s: p for s, p in self._parts.items() if s > stamp_ns}
            stages = {p.key: float(p.value) for p in parts["stages"].status[0].values}
            seen = result_from_messages(parts["status"], parts["poses"])
            result = replace(seen, timings_ms=stages)
            self._rows.result(result, latency_ms)

    def _note_withdrawal(self, stamp_ns: int, message: DiagnosticArray) -> None:
        self.last = result_from_messages(message, None)
        self.counts["withdrawn"] += 1
        reason = status_fields(message.status[0])["reason"] if message.status else ""
        self.withdrawals.append({"stamp_ns": stamp_ns, "reason": reason})

    def _on_result(self, result: NavigationResult) -> None:
        self.last = result
        if self.on_result is not None:
            self.on_result(result)

    def close(self) -> None:
        """Write what is left and close the files; safe to call twice."""
        if self._writer is None:
            return
        self._rows.close()
        self._writer.close()
        self._writer = None
