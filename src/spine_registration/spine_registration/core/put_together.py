# SPDX-License-Identifier: Apache-2.0
"""One estimate of every level from two cameras, in the first one's frame.

The second camera's poses are used once the spine that both see has borne out how the cameras stand to
each other, and no longer where it contradicts it: then the first goes on alone. Cameras that call one
vertebra by two names, or see two patients, show nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from spine_nav_common.core.types import (
    LEVELS,
    LevelEstimate,
    NavigationResult,
    Rejected,
    Status,
)

from .between import Between, SeenByBoth, checked, from_spine, in_first, of_first, offset
from .error import predicted_tre_mm
from .fusion import Biases, CameraPose, Fused, difference, fuse, moved
from .identity import CONTRADICTED_NAT
from .levels import RETURN_TRE
from .model import SpineModel

FIRST, SECOND = "first", "second"
CHECK_TICKS = 5
"""Moments of which a transform is made or checked."""
PATIENCE = 3
"""Moments in which the cameras must contradict each other alike before the second is dropped."""
BACK_TICKS = 30
"""Moments after which a camera that was dropped is checked anew."""
SAME_PLACE_M = 12e-3
"""Vertebrae of two names that lie nearer than this are one: neighbours are 25 mm apart and more."""
EASE_S = 1.0
"""Where a camera joins, the pose goes over to what both say within about this time."""


@dataclass(frozen=True)
class Together:
    """All levels at one moment, in the first camera's frame.

    cameras: by level, whose poses of this moment took part. out: by camera, why it did not take part at
    all ("" = it did).
    """

    result: NavigationResult
    cameras: Mapping[str, tuple[str, ...]]
    out: Mapping[str, str]


@dataclass(frozen=True)
class _Ease:
    """A step that is spread over time: twist (6,) of what is shown off what is estimated."""

    twist: np.ndarray
    stamp_ns: int

    def at(self, stamp_ns: int) -> np.ndarray:
        left = np.exp(-1e-9 * (stamp_ns - self.stamp_ns) / EASE_S)
        return self.twist * (left if left > 0.01 else 0.0)


@dataclass(frozen=True)
class _Level:
    """What is known of one level: biases, who took part, its step, whether its bound was too wide."""

    biases: Biases = field(default_factory=Biases)
    cameras: tuple[str, ...] = ()
    stamp_ns: int = 0
    ease: _Ease | None = None
    uncertain: bool = False
    shown: bool = False


class PutTogether:
    """Fuses the results of two navigations, moment by moment; one instance per operation.

    Args:
        between: how the cameras stand; None: by the spine that both see.
        most_tre_mm: bound above which a pose is not shown.
    """

    def __init__(self, model: SpineModel, between: Between | None, most_tre_mm: float) -> None:
        self._model = model
        self._given = between
        self._most_tre_mm = most_tre_mm
        self._index = {level: k for k, level in enumerate(model.levels)}
        self.forget()

    def forget(self) -> None:
        """A new registration is asked for: nothing that was learned holds."""
        self.between = self._given
        self.borne_out = False
        self._seen: list[list[SeenByBoth]] = []
        self._levels: dict[str, _Level] = {}
        self._dropped, self._since = "", 0
        self._contradicted = 0
        self._otherwise = ""

    @property
    def dropped(self) -> str:
        """Why the second camera is not believed; "" = it was not contradicted."""
        return self._dropped

    @property
    def trusted(self) -> Between | None:
        """How the cameras stand, where the spine bears it out and the second is not dropped."""
        usable = self.borne_out and not self._dropped and not self._otherwise
        return self.between if usable else None

    def __call__(
        self, stamp_ns: int, first: NavigationResult | None, second: NavigationResult | None
    ) -> Together:
        """Both results at a moment; None: that camera has no frame. Raises ValueError for no result."""
        given = {FIRST: first, SECOND: second}
        here = {name: r for name, r in given.items() if r is not None}
        if not here:
            raise ValueError("neither camera has a result")
        events = [f"{name}: {e}" for name, r in here.items() for e in r.events]
        seen = self._seen_by_both(first, second)
        refusal = self._two_patients(here) or self._two_names(first, second, events)
        if refusal:
            self._levels = {}
            levels = tuple(
                LevelEstimate(e.level, Status.REJECTED, reason=refusal)
                for e in next(iter(here.values())).levels
            )
            out = {name: refusal for name in given}
            return Together(self._result(stamp_ns, levels, here, events), {}, out)
        self._stand(seen, events)
        before = dict(self._levels)
        shown, cameras, against = self._all(stamp_ns, here)
        if self._moved(seen, against, events):
            self._levels = before
            shown, cameras, _ = self._all(stamp_ns, here)
        out = {name: self._why_out(name, given[name], cameras) for name in given}
        return Together(self._result(stamp_ns, tuple(shown), here, events), cameras, out)

    def _all(
        self, stamp_ns: int, here: Mapping[str, NavigationResult]
    ) -> tuple[list[LevelEstimate], dict[str, tuple[str, ...]], int]:
        """Every level, whose poses took part, and in how many the cameras contradict each other."""
        shown, cameras, against = [], {}, 0
        for e in next(iter(here.values())).levels:
            estimate, used, contradicted = self._level(
                stamp_ns, e.level, {n: _of(r, e.level) for n, r in here.items()}
            )
            shown.append(estimate)
            cameras[e.level] = used
            against += contradicted
        return shown, cameras, against

    # -- how the cameras stand ----------------------------------------------------------------------

    def _seen_by_both(
        self, first: NavigationResult | None, second: NavigationResult | None
    ) -> list[SeenByBoth]:
        if first is None or second is None:
            return []
        pairs = [(e, _of(second, e.level)) for e in first.levels]
        return [
            SeenByBoth(a, b, self._model.anchor_m[self._index[a.level]])
            for a, b in pairs
            if a.status is Status.TRACKED and b is not None and b.status is Status.TRACKED
        ]

    def _two_patients(self, here: Mapping[str, NavigationResult]) -> str:
        """Whether a camera sees another spine; one that cannot tell says nothing against the other."""
        refused = [
            n
            for n, r in here.items()
            if r.identity == "refused" and (r.identity_margin_nat or 0.0) < CONTRADICTED_NAT
        ]
        if not refused:
            return ""
        reasons = [e.reason for e in here[refused[0]].levels if e.reason]
        why = reasons[0] if reasons else "another spine"
        return f"the {refused[0]} camera sees another spine than the case's: {why}"

    def _two_names(
        self, first: NavigationResult | None, second: NavigationResult | None, events: list[str]
    ) -> str:
        """Whether the cameras name one vertebra differently; stays until they name it alike."""
        if first is None or second is None or self.between is None:
            return self._otherwise
        a, b = (
            self._placed(r, T)
            for r, T in ((first, np.eye(4)), (second, self.between.T_first_second))
        )
        alike = self._apart(a, b, 0)
        if alike is not None and alike < SAME_PLACE_M:
            if self._otherwise:
                events.append("both cameras name the levels alike again")
            self._otherwise = ""
            return ""
        for shift in (-1, 1, -2, 2, -3, 3):
            apart = self._apart(a, b, shift)
            if apart is not None and apart < SAME_PLACE_M:
                level = next(v for v in a if _shifted(v, shift) in b)
                self._otherwise = (
                    f"the cameras name one vertebra differently: {level} by the first is"
                    f" {_shifted(level, shift)} by the second. Neither is shown; register again"
                )
                self.borne_out, self._seen = False, []
                break
        return self._otherwise

    def _placed(self, r: NavigationResult, T_first: np.ndarray) -> dict[str, np.ndarray]:
        """(3,) where each tracked level's anchor is, in the first camera's frame."""
        out = {}
        for e in r.levels:
            if e.status is Status.TRACKED and e.T_camera_ct is not None:
                T = T_first @ e.T_camera_ct
                out[e.level] = T[:3, :3] @ self._model.anchor_m[self._index[e.level]] + T[:3, 3]
        return out

    @staticmethod
    def _apart(
        a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], shift: int
    ) -> float | None:
        far = [
            float(np.linalg.norm(p - b[_shifted(level, shift)]))
            for level, p in a.items()
            if _shifted(level, shift) in b
        ]
        return float(np.median(far)) if far else None

    def _stand(self, seen: list[SeenByBoth], events: list[str]) -> None:
        """Make or check the transform, where it is due."""
        if self._dropped:
            self._since += bool(seen)
            if self._since < BACK_TICKS:
                return
        elif self.borne_out:
            return
        if not seen:
            return
        if self._seen and {s.first.level for s in self._seen[-1]} != {s.first.level for s in seen}:
            self._seen = []
        self._seen.append(seen)
        if len(self._seen) < CHECK_TICKS:
            return
        every, self._seen = [s for some in self._seen for s in some], []
        if self._given is None:
            found = from_spine(every, CHECK_TICKS)
            if isinstance(found, Rejected):
                self._drop(found.reason, events)
                return
            self.between = found
            events.append("the cameras are registered to each other by the spine")
        elif why := checked(self._given, every, CHECK_TICKS):
            self._drop(why, events)
            return
        if self._dropped:
            self._levels = {}  # what was learned was of cameras that stood otherwise
        self._dropped, self._since, self.borne_out = "", 0, True
        events.append("both cameras see the spine in one place")

    def _drop(self, why: str, events: list[str]) -> None:
        if why != self._dropped:
            events.append(f"the second camera is dropped: {why}")
        self._dropped, self._since, self._contradicted = why, 0, 0

    def _moved(self, seen: list[SeenByBoth], against: int, events: list[str]) -> bool:
        """Whether the second camera has just been dropped, for it stands otherwise than before."""
        if not self.trusted or self.between is None or against < 2 or 2 * against < len(seen):
            self._contradicted = 0
            return False
        self._contradicted += 1
        if self._contradicted < PATIENCE:
            return False
        found = offset(seen, self.between)
        if not found.one_motion:
            return False
        self._drop(
            f"one of the cameras was moved: their vertebrae lie {found.mm:.1f} mm and {found.deg:.1f} deg"
            " apart. Calibrate them again (spinenav calibrate handeye)",
            events,
        )
        return True

    # -- a level --------------------------------------------------------------------------------------

    def _level(
        self, stamp_ns: int, level: str, by: Mapping[str, LevelEstimate | None]
    ) -> tuple[LevelEstimate, tuple[str, ...], bool]:
        """What is shown of a level, by whom, and whether the cameras contradict each other."""
        anchor = self._model.anchor_m[self._index[level]]
        tracked = self._poses(by, anchor, measured=True)
        last = self._levels.get(level, _Level())
        if not tracked:
            held = self._poses(by, anchor, measured=False)
            return self._unseen(stamp_ns, level, by, held, last), (), False
        known, fused = fuse(last.biases, stamp_ns, tracked, anchor)
        if isinstance(fused, Rejected):
            self._levels[level] = replace(last, shown=False)
            return LevelEstimate(level, Status.REJECTED, reason=fused.reason), (), True
        ease = last.ease
        if last.shown and set(fused.cameras) > set(last.cameras):
            _, alone = fuse(last.biases, stamp_ns, {n: tracked[n] for n in last.cameras}, anchor)
            if isinstance(alone, Fused):
                step = difference(alone.T_common_ct, fused.T_common_ct, anchor)
                ease = _Ease(step + (0.0 if ease is None else ease.at(stamp_ns)), stamp_ns)
        estimate = self._estimate(stamp_ns, level, fused, ease, Status.TRACKED)
        limit = self._most_tre_mm * (RETURN_TRE if last.uncertain else 1.0)
        bound = estimate.predicted_tre_mm or 0.0
        uncertain = bound > limit
        if uncertain:
            why = f"uncertain: predicted TRE {bound:.1f} mm, shown below {limit:.1f}"
            status = Status.OCCLUDED if last.shown else Status.REGISTERING
            estimate = (
                replace(estimate, status=status, reason=why)
                if status is Status.OCCLUDED
                else LevelEstimate(level, status, reason=why)
            )
        self._levels[level] = _Level(
            known, fused.cameras, stamp_ns, ease, uncertain, last.shown or not uncertain
        )
        return estimate, fused.cameras, False

    def _poses(
        self, by: Mapping[str, LevelEstimate | None], anchor: np.ndarray, measured: bool
    ) -> dict[str, CameraPose]:
        """Of each camera that placed the level in this frame, or (not `measured`) holds it alone: a pose
        whose own bound is too wide to be shown may be good enough beside the other camera's."""
        out = {}
        for name, e in by.items():
            held = e is not None and e.status is Status.OCCLUDED and not e.measured
            placed = e is not None and (e.status is Status.TRACKED or e.measured)
            if e is None or not (placed if measured else held):
                continue
            if name == FIRST:
                out[name] = of_first(e)
            elif (between := self.trusted) is not None:
                out[name] = in_first(e, between, anchor)
        return out

    def _unseen(
        self,
        stamp_ns: int,
        level: str,
        by: Mapping[str, LevelEstimate | None],
        held: Mapping[str, CameraPose],
        last: _Level,
    ) -> LevelEstimate:
        """A level that no camera tracks: held where one still holds it, else why not."""
        anchor = self._model.anchor_m[self._index[level]]
        reasons = [f"{n}: {e.reason or e.status.value}" for n, e in by.items() if e is not None]
        reason = "; ".join(reasons)
        for name, pose in held.items():
            _, fused = fuse(last.biases, stamp_ns, {name: pose}, anchor)
            if isinstance(fused, Fused):
                estimate = self._estimate(stamp_ns, level, fused, last.ease, Status.OCCLUDED)
                return replace(estimate, reason=reason)
        self._levels[level] = replace(last, shown=False)
        states = [e.status for n, e in by.items() if e is not None and (n == FIRST or self.trusted)]
        without = [s for s in states if s not in (Status.TRACKED, Status.OCCLUDED)]
        status = without[0] if without else Status.SEARCHING
        if not states:
            reason = f"{reason or 'no frame'}; the second camera is not used: {self._waiting()}"
        return LevelEstimate(level, status, reason=reason)

    def _estimate(
        self, stamp_ns: int, level: str, fused: Fused, ease: _Ease | None, status: Status
    ) -> LevelEstimate:
        k = self._index[level]
        anchor_ct = self._model.anchor_m[k]
        T, covariance = fused.T_common_ct, fused.covariance
        if ease is not None and (step := ease.at(stamp_ns)).any():
            T, covariance = moved(T, step, anchor_ct), covariance + np.outer(step, step)
        anchor = T[:3, :3] @ anchor_ct + T[:3, 3]
        points = self._model.plan_points_m[k] @ T[:3, :3].T + T[:3, 3]
        bound = predicted_tre_mm(covariance, anchor, points)
        return LevelEstimate(level, status, T, covariance, anchor, bound)

    # -- what is told -----------------------------------------------------------------------------------

    def _waiting(self) -> str:
        if self._dropped:
            return self._dropped
        return "" if self.borne_out else "no level was seen by both cameras together yet"

    def _why_out(
        self,
        name: str,
        result: NavigationResult | None,
        cameras: Mapping[str, tuple[str, ...]],
    ) -> str:
        if any(name in used for used in cameras.values()):
            return ""
        if result is None:
            return "no frame"
        if name == SECOND and (why := self._waiting()):
            return why
        reasons = [
            e.reason or e.status.value for e in result.levels if e.status is not Status.TRACKED
        ]
        return reasons[0] if reasons else "its levels contradict those of the other camera"

    def _result(
        self,
        stamp_ns: int,
        levels: tuple[LevelEstimate, ...],
        here: Mapping[str, NavigationResult],
        events: list[str],
    ) -> NavigationResult:
        states = {r.identity for r in here.values()}
        margins = [
            r.identity_margin_nat for r in here.values() if r.identity_margin_nat is not None
        ]
        timings = {
            f"{n}_{stage}": ms for n, r in here.items() for stage, ms in r.timings_ms.items()
        }
        identity = next(s for s in ("refused", "proven", "unknown") if s in states)
        return NavigationResult(
            stamp_ns, levels, timings, tuple(events), identity=identity,
            identity_margin_nat=max(margins, default=None),
        )  # fmt: skip


def _of(result: NavigationResult | None, level: str) -> LevelEstimate | None:
    levels = () if result is None else result.levels
    return next((e for e in levels if e.level == level), None)


def _shifted(level: str, by: int) -> str:
    i = LEVELS.index(level) + by
    return LEVELS[i] if 0 <= i < len(LEVELS) else ""
