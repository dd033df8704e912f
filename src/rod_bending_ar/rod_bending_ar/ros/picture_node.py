# SPDX-License-Identifier: Apache-2.0
"""The base of the nodes that draw what is known over a camera's image, for a screen.

They work only while somebody looks. What may stand on the screen is judged by the age of the image
that it was computed from, by arrival and by the frames' own clock. When results come late, or not
at all, the camera's image goes on without guidance. A worker thread draws, so that nothing holds up
the timer that wipes.
"""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image, TimeReference

from spine_nav_common.core.clock import SIMULATED, SYSTEM
from spine_nav_common.core.images import ImageError
from spine_nav_common.ros import qos, topics
from spine_nav_common.ros.conversions import image_message, jpeg_message, stamp_to_ns
from spine_nav_common.ros.lifecycle import OK, WARN
from spine_nav_common.ros.worker_node import WorkerNode

_LOOK_S = 0.25
_KEPT = 32  # images, however young
_SILENT_MS = 1000.0  # the picture names a source that says nothing for this long
_BACK = 0.75  # of the age limit: guidance that was wiped for its age comes back below, no flicker
_TIMED = 150  # pictures behind the times in /diagnostics


@dataclass(frozen=True)
class Held:
    """An image as it arrived, monotonic seconds."""

    message: Image | CompressedImage
    arrived_s: float

    @property
    def stamp_ns(self) -> int:
        return stamp_to_ns(self.message.header.stamp)


@dataclass(frozen=True)
class Job:
    """A picture to draw: guided with a result of this very image, else words alone. camera: what is
    known of it. order: wipes so far; a picture from before a wipe is never shown. more: what else a
    guided picture is drawn with."""

    held: Held
    camera: Any
    guided: bool
    result: Any
    note: str
    order: int
    more: Any = None

    @property
    def stamp_ns(self) -> int:
        return self.held.stamp_ns


@dataclass(frozen=True)
class Picture:
    """A job done: picture (H, W, 3) uint8 RGB, and as JPEG where somebody asked; or trouble. beside:
    what is published with it, see PictureNode.draw_all."""

    job: Job
    image: np.ndarray | None
    jpeg: bytes | None
    work_ms: float
    trouble: str = ""
    beside: Any = None


def jpeg_of(picture: np.ndarray, quality: int) -> bytes | None:
    """(H, W, 3) uint8 RGB as JPEG; None where OpenCV refuses."""
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return data.tobytes() if done else None


