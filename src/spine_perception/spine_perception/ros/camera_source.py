# SPDX-License-Identifier: Apache-2.0
"""The camera node: a virtual operation, a recording or a RealSense on realsense-ros' topics, and
the stereo pairs of a recording on image_pipeline's.

A thread fetches frames and keeps the pace; the executor's thread publishes them. A recording whose
player dies goes on where it would be by then, as a camera would.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image, TimeReference

from spine_nav_common import guardian
from spine_nav_common.core.types import Rejected, RgbdFrame, StereoFrame
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import (
    camera_info_message,
    image_message,
    stamp_from_ns,
    transform_message,
)
from spine_nav_common.ros.executor import call_soon
from spine_nav_common.ros.lifecycle import ERROR, OK, WARN, SpineNode, StampAge
from spine_nav_common.ros.runtime import run_node, tf_message_type
from spine_perception.sources import FrameSource

from .camera_config import CameraSourceConfig, make_source

_Frame = RgbdFrame | StereoFrame
# (image, camera_info) under the camera's prefix
_RGBD = (
    ("color/image_raw", "color/camera_info"),
    ("aligned_depth_to_color/image_raw", "aligned_depth_to_color/camera_info"),
)
_STEREO = tuple((f"{eye}/image_rect", f"{eye}/camera_info") for eye in ("left", "right"))
T_LINK_OPTICAL = np.array(
    [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
)
"""A camera's body (x ahead, y left, z up) to its optical frame (z ahead, x right, y down)."""
_CLOCK_S = 0.02
_SLIP_S = 0.1
_GIVE_UP_S = 0.5  # a player that falls behind by this much more while it catches up never will
_LEFT = "played"  # name of what is left to the process after this one
_WENT_ON = (
    "the player died, and went on where the recording was by then; what it missed is not sent"
)
_LAST_MS = 1000.0  # the last frame's result comes within this time


