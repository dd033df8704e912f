# SPDX-License-Identifier: Apache-2.0
"""What of a registration outlives the process that made it, and what its successor may do with it.

Poses of before a restart are never shown and never a start: the answer comes from scratch. They
speak where that answer would have to be confirmed by the surgeon, and only if the camera is known
to have stood still meanwhile. Otherwise he is asked again.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from spine_nav_common.core.geometry import log_so3
from spine_nav_common.core.types import Case, RgbdFrame

from .answers import Answers, Rejection
from .estimator import Estimate, anchors
from .model import SpineModel
from .picture import WIDTH, stood_still, thumbnail
from .registration import Placed, differs

VERSION = 1
AGREE_M, AGREE_DEG = 4e-3, 8.0
"""A registration from scratch and the tracked pose of the same bone differ by less."""
SAME_FRAMES = 3
"""So many frames in a row must agree, each registered from scratch."""
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class Shown:
    """The last registration that was shown: its camera (frame and intrinsics), poses (L, 4, 4) of
    all levels of the case, which of them (L,) were tracked, the thumbnail of their image, its stamp,
    and the seconds since the machine started at which it was noted."""

    camera: str
    T_camera_ct: np.ndarray
    tracked: np.ndarray
    picture: np.ndarray
    stamp_ns: int
    uptime_s: float


@dataclass(frozen=True)
class Memory:
    """State for the process that takes this one's place.

    Attributes:
        case: hash of the case's files, and its exposed levels.
        clock: whose clock the stamps are of. boot: of the machine.
        shown: None where nothing was followed.
        rejections, contradicted: see Answers.
        withheld: levels that a failed check took from view, with the reasons.
    """

    case: str
    clock: str
    boot: str
    shown: Shown | None
    rejections: tuple[Rejection, ...]
    contradicted: bool
    withheld: tuple[tuple[str, str], ...] = ()


class Said(Enum):
    """What a memory says to a registration from scratch."""

    NOTHING, SAME, ANOTHER = range(3)


def uptime_s() -> float:
    """Seconds since the machine started, which no clock that is set can change."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """Of the machine's present run, "" where the system does not say."""
    try:
        return _BOOT.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def case_key(case: Case) -> str:
    """Of the case's files and what of them is used."""
    return f"{case.sha256} {','.join(case.meshes)} {','.join(case.exposed_levels)}"


def camera_key(frame: RgbdFrame) -> str:
    """Of the camera that took a frame: calibrations differ from one device to the next."""
    c = frame.intrinsics
    return f"{frame.frame_id} {c.width}x{c.height} {c.fx!r} {c.fy!r} {c.cx!r} {c.cy!r}"


def remember(
    case: Case,
    frame: RgbdFrame,
    clock: str,
    T_camera_ct: np.ndarray | None,
    tracked: np.ndarray,
    answers: Answers,
    shown: Shown | None,
) -> Memory:
    """What is known after a frame.

    Args:
        T_camera_ct: None = nothing is followed and proven; then `shown` is passed on, which this
            process itself has got and not yet used.
    """
    if T_camera_ct is not None and tracked.any():
        shown = Shown(
            camera_key(frame),
            T_camera_ct.copy(),
            tracked,
            thumbnail(frame.colour),
            frame.stamp_ns,
            uptime_s(),
        )
    return Memory(case_key(case), clock, boot_id(), shown, *answers.rejections())


