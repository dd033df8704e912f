# SPDX-License-Identifier: Apache-2.0
"""The navigation node: RGB-D in, registered vertebrae out. Segmentation and registration share one
process because they share pixels; a worker thread computes, the executor thread publishes."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from sensor_msgs.msg import CameraInfo
from std_srvs.srv import SetBool, Trigger

from spine_nav_common.core.rectify import RgbdRectifier
from spine_nav_common.core.types import NavigationResult
from spine_nav_common.ros import qos
from spine_nav_common.ros.frames import FramePairer, RawFrame, image_type
from spine_nav_common.ros.lifecycle import ERROR, OK, WARN, SpineNode, StampAge
from spine_nav_common.ros.mailbox import NewestWins
from spine_nav_common.ros.runtime import run_node

from .navigation_core import Core, NavigationConfig, load_core, refused, withdrawn
from .navigation_output import NavigationOutput

_WATCH_S = 0.05
_BUSY_S = 1.0


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
        self.provider = self.model_sha256 = ""
        self.received_ns = -1  # stamp of the newest frame that came

    def configure(self) -> None:
        self.core = self._loader(self.config)
        self.provider, self.model_sha256 = self.core.provider, self.core.model_sha256
        self._paused = False
        self._results, self._last = StampAge(), None
        self._frame_id = self._withdrawn = self._trouble = ""
        self._rectify = RgbdRectifier()
        levels = self.core.case.exposed_levels
        self.tell(self.core.case.notes)
        self._output = NavigationOutput(self.advertise, levels, self.config.publish_tf)
        self.serve(Trigger, "register", self._on_register)
        self.serve(SetBool, "confirm_level", self._on_confirm)
        self.serve(SetBool, "pause", self._on_pause)

    def activate(self) -> None:
        self._worker = NewestWins(self, self._process, self._on_result, "navigation")
        self.pairer = FramePairer(self._on_frame)
        c = self.config
        self.listen(CameraInfo, c.info_topic, self.pairer.info, qos.SENSOR_IN)
        for topic, callback in (
            (c.colour_topic, self.pairer.colour),
            (c.depth_topic, self.pairer.depth),
        ):
            self.listen(image_type(topic), topic, callback, qos.SENSOR_IN)
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
        self.received_ns = frame.stamp_ns
        if self._paused:
            self.counts["paused"] += 1
        elif self._worker.put(frame) is not None:
            self.counts["dropped"] += 1

    def _process(self, raw: RawFrame) -> tuple[RawFrame, NavigationResult, str | None, float]:
        start = time.monotonic()
        navigator, pending = self.core.navigator, None
        with self._lock:
            try:
                frame = raw.decode(self._rectify)
                result = navigator.process(frame)
                if self._output.labels_wanted:
                    result = replace(result, labels=navigator.label_image(frame))
                pending = navigator.pending
                self._trouble = ""
            except Exception as error:  # noqa: BLE001 - one bad frame must not end the navigation
                self.counts["refused"] += 1
                self._trouble = f"frame refused: {' '.join(str(error).split())}"
                if not isinstance(error, ValueError):
                    self.counts["faults"] += 1
                    self._trouble = f"fault in the navigation, started anew: {error!r}"
                    navigator.reset()
                result = refused(raw.stamp_ns, self.core.case.exposed_levels, self._trouble)
        return raw, result, pending, (time.monotonic() - start) * 1e3

    def _on_result(self, output: Any) -> None:
        if self._paused or not self.active:
            return
        raw, result, hypothesis, work_ms = output
        self.counts["processed"] += 1
        self._withdrawn, self._frame_id = "", raw.frame_id
        self._results.note(result.stamp_ns)
        stamp_age_ms = self._results.age_ms(self.now_ns())
        if 0 < self.config.max_stamp_age_ms < stamp_age_ms:
            self._withdrawn = f"the image was {stamp_age_ms:.0f} ms old"
            result = withdrawn(result, self._withdrawn)
        if self._trouble:
            self.get_logger().warn(self._trouble, throttle_duration_sec=1.0)
        self._last = result
        self._output.publish(result, self._frame_id, hypothesis)
        stages = {
            **result.timings_ms,
            "work": work_ms,
            "arrival_to_publish": (time.monotonic() - raw.arrived) * 1e3,
            "stamp_to_publish": self._results.age_ms(self.now_ns()),
        }
        self._output.publish_stages(result.stamp_ns, self._frame_id, stages)

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
        shown = any(e.T_camera_ct is not None for e in self._last.levels)
        self._last = withdrawn(self._last, reason)
        self._output.publish(self._last, self._frame_id)
        if shown:
            self.counts["withdrawn"] += 1
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
        """Whether every frame that was taken has been published."""
        return self._worker is None or self._worker.idle

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        values = {**self.counts, "provider": self.provider}
        if not self.active:
            return OK, "not active", values
        if not self.alive:
            return ERROR, "the worker thread died", values
        values |= {**self.pairer.counts(), "model_sha256": self.model_sha256}
        values["tf"] = self._output.tf_state
        if self._paused:
            return WARN, "paused by the user", values
        if self._withdrawn:
            return ERROR, f"guidance withdrawn: {self._withdrawn}", values
        if self._last is None:
            return WARN, self._trouble or self.pairer.missing() or "no camera frames yet", values
        return (WARN, self._trouble, values) if self._trouble else (OK, "running", values)


def main() -> int:
    """`ros2 run spine_registration navigation`."""
    return run_node(NavigationNode)


if __name__ == "__main__":
    sys.exit(main())
