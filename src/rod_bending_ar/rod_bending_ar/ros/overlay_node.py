# SPDX-License-Identifier: Apache-2.0
"""Draws what is known over the camera image, for the screen; works only while somebody looks.

What may stand on the screen is judged by the age of the image that it was computed from, by arrival
and by the frames' own clock. When results come late, or not at all, the camera's image goes on
without guidance. A worker thread draws, so that nothing holds up the timer that wipes.
"""

from __future__ import annotations

import sys
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import cv2
import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, TimeReference
from std_msgs.msg import String

from rod_bending_ar.core.silhouette import prepare
from rod_bending_ar.overlay import draw_overlay
from spine_nav_common.core.case import load_case
from spine_nav_common.core.clock import SIMULATED, SYSTEM
from spine_nav_common.core.images import ImageError, decode_camera_info, decode_colour, decode_depth
from spine_nav_common.core.types import NavigationResult
from spine_nav_common.parameters import param
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import image_message, jpeg_message, stamp_to_ns
from spine_nav_common.ros.frames import image_type
from spine_nav_common.ros.lifecycle import OK, WARN
from spine_nav_common.ros.live_plan import plan_state
from spine_nav_common.ros.results import result_from_messages
from spine_nav_common.ros.runtime import run_node
from spine_nav_common.ros.worker_node import WorkerNode

_LOOK_S = 0.25
_KEPT = 32  # images, however young
_KEPT_DEPTHS = 8
_SAME_NS = 17_000_000  # a depth image this near belongs to the colour image
_SILENT_MS = 1000.0  # the legend names a navigation that says nothing for this long
_BACK = 0.75  # of the age limit: guidance that was wiped for its age comes back below, no flicker
_TIMED = 150  # pictures behind the times in /diagnostics


@dataclass(frozen=True)
class OverlayConfig:
    """Parameters of the overlay node."""

    case: str = param("", "folder of the case")
    colour_topic: str = param(topics.COLOUR, "colour image")
    info_topic: str = param(topics.COLOUR_INFO, "camera_info of the colour image")
    depth_topic: str = param(
        topics.DEPTH, "depth image on the colour image's pixel grid: a hand stays before what it"
        " covers; empty: nothing is covered",
    )  # fmt: skip
    image_reliability: str = param(
        "best_effort", qos.IMAGE_RELIABILITY_DOC, choices=qos.IMAGE_RELIABILITIES
    )
    max_image_age_ms: float = param(
        300.0, "guidance computed from an older image is wiped", "ms", 50.0, 10000.0
    )
    jpeg_quality: int = param(85, "of the compressed overlay", "%", 10, 100)


@dataclass(frozen=True)
class _Held:
    """An image as it arrived, monotonic seconds."""

    message: Image | CompressedImage
    arrived_s: float

    @property
    def stamp_ns(self) -> int:
        return stamp_to_ns(self.message.header.stamp)


@dataclass(frozen=True)
class _Job:
    """A picture to draw: guided with poses of this very image, else words alone. order: wipes so
    far; a picture from before a wipe is never shown."""

    held: _Held
    info: CameraInfo
    guided: bool
    result: NavigationResult | None
    note: str
    order: int
    depth: Image | CompressedImage | None = None

    @property
    def stamp_ns(self) -> int:
        return self.held.stamp_ns


@dataclass(frozen=True)
class _Picture:
    """A job done: picture (H, W, 3) uint8 RGB, and as JPEG where somebody asked; or trouble."""

    job: _Job
    image: np.ndarray | None
    jpeg: bytes | None
    work_ms: float
    trouble: str = ""


