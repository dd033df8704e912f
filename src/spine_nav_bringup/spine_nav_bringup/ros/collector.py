# SPDX-License-Identifier: Apache-2.0
"""Writes poses.csv and timings.csv from what the nodes publish, as any subscriber sees it."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo

from spine_nav_common.core.outputs import ResultWriter
from spine_nav_common.core.types import LevelEstimate, NavigationResult, Status
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import stamp_to_ns
from spine_nav_common.ros.results import result_from_messages, status_fields

NOT_PROCESSED = "frame not processed: a newer one came"
_PARTS = 3  # status, poses and stages of one stamp
_WAITING = 30


class Collector(Node):
    """One row per level and colour frame, in order of the stamps, flushed frame by frame.

    A frame that was dropped for a newer one has a row too: its levels hold the pose of the frame
    before (`occluded`, never `tracked`), or none.

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
        self._levels = levels
        self._parts: dict[int, dict[str, Any]] = {}
        self._seen: deque[int] = deque()
        self._done: deque[tuple[NavigationResult, float | None]] = deque()
        self._newest_ns = self._complete_ns = -1
        self._held: NavigationResult | None = None
        self.counts: Counter[str] = Counter()
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
        stamp_ns = stamp_to_ns(message.header.stamp)
        self.counts["colour_frames"] += 1
        if stamp_ns <= self._newest_ns:
            self.counts["late_or_duplicated"] += 1
            return
        self._newest_ns = stamp_ns
        self._seen.append(stamp_ns)
        self._write_ready()

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
            self._done.append((result, latency_ms))
            self._write_ready()

    def _write_ready(self) -> None:
        """Write results once the camera_info of their frames and of all before is here.

        A status may overtake the camera_info of older frames. Where no camera_info comes with the
        frames, results wait for a while only.
        """
        while self._done:
            stamp_ns = self._done[0][0].stamp_ns
            if stamp_ns > self._newest_ns and len(self._done) <= _WAITING:
                return
            self._write(*self._done.popleft())

    def _note_withdrawal(self, stamp_ns: int, message: DiagnosticArray) -> None:
        self.last = result_from_messages(message, None)
        self.counts["withdrawn"] += 1
        reason = status_fields(message.status[0])["reason"] if message.status else ""
        self.withdrawals.append({"stamp_ns": stamp_ns, "reason": reason})

    def _write(self, result: NavigationResult, latency_ms: float | None) -> None:
        self._fill_until(result.stamp_ns)
        self._writer.write(result, latency_ms)
        self._held = self.last = result
        self.counts["results"] += 1
        if self.on_result is not None:
            self.on_result(result)

    def _fill_until(self, stamp_ns: int) -> None:
        """Rows for the colour frames before this one that gave no result."""
        while self._seen and self._seen[0] <= stamp_ns:
            skipped = self._seen.popleft()
            if skipped < stamp_ns:
                self._writer.write(self._skipped(skipped))
                self.counts["frames_without_result"] += 1

    def _skipped(self, stamp_ns: int) -> NavigationResult:
        if self._held is None:
            levels = tuple(
                LevelEstimate(level, Status.SEARCHING, reason=NOT_PROCESSED)
                for level in self._levels
            )
            return NavigationResult(stamp_ns, levels)
        held = tuple(
            LevelEstimate(
                e.level,
                Status.OCCLUDED if e.T_camera_ct is not None else e.status,
                e.T_camera_ct,
                predicted_tre_mm=e.predicted_tre_mm,
                reason=NOT_PROCESSED,
            )
            for e in self._held.levels
        )
        return NavigationResult(stamp_ns, held)

    def close(self) -> None:
        """Write what is left and close the files; safe to call twice."""
        if self._writer is None:
            return
        while self._done:
            self._write(*self._done.popleft())
        self._fill_until(2**63)
        self._writer.close()
        self._writer = None
