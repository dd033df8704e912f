# SPDX-License-Identifier: Apache-2.0
"""A recording (docs/contracts.md, section 2) as a stream of RGB-D or stereo frames.

Checked before the first frame: topics, camera_info, sizes, alignment and unit of depth. From then
on nothing stops the stream: what is wrong with a single frame is counted with its reason.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from .errors import RecordingError
from .images import (
    READABLE,
    CameraModel,
    ImageError,
    decode_camera_info,
    decode_colour,
    decode_depth,
    decode_image,
)
from .pairing import STEREO_SLOP_NS, Pair, Pairer
from .recorded_clock import lacks_clock, receive_slop_ns
from .recording_writer import TYPES, RecordingWriter
from .rectify import RgbdRectifier, StereoRig, stereo_rig
from .static_frames import StaticTransform, static_transform
from .storage import StorageCut, open_storage, recording_sha256
from .types import Rejected, RgbdFrame, StereoFrame

__all__ = [
    "Recording",
    "RecordingError",
    "RecordingWriter",
    "load_remap",
    "open_recording",
    "recording_sha256",
]

# role: the names under which a topic is looked for, in this order; the first is canonical
_COLOUR = ("/camera/camera/color/image_raw", "/camera/camera/color/image_rect_raw")
_ROLES = {
    "colour": (*_COLOUR, *(f"{name}/compressed" for name in _COLOUR)),
    "colour info": ("/camera/camera/color/camera_info",),
    "depth": tuple(
        f"/camera/camera/aligned_depth_to_color/image_raw{transport}"
        for transport in ("", "/compressedDepth", "/compressed")
    ),
    "depth info": ("/camera/camera/aligned_depth_to_color/camera_info",),
    **{
        eye: tuple(
            f"/stereo/{eye}/{name}{transport}"
            for name in ("image_rect", "image_rect_color", "image_raw")
            for transport in ("", "/compressed")
        )
        for eye in ("left", "right")
    },
    "left info": ("/stereo/left/camera_info",),
    "right info": ("/stereo/right/camera_info",),
}
_FIRST_NAMES = tuple(names[0] for names in _ROLES.values())
_IMAGE_TYPES = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage")
_TF_STATIC = "/tf_static"
_PROBE_IMAGES = 3
_PERIOD_STAMPS = 16
_ZERO_REACH_NS = 10_000_000_000  # a clock that shows more than this did not start at zero just now
_DEFAULT_SLOP_NS = 16_666_667  # half a frame at 30 Hz, where there is one frame only
_DEPTH_RANGE_M = (0.1, 3.0)  # the median depth of a scene on an operating table
_ALIGNED_PX = 2.0
_INFO_WAIT = 2  # frames that wait for a camera_info that comes after its image


def load_remap(path: str | Path) -> dict[str, str]:
    """Read a --remap file: YAML `canonical topic: topic in the recording`, one line per topic.

    Raises RecordingError: unreadable, or a name on the left that this program does not look for.
    """
    path = Path(path)
    try:
        mapping = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecordingError(path, "", f"not readable ({error})", "write YAML") from error
    if not isinstance(mapping, dict) or not all(
        isinstance(k, str) and isinstance(v, str) for k, v in mapping.items()
    ):
        raise RecordingError(path, "", "it maps no topics", "write `/camera/…: /my/topic` lines")
    known = {name for names in _ROLES.values() for name in names}
    remap: dict[str, str] = {}
    for name, other in mapping.items():
        if name not in known and other not in known:
            raise RecordingError(
                path,
                name,
                "nothing reads this topic",
                f"write a topic that is looked for on the left ({', '.join(_FIRST_NAMES)}), the"
                " recording's name for it on the right",
            )
        # which of the two is ours is never in doubt, so either order is understood
        remap.update({name: other} if name in known else {other: name})
    return remap


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
        reasons: how often each reason occurred, in words.
        slop_ns: largest difference of stamps within a pair (half a frame period; 5 ms in stereo).
        truncated: why the recording ended early, or None.
    """

    def __init__(self, path: Path, remap: dict[str, str]) -> None:
        self.path = path
        self._remap = remap
        self._storage = open_storage(path)
        self.topics = dict(self._storage.topics)
        self.truncated: str | None = None
        self.slop_ns = _DEFAULT_SLOP_NS
        self.reasons: Counter[str] = Counter()
        self.counts: dict[str, int] = {}
        self.notes: list[str] = []
        self._by_receipt = False  # the driver's stamps are of no use
        self._zero_is_time = True  # a clock that starts with the recording, as simulated ones do
        self._reset()
        if not self.topics:
            raise RecordingError(path, "", "the recording is empty", "record the camera's topics")

    @property
    def has_rgbd(self) -> bool:
        """Whether colour and depth topics are there."""
        return self._find("colour") is not None and self._find("depth") is not None

    @property
    def has_stereo(self) -> bool:
        """Whether left and right topics are there."""
        return self._find("left") is not None and self._find("right") is not None

    @property
    def scenes(self) -> tuple[str, ...]:
        """Which of `rgbd` and `stereo` are there."""
        there = {"rgbd": self.has_rgbd, "stereo": self.has_stereo}
        return tuple(scene for scene, has in there.items() if has)

    def rgbd_frames(self) -> Iterator[RgbdFrame]:
        """All new colour frames in order of arrival, rectified if the camera states distortion.

        Every colour frame that is neither doubled nor late is given, so that it gets its row: an
        unusable depth image becomes all NaN and an unusable colour image black, both counted.

        Raises:
            RecordingError: at once for missing topics, images or camera_info, sizes that differ,
                depth that is not aligned; depth in a wrong unit, at the first frame with depth.
        """
        colour = self._topic("colour", "depth")
        depth = self._topic("depth", "colour")
        model = self._camera_info("colour info")
        self._check_aligned(model, colour, depth)
        unit = _UnitCheck(self.path, depth)
        for image in self._probe(depth, decode_depth):
            unit.check(image)
        self._choose_clock(colour, depth)

        def frames() -> Iterator[RgbdFrame]:
            rectify = RgbdRectifier()
            topics = (colour, depth, self._topic("colour info"))
            for pair, info in self._pairs(*topics, model, ("colour", "depth")):
                yield self._rgbd_frame(pair, info, rectify, unit)

        return frames()

    def stereo_frames(self) -> Iterator[StereoFrame]:
        """All stereo pairs in order of arrival, rectified to one pinhole camera.

        Raises:
            RecordingError: at once for missing topics, images or camera_info, sizes that differ,
                no baseline, or left and right swapped.
        """
        left, right = self._topic("left", "right"), self._topic("right", "left")
        models = self._camera_info("left info"), self._camera_info("right info")
        raw = "image_raw" in self._canonical("left")
        try:
            rig = stereo_rig(*models, raw)
        except ImageError as error:
            raise RecordingError(
                self.path,
                self._topic("right info"),
                str(error),
                "calibrate the pair and record its camera_info",
            ) from error
        shapes = set()
        for topic in (left, right):
            shapes |= {image.shape[:2] for image in self._probe(topic, decode_image)}
        if shapes != {(rig.intrinsics.height, rig.intrinsics.width)}:
            raise RecordingError(
                self.path,
                left,
                f"image sizes (h, w) {sorted(shapes)} do not fit camera_info",
                "record left, right and camera_info of one mode",
            )
        self._choose_clock(left, right)
        self.slop_ns = min(self.slop_ns, STEREO_SLOP_NS)

        def frames() -> Iterator[StereoFrame]:
            for pair, _ in self._pairs(left, right, None, models[0], ("left", "right")):
                frame = self._stereo_frame(pair, rig)
                if frame is not None:
                    yield frame

        return frames()

    def static_transforms(self) -> list[StaticTransform]:
        """Fixed transforms between frames that were recorded on /tf_static; what is no rigid
        transform is left out with a note."""
        if self.topics.get(_TF_STATIC) != "tf2_msgs/msg/TFMessage":
            return []
        found: list[StaticTransform] = []
        for _, message in self._messages(_TF_STATIC):
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

    # -- topics and checks before the first frame

    def _find(self, role: str) -> str | None:
        for name in _ROLES[role]:
            topic = self._remap.get(name, name)
            if topic in self.topics:
                return topic
        return None

    def _canonical(self, role: str) -> str:
        """The canonical name under which a role was found."""
        return next(n for n in _ROLES[role] if self._remap.get(n, n) in self.topics)

    def _topic(self, role: str, partner: str = "") -> str:
        topic = self._find(role)
        if topic is None:
            images = [name for name, kind in self.topics.items() if kind in _IMAGE_TYPES]
            found = ", ".join(sorted(images)) or "no image topic"
            raise RecordingError(
                self.path,
                self._remap.get(_ROLES[role][0], _ROLES[role][0]),
                f"this topic is not in the recording (it holds {found})",
                "record it, or name the recording's own topics with --remap",
            )
        if "info" not in role and self.topics[topic] not in _IMAGE_TYPES:
            raise RecordingError(
                self.path,
                topic,
                f"it holds {self.topics[topic]}, no images",
                "name another topic with --remap",
            )
        return topic

    def _messages(self, *topics: str) -> Iterator[tuple[str, Any]]:
        """(topic, message) of these topics; what cannot be deserialised is None."""
        return ((topic, message) for topic, message, _ in self._received(*topics))

    def _received(self, *topics: str) -> Iterator[tuple[str, Any, int]]:
        """(topic, message or None, receive time in ns) of these topics."""
        try:
            for raw in self._storage.messages(topics):
                try:
                    message = TYPES.deserialize_cdr(raw.data, self.topics[raw.topic])
                except Exception as error:  # noqa: BLE001 - rosbags raises what its decoder meets
                    self.reasons[f"{raw.topic}: message damaged ({type(error).__name__})"] += 1
                    message = None
                yield raw.topic, message, raw.log_ns
        except StorageCut as cut:
            self.truncated = str(cut)

    def _camera_info(self, role: str) -> CameraModel:
        """The first usable camera_info, wherever it comes: its image may come before it."""
        topic = self._topic(role)
        problem = "there is no camera_info message"
        for _, message in self._messages(topic):
            try:
                if message is not None:
                    return decode_camera_info(message)
            except ImageError as error:
                problem = str(error)
        raise RecordingError(
            self.path, topic, self._with_cut(problem), "record camera_info of a calibrated camera"
        )

    def _with_cut(self, problem: str) -> str:
        return f"{problem} ({self.truncated})" if self.truncated else problem

    def _probe(self, topic: str, decode: Callable[[Any], np.ndarray]) -> list[np.ndarray]:
        """The first images of a topic; refused if none of them decodes."""
        images, problem = [], "there is no image"
        for _, message in islice(self._messages(topic), _PROBE_IMAGES):
            try:
                if message is not None:
                    images.append(decode(message))
            except ImageError as error:
                problem = str(error)
        if not images:
            raise RecordingError(
                self.path,
                topic,
                self._with_cut(problem),
                f"record images that this program reads ({READABLE}, or compressed)",
            )
        return images

    def _check_aligned(self, model: CameraModel, colour: str, depth: str) -> None:
        size = (model.height, model.width)
        shape = self._probe(colour, decode_colour)[0].shape[:2]
        if shape != size:
            raise RecordingError(
                self.path,
                colour,
                f"images are {shape[1]}x{shape[0]}, camera_info says {size[1]}x{size[0]}",
                "record image and camera_info of the same mode",
            )
        remedy = "record aligned_depth_to_color (align_depth.enable:=true)"
        shape = self._probe(depth, decode_depth)[0].shape
        if shape != size:
            raise RecordingError(
                self.path,
                depth,
                f"depth is {shape[1]}x{shape[0]} but colour {size[1]}x{size[0]}: not aligned",
                remedy,
            )
        if self._find("depth info") is not None:
            own = self._camera_info("depth info").raw_intrinsics()
            ours = model.raw_intrinsics()
            if (
                max(
                    abs(own.fx - ours.fx),
                    abs(own.fy - ours.fy),
                    abs(own.cx - ours.cx),
                    abs(own.cy - ours.cy),
                )
                > _ALIGNED_PX
            ):
                raise RecordingError(
                    self.path,
                    depth,
                    "depth has a camera_info of its own: not aligned to colour",
                    remedy,
                )

    def _choose_clock(self, first: str, second: str) -> None:
        """Header stamps rule, unless a driver gives none: then the recorder's receive times, if
        these tell which images belong together. Sets slop_ns."""
        heads = {
            topic: [
                (_stamp_ns(message), received_ns)
                for _, message, received_ns in islice(self._received(topic), _PERIOD_STAMPS)
                if message is not None
            ]
            for topic in (first, second)
        }
        clockless = [t for t, head in heads.items() if lacks_clock([stamp for stamp, _ in head])]
        self._by_receipt = bool(clockless)
        others = [stamp for head in heads.values() for stamp, _ in head if stamp > 0]
        self._zero_is_time = self._by_receipt or min(others, default=0) < _ZERO_REACH_NS
        if not clockless:
            periods = np.diff(sorted({stamp for stamp, _ in heads[first]}))
            self.slop_ns = int(np.median(periods)) // 2 if len(periods) else _DEFAULT_SLOP_NS
            return
        slop_ns = receive_slop_ns(*([received for _, received in head] for head in heads.values()))
        stamp_ns = heads[clockless[0]][0][0]
        problem = f"the camera's driver gives no time: every header stamp is {stamp_ns}"
        if isinstance(slop_ns, Rejected):
            raise RecordingError(
                self.path,
                clockless[0],
                f"{problem}, and the recorder's receive times are no help: {slop_ns.reason}",
                "let the driver stamp its images with the time of exposure and record again",
            )
        self.slop_ns = slop_ns
        self._note(
            f"{self.path}: {clockless[0]}: {problem}; the recorder's receive times are used instead,"
            " so that stamps, ages and pairs are only as true as these"
        )

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    # -- the stream

    def _reset(self) -> None:
        self.counts = dict.fromkeys(("read", "duplicated", "late", "unpaired", "bad"), 0)
        self.reasons = Counter()
        self.truncated = None

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
        for topic, message, received_ns in self._received(*{first, second, info or first}):
            if message is None:
                continue
            stamp_ns = received_ns if self._by_receipt else _stamp_ns(message)
            if stamp_ns == 0 and not self._zero_is_time and topic in (first, second):
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
        self, pair: Pair, model: CameraModel, rectify: RgbdRectifier, unit: _UnitCheck
    ) -> RgbdFrame:
        shape = (model.height, model.width)
        colour = np.zeros((*shape, 3), np.uint8)
        depth_m = np.full(shape, np.nan, np.float32)
        try:
            image = decode_colour(pair.first)
            _same_size(image, shape, "colour")
            colour = image
            if pair.second is None:
                self.counts["unpaired"] += 1
                self.reasons["colour image without depth"] += 1
            else:
                depth = decode_depth(pair.second)
                _same_size(depth, shape, "depth")
                unit.check(depth)
                depth_m = depth
        except ImageError as error:
            self._bad(str(error))
        self.counts["read"] += 1
        if model.distorted:
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
        frame_id = pair.first.header.frame_id or "stereo_left_optical_frame"
        return StereoFrame(pair.stamp_ns, left, right, rig.intrinsics, rig.baseline_m, frame_id)