class OverlayNode(WorkerNode):
    """Publishes overlay/image and overlay/image/compressed."""

    config_type = OverlayConfig
    yields = True  # on a busy machine pictures become fewer before poses become later

    def __init__(
        self, values: Mapping[str, Any] | None = None, namespace: str | None = None
    ) -> None:
        super().__init__("overlay", values, namespace)

    def configure(self) -> None:
        super().configure()
        self._case = load_case(self.config.case)
        for level in self._case.exposed_levels:
            prepare(self._case.meshes[level])
        self._raw = self.advertise(Image, topics.OVERLAY, qos.SENSOR_OUT)
        self._jpeg = self.advertise(CompressedImage, topics.OVERLAY_COMPRESSED, qos.SENSOR_OUT)
        self._looking: list[Any] = []
        self._order = 0
        self._times: deque[dict[str, float]] = deque(maxlen=_TIMED)
        self._empty()

    def activate(self) -> None:
        super().activate()
        self.listen(TimeReference, topics.CAMERA_CLOCK, self._on_camera_clock, qos.LATCHED)
        self.listen(String, topics.PLAN_STATE, self._on_plan, qos.LATCHED)
        self.every(_LOOK_S, self._on_look)

    def deactivate(self) -> None:
        super().deactivate()
        self._look_away()

    def _empty(self) -> None:
        self._images: OrderedDict[int, _Held] = OrderedDict()
        self._depths: OrderedDict[int, Image | CompressedImage] = OrderedDict()
        self._info: CameraInfo | None = None
        self._status: DiagnosticArray | None = None
        self._poses: PoseArray | None = None
        self._shown: _Held | None = None  # the image under the guidance that is on the screen
        self._bare: NavigationResult | None = None  # the last result, where it shows no level
        self._late_ms: float | None = None  # age of the last result, where it came too late
        self._drawing = False  # a guided picture is on its way: no bare one pushes it aside
        self._share = 1.0  # of the age limit, see _BACK

    def _on_plan(self, message: String) -> None:
        if (state := plan_state(self, message)) is not None:
            self._case = state.of(self._case) or self._case

    # Subscribed only while somebody looks.

    def _watched(self) -> bool:
        return bool(self._raw.get_subscription_count() or self._jpeg.get_subscription_count())

    def _on_look(self) -> None:
        if self._watched() and not self._looking:
            c = self.config
            images = qos.images_in(c.image_reliability)
            self._looking = [
                self.create_subscription(kind, topic, callback, profile)
                for kind, topic, callback, profile in (
                    (image_type(c.colour_topic), c.colour_topic, self._on_image, images),
                    (CameraInfo, c.info_topic, self._on_info, qos.SENSOR_IN),
                    *(
                        [(image_type(c.depth_topic), c.depth_topic, self._on_depth, images)]
                        if c.depth_topic
                        else []
                    ),
                    (PoseArray, topics.VERTEBRA_POSES, self._on_poses, qos.POSE),
                    (DiagnosticArray, topics.STATUS, self._on_status, qos.POSE),
                )
            ]
        elif not self._watched():
            self._look_away()

    def _look_away(self) -> None:
        for subscription in self._looking:
            self.destroy_subscription(subscription)
        self._looking = []
        self._empty()

    # Images, and results of them.

    def _age_ms(self, held: _Held) -> float:
        """By arrival, and by the frames' clock against the image that came last."""
        by_arrival = (time.monotonic() - held.arrived_s) * 1e3
        newest = next(reversed(self._images.values())) if self._images else held
        return max(by_arrival, abs(newest.stamp_ns - held.stamp_ns) / 1e6)

    def _stated_age_ms(self, stamp_ns: int) -> float | None:
        """What stands in the picture; None where the camera's clock does not tell an age."""
        tells = self.clock.announced is not None or self.clock.domain in (SYSTEM, SIMULATED)
        age_ms = self.age_ms(stamp_ns)
        return age_ms if tells and isfinite(age_ms) else None

    def _too_old(self, held: _Held, share: float = 1.0) -> bool:
        return self._age_ms(held) > share * self.config.max_image_age_ms

    def _on_info(self, message: CameraInfo) -> None:
        first, self._info = self._info is None, message
        if first:  # images that came before it wait
            self._join()
            if self._shown is None:
                self._put_bare()

    def _on_image(self, message: Image | CompressedImage) -> None:
        held = _Held(message, time.monotonic())
        self.clock.note(held.stamp_ns, self.now_ns(), held.arrived_s)
        self._images.pop(held.stamp_ns, None)  # a stamp that comes again counts as the newest
        self._images[held.stamp_ns] = held
        while len(self._images) > _KEPT or self._too_old(next(iter(self._images.values()))):
            self._images.popitem(last=False)
        self._join()
        if self._shown is None:
            self._put_bare()

    def _on_depth(self, message: Image | CompressedImage) -> None:
        self._depths[stamp_to_ns(message.header.stamp)] = message
        while len(self._depths) > _KEPT_DEPTHS:
            self._depths.popitem(last=False)

    def _depth_at(self, stamp_ns: int) -> Image | CompressedImage | None:
        """Never waited for: without it the picture is drawn as if nothing covered anything."""
        nearest = min(self._depths, key=lambda s: abs(s - stamp_ns), default=None)
        if nearest is None or abs(nearest - stamp_ns) > _SAME_NS:
            return None
        return self._depths[nearest]

    def _on_poses(self, message: PoseArray) -> None:
        self._poses = message
        self._join()

    def _on_status(self, message: DiagnosticArray) -> None:
        self._status = message
        self.results.note(message.header.stamp)
        self._join()

    def _join(self) -> None:
        """What status and poses of one stamp say: a picture, a wipe, or nothing any more."""
        if self._status is None or self._poses is None:
            return
        stamp_ns = stamp_to_ns(self._status.header.stamp)
        if stamp_to_ns(self._poses.header.stamp) != stamp_ns:
            return
        try:
            result = result_from_messages(self._status, self._poses)
        except (ValueError, KeyError, IndexError) as error:
            self._status = None
            self.trouble = f"a result cannot be read: {error!r}"
            self.withdraw(self.trouble)
            return
        if all(e.T_camera_ct is None for e in result.levels):
            self._status, self._bare, self._late_ms = None, result, None
            self.withdraw("no level is tracked")
            return
        held = self._images.get(stamp_ns)
        if held is None or self._too_old(held, self._share):
            self._tell_late(stamp_ns, held)
            return
        if self._info is None:
            return  # it is still to come
        self._status = self._bare = self._late_ms = None
        self._drawing = True
        self.take(_Job(held, self._info, True, result, "", self._order, self._depth_at(stamp_ns)))

    def _tell_late(self, stamp_ns: int, held: _Held | None) -> None:
        newest_ns = next(reversed(self._images), None)
        if held is None and (newest_ns is None or newest_ns <= stamp_ns):
            return  # its image is still to come
        # What is shown meanwhile is left to the watch, which wipes it in time.
        self._status = self._bare = None
        by_clock_ms = abs(newest_ns - stamp_ns) / 1e6 if newest_ns is not None else 0.0
        self._late_ms = self._age_ms(held) if held is not None else by_clock_ms
        self.counts["late"] += 1

    # Drawing, in the worker thread.

    def work(self, item: _Job) -> _Picture:
        start = time.thread_time()
        try:
            camera = decode_camera_info(item.info).raw_intrinsics()
            colour = decode_colour(item.held.message)
            stamp_ns = item.stamp_ns if item.guided else None
            depth = None if item.depth is None else decode_depth(item.depth)
            if depth is not None and depth.shape != colour.shape[:2]:
                depth = None  # not on the colour's grid
            picture = draw_overlay(
                colour,
                camera,
                self._case,
                item.result,
                depth=depth,
                stamp_ns=stamp_ns,
                note=item.note,
                age_ms=self._stated_age_ms(item.stamp_ns),
            )
            jpeg = None
            if self._jpeg.get_subscription_count():
                quality = [cv2.IMWRITE_JPEG_QUALITY, self.config.jpeg_quality]
                done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), quality)
                jpeg = data.tobytes() if done else None
        except (ImageError, ValueError) as error:
            return _Picture(item, None, None, 0.0, str(error))
        except Exception as error:  # noqa: BLE001 - one bad picture must not end the overlay
            self.counts["faults"] += 1
            return _Picture(item, None, None, 0.0, f"fault in the overlay: {error!r}")
        return _Picture(item, picture, jpeg, (time.thread_time() - start) * 1e3)

    def done(self, output: _Picture) -> None:
        job = output.job
        if job.guided:
            self._drawing = False
        if not self.active or not self._looking:
            return
        if job.guided and (job.order != self._order or self._too_old(job.held)):
            self.counts["outdated"] += 1
            return
        if not job.guided and self._shown is not None:
            return  # guidance came meanwhile
        self._publish(output)
        if job.guided and output.image is not None:
            self._shown, self._share = job.held, 1.0
            self._times.append(
                {
                    "draw": output.work_ms,
                    "arrival_to_picture": (time.monotonic() - job.held.arrived_s) * 1e3,
                    "stamp_to_picture": self.age_ms(job.stamp_ns),
                }
            )

    def _publish(self, output: _Picture) -> None:
        self.trouble = output.trouble
        if output.image is None:
            return
        self.counts["pictures"] += 1
        stamp_ns, frame_id = output.job.stamp_ns, output.job.held.message.header.frame_id
        if self._raw.get_subscription_count():
            self._raw.publish(image_message(output.image, "rgb8", stamp_ns, frame_id))
        if output.jpeg is not None:
            self._jpeg.publish(jpeg_message(output.jpeg, stamp_ns, frame_id))

    # Without guidance.

    def _bare_job(self, reason: str = "") -> _Job | None:
        """The newest image, and words that say why there is no guidance."""
        if not self._images or self._info is None:
            return None
        result, note = self._bare, f"guidance withdrawn: {reason}" if reason else ""
        if self.results.count and self.results.silent_ms() > _SILENT_MS:
            result, note = None, "the navigation is silent"
        elif self._late_ms is not None:
            result, note = None, f"results come {self._late_ms:.0f} ms late, not shown"
        newest = next(reversed(self._images.values()))
        return _Job(newest, self._info, False, result, note, self._order)

    def _put_bare(self) -> None:
        job = None if self._drawing else self._bare_job()
        if job is not None:
            self.take(job)

    def withdraw(self, reason: str) -> None:
        """Wipe at once, on this thread: what the worker still draws is from before."""
        self._order += 1
        shown, self._shown = self._shown, None
        if shown is None:
            return
        self.counts["wiped"] += 1
        job = self._bare_job(reason)
        if job is not None:
            self._publish(self.work(job))

    def _on_watch(self) -> None:
        if self._shown is not None and self._too_old(self._shown):
            self._share = _BACK
            self.withdraw(f"its image is {self._age_ms(self._shown):.0f} ms old")

    def health(self) -> tuple[bytes, str, dict[str, object]]:
        values: dict[str, object] = {**self.counts, "watched": bool(self._looking)}
        for name in self._times[0] if self._times else ():
            median, p99 = np.percentile([t[name] for t in self._times], [50, 99])
            values[f"{name}_ms"] = f"median {median:.0f}, p99 {p99:.0f}"
        if (ailing := self.ailing(values)) is not None:
            return ailing
        return (WARN, self.trouble, values) if self.trouble else (OK, "running", values)


def main() -> int:
    """`ros2 run rod_bending_ar overlay`."""
    return run_node(OverlayNode)


if __name__ == "__main__":
    sys.exit(main())