class Recall:
    """A memory beside the registrations of the process after.

    Attributes:
        shown: what may still be used.
        same: the last frame gave the same bone at the same place before a camera that stood still:
            it is the same patient, whose shape was proven.
        now_s: the machine's time (`uptime_s`) that the last frame was compared at.

    Args:
        memory: of the process before.
        within_s: how old its poses may be, by stamps and by the machine's own time.
        boot: of the machine; None = of this one.
    """

    def __init__(
        self,
        memory: Memory,
        case: Case,
        model: SpineModel,
        within_s: float,
        boot: str | None = None,
    ) -> None:
        here = memory.boot == (boot_id() if boot is None else boot) != ""
        self.shown = memory.shown if here and memory.case == case_key(case) else None
        self._model = model
        self._within_s = within_s
        self._agreed, self.same = 0, False
        self.now_s = 0.0

    def says(self, found: Estimate, frame: RgbdFrame, now_s: float | None = None) -> Said:
        """What the poses of before say to those that were found in a frame.

        now_s: the machine's time; None = now.
        """
        self.now_s = uptime_s() if now_s is None else now_s
        said = self._compare(found, frame)
        self.same = said is Said.SAME
        self._agreed = self._agreed + 1 if self.same else 0
        return Said.NOTHING if self.same and self._agreed < SAME_FRAMES else said

    def _compare(self, found: Estimate, frame: RgbdFrame) -> Said:
        shown = self.shown
        if shown is None or camera_key(frame) != shown.camera:
            return Said.NOTHING
        by_stamp_s = (frame.stamp_ns - shown.stamp_ns) * 1e-9
        by_uptime_s = self.now_s - shown.uptime_s
        if not (0.0 < by_stamp_s <= self._within_s and 0.0 <= by_uptime_s <= self._within_s):
            return Said.NOTHING
        before = Placed(anchors(self._model, shown.T_camera_ct))
        c, at = frame.intrinsics, before.anchor_camera_m
        pixels = (at[:, :2] / at[:, 2:] * (c.fx, c.fy) + (c.cx, c.cy)) * (WIDTH / c.width)
        step = np.diff(pixels, axis=0).mean(axis=0) if len(at) > 1 else np.zeros(2)
        now = thumbnail(frame.colour)
        if not stood_still(shown.picture, now, pixels[shown.tracked], step):
            return Said.NOTHING
        if differs(self._model, before, found):
            return Said.ANOTHER
        far = np.linalg.norm(before.anchor_camera_m - found.anchor_camera_m, axis=1)
        turned = [
            np.rad2deg(np.linalg.norm(log_so3(a[:3, :3] @ b[:3, :3].T)))
            for a, b in zip(shown.T_camera_ct, found.T_camera_ct)
        ]
        near = (far <= AGREE_M) & (np.array(turned) <= AGREE_DEG)
        return Said.SAME if near[shown.tracked].all() else Said.NOTHING


def to_json(memory: Memory) -> str:
    """One line of text; see `from_json`."""
    values: dict[str, Any] = {
        "version": VERSION,
        "case": memory.case,
        "clock": memory.clock,
        "boot": memory.boot,
        "contradicted": memory.contradicted,
        "rejections": [
            {"id": r.id, "name": r.name, "anchor_camera_m": r.anchor_camera_m.tolist()}
            for r in memory.rejections
        ],
        "withheld": dict(memory.withheld),
        "shown": None,
    }
    if (s := memory.shown) is not None:
        packed = base64.b64encode(zlib.compress(s.picture.tobytes(), 1)).decode("ascii")
        values["shown"] = {
            "camera": s.camera,
            "stamp_ns": s.stamp_ns,
            "uptime_s": s.uptime_s,
            "T_camera_ct": s.T_camera_ct.tolist(),
            "tracked": s.tracked.tolist(),
            "height": len(s.picture),
            "picture": packed,
        }
    return json.dumps(values)


def from_json(text: str, levels: int) -> Memory:
    """A memory that `to_json` wrote, for a case of so many levels.

    Raises ValueError, KeyError, TypeError or zlib.error: damaged, of another version or case.
    """
    v = json.loads(text)
    if v["version"] != VERSION:
        raise ValueError(f"version {v['version']}, expected {VERSION}")
    rejections = tuple(
        Rejection(str(r["id"]), str(r["name"]), _finite(r["anchor_camera_m"], (levels, 3)))
        for r in v["rejections"]
    )
    shown = None
    if (s := v["shown"]) is not None:
        raw = zlib.decompress(base64.b64decode(s["picture"], validate=True))
        picture = np.frombuffer(raw, np.uint8).reshape(int(s["height"]), WIDTH)
        tracked = np.array(s["tracked"], dtype=bool)
        if tracked.shape != (levels,):
            raise ValueError(f"{len(tracked)} levels, expected {levels}")
        shown = Shown(
            str(s["camera"]), _finite(s["T_camera_ct"], (levels, 4, 4)), tracked, picture,
            int(s["stamp_ns"]), float(s["uptime_s"]),
        )  # fmt: skip
    return Memory(
        str(v["case"]), str(v["clock"]), str(v["boot"]), shown, rejections,
        bool(v["contradicted"]),
        tuple((str(k), str(r)) for k, r in v.get("withheld", {}).items()),
    )  # fmt: skip


def _finite(values: Any, shape: tuple[int, ...]) -> np.ndarray:
    array = np.array(values, dtype=float)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"an array of shape {array.shape}, expected finite numbers {shape}")
    return array
