# SPDX-License-Identifier: Apache-2.0
"""The navigation node: RGB-D in, registered vertebrae out. Segmentation and registration share one
process because they share pixels; a worker thread computes, the executor thread publishes."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from geometry_msgs.msg import PoseArray, PoseWithCovarianceStamped
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from spine_nav_common.core.types import Case, LevelEstimate, NavigationResult, Status
from spine_nav_common.parameters import param
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import header, image_message, transform_message
from spine_nav_common.ros.frames import FramePairer, RawFrame
from spine_nav_common.ros.lifecycle import ERROR, OK, WARN, SpineNode, StampAge
from spine_nav_common.ros.mailbox import NewestWins
from spine_nav_common.ros.results import key_values, result_messages
from spine_nav_common.ros.runtime import run_node, tf_message_type
from std_srvs.srv import SetBool, Trigger

from spine_registration.core.config import NavigatorConfig

_WATCH_S = 0.05
_BUSY_S = 1.0


@dataclass(frozen=True)
class NavigationConfig:
    """Parameters of the navigation node."""

    case: str = param("", "folder of the case")
    model: str = param("", "ONNX network; empty = the one that is shipped")
    colour_topic: str = param(topics.COLOUR, "colour image; CompressedImage where it ends in /compressed")
    depth_topic: str = param(topics.DEPTH, "depth image on the colour image's pixel grid")
    info_topic: str = param(topics.COLOUR_INFO, "camera_info of the colour image")
    frame_timeout_ms: float = param(
        500.0, "without a result for this long, guidance is withdrawn", "ms", 50.0, 10000.0
    )
    max_stamp_age_ms: float = param(
        0.0, "a result older than this is withdrawn; 0 = unchecked (stamps of another clock)",
        "ms", 0.0, 60000.0,
    )
    publish_tf: bool = param(True, "publish /tf from the camera to each tracked vertebra")
    navigator: NavigatorConfig = NavigatorConfig()


@dataclass(frozen=True)
class Core:
    """What the node drives: the case, the core Navigator, and what computes (for diagnostics)."""

    case: Case
    navigator: Any
    provider: str = ""
    model_sha256: str = ""


def load_core(config: NavigationConfig) -> Core:
    """Load case and network and warm up. Raises with file, field and remedy."""
    from spine_nav_common.core.case import load_case
    from spine_perception.core.segmenter import Segmenter, shipped_model

    from spine_registration.core.navigator import Navigator

    case = load_case(config.case)
    segmenter = Segmenter.load(config.model or shipped_model())
    segmenter.warm_up()
    navigator = Navigator(case, segmenter, config.navigator)
    return Core(case, navigator, segmenter.provider, segmenter.model_sha256)


class NavigationNode(SpineNode):
    """See contracts.md, section 6. Tests hand in another `loader`."""

    config_type = NavigationConfig

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        loader: Callable[[NavigationConfig], Core] = load_core,
    ) -> None:
        super().__init__("navigation", values, namespace)
        self._loader = loader
        self._lock = threading.Lock()
        self._worker: NewestWins | None = None
        self.counts: Counter[str] = Counter()

    def configure(self) -> None:
        self.core = self._loader(self.config)
        self._paused = False
        self._results, self._last = StampAge(), None
        self._frame_id = self._withdrawn = self._trouble = ""
        self._status = self.advertise(DiagnosticArray, topics.STATUS, qos.RESULT)
        self._array = self.advertise(PoseArray, topics.VERTEBRA_POSES, qos.RESULT)
        self._latency = self.advertise(DiagnosticArray, topics.LATENCY, qos.RESULT)
        self._labels = self.advertise(Image, topics.LABELS, qos.SENSOR_OUT)
        self._poses = {
            level: self.advertise(PoseWithCovarianceStamped, topics.pose_topic(level), qos.POSE)
            for level in self.core.case.exposed_levels
        }
        self._tf_type = tf_message_type() if self.config.publish_tf else None
        self._tf = self.advertise(self._tf_type, "/tf", qos.RESULT) if self._tf_type else None
        self.serve(Trigger, "register", self._on_register)
        self.serve(SetBool, "confirm_level", self._on_confirm)
        self.serve(SetBool, "pause", self._on_pause)

    def activate(self) -> None:
        self._worker = NewestWins(self, self._process, self._on_result, "navigation")
        self.pairer = FramePairer(self._on_frame)
        c, compressed = self.config, self.config.colour_topic.endswith("/compressed")
        colour = CompressedImage if compressed else Image
        self.listen(colour, c.colour_topic, self.pairer.colour, qos.SENSOR_IN)
        self.listen(Image, c.depth_topic, self.pairer.depth, qos.SENSOR_IN)
        self.listen(CameraInfo, c.info_topic, self.pairer.info, qos.SENSOR_IN)
        self.every(_WATCH_S, self._on_watch)

    def deactivate(self) -> None:
        self._withdraw("navigation is not active")
        self._worker.close()
        self._worker = None

    def cleanup(self) -> None:
        self.core = None

    # One frame: decode and core call in the worker, encode and publish on the executor's thread.

    def _on_frame(self, frame: RawFrame) -> None:
        self.counts["received"] += 1
        if self._paused:
            self.counts["paused"] += 1
        elif self._worker.put(frame) is not None:
            self.counts["dropped"] += 1

    def _process(self, raw: RawFrame) -> tuple[RawFrame, NavigationResult, str | None, float]:
        start = time.monotonic()
        frame = raw.decode()
        with self._lock:
            result = self.core.navigator.process(frame)
            pending = self.core.navigator.pending
        return raw, result, pending, (time.monotonic() - start) * 1e3

    def _on_result(self, output: Any) -> None:
        if isinstance(output, Exception):
            self.counts["refused"] += 1
            self._trouble = f"frame refused: {' '.join(str(output).split())}"
            self.get_logger().warn(self._trouble, throttle_duration_sec=1.0)
            return
        if self._paused or not self.active:
            return
        raw, result, hypothesis, work_ms = output
        self.counts["processed"] += 1
        self._trouble = self._withdrawn = ""
        self._frame_id = raw.frame_id
        self._results.note(result.stamp_ns)
        stamp_age_ms = self._results.age_ms(self.now_ns())
        if 0 < self.config.max_stamp_age_ms < stamp_age_ms:
            self._withdrawn = f"the image was {stamp_age_ms:.0f} ms old"
            result = withdrawn(result, self._withdrawn)
        self._last = result
        self._publish(result, hypothesis)
        stages = {
            **result.timings_ms,
            "work": work_ms,
            "arrival_to_publish": (time.monotonic() - raw.arrived) * 1e3,
            "stamp_to_publish": self._results.age_ms(self.now_ns()),
        }
        self._publish_latency(result.stamp_ns, stages)

    def _publish(self, result: NavigationResult, hypothesis: str | None) -> None:
        messages = result_messages(result, self._frame_id, hypothesis)
        for level, pose in messages.poses.items():
            self._poses[level].publish(pose)
        if self._tf is not None and messages.poses:
            tracked = (e for e in result.levels if e.status is Status.TRACKED)
            frames = [
                transform_message(
                    e.T_camera_ct, result.stamp_ns, self._frame_id, f"vertebra_{e.level}"
                )
                for e in tracked
            ]
            self._tf.publish(self._tf_type(transforms=frames))
        self._array.publish(messages.vertebra_poses)
        self._status.publish(messages.status)  # last: subscribers join the others to it
        if result.labels is not None and self._labels.get_subscription_count():
            labels = image_message(result.labels, "mono8", result.stamp_ns, self._frame_id)
            self._labels.publish(labels)

    def _publish_latency(self, stamp_ns: int, stages_ms: Mapping[str, float]) -> None:
        values = {stage: f"{ms:.3f}" for stage, ms in stages_ms.items()}
        status = DiagnosticStatus(
            level=OK, name="navigation: stages in ms", values=key_values(values)
        )
        top = header(stamp_ns, self._frame_id)
        self._latency.publish(DiagnosticArray(header=top, status=[status]))

    # Silence: what was shown is withdrawn, with the reason, by the monotonic clock.

    def _on_watch(self) -> None:
        silent_ms = self._results.silent_ms()
        if self._last is None or self._withdrawn or silent_ms <= self.config.frame_timeout_ms:
            return
        cause = self._trouble or self.pairer.missing() or "no camera frames"
        self._withdraw(f"{cause} for {silent_ms:.0f} ms")

    def _withdraw(self, reason: str) -> None:
        self._withdrawn = reason
        if self._last is None:
            return
        self.counts["withdrawn"] += 1
        self._last = withdrawn(self._last, reason)
        self._publish(self._last, None)
        self.get_logger().warn(f"guidance withdrawn: {reason}")

    # Services. The lock waits for the frame in work, so that the answer is true when it is given.

    def _on_register(self, _: Trigger.Request, answer: Trigger.Response) -> Trigger.Response:
        return self._ask(answer, lambda n: n.request_registration() or "registration requested")

    def _on_confirm(self, request: SetBool.Request, answer: SetBool.Response) -> SetBool.Response:
        if self.core.navigator.pending is None:
            answer.success, answer.message = False, "no hypothesis waits for a confirmation"
            return answer
        return self._ask(answer, lambda n: n.confirm(request.data))

    def _on_pause(self, request: SetBool.Request, answer: SetBool.Response) -> SetBool.Response:
        self._paused = request.data
        if self._paused and self.active:
            self._withdraw("paused by the user")
        answer.success, answer.message = True, "paused" if self._paused else "running"
        return answer

    def _ask(self, answer: Any, question: Callable[[Any], str]) -> Any:
        if not self._lock.acquire(timeout=_BUSY_S):
            answer.success, answer.message = False, f"busy for {_BUSY_S:g} s; ask again"
            return answer
        try:
            answer.message, answer.success = question(self.core.navigator), True
        finally:
            self._lock.release()
        return answer

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        values = {**self.counts, "provider": self.core.provider if self.core else ""}
        if not self.active:
            return OK, "not active", values
        values |= {**self.pairer.counts, "model_sha256": self.core.model_sha256}
        values["tf"] = "published" if self._tf is not None else "no tf2_msgs: /tf is not published"
        if self._paused:
            return WARN, "paused by the user", values
        if self._withdrawn:
            return ERROR, f"guidance withdrawn: {self._withdrawn}", values
        if self._last is None:
            return WARN, self._trouble or self.pairer.missing() or "no camera frames yet", values
        return (WARN, self._trouble, values) if self._trouble else (OK, "running", values)


def withdrawn(result: NavigationResult, reason: str) -> NavigationResult:
    """The same stamp with nothing shown: every level without pose. `rejected` stays rejected."""
    keep = (Status.REJECTED, Status.SEARCHING)
    levels = tuple(
        LevelEstimate(e.level, e.status if e.status in keep else Status.LOST, reason=reason)
        for e in result.levels
    )
    return NavigationResult(result.stamp_ns, levels, events=(f"withdrawn: {reason}",))


def main() -> int:
    """`ros2 run spine_registration navigation`."""
    return run_node(NavigationNode)


if __name__ == "__main__":
    sys.exit(main())
