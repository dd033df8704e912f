# SPDX-License-Identifier: Apache-2.0
"""Writes screws.csv, rods.json and timings.csv from what the stereo tracker publishes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from rclpy.node import Node

from rod_bending_ar.ros.rod_guidance import WITHDRAWN
from spine_nav_common.core.implant_outputs import ImplantWriter
from spine_nav_common.core.outputs import TimingWriter
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import stamp_to_ns
from spine_nav_common.ros.implants import Implants, implants_from_messages
from spine_nav_common.ros.results import status_fields

from ..screws import STAGE_PREFIX

_PARTS = 3  # status, poses and stages of one stamp


class ImplantCollector(Node):
    """Rows of every pair that was processed, flushed pair by pair; rods of the last one.

    Args:
        out: folder for the files.
        timings: of the folder's other writer, if there is one.
    """

    def __init__(self, out: Path, namespace: str, timings: TimingWriter | None = None) -> None:
        super().__init__("implant_collector", namespace=namespace)
        self._writer: ImplantWriter | None = ImplantWriter(out, timings)
        self._parts: dict[int, dict[str, Any]] = {}
        self._complete_ns = -1
        self.counts: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.withdrawals: list[dict[str, Any]] = []
        self.last: Implants | None = None
        self.guidance: dict[str, dict[str, str]] = {}  # the last that was shown, by side
        self.on_result: Callable[[Implants], None] | None = None
        for kind, topic, key in (
            (DiagnosticArray, topics.SCREW_STATUS, "status"),
            (PoseArray, topics.SCREW_POSES, "poses"),
            (DiagnosticArray, topics.SCREW_LATENCY, "stages"),
        ):
            self.create_subscription(
                kind, topic, lambda message, k=key: self._take(k, message), qos.RESULT
            )

        self.create_subscription(
            DiagnosticArray, topics.BENDING_STATUS, self._on_guidance, qos.STATE
        )

    def _on_guidance(self, message: DiagnosticArray) -> None:
        for status in message.status:
            fields = status_fields(status)
            if not fields["text"].startswith(WITHDRAWN):
                self.guidance[fields["side"]] = fields

    def _take(self, key: str, message: Any) -> None:
        stamp_ns = stamp_to_ns(message.header.stamp)
        if stamp_ns <= self._complete_ns:
            if key == "status":
                reason = implants_from_messages(message, None).reason
                self.withdrawals.append({"stamp_ns": stamp_ns, "reason": reason})
            return
        parts = self._parts.setdefault(stamp_ns, {})
        parts[key] = message
        if len(parts) == _PARTS and self._writer is not None:
            self._complete_ns = stamp_ns
            self._parts = {s: p for s, p in self._parts.items() if s > stamp_ns}
            self._write(parts)

    def _write(self, parts: dict[str, Any]) -> None:
        implants = implants_from_messages(parts["status"], parts["poses"])
        stages = {STAGE_PREFIX + p.key: float(p.value) for p in parts["stages"].status[0].values}
        self._writer.write(implants.stamp_ns, implants.screws, implants.rods, stages)
        self.last = implants
        self.counts["results"] += 1
        if implants.reason:
            self.refused[implants.reason] += 1
        if self.on_result is not None:
            self.on_result(implants)

    def close(self) -> None:
        """Close the files; safe to call twice."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