class PictureNode(WorkerNode):
    """Publishes a picture on `topic` and, as JPEG, on `compressed_topic`.

    Subclasses say which `streams` are heard while somebody looks, `draw`, and tell of every result
    by `show` or `show_nothing`. Their config has `max_image_age_ms` and `jpeg_quality`.
    """

    topic = compressed_topic = ""
    source = ""  # whose results are drawn, in words
    bare_s = 0.0  # between two pictures without guidance, at least
    yields = True  # on a busy machine pictures become fewer before poses become later

    def configure(self) -> None:
        super().configure()
        self._raw = self.advertise(Image, self.topic, qos.SENSOR_OUT)
        self._jpeg = self.advertise(CompressedImage, self.compressed_topic, qos.SENSOR_OUT)
        self._looking: list[Any] = []
        self._order = 0
        self._times: deque[dict[str, float]] = deque(maxlen=_TIMED)
        self.forget()

    def activate(self) -> None:
        super().activate()
        self.listen(TimeReference, topics.CAMERA_CLOCK, self._on_camera_clock, qos.LATCHED)
        self.every(_LOOK_S, self._on_look)

    def deactivate(self) -> None:
        super().deactivate()
        self._look_away()

    # What a subclass says.

    def streams(self) -> Sequence[tuple[type, str, Callable[[Any], None], Any]]:
        """What is heard while somebody looks: message type, topic, callback, profile."""
        raise NotImplementedError

    def camera(self) -> Any:
        """The camera_info that pictures are drawn with; None while it is not there."""
        raise NotImplementedError

    def more(self, stamp_ns: int) -> Any:
        """What else belongs to the guided picture of a stamp; see Job."""
        return None

    def draw(self, job: Job, age_ms: float | None) -> np.ndarray:
        """In the worker thread: the picture (H, W, 3) uint8 RGB. Raises ImageError, ValueError.

        age_ms: of the image, as it stands in the picture; None where no clock tells."""
        raise NotImplementedError

    def draw_all(self, job: Job, age_ms: float | None) -> tuple[np.ndarray, Any]:
        """As `draw`, and what is published beside the picture where a subclass does so."""
        return self.draw(job, age_ms), None

    def publish_beside(self, beside: Any, stamp_ns: int, frame_id: str) -> None:
        """On the executor's thread: what `draw_all` gave."""

    def watched_beside(self) -> bool:
        """Whether somebody looks at what is published beside the picture."""
        return False

    def forget(self) -> None:
        """Nobody looks any more: nothing of before is drawn when somebody looks again."""
        self._images: OrderedDict[int, Held] = OrderedDict()
        self._pending: Any = None  # a result that waits for its image or for camera_info
        self._shown: Held | None = None  # the image under the guidance that is on the screen
        self._bare: Any = None  # the last result, where it shows nothing
        self._late_ms: float | None = None  # age of the last result, where it came too late
        self._drawing = False  # a guided picture is on its way: no bare one pushes it aside
        self._share = 1.0  # of the age limit, see _BACK
        self._put_s = float("-inf")  # when the last picture without guidance was begun

    # Subscribed only while somebody looks.

    def _watched(self) -> bool:
        pictures = self._raw.get_subscription_count() or self._jpeg.get_subscription_count()
        return bool(pictures) or self.watched_beside()

    def _on_look(self) -> None:
        if self._watched() and not self._looking:
            self._looking = [self.create_subscription(*stream) for stream in self.streams()]
        elif not self._watched():
            self._look_away()

    def _look_away(self) -> None:
        for subscription in self._looking:
            self.destroy_subscription(subscription)
        self._looking = []
        self.forget()

    # Images, and results of them.

    def _age_ms(self, held: Held) -> float:
        """By arrival, and by the frames' clock against the image that came last."""
        by_arrival = (time.monotonic() - held.arrived_s) * 1e3
        newest = next(reversed(self._images.values())) if self._images else held
        return max(by_arrival, abs(newest.stamp_ns - held.stamp_ns) / 1e6)

    def _stated_age_ms(self, stamp_ns: int) -> float | None:
        """What stands in the picture; None where the camera's clock does not tell an age."""
        tells = self.clock.announced is not None or self.clock.domain in (SYSTEM, SIMULATED)
        age_ms = self.age_ms(stamp_ns)
        return age_ms if tells and isfinite(age_ms) else None

    def _too_old(self, held: Held, share: float = 1.0) -> bool:
        return self._age_ms(held) > share * self.config.max_image_age_ms

    def on_image(self, message: Image | CompressedImage) -> None:
        """An image of the camera."""
        held = Held(message, time.monotonic())
        self.clock.note(held.stamp_ns, self.now_ns(), held.arrived_s)
        self._images.pop(held.stamp_ns, None)  # a stamp that comes again counts as the newest
        self._images[held.stamp_ns] = held
        while len(self._images) > _KEPT or self._too_old(next(iter(self._images.values()))):
            self._images.popitem(last=False)
        self.on_camera()

    def on_camera(self) -> None:
        """An image came, or the first camera_info, for which images wait."""
        self._offer()
        if self._shown is None:
            self._put_bare()

    def show(self, result: Any) -> None:
        """A result, with a `stamp_ns`, that may be drawn over the image of that stamp."""
        self._pending = result
        self._offer()

    def show_nothing(self, result: Any, reason: str) -> None:
        """A result of which nothing may be drawn: what is on the screen goes at once."""
        self._pending, self._bare, self._late_ms = None, result, None
        self.withdraw(reason)

    def _offer(self) -> None:
        result = self._pending
        if result is None:
            return
        held = self._images.get(result.stamp_ns)
        if held is None or self._too_old(held, self._share):
            self._tell_late(result.stamp_ns, held)
        elif (camera := self.camera()) is not None:
            self._pending = self._bare = self._late_ms = None
            self._drawing = True
            more = self.more(result.stamp_ns)
            self.take(Job(held, camera, True, result, "", self._order, more))

    def _tell_late(self, stamp_ns: int, held: Held | None) -> None:
        newest_ns = next(reversed(self._images), None)
        if held is None and (newest_ns is None or newest_ns <= stamp_ns):
            return  # its image is still to come
        # What is shown meanwhile is left to the watch, which wipes it in time.
        self._pending = self._bare = None
        by_clock_ms = abs(newest_ns - stamp_ns) / 1e6 if newest_ns is not None else 0.0
        self._late_ms = self._age_ms(held) if held is not None else by_clock_ms
        self.counts["late"] += 1

    # Drawing, in the worker thread.

    def work(self, item: Job) -> Picture:
        start = time.thread_time()
        try:
            image, beside = self.draw_all(item, self._stated_age_ms(item.stamp_ns))
            jpeg = None
            if self._jpeg.get_subscription_count():
                jpeg = jpeg_of(image, self.config.jpeg_quality)
        except (ImageError, ValueError) as error:
            return Picture(item, None, None, 0.0, str(error))
        except Exception as error:  # noqa: BLE001 - one bad picture must not end the overlay
            self.counts["faults"] += 1
            return Picture(item, None, None, 0.0, f"fault in the overlay: {error!r}")
        return Picture(item, image, jpeg, (time.thread_time() - start) * 1e3, beside=beside)

    def done(self, output: Picture) -> None:
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

    def _publish(self, output: Picture) -> None:
        self.trouble = output.trouble
        if output.image is None:
            return
        self.counts["pictures"] += 1
        stamp_ns, frame_id = output.job.stamp_ns, output.job.held.message.header.frame_id
        if self._raw.get_subscription_count():
            self._raw.publish(image_message(output.image, "rgb8", stamp_ns, frame_id))
        if output.jpeg is not None:
            self._jpeg.publish(jpeg_message(output.jpeg, stamp_ns, frame_id))
        self.publish_beside(output.beside, stamp_ns, frame_id)

    # Without guidance.

    def _bare_job(self, reason: str = "") -> Job | None:
        """The newest image, and words that say why there is no guidance."""
        camera = self.camera()
        if not self._images or camera is None:
            return None
        result, note = self._bare, f"guidance withdrawn: {reason}" if reason else ""
        if self.results.count and self.results.silent_ms() > _SILENT_MS:
            result, note = None, f"the {self.source} is silent"
        elif self._late_ms is not None:
            result, note = None, f"results come {self._late_ms:.0f} ms late, not shown"
        newest = next(reversed(self._images.values()))
        return Job(newest, camera, False, result, note, self._order)

    def _put_bare(self) -> None:
        if self._drawing or time.monotonic() - self._put_s < self.bare_s:
            return
        job = self._bare_job()
        if job is not None:
            self._put_s = time.monotonic()
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
