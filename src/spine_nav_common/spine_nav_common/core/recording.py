# SPDX-License-Identifier: Apache-2.0
"""A recording (docs/contracts.md, section 2) as a stream of RGB-D or stereo frames.

Checked before the first frame: topics, camera_info, sizes, alignment and unit of depth. From then
on nothing stops the stream: what is wrong with a single frame is counted with its reason.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np

from .camera_calibration import CameraCalibration
from .depth_calibration import DepthCalibration
from .errors import CalibrationError, RecordingError
from .frames import STEREO_FRAME_ID
from .images import (
    CameraModel,
    ImageError,
    decode_camera_info,
    decode_colour,
    decode_depth,
    decode_image,
)
from .pairing import STEREO_SLOP_NS, Pair, Pairer
from .recorded_clock import RecordedClock, choose_clock
from .recorded_depth import DepthSource, find_depth
from .recorded_messages import RecordedMessages
from .recording_checks import UnitCheck, same_size
from .rectify import RgbdRectifier, StereoRig, stereo_rig
from .static_frames import StaticTransform, static_transform
from .types import RgbdFrame, StereoFrame

_TF_STATIC = "/tf_static"
_INFO_WAIT = 2  # frames that wait for a camera_info that comes after its image


def open_recording(path: str | Path, remap: dict[str, str] | None = None) -> Recording:
    """Open a rosbag2 folder, .mcap or .db3 file; remap: canonical topic name to recorded name.

    Raises RecordingError: missing, damaged from the start, or without any message.
    """
    return Recording(Path(path), remap or {})


class Recording:
    """Frames of one recording, streamed: no more than a few are in memory.

    Attributes:
        topics: recorded topic names to their types.
        counts: of the last iteration. `read`: frames given; of these `unpaired`: RGB-D frames
            without depth, and `bad`: frames with an image that could not be used (its part is
            black, or NaN depth). Given no frame: `duplicated`, `late`, and for stereo `unpaired`
            and `bad` too; `unstamped` where images with a stamp of zero came among stamped ones.
        notes: what was guessed or left out, in words for the user.
    """

    def __init__(self, path: Path, remap: dict[str, str]) -> None:
        self.path = path
        self._held = RecordedMessages(path, remap)
        self.topics = self._held.topics
        self.counts: dict[str, int] = {}
        self.notes: list[str] = []
        self._clock = RecordedClock()
        if self._held.recognised:
            self._note(f"{path}: {self._held.recognised}")
        self._reset()

    @property
    def reasons(self) -> Counter[str]:
        """How often each reason occurred, in words."""
        return self._held.reasons

    @property
    def truncated(self) -> str | None:
        """Why the recording ended early, or None."""
        return self._held.truncated

    @property
    def slop_ns(self) -> int:
        """Largest difference of stamps within a pair (half a frame period; 5 ms in stereo)."""
        return self._clock.slop_ns

    @property
    def has_rgbd(self) -> bool:
        """Whether colour and depth topics are there."""
        depth = self._held.find("depth") or self._held.find("own depth")
        return self._held.find("colour") is not None and depth is not None

    @property
    def has_stereo(self) -> bool:
        """Whether left and right topics are there."""
        return self._held.find("left") is not None and self._held.find("right") is not None

    @property
    def scenes(self) -> tuple[str, ...]:
        """Which of `rgbd` and `stereo` are there."""
        there = {"rgbd": self.has_rgbd, "stereo": self.has_stereo}
        return tuple(scene for scene, has in there.items() if has)

    def rgbd_frames(
        self,
        since_ns: int = 0,
        depth_calibration: DepthCalibration | None = None,
        transforms: Iterable[StaticTransform] = (),
    ) -> Iterator[RgbdFrame]:
        """All new colour frames in order of arrival, rectified if the camera states distortion;
        those with a stamp before `since_ns` are left out and not decoded. Depth of a camera of its
        own is aligned to colour with the recording's /tf_static and `transforms`, with a note.

        Every colour frame that is neither doubled nor late is given, so that it gets its row: an
        unusable depth image becomes all NaN and an unusable colour image black, both counted.

        Raises:
            RecordingError: at once for missing topics, images or camera_info, sizes that differ,
                depth that is not aligned; depth in a wrong unit, at the first frame with depth.
            CalibrationError: at once where the depth calibration is of another camera, or has expired.
        """
        colour = self._held.topic("colour")
        model = self._held.camera_info("colour info")
        source = find_depth(self._held, model, colour, [*self.static_transforms(), *transforms])
        depth = source.topic
        if source.own is not None:
            self._note(f"{self.path}: {depth}: {source.own.told()}")
        unit = UnitCheck(self.path, depth)
        for image in self._held.probe(depth, decode_depth):
            unit.check(image)
        self._take_clock(choose_clock(self._held, colour, depth))

        rectify = RgbdRectifier(depth_calibration, source.own)
        rectify.check(model)

        def frames() -> Iterator[RgbdFrame]:
            topics = (colour, depth, self._held.topic("colour info"))
            for pair, info in self._pairs(*topics, model, ("colour", "depth")):
                if pair.stamp_ns < since_ns:
                    continue
                yield self._rgbd_frame(pair, info, rectify, unit, source)

        return frames()

    def stereo_frames(
        self, since_ns: int = 0, calibration: CameraCalibration | None = None
    ) -> Iterator[StereoFrame]:
        """All stereo pairs in order of arrival, rectified to one pinhole camera; those with a stamp
        before `since_ns` are left out and not decoded. calibration: in the place of camera_info.

        Raises:
            RecordingError: at once for missing topics, images or camera_info, sizes that differ,
                no baseline, or left and right swapped.
            CalibrationError: at once where the calibration has expired, is of another size, or the
                images are rectified already.
        """
        left, right = self._held.topic("left"), self._held.topic("right")
        raw = "image_raw" in self._held.canonical("left")
        if calibration is None:
            models = self._held.camera_info("left info"), self._held.camera_info("right info")
        else:
            models = self._calibrated(calibration, left, raw)
        try:
            rig = stereo_rig(*models, raw)
        except ImageError as error:
            raise RecordingError(
                self.path,
                self._held.topic("right info"),
                str(error),
                "calibrate the pair and record its camera_info",
            ) from error
        shapes = set()
        for topic in (left, right):
            shapes |= {image.shape[:2] for image in self._held.probe(topic, decode_image)}
        if shapes != {(rig.intrinsics.height, rig.intrinsics.width)}:
            raise RecordingError(
                self.path,
                left,
                f"image sizes (h, w) {sorted(shapes)} do not fit camera_info",
                "record left, right and camera_info of one mode",
            )
        clock = choose_clock(self._held, left, right)
        self._take_clock(replace(clock, slop_ns=min(clock.slop_ns, STEREO_SLOP_NS)))

        def frames() -> Iterator[StereoFrame]:
            for pair, _ in self._pairs(left, right, None, models[0], ("left", "right")):
                if pair.stamp_ns < since_ns:
                    continue
                frame = self._stereo_frame(pair, rig)
                if frame is not None:
                    yield frame

        return frames()

    def _calibrated(
        self, calibration: CameraCalibration, left: str, raw: bool
    ) -> tuple[CameraModel, CameraModel]:
        """Both cameras of a calibration that may be used on this recording."""
        height, width = self._held.probe(left, decode_image)[0].shape[:2]
        problem = calibration.problem(width, height, date.today())
        if not raw:
            problem = f"the images of {self.path} are rectified already"
        if problem:
            raise CalibrationError(calibration.path, "", problem, "or leave --calibration out")
        self._note(f"lenses by {calibration.path} ({calibration.sha256[:12]}), not by camera_info")
        return calibration.cameras[0], calibration.cameras[1]

    def static_transforms(self) -> list[StaticTransform]:
        """Fixed transforms between frames that were recorded on /tf_static; what is no rigid
        transform is left out with a note."""
        if self.topics.get(_TF_STATIC) != "tf2_msgs/msg/TFMessage":
            return []
        found: list[StaticTransform] = []
        for _, message in self._held.messages(_TF_STATIC):
            for item in message.transforms if message is not None else ():
                t, q = item.transform.translation, item.transform.rotation
                try:
                    found.append(
                        static_transform(
                            item.header.frame_id,
                            item.child_frame_id,
                            (t.x, t.y, t.z),
                            (q.x, q.y, q.z, q.w),
                            _TF_STATIC,
                        )
                    )
                except ValueError as error:
                    self._note(f"{self.path}: {_TF_STATIC}: {item.child_frame_id}: {error}")
        return found

    def _take_clock(self, clock: RecordedClock) -> None:
        self._clock = clock
        if clock.note:
            self._note(clock.note)

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    # -- the stream

    def _reset(self) -> None:
        self.counts = dict.fromkeys(("read", "duplicated", "late", "unpaired", "bad"), 0)
        self._held.forget()

    def _pairs(
        self,
        first: str,
        second: str,
        info: str | None,
        model: CameraModel,
        names: tuple[str, str],
    ) -> Iterator[tuple[Pair, CameraModel]]:
        """Pairs with their camera model; info None = the model holds for all."""
        self._reset()
        pairer = Pairer(self.slop_ns, names)
        models = {-1: model}
        waiting: deque[Pair] = deque()

        def release(keep: int) -> Iterator[tuple[Pair, CameraModel]]:
            while waiting and (
                len(waiting) > keep or info is None or waiting[0].stamp_ns in models
            ):
                pair = waiting.popleft()
                # its own camera_info, else the newest before it, else the first of the recording
                known = max((s for s in models if s <= pair.stamp_ns), default=-1)
                for old in [s for s in models if s < known]:
                    del models[old]
                yield pair, models.get(known, model)

        unstamped = 0
        for topic, message, received_ns in self._held.received(*{first, second, info or first}):
            if message is None:
                continue
            stamp_ns = self._clock.time_ns(message, received_ns)
            if stamp_ns == 0 and not self._clock.zero_is_time and topic in (first, second):
                unstamped += 1
                self.counts["unstamped"] = unstamped
                self.reasons[f"{topic}: image without a stamp"] += 1
            elif topic == first:
                pairer.add_first(stamp_ns, message)
            elif topic == second:
                pairer.add_second(stamp_ns, message)
            else:
                try:
                    models[stamp_ns] = decode_camera_info(message)
                except ImageError as error:
                    self.reasons[f"{topic}: {error}"] += 1
            waiting.extend(pairer.ready())
            self.counts.update(duplicated=pairer.duplicated, late=pairer.late)
            yield from release(_INFO_WAIT)
        waiting.extend(pairer.ready(end=True))
        self.reasons.update(pairer.reasons)
        if unstamped:
            self._note(f"{self.path}: {unstamped} images without a stamp were left out")
        yield from release(0)

    def _bad(self, reason: str) -> None:
        self.counts["bad"] += 1
        self.reasons[reason] += 1

    def _rgbd_frame(
        self,
        pair: Pair,
        model: CameraModel,
        rectify: RgbdRectifier,
        unit: UnitCheck,
        source: DepthSource,
    ) -> RgbdFrame:
        shape = (model.height, model.width)
        depth_shape = shape if source.own is None else source.shape
        colour = np.zeros((*shape, 3), np.uint8)
        depth_m = np.full(depth_shape, np.nan, np.float32)
        try:
            image = decode_colour(pair.first)
            same_size(image, shape, "colour")
            colour = image
            if pair.second is None:
                self.counts["unpaired"] += 1
                self.reasons["colour image without depth"] += 1
            else:
                depth = decode_depth(pair.second)
                same_size(depth, depth_shape, "depth")
                unit.check(depth)
                depth_m = depth
        except ImageError as error:
            self._bad(str(error))
        self.counts["read"] += 1
        colour, depth_m = rectify(model, colour, depth_m)
        frame_id = pair.first.header.frame_id or "camera_color_optical_frame"
        return RgbdFrame(pair.stamp_ns, colour, depth_m, model.raw_intrinsics(), frame_id)

    def _stereo_frame(self, pair: Pair, rig: StereoRig) -> StereoFrame | None:
        if pair.second is None:
            self.counts["unpaired"] += 1
            self.reasons["left image without right"] += 1
            return None
        try:
            left, right = rig.decode(pair.first, pair.second)
        except ImageError as error:
            self._bad(str(error))
            return None
        self.counts["read"] += 1
        frame_id = pair.first.header.frame_id or STEREO_FRAME_ID
        return StereoFrame(pair.stamp_ns, left, right, rig.intrinsics, rig.baseline_m, frame_id)
