# SPDX-License-Identifier: Apache-2.0
"""The stereo tracker node: a stereo pair in, screw heads and rods out. A worker thread computes,
the executor thread publishes."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import SetBool, Trigger

from spine_nav_common.core.types import Rejected, Status, StereoResult
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import stamp_to_ns
from spine_nav_common.ros.frames import image_type
from spine_nav_common.ros.implants import Implants
from spine_nav_common.ros.lifecycle import ERROR, OK, WARN, SpineNode, StampAge
from spine_nav_common.ros.mailbox import NewestWins
from spine_nav_common.ros.results import result_from_messages
from spine_nav_common.ros.runtime import run_node
from spine_nav_common.ros.stereo_frames import RawPair, RigCache, StereoPairer
from stereo_screw_tracker.core.levels import LevelNames
from stereo_screw_tracker.core.output import rod_curves, screw_rows

from .stereo_config import NodeCore, StereoTrackerConfig, load_node_core
from .stereo_output import StereoOutput

_WATCH_S = 0.05
_BUSY_S = 1.0


@dataclass(frozen=True)
class Registered:
    """T_camera_ct (4, 4) per tracked level, of one RGB-D image."""

    stamp_ns: int
    frame_id: str
    vertebrae: dict[str, np.ndarray]


@dataclass(frozen=True)
class _Output:
    raw: RawPair
    implants: Implants
    timings_ms: dict[str, float]
    work_ms: float
    trouble: str


class StereoTrackerNode(SpineNode):
    """See contracts.md, section 6. Tests hand in another `loader`."""

    config_type = StereoTrackerConfig

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        loader: Callable[[StereoTrackerConfig], NodeCore] = load_node_core,
    ) -> None:
        super().__init__("stereo_tracker", values, namespace)
        self._loader = loader
        self._lock = threading.Lock()
        self._worker: NewestWins | None = None
        self.counts: Counter[str] = Counter()
        self.provider = self.model_sha256 = ""
        self.received_ns = -1  # stamp of the newest pair that came

    def configure(self) -> None:
        self.core = self._loader(self.config)
        self.provider = self.core.stereo.provider
        self.model_sha256 = self.core.stereo.model_sha256
        self._paused = False
        self._results = StampAge()
        self._last: Implants | None = None
        self._frame_id = self._withdrawn = self._trouble = ""
        self._rigs = RigCache("image_raw" in self.config.left_topic)
        self._forget_names()
        if self.core.case is not None:
            self.tell(self.core.case.notes)
        self._output = StereoOutput(self.advertise, self.config.rod_side)
        self.serve(Trigger, "screws/reset", self._on_reset)
        self.serve(SetBool, "screws/pause", self._on_pause)

    def activate(self) -> None:
        self._worker = NewestWins(self, self._process, self._on_result, "stereo_tracker")
        self.pairer = StereoPairer(self._on_pair)
        self._registered: Registered | None = None
        self._status: DiagnosticArray | None = None
        self._poses: PoseArray | None = None
        c = self.config
        self.listen(CameraInfo, c.left_info_topic, self.pairer.left_info, qos.SENSOR_IN)
        self.listen(CameraInfo, c.right_info_topic, self.pairer.right_info, qos.SENSOR_IN)
        for topic, callback in (
            (c.left_topic, self.pairer.left),
            (c.right_topic, self.pairer.right),
        ):
            self.listen(image_type(topic), topic, callback, qos.SENSOR_IN)
        if self.core.case is not None:
            self.listen(DiagnosticArray, topics.STATUS, self._on_status, qos.POSE)
            self.listen(PoseArray, topics.VERTEBRA_POSES, self._on_poses, qos.POSE)
        self.every(_WATCH_S, self._on_watch)

    def deactivate(self) -> None:
        self._withdraw("the stereo tracker is not active")
        self._worker.close()
        self._worker = None

    def cleanup(self) -> None:
        self.core = None

    # Registered vertebrae name the levels, where they stand in the same camera's frame.

    def _on_status(self, message: DiagnosticArray) -> None:
        self._status = message
        self._join_registration()

    def _on_poses(self, message: PoseArray) -> None:
        self._poses = message
        self._join_registration()

    def _join_registration(self) -> None:
        if self._status is None or self._poses is None:
            return
        if self._status.header.stamp != self._poses.header.stamp:
            return
        result = result_from_messages(self._status, self._poses)
        vertebrae = {e.level: e.T_camera_ct for e in result.levels if e.status is Status.TRACKED}
        stamp_ns = stamp_to_ns(self._poses.header.stamp)
        self._registered = Registered(stamp_ns, self._poses.header.frame_id, vertebrae)

    def _vertebrae_for(self, raw: RawPair) -> dict[str, np.ndarray] | None:
        known = self._registered
        if known is None or known.frame_id != raw.frame_id:
            return None
        near = abs(raw.stamp_ns - known.stamp_ns) <= self.config.pose_age_ms * 1e6
        return known.vertebrae if near and known.vertebrae else None

    # One pair: decode and core call in the worker, encode and publish on the executor's thread.

    def _on_pair(self, raw: RawPair) -> None:
        self.counts["received"] += 1
        self.received_ns = raw.stamp_ns
        if self._paused:
            self.counts["paused"] += 1
        elif self._worker.put(raw) is not None:
            self.counts["dropped"] += 1

    def _process(self, raw: RawPair) -> _Output:
        start = time.monotonic()
        tracker, trouble = self.core.stereo.tracker, ""
        result: StereoResult | Rejected
        with self._lock:
            try:
                result = tracker.process(
                    raw.decode(self._rigs), self._vertebrae_for(raw), self.core.case
                )
                if isinstance(result, StereoResult):
                    result = self._names.name(result)
            except Exception as error:  # noqa: BLE001 - one bad pair must not end the tracking
                text = " ".join(str(error).split())
                if not isinstance(error, ValueError):
                    self.counts["faults"] += 1
                    text = f"fault in the screw tracker, started anew: {error!r}"
                    tracker.reset()
                    self._forget_names()
                result = Rejected(text)
        if isinstance(result, Rejected):
            self.counts["refused"] += 1
            trouble = f"pair refused: {result.reason}"
            implants, timings = Implants(raw.stamp_ns, reason=trouble), {}
        else:
            implants, timings = _implants(result), result.timings_ms
        return _Output(raw, implants, timings, (time.monotonic() - start) * 1e3, trouble)

    def _on_result(self, output: _Output) -> None:
        if self._paused or not self.active:
            return
        self.counts["processed"] += 1
        implants, self._frame_id = output.implants, output.raw.frame_id
        self._trouble, self._withdrawn = output.trouble, ""
        self._results.note(implants.stamp_ns)
        stamp_age_ms = self._results.age_ms(self.now_ns())
        if 0 < self.config.max_stamp_age_ms < stamp_age_ms:
            self._withdrawn = f"the pair was {stamp_age_ms:.0f} ms old"
            implants = Implants(implants.stamp_ns, reason=self._withdrawn)
        if self._trouble:
            self.get_logger().warn(self._trouble, throttle_duration_sec=1.0)
        self._last = implants
        self._output.publish(implants, self._frame_id)
        stages = {
            **output.timings_ms,
            "work": output.work_ms,
            "arrival_to_publish": (time.monotonic() - output.raw.arrived) * 1e3,
            "stamp_to_publish": self._results.age_ms(self.now_ns()),
        }
        self._output.publish_stages(implants.stamp_ns, self._frame_id, stages)

    # Silence: what was shown is withdrawn, with the reason, by the monotonic clock.

    def _on_watch(self) -> None:
        silent_ms = self._results.silent_ms()
        if self._last is None or self._withdrawn or silent_ms <= self.config.frame_timeout_ms:
            return
        cause = self._trouble or self.pairer.missing() or "no stereo pairs"
        self._withdraw(f"{cause} for {silent_ms:.0f} ms")

    def _withdraw(self, reason: str) -> None:
        self._withdrawn = reason
        if self._last is None:
            return
        shown = bool(self._last.screws or self._last.rods)
        self._last = Implants(self._last.stamp_ns, reason=reason)
        self._output.publish(self._last, self._frame_id)
        if shown:
            self.counts["withdrawn"] += 1
            self.get_logger().warn(f"screws withdrawn: {reason}")

    # Services. The lock waits for the pair in work, so that the answer is true when it is given.

    def _forget_names(self) -> None:
        case = self.core.case
        self._names = LevelNames(case.exposed_levels if case else ())

    def _on_reset(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        if not self._lock.acquire(timeout=_BUSY_S):
            answer.success, answer.message = False, f"busy for {_BUSY_S:g} s; ask again"
            return answer
        try:
            self.core.stereo.tracker.reset()
            self._forget_names()
            answer.success, answer.message = True, "all tracks are forgotten"
        finally:
            self._lock.release()
        return answer

    def _on_pause(self, request: SetBool.Request, answer: SetBool.Response) -> SetBool.Response:
        self._paused = request.data
        if self._paused and self.active:
            self._withdraw("paused by the user")
        answer.success, answer.message = True, "paused" if self._paused else "running"
        return answer

    @property
    def alive(self) -> bool:
        """Whether the worker thread lives, or is not there to live."""
        return self._worker is None or self._worker.alive

    @property
    def listened_to(self) -> bool:
        """Whether somebody is matched to every topic that a record of the run needs."""
        return self.active and self._output.listened_to

    @property
    def idle(self) -> bool:
        """Whether every pair that was taken has been published."""
        return self._worker is None or self._worker.idle

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        values = {**self.counts, "provider": self.provider}
        if not self.active:
            return OK, "not active", values
        if not self.alive:
            return ERROR, "the worker thread died", values
        values |= {**self.pairer.counts(), "model_sha256": self.model_sha256}
        if self._paused:
            return WARN, "paused by the user", values
        if self._withdrawn:
            return ERROR, f"screws withdrawn: {self._withdrawn}", values
        if self._last is None and not self.pairer.heard:
            return OK, "no stereo camera yet", values  # the graph serves RGB-D cameras too
        if self._last is None:
            return WARN, self.pairer.missing() or "no stereo pairs yet", values
        values |= {"heads": len(self._last.screws), "rods": len(self._last.rods)}
        return (WARN, self._trouble, values) if self._trouble else (OK, "running", values)


def _implants(result: StereoResult) -> Implants:
    return Implants(
        result.stamp_ns,
        tuple(screw_rows(result)),
        tuple(rod_curves(result)),
        frozenset(s.track_id for s in result.screws if s.hidden),
        events=result.events,
    )


def main() -> int:
    """`ros2 run stereo_screw_tracker stereo_tracker`."""
    return run_node(StereoTrackerNode)


if __name__ == "__main__":
    sys.exit(main())
