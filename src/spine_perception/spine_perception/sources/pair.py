# SPDX-License-Identifier: Apache-2.0
"""A stereo pair without a ROS driver, through OpenCV: a UVC camera whose images stand side by side (ZED
class), two UVC cameras, video files, or folders of images."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import yaml

from spine_nav_common.core.calibration_file import kind_of
from spine_nav_common.core.camera_calibration import load_camera_calibration
from spine_nav_common.core.images import CameraModel, ImageError, decode_camera_info
from spine_nav_common.core.rectify import StereoRig, stereo_rig
from spine_nav_common.core.types import Rejected, StereoFrame

from . import SourceError

_IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_APART_NS = 5_000_000  # as the stereo tracker's pair_tolerance_ms


class Stream(Protocol):
    """Images in order; `live`: they come when the camera makes them."""

    live: bool

    def grab(self) -> bool:
        """Take the next image without unpacking it; False: there is none."""
        ...

    def image(self) -> np.ndarray | None:
        """The image that was taken, (H, W) or (H, W, 3) RGB; None where it is damaged."""
        ...

    def stamp_ns(self) -> int:
        """Time of the image that was taken, from the first one on; 0 where the stream has none."""
        ...

    def close(self) -> None:
        """Release the device or file."""
        ...


class Video:
    """A UVC device (its number) or a video file. Raises SourceError: it does not open."""

    def __init__(self, where: str, fps: int) -> None:
        self.live = where.isdigit()
        if not self.live and not Path(where).is_file():
            raise SourceError(f"{where}: no such video; name a file, a folder or a device's number")
        self._capture = cv2.VideoCapture(int(where) if self.live else where)
        if not self._capture.isOpened():
            kind = (
                "camera (see v4l2-ctl --list-devices)" if self.live else "video that OpenCV reads"
            )
            raise SourceError(f"{where}: no {kind}")
        self._fps, self._count, self._at_ms = fps, -1, 0.0
        if self.live:
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest, not one that waited
            self._capture.set(cv2.CAP_PROP_FPS, fps)

    def grab(self) -> bool:
        """See Stream."""
        self._count += 1
        self._at_ms = float(self._capture.get(cv2.CAP_PROP_POS_MSEC))
        return bool(self._capture.grab())

    def image(self) -> np.ndarray | None:
        """See Stream."""
        there, image = self._capture.retrieve()
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if there and image is not None else None

    def stamp_ns(self) -> int:
        """See Stream."""
        if self.live:
            return time.time_ns()
        fps = float(self._capture.get(cv2.CAP_PROP_FPS)) or float(self._fps)
        return round(self._count * 1e9 / fps)

    def close(self) -> None:
        """See Stream."""
        self._capture.release()


class Images:
    """A folder of images in the order of their names. Raises SourceError: there are none."""

    live = False

    def __init__(self, folder: Path, fps: int) -> None:
        self._files = sorted(f for f in folder.iterdir() if f.suffix.lower() in _IMAGES)
        if not self._files:
            raise SourceError(f"{folder}: no images ({', '.join(_IMAGES)})")
        self._fps, self._at = fps, -1

    def grab(self) -> bool:
        """See Stream."""
        self._at += 1
        return self._at < len(self._files)

    def image(self) -> np.ndarray | None:
        """See Stream."""
        image = cv2.imread(str(self._files[self._at]), cv2.IMREAD_UNCHANGED)
        if image is None or image.dtype != np.uint8:
            return None
        return image if image.ndim == 2 else cv2.cvtColor(image[..., :3], cv2.COLOR_BGR2RGB)

    def stamp_ns(self) -> int:
        """See Stream."""
        return round(self._at * 1e9 / self._fps)

    def close(self) -> None:
        """See Stream."""


def pair_cameras(left: str, right: str) -> tuple[CameraModel, CameraModel]:
    """Both cameras: of one file of `spinenav calibrate stereo`, named as the left one's, or of a file for
    each. Raises SourceError, CalibrationError."""
    if not left or kind_of(Path(left)) != "stereo":
        return load_camera(left, "left"), load_camera(right, "right")
    if right not in ("", left):
        raise SourceError(f"{left} is of both cameras: leave camera_source.right_calibration out")
    found = load_camera_calibration(Path(left), "stereo")
    first, second = found.cameras
    if problem := found.problem(first.width, first.height, date.today()):
        raise SourceError(f"{left}: {problem}")
    return first, second


def load_camera(path: str, eye: str) -> CameraModel:
    """The camera of a calibration file as ROS writes them (camera_calibration, camera_info_manager).

    Raises SourceError: no file is named, or it is not such a one.
    """
    remedy = f"give the YAML of `spinenav calibrate stereo`, or of ROS camera_calibration (camera_source.{eye}_calibration=FILE)"
    if not path:
        raise SourceError(f"the {eye} camera has no calibration: {remedy}")

    class Info:
        pass

    info = Info()
    try:
        said = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        info.width, info.height = said["image_width"], said["image_height"]  # type: ignore[attr-defined]
        info.distortion_model = said["distortion_model"]  # type: ignore[attr-defined]
        for name, key in (
            ("k", "camera_matrix"),
            ("d", "distortion_coefficients"),
            ("r", "rectification_matrix"),
            ("p", "projection_matrix"),
        ):
            setattr(info, name, said[key]["data"])
        return decode_camera_info(info)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"{path}: no calibration of the {eye} camera ({error}): {remedy}"
        ) from error


class StereoPair:
    """Rectified pairs; see FrameSource.

    Args:
        where: `0` or `both.mp4` (side by side), `0,2` or `left.mp4,right.mp4`, or a folder with left/
            and right/.
        left, right: calibration files, see `pair_cameras`.
        fps: of images that state no time, and what a device is asked for.
        open_stream: opens one stream; tests hand in their own.

    Attributes:
        counts: pairs that were left out, by reason.

    Raises:
        SourceError: a stream or a calibration cannot be used.
    """

    def __init__(
        self,
        where: str,
        left: str,
        right: str,
        fps: int = 15,
        open_stream: Callable[[str, int], Stream] | None = None,
    ) -> None:
        self._places = streams(where)
        self._fps, self._open = fps, open_stream or _open
        try:
            self.rig: StereoRig = stereo_rig(*pair_cameras(left, right), raw=True)
        except ImageError as error:
            raise SourceError(f"{left}, {right}: {error}: calibrate the pair") from error
        self._streams = self._open_all()
        self.scenes = ("stereo",)
        self.real_time = self._streams[0].live
        self.clock_domain = "system_time" if self.real_time else "recording"
        self.counts = {"damaged": 0, "apart": 0}
        self._stop = threading.Event()

    def frames(self) -> Iterator[StereoFrame | Rejected]:
        """See FrameSource. A camera that goes is asked for until it is back; a file ends."""
        while not self._stop.is_set():
            if not self._streams:
                try:
                    self._streams = self._open_all()
                except SourceError as error:
                    yield Rejected(str(error))
                    self._stop.wait(1.0)
                    continue
            yield from self._pairs()
            for stream in self._streams:
                stream.close()
            self._streams = []
            if not self.real_time:
                return
            if not self._stop.is_set():
                yield Rejected("the stereo camera is unplugged or silent; waiting for it")

    def close(self) -> None:
        """See FrameSource."""
        self._stop.set()

    def _open_all(self) -> list[Stream]:
        return [self._open(place, self._fps) for place in self._places]

    def _pairs(self) -> Iterator[StereoFrame | Rejected]:
        k = self.rig.intrinsics
        while not self._stop.is_set():
            taken = []
            for stream in self._streams:  # both first: unpacking one would put the other off
                if not stream.grab():
                    return
                taken.append(stream.stamp_ns())
            if max(taken) - min(taken) > _APART_NS:
                self.counts["apart"] += 1
                apart_ms = 1e-6 * (max(taken) - min(taken))
                yield Rejected(
                    f"left and right images lie {apart_ms:.0f} ms apart: use cameras with a common"
                    " trigger, or one whose images stand side by side"
                )
                continue
            pair = self._split([stream.image() for stream in self._streams])
            if isinstance(pair, Rejected):
                self.counts["damaged"] += 1
                yield pair
                continue
            sizes = {(e.shape[1], e.shape[0]) for e in pair}
            if sizes != {(k.width, k.height)}:
                yield Rejected(
                    f"images are {' and '.join(f'{w}x{h}' for w, h in sorted(sizes))}, the calibration"
                    f" is of {k.width}x{k.height}: calibrate in this mode"
                )
                continue
            eyes = self.rig.rectify(*pair)
            yield StereoFrame(taken[0], *eyes, k, self.rig.baseline_m)

    def _split(self, images: list[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray] | Rejected:
        first, last = images[0], images[-1]
        if first is None or last is None:
            return Rejected("a damaged image of the stereo pair")
        if len(images) == 2:
            if first.ndim != last.ndim:
                return Rejected("left and right differ in colour and mono")
            return first, last
        if first.shape[1] % 2:
            return Rejected(f"images are {first.shape[1]} wide: not two side by side")
        half = first.shape[1] // 2
        return np.ascontiguousarray(first[:, :half]), np.ascontiguousarray(first[:, half:])


def streams(where: str) -> list[str]:
    """The one or two streams of a pair, left first."""
    places = [p.strip() for p in where.split(",")]
    if not all(places) or len(places) > 2:
        raise SourceError(
            f"'{where}' is no stereo pair; give a device's number or a video (side by side), two of"
            " them with a comma between, or a folder with left/ and right/"
        )
    folder = Path(places[0])
    if len(places) == 1 and (folder / "left").is_dir() and (folder / "right").is_dir():
        return [str(folder / "left"), str(folder / "right")]
    return places


def _open(where: str, fps: int) -> Stream:
    return Images(Path(where), fps) if Path(where).is_dir() else Video(where, fps)
