# SPDX-License-Identifier: Apache-2.0
"""The camera node: a virtual operation, a recording or a RealSense on realsense-ros' topics.

A thread fetches frames and keeps the pace; the executor's thread publishes them.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

from spine_nav_common.core.types import Rejected, RgbdFrame
from spine_nav_common.ros import qos
from spine_nav_common.ros.conversions import camera_info_message, image_message, stamp_from_ns
from spine_nav_common.ros.lifecycle import ERROR, OK, WARN, SpineNode, StampAge
from spine_nav_common.ros.runtime import run_node
from spine_perception.sources import FrameSource

from .camera_config import CameraSourceConfig, make_source

_CLOCK_S = 0.02
_LAST_MS = 1000.0  # the last frame's result comes within this time


class CameraSource(SpineNode):
    """Publishes colour, aligned depth and both camera_infos. Tests hand in another `maker`."""

    config_type = CameraSourceConfig

    def __init__(
        self,
        values: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        maker: Callable[[CameraSourceConfig], FrameSource] = make_source,
    ) -> None:
        super().__init__("camera_source", values, namespace)
        self._maker = maker
        self.source: FrameSource | None = None
        self.finished = False  # the source came to its end; nothing will follow
        self.failure = ""  # why it ended, if not as it should
        self.epoch: tuple[float, int] | None = None  # (monotonic s, stamp ns) of the first frame
        self.ages = StampAge()
        self.gate: Callable[[], bool] = lambda: True  # a further condition for the first frame
        self._stop = threading.Event()

    def configure(self) -> None:
        self.source = self._maker(self.config)
        prefix = self.config.camera
        self._colour, self._depth = (
            (
                self.advertise(Image, f"{prefix}/{stream}/image_raw", qos.SENSOR_OUT),
                self.advertise(CameraInfo, f"{prefix}/{stream}/camera_info", qos.SENSOR_OUT),
            )
            for stream in ("color", "aligned_depth_to_color")
        )
        clock = self.config.publish_clock
        self._sim_clock = self.advertise(Clock, "/clock", qos.POSE) if clock else None

    def activate(self) -> None:
        self._stop.clear()
        self.finished, self.failure, self._gap = False, "", ""
        self._queue: deque[RgbdFrame | Rejected | None] = deque()
        self._guard = self.create_guard_condition(self._publish_due)
        self._activated.append(lambda: self.destroy_guard_condition(self._guard))
        if self._sim_clock is not None:
            self.every(_CLOCK_S, self._tick)
        self._thread = threading.Thread(target=self._pump, name="camera_source", daemon=True)
        self._thread.start()

    def deactivate(self) -> None:
        self._stop.set()
        self.source.close()
        self._thread.join(5.0)

    def cleanup(self) -> None:
        self.source = None

    # In the thread: fetch, wait for the time of each frame, hand over.

    def _pump(self) -> None:
        try:
            if not self._wait_for_listener():
                return
            for frame in self.source.frames():
                if not self._wait_until_due(frame):
                    return
                self._hand_over(frame)
        except Exception as error:  # noqa: BLE001 - told to the health topic and to `spinenav live`
            self.failure = " ".join(str(error).split()) or repr(error)
        self._hand_over(None)

    def _hand_over(self, item: RgbdFrame | Rejected | None) -> None:
        self._queue.append(item)
        if not self._stop.is_set():
            self._guard.trigger()

    def _wait_until_due(self, frame: RgbdFrame | Rejected) -> bool:
        if isinstance(frame, Rejected):
            return not self._stop.is_set()
        self.epoch = self.epoch or (time.monotonic(), frame.stamp_ns)
        if self.source.real_time:
            return not self._stop.is_set()
        return not self._stop.wait(max(0.0, self.due(frame.stamp_ns) - time.monotonic()))

    def _wait_for_listener(self) -> bool:
        publishers = (self._colour[0], self._depth[0], self._colour[1])
        wait = self.config.wait_for_subscriber and self.config.source != "realsense"
        while wait and not self._stop.is_set():
            if all(p.get_subscription_count() for p in publishers) and self.gate():
                break
            self._stop.wait(0.02)
        return not self._stop.is_set()

    @property
    def source_is_live(self) -> bool:
        """Whether stamps are of the system clock and frames come when they come."""
        return self.source is None or self.source.real_time

    @property
    def cut_off(self) -> str:
        """Why the recording ended early; empty if it did not."""
        return getattr(self.source, "truncated", None) or ""

    def due(self, stamp_ns: int) -> float:
        """Monotonic time in s at which a frame of the recording is due."""
        start, first_ns = self.epoch
        return start + (stamp_ns - first_ns) * 1e-9 / self.config.rate

    # On the executor's thread: publish.

    def _publish_due(self) -> None:
        while self._queue:
            item = self._queue.popleft()
            if item is None:
                self.finished = True
                if self.failure:
                    self.get_logger().error(self.failure)
            elif isinstance(item, Rejected):
                self._gap = item.reason
                self.get_logger().error(item.reason, throttle_duration_sec=5.0)
            else:
                self._publish(item)

    def _publish(self, frame: RgbdFrame) -> None:
        self._gap = ""
        self.ages.note(frame.stamp_ns)
        frame_id = frame.frame_id or self.config.frame_id
        stamp_ns = frame.stamp_ns
        if self._sim_clock is not None:
            self._sim_clock.publish(Clock(clock=stamp_from_ns(stamp_ns)))
        info = camera_info_message(frame.intrinsics, stamp_ns, frame_id)
        self._colour[1].publish(info)
        self._depth[1].publish(info)
        self._colour[0].publish(image_message(frame.colour, "rgb8", stamp_ns, frame_id))
        # Metres: what the core sees is then bit for bit what `spinenav replay` sees.
        self._depth[0].publish(image_message(frame.depth_m, "32FC1", stamp_ns, frame_id))

    def _tick(self) -> None:
        if self.epoch is None or self.finished:
            return
        start, first_ns = self.epoch
        now_ns = first_ns + round((time.monotonic() - start) * self.config.rate * 1e9)
        self._sim_clock.publish(Clock(clock=stamp_from_ns(now_ns)))

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        values = {"source": self.config.source, "frames": self.ages.count}
        if self.failure:
            return ERROR, self.failure, values
        if not self.active:
            return OK, "not active", values
        if self._gap:
            return ERROR, self._gap, values
        if self.finished:
            return WARN, "end of the recording", values
        if not self.ages.count:
            return WARN, "waiting for subscribers or the camera", values
        values["silent_ms"] = round(self.ages.silent_ms())
        return OK, "running", values


def main() -> int:
    """`ros2 run spine_perception camera_source`."""
    return run_node(CameraSource, exit_code=_exit_code)


def _exit_code(node: CameraSource) -> int | None:
    if not (node.finished and node.config.exit_at_end) or node.ages.silent_ms() < _LAST_MS:
        return None
    return 1 if node.failure or node.cut_off else 0


if __name__ == "__main__":
    sys.exit(main())