def _stamp_ns(message: Any) -> int:
    stamp = message.header.stamp
    return int(stamp.sec) * 1_000_000_000 + int(stamp.nanosec)


def _same_size(image: np.ndarray, shape: tuple[int, int], name: str) -> None:
    if image.shape[:2] != shape:
        h, w = image.shape[:2]
        raise ImageError(f"{name} image is {w}x{h}, camera_info says {shape[1]}x{shape[0]}")


class _UnitCheck:
    """Refuses depth in a wrong unit, on the first image that holds enough depth to tell."""

    def __init__(self, path: Path, topic: str) -> None:
        self._path, self._topic, self._decided = path, topic, False

    def check(self, depth_m: np.ndarray) -> None:
        """Raises RecordingError if the median depth is impossible on an operating table."""
        if self._decided:
            return
        valid = depth_m[np.isfinite(depth_m)]
        if valid.size < 0.01 * depth_m.size:
            return
        self._decided = True
        median_m = float(np.median(valid))
        if not _DEPTH_RANGE_M[0] <= median_m <= _DEPTH_RANGE_M[1]:
            raise RecordingError(
                self._path,
                self._topic,
                f"the median depth is {median_m:.3g} m, expected "
                f"{_DEPTH_RANGE_M[0]} to {_DEPTH_RANGE_M[1]} m: wrong unit",
                "record 16UC1 in millimetres or 32FC1 in metres",
            )
