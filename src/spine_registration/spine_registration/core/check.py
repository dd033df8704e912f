# SPDX-License-Identifier: Apache-2.0
"""The surgeon's check: landmarks of one vertebra are touched, and compared with where its pose has them.

What is touched says how far off the pose is, within what a finger and an eye can do. A camera that
measures the touched point itself cannot see its own bias in depth; a tracked pointer can.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from spine_nav_common.core.landmarks import Landmark, landmarks
from spine_nav_common.core.markups import LEAST_LANDMARKS
from spine_nav_common.core.types import Case, Intrinsics, NavigationResult, Rejected, Status

_WINDOW = 3  # pixels around a click, whose depths are asked
_LEAST_PIXELS = 8
_ONE_OF_MANY = 1.6
"""Of the limit: no touch of some five is farther off by chance (95 % of a Maxwell distribution lie within
2.8 of its sigmas, 99.98 % within 4.5)."""
_SURFACE_M = 6e-3  # depths that are no farther apart are one surface


@dataclass(frozen=True)
class Touch:
    """A landmark that was touched.

    point_m: (3,) in the camera's optical frame. own95_mm: 95 % of such touches lie nearer to the landmark
    that they mean. bound_mm: predicted 95 % error of the level then. T_camera_ct: (4, 4) of every tracked
    level in the frame of `stamp_ns`.
    """

    stamp_ns: int
    point_m: np.ndarray
    own95_mm: float
    bound_mm: float
    T_camera_ct: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Check:
    """The check of one level. touches: by name of the landmark; skipped: names that cannot be seen."""

    level: str
    landmarks: tuple[Landmark, ...]
    touches: Mapping[str, Touch]
    skipped: tuple[str, ...] = ()

    @property
    def next(self) -> int | None:
        """Index of the landmark that is to be touched; None = every one was touched or skipped."""
        for i, landmark in enumerate(self.landmarks):
            if landmark.name not in self.touches and landmark.name not in self.skipped:
                return i
        return None


@dataclass(frozen=True)
class Verdict:
    """What a check came to.

    Attributes:
        passed: the mean distance is within what pose and touch may err (95 %), and no landmark is off by
            more than chance allows.
        mean_mm, limit_mm: that distance, and how large it may be.
        residual_mm: by landmark.
        offset_mm: (3,) mean shift in the camera's optical frame, pose minus touch.
        resembles: another level whose landmarks the touched points are, "" = none.
    """

    level: str
    passed: bool
    mean_mm: float
    limit_mm: float
    residual_mm: Mapping[str, float]
    offset_mm: np.ndarray
    resembles: str = ""

    @property
    def text(self) -> str:
        """In words."""
        if self.passed:
            return f"passed: {self.mean_mm:.1f} mm, at most {self.limit_mm:.1f}"
        worst = max(self.residual_mm, key=lambda name: self.residual_mm[name])
        text = f"failed: {self.mean_mm:.1f} mm off, at most {self.limit_mm:.1f} was expected"
        if self.mean_mm <= self.limit_mm:
            text = f"failed: the {worst} is {self.residual_mm[worst]:.1f} mm off"
        if self.resembles:
            text += f"; the points touched are those of {self.resembles}"
        return text


def begin(case: Case, level: str) -> Check | Rejected:
    """Start a check of a level of the case that is open."""
    if level not in case.exposed_levels:
        return Rejected(f"{level} is not navigated; give {', '.join(case.exposed_levels)}")
    found = landmarks(case, level)
    return found if isinstance(found, Rejected) else Check(level, found, {})


def clicked(depth_m: np.ndarray, camera: Intrinsics, u: float, v: float) -> np.ndarray | Rejected:
    """(3,) point in metres, optical frame, that a pixel of an image without distortion shows.

    The nearer surface counts where the click lies on an edge: a tip is before what is behind it.
    """
    height, width = depth_m.shape
    if not (0.0 <= u < width and 0.0 <= v < height):
        return Rejected("the click lies outside of the picture")
    column, row = int(u), int(v)
    window = depth_m[
        max(0, row - _WINDOW) : row + _WINDOW + 1, max(0, column - _WINDOW) : column + _WINDOW + 1
    ]
    seen = window[np.isfinite(window) & (window > 0.0)]
    if len(seen) >= _LEAST_PIXELS:
        near = np.quantile(seen, 0.1)
        surface = seen[seen <= near + _SURFACE_M]
        if len(surface) >= _LEAST_PIXELS:
            z = float(np.median(surface))
            ray = ((u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, 1.0)
            return z * np.array(ray)
    return Rejected("the camera measures no depth there; touch bone that it sees well")


def touch(
    check: Check, point_m: np.ndarray, own95_mm: float, result: NavigationResult
) -> Check | Rejected:
    """The next landmark was touched, in the frame of `result`; see Touch."""
    at = check.next
    if at is None:
        return Rejected("every landmark of this check was touched")
    tracked = {
        e.level: e
        for e in result.levels
        if e.status is Status.TRACKED and e.T_camera_ct is not None
    }
    own = tracked.get(check.level)
    if own is None or own.predicted_tre_mm is None:
        return Rejected(f"{check.level} was not tracked in the picture that was touched")
    poses = {level: e.T_camera_ct for level, e in tracked.items() if e.T_camera_ct is not None}
    point = np.asarray(point_m, float)
    new = Touch(result.stamp_ns, point, own95_mm, own.predicted_tre_mm, poses)
    return replace(check, touches={**check.touches, check.landmarks[at].name: new})


def skip(check: Check) -> Check | Rejected:
    """The next landmark cannot be touched."""
    if (at := check.next) is None:
        return Rejected("every landmark of this check was touched")
    left = len(check.landmarks) - len(check.skipped) - 1
    if left < LEAST_LANDMARKS:
        return Rejected(
            f"{LEAST_LANDMARKS} landmarks are needed, and {left} would be left; name others in the"
            " case (case.yaml: landmarks)"
        )
    return replace(check, skipped=(*check.skipped, check.landmarks[at].name))


def undo(check: Check) -> Check | Rejected:
    """Take the last landmark back, to touch it again."""
    done = [x.name for x in check.landmarks if x.name in check.touches or x.name in check.skipped]
    if not done:
        return Rejected("nothing was touched yet")
    last = done[-1]
    return replace(
        check,
        touches={k: v for k, v in check.touches.items() if k != last},
        skipped=tuple(x for x in check.skipped if x != last),
    )


def judge(check: Check, case: Case) -> Verdict | Rejected:
    """Compare what was touched with the poses of those frames."""
    if len(check.touches) < LEAST_LANDMARKS:
        return Rejected(
            f"{len(check.touches)} landmarks were touched, {LEAST_LANDMARKS} are needed"
        )
    own = {x.name: x for x in check.landmarks}
    shifts = _shifts(check.level, own, check.touches)
    if shifts is None:
        return Rejected(f"{check.level} was not tracked when it was touched")
    residual = {name: 1e3 * float(np.linalg.norm(s)) for name, s in shifts.items()}
    limit = max(float(np.hypot(t.bound_mm, t.own95_mm)) for t in check.touches.values())
    mean = float(np.mean(list(residual.values())))
    passed = mean <= limit and max(residual.values()) <= _ONE_OF_MANY * limit
    offset = 1e3 * np.mean(list(shifts.values()), axis=0)
    resembles = "" if passed else _resembles(check, case, limit)
    return Verdict(check.level, passed, mean, limit, residual, offset, resembles)


def withheld(verdict: Verdict, case: Case) -> dict[str, str]:
    """Levels that are no longer shown after a check, each with the reason: the level that failed; all,
    where the touched points are those of another level, since then the count is wrong."""
    if verdict.passed:
        return {}
    reason = f"the landmark check of {verdict.level} {verdict.text}; press Register to begin anew"
    return dict.fromkeys(case.exposed_levels if verdict.resembles else [verdict.level], reason)


def _shifts(
    level: str, places: Mapping[str, Landmark], touches: Mapping[str, Touch]
) -> dict[str, np.ndarray] | None:
    """Landmark by the pose minus the point that was touched, metres; None = not tracked in all."""
    found = {}
    for name, t in touches.items():
        T = t.T_camera_ct.get(level)
        if T is None or name not in places:
            return None
        found[name] = T[:3, :3] @ places[name].point_m + T[:3, 3] - t.point_m
    return found


def _resembles(check: Check, case: Case, limit_mm: float) -> str:
    """The other exposed level whose landmarks of the same names lie within the limit, if one does."""
    best = ("", limit_mm)
    for level in case.exposed_levels:
        places = landmarks(case, level) if level != check.level else Rejected("")
        if isinstance(places, Rejected):
            continue
        shifts = _shifts(level, {x.name: x for x in places}, check.touches)
        if shifts is not None:
            mean = 1e3 * float(np.mean([np.linalg.norm(s) for s in shifts.values()]))
            best = min(best, (level, mean), key=lambda item: item[1])
    return best[0]
