# SPDX-License-Identifier: Apache-2.0
"""The stereo tracker node: a stereo pair in, screw heads and rods out. A worker thread computes,
the executor thread publishes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from sensor_msgs.msg import CameraInfo
from std_srvs.srv import SetBool, Trigger

from spine_nav_common.core.static_frames import StaticFrames, load_calibration
from spine_nav_common.core.types import NavigationResult, Rejected, Status
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.frames import image_type
from spine_nav_common.ros.implants import Implants
from spine_nav_common.ros.joined import Joined
from spine_nav_common.ros.lifecycle import OK, WARN
from spine_nav_common.ros.results import result_from_messages
from spine_nav_common.ros.runtime import run_node, tf_message_type
from spine_nav_common.ros.static_edges import static_edges
from spine_nav_common.ros.stereo_frames import RawPair, RigCache, StereoPairer
from spine_nav_common.ros.worker_node import WorkerNode
from stereo_screw_tracker.core.journal import PairEntry
from stereo_screw_tracker.core.named import NamedTracker
from stereo_screw_tracker.core.output import implants_of

from .stereo_config import NodeCore, StereoTrackerConfig, load_node_core
from .stereo_journal import StereoJournal
from .stereo_output import StereoOutput


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
    entry: PairEntry


class StereoTrackerNode(WorkerNode):
    """See docs/contracts.md, section 6. Tests hand in another `loader`."""

    config_type = StereoTrackerConfig
    shows = "screws"

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        loader: Callable[[StereoTrackerConfig], NodeCore] = load_node_core,
    ) -> None:
        super().__init__("stereo_tracker", values, namespace)
        self._loader = loader
        self.provider = self.model_sha256 = self.unnamed = ""

    def configure(self) -> None:
        super().configure()
        self.core = self._loader(self.config)
        self.provider = self.core.stereo.provider
        self.model_sha256 = self.core.stereo.model_sha256
        self._last: Implants | None = None
        self._rigs = RigCache(self.config.raw)
        self._tracker = NamedTracker(self.core.stereo.tracker, self.core.case)
        self.unnamed = ""  # why registered vertebrae name no screws although they are there
        self._extrinsics = {
            (t.parent, t.child, t.source): t
            for file in filter(None, self.config.calibration.split(","))
            for t in load_calibration(file.strip())
        }
        self._frames = StaticFrames(self._extrinsics.values())
        if self.core.case is not None:
            self.tell(self.core.case.notes)
        self._output = StereoOutput(self.advertise, self.config.rod_side)
        self._journal = StereoJournal(self.advertise, self.core, self.config)
        self.serve(Trigger, "screws/reset", self._on_reset)
        self.serve(SetBool, "screws/pause", self.on_pause)

    def activate(self) -> None:
        super().activate()
        self.follow_camera()
        self._epoch = 0
        self.pairer = StereoPairer(self.take_image)
        self._registered: Registered | None = None
        self.registration = Joined(result_from_messages, self._on_result, self._on_unreadable)
        c = self.config
        self.listen(CameraInfo, c.left_info_topic, self.pairer.left_info, qos.SENSOR_IN)
        self.listen(CameraInfo, c.right_info_topic, self.pairer.right_info, qos.SENSOR_IN)
        for topic, callback in (
            (c.left_topic, self.pairer.left),
            (c.right_topic, self.pairer.right),
        ):
            self.listen(image_type(topic), topic, callback, qos.images_in(c.image_reliability))
        self.watch_losses(self.pairer.lost)
        if self.core.case is not None:
            self.listen(DiagnosticArray, topics.STATUS, self.registration.status, qos.POSE)
            self.listen(PoseArray, topics.VERTEBRA_POSES, self.registration.poses, qos.POSE)
            if (tf := tf_message_type()) is not None:
                self.listen(tf, "/tf_static", self._on_tf_static, qos.TF_STATIC)

    def deactivate(self) -> None:
        super().deactivate()
        self._journal.left_over("the stereo tracker was stopped")

    def cleanup(self) -> None:
        self.core = self._tracker = None

    # Registered vertebrae name the levels; of another camera, where its place is known.

    def _on_tf_static(self, message: Any) -> None:
        for edge in static_edges(message, self.get_logger().warn):
            self._extrinsics[edge.parent, edge.child, edge.source] = edge
        # a new one, because the worker reads the old one now
        self._frames = StaticFrames(self._extrinsics.values())

    def _on_result(self, result: NavigationResult, status: DiagnosticArray) -> None:
        vertebrae = {e.level: e.T_camera_ct for e in result.levels if e.status is Status.TRACKED}
        self._registered = Registered(result.stamp_ns, status.header.frame_id, vertebrae)

    def _on_unreadable(self, why: str, status: DiagnosticArray) -> None:
        self._registered = None
        self.get_logger().warn(f"a result cannot be read: {why}", throttle_duration_sec=10.0)

    def _vertebrae_for(self, raw: RawPair) -> dict[str, np.ndarray] | None:
        known, frames = self._registered, self._frames
        if known is None or not known.vertebrae:
            return None
        if abs(raw.stamp_ns - known.stamp_ns) > self.config.pose_age_ms * 1e6:
            return None
        T_left_camera = frames.lookup(raw.frame_id, known.frame_id)
        if isinstance(T_left_camera, Rejected):
            self.unnamed = f"registered vertebrae name no screws: {T_left_camera.reason}"
            return None
        self.unnamed = ""
        return {level: T_left_camera @ T for level, T in known.vertebrae.items()}

    # One pair: decode and core call in the worker, encode and publish on the executor's thread.

    def work(self, raw: RawPair) -> _Output:
        start = time.monotonic()
        if raw.epoch != self._epoch:  # the camera's clock was set back: tracks have old times
            self._epoch = raw.epoch
            self._begin_anew("the camera's clock was set back")
        vertebrae = self._vertebrae_for(raw)
        tried = self._tracker.tried(lambda: raw.decode(self._rigs), vertebrae)
        result, timings = tried.result, {}
        implants = implants_of(result, raw.stamp_ns)
        if isinstance(result, Rejected):
            self.counts["refused"] += 1
        else:
            timings = result.timings_ms
        entry = self._journal.pair(raw, vertebrae, implants.reason, tried.fault, implants.events)
        if tried.fault:
            self.counts["faults"] += 1
            self._begin_anew("a fault in the tracker")
        work_ms = (time.monotonic() - start) * 1e3
        return _Output(raw, implants, timings, work_ms, implants.reason, entry)

    def _begin_anew(self, why: str) -> None:
        self._tracker.reset()
        self._journal.reset(why)

    def done(self, output: _Output) -> None:
        if self.paused or not self.active:
            shown = "paused" if self.paused else "not active"
            self._journal.settle(output.entry, shown, published=False)
            return
        self.counts["processed"] += 1
        implants, self.frame_id = output.implants, output.raw.frame_id
        self.trouble = output.trouble
        self.withdrawn = self.note(implants.stamp_ns, output.raw.arrived)
        if self.withdrawn:
            implants = Implants(implants.stamp_ns, reason=self.withdrawn)
        self._journal.settle(output.entry, self.withdrawn)
        if self.trouble:
            self.get_logger().warn(self.trouble, throttle_duration_sec=1.0)
        if self.unnamed:
            self.get_logger().warn(self.unnamed, throttle_duration_sec=10.0)
        self._last = implants
        self._output.publish(implants, self.frame_id)
        stages = self.stages(output.timings_ms, output.work_ms, output.raw.arrived)
        self._output.publish_stages(implants.stamp_ns, self.frame_id, stages)

    # Silence: what was shown is withdrawn, with the reason.

    @property
    def timeout_ms(self) -> float:
        return self.config.frame_timeout_ms

    def silence(self) -> str:
        return self.trouble or self.pairer.missing() or "no stereo pairs"

    def withdraw(self, reason: str) -> None:
        self.withdrawn = reason
        if self._last is None:
            return
        shown = bool(self._last.screws or self._last.rods)
        self._last = Implants(self._last.stamp_ns, reason=reason)
        self._output.publish(self._last, self.frame_id)
        if shown:
            self.counts["withdrawn"] += 1
            self.get_logger().warn(f"screws withdrawn: {reason}")

    # Services.

    def on_pause(self, request: SetBool.Request, answer: SetBool.Response) -> SetBool.Response:
        self._journal.asked("pause" if request.data else "resume")
        return super().on_pause(request, answer)

    def _on_reset(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        self._journal.asked("reset")
        return self.ask(answer, self._reset)

    def _reset(self) -> str:
        self._begin_anew("as was asked for")
        return "all tracks are forgotten"

    @property
    def ready(self) -> bool:
        """Whether a camera may begin: what it sends will be heard and its results noted."""
        return self.listened_to

    @property
    def listened_to(self) -> bool:
        """Whether somebody is matched to every topic that a record of the run needs."""
        return self.active and self._output.listened_to

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        values = {**self.counts, "provider": self.provider}
        if self.active:
            values |= {**self.pairer.counts(), "model_sha256": self.model_sha256}
            values |= self.clock_values()
            values |= self.stage_times.health({})
        if self.unnamed:
            values["levels"] = self.unnamed
        if (ailing := self.ailing(values)) is not None:
            return ailing
        if self._last is None and not self.pairer.heard:
            return OK, "no stereo camera yet", values  # the graph serves RGB-D cameras too
        if self._last is None:
            return WARN, self.pairer.missing() or "no stereo pairs yet", values
        values |= {"heads": len(self._last.screws), "rods": len(self._last.rods)}
        return (WARN, self.trouble, values) if self.trouble else (OK, "running", values)


def main() -> int:
    """`ros2 run stereo_screw_tracker stereo_tracker`."""
    return run_node(StereoTrackerNode)


if __name__ == "__main__":
    sys.exit(main())