class CameraSource(SpineNode):
    """Publishes images and camera_infos of what its source gives. Tests hand in another `maker`."""

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
        self.slipped_s = 0.0  # by how much the pace has fallen behind in all
        self._announced: tuple[float, int] | None = None
        self._known: tuple[tuple[float, int] | None, int | None] | None = (
            None  # to the next process
        )
        self.sent_ns: dict[str, int] = {}  # stamp of the newest frame per scene
        self._stop = threading.Event()

    def configure(self) -> None:
        self.source = self._maker(self.config)
        self.tell(getattr(self.source, "notes", ()))
        self._streams = {
            scene: tuple(
                (
                    self.advertise(Image, f"{prefix}/{image}", qos.SENSOR_OUT),
                    self.advertise(CameraInfo, f"{prefix}/{info}", qos.SENSOR_OUT),
                )
                for image, info in topics
            )
            for scene, prefix, topics in (
                ("rgbd", self.config.camera, _RGBD),
                ("stereo", self.config.stereo_camera, _STEREO),
            )
            if scene in self.source.scenes
        }
        self._place_frames()
        self._reference = self.advertise(TimeReference, topics.CAMERA_CLOCK, qos.LATCHED)
        # With use_sim_time somebody must say what time it is: who has the stamps.
        clock = self.config.publish_clock or self.get_parameter("use_sim_time").value
        self._sim_clock = self.advertise(Clock, "/clock", qos.POSE) if clock else None

    def _place_frames(self) -> None:
        """The frames that the source knows, and a camera_link over an optical frame that has none."""
        tf = tf_message_type()
        if tf is None:
            return
        fixed = getattr(self.source, "static_transforms", ())
        transforms = [transform_message(t.T_parent_child, 0, t.parent, t.child) for t in fixed]
        optical = self.config.frame_id
        # Where the body of a real camera lies is for its description to say.
        unreal = self.config.source in ("virtual", "replay") and "rgbd" in self.source.scenes
        if unreal and optical not in {t.child for t in fixed}:
            link = f"{optical.removesuffix('_color_optical_frame')}_link"
            transforms.append(transform_message(T_LINK_OPTICAL, 0, link, optical))
        if transforms:
            self._tf_static = self.advertise(tf, "/tf_static", qos.TF_STATIC)
            self._tf_static.publish(tf(transforms=transforms))  # latched: for all who come

    def activate(self) -> None:
        self._stop.clear()
        self.finished, self.failure, self._gap = False, "", ""
        self._queue: deque[_Frame | Rejected | None] = deque()
        if self._sim_clock is not None:
            self.every(_CLOCK_S, self._tick)
        self._thread = threading.Thread(target=self._pump, name="camera_source", daemon=True)
        self._thread.start()

    def deactivate(self) -> None:
        self._stop.set()
        self.source.close()
        self._thread.join(5.0)
        guardian.leave(_LEFT, None)  # it did not die: what comes next begins anew
        self._known = None

    def cleanup(self) -> None:
        self.source = None

    # In the thread: fetch, wait for the time of each frame, hand over.

    def _pump(self) -> None:
        try:
            if not self._wait_for_listener():
                return
            behind, least = self._go_on(), math.inf
            for frame in self.source.frames():
                if behind:
                    late = time.monotonic() - self.due(frame.stamp_ns)
                    least = min(least, late)
                    if _SLIP_S < late < least + _GIVE_UP_S:
                        continue  # its time passed while the recording was opened
                behind = False
                if not self._wait_until_due(frame):
                    return
                self._hand_over(frame)
        except Exception as error:  # noqa: BLE001 - told to the health topic and to `spinenav live`
            self.failure = " ".join(str(error).split()) or repr(error)
        self._hand_over(None)

    def _go_on(self) -> bool:
        """Take up a recording where the player that died would be by now; whether there was one."""
        played = guardian.left().get(_LEFT)
        if played is None or played["of"] != self._played_of():
            return False
        start, first_ns = self.epoch = (float(played["epoch"][0]), int(played["epoch"][1]))
        now_ns = first_ns + round((time.monotonic() - start) * self.config.rate * 1e9)
        self.source.go_on(first_ns, now_ns, int(played["lap_ns"]))
        self.notes += (_WENT_ON,)
        self.get_logger().warn(_WENT_ON)
        return True

    def _played_of(self) -> str:
        return f"{self.config.recording} at {self.config.rate!r}"

    def _leave(self) -> None:
        """How far it is, for the process after this one."""
        now = (self.epoch, getattr(self.source, "lap_ns", None))
        if now == self._known or now[1] is None:
            return
        self._known = now
        said = {"of": self._played_of(), "epoch": self.epoch, "lap_ns": now[1]}
        guardian.leave(_LEFT, said)

    def _hand_over(self, item: _Frame | Rejected | None) -> None:
        self._queue.append(item)
        if not self._stop.is_set():
            call_soon(self, self._publish_due)

    def _wait_until_due(self, frame: _Frame | Rejected) -> bool:
        if isinstance(frame, Rejected):
            return not self._stop.is_set()
        now = time.monotonic()
        self.epoch = self.epoch or (now, frame.stamp_ns)
        if self.source.real_time:
            return not self._stop.is_set()
        late = now - self.due(frame.stamp_ns)
        if late > _SLIP_S:  # read or rendered too slowly: the pace slips, the images are not old
            self.slipped_s += late
            self.epoch = (self.epoch[0] + late, self.epoch[1])
        self._leave()
        return not self._stop.wait(max(0.0, self.due(frame.stamp_ns) - time.monotonic()))

    def _wait_for_listener(self) -> bool:
        publishers = [p for stream in self._streams.values() for pair in stream for p in pair]
        if "rgbd" in self._streams:
            publishers.remove(self._streams["rgbd"][1][1])  # nobody needs the depth's camera_info
        needed = dict.fromkeys(publishers, 1)
        if "rgbd" in self._streams:
            needed[self._streams["rgbd"][0][1]] = self.config.listeners
        wait = self.config.wait_for_subscriber and not self.source.real_time
        while wait and not self._stop.is_set():
            if all(p.get_subscription_count() >= least for p, least in needed.items()):
                break
            self._stop.wait(0.02)
        return not self._stop.is_set()

    @property
    def source_is_live(self) -> bool:
        """Whether stamps are of the system clock and frames come when they come."""
        return self.source is None or self.source.real_time

    def facts(self) -> dict[str, Any]:
        return {
            **super().facts(),
            "finished": self.finished,
            "failure": self.failure,
            "cut_off": self.cut_off,
            "live": self.source_is_live,
            "sent_ns": self.sent_ns,
            "frames": self.frames_sent,
            "epoch": self.epoch,
        }

    @property
    def frames_sent(self) -> int:
        """Frames and pairs that were published."""
        return self.ages.count

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

    def _publish(self, frame: _Frame) -> None:
        self._gap = ""
        self.ages.note(frame.stamp_ns)
        self._announce()
        if self._sim_clock is not None:
            self._sim_clock.publish(Clock(clock=stamp_from_ns(frame.stamp_ns)))
        if isinstance(frame, StereoFrame):
            self._publish_stereo(frame)
        else:
            self._publish_rgbd(frame)

    def _announce(self) -> None:
        """How the clock of what is played runs against the system's, whenever that changes."""
        if self.source.real_time or self.epoch == self._announced:
            return
        self._announced = start, first_ns = self.epoch
        system_ns = time.time_ns() - round((time.monotonic() - start) * 1e9)
        message = TimeReference(time_ref=stamp_from_ns(first_ns))
        message.header.stamp = stamp_from_ns(system_ns)
        message.source = f"{self.config.source} at {self.config.rate!r}"
        self._reference.publish(message)
        self._beat()  # whoever measures delays needs the epoch before the first result

    def _publish_rgbd(self, frame: RgbdFrame) -> None:
        frame_id, stamp_ns = frame.frame_id or self.config.frame_id, frame.stamp_ns
        self.sent_ns["rgbd"] = stamp_ns
        colour, depth = self._streams["rgbd"]
        info = camera_info_message(frame.intrinsics, stamp_ns, frame_id)
        colour[1].publish(info)
        depth[1].publish(info)
        colour[0].publish(image_message(frame.colour, "rgb8", stamp_ns, frame_id))
        # Metres: what the core sees is then bit for bit what `spinenav replay` sees.
        depth[0].publish(image_message(frame.depth_m, "32FC1", stamp_ns, frame_id))

    def _publish_stereo(self, frame: StereoFrame) -> None:
        stamp_ns, frame_id = frame.stamp_ns, frame.frame_id
        self.sent_ns["stereo"] = stamp_ns
        eyes = ((frame.left, 0.0), (frame.right, frame.baseline_m))
        for (images, infos), (image, baseline_m) in zip(self._streams["stereo"], eyes, strict=True):
            encoding = "mono8" if image.ndim == 2 else "rgb8"
            infos.publish(camera_info_message(frame.intrinsics, stamp_ns, frame_id, baseline_m))
            images.publish(image_message(image, encoding, stamp_ns, frame_id))

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
        if domain := getattr(self.source, "clock_domain", ""):
            values["clock_domain"] = domain
        for reason, count in getattr(self.source, "counts", {}).items():
            values[f"left_out_{reason}"] = count
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
