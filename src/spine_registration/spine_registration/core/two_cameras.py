# SPDX-License-Identifier: Apache-2.0
"""Two RGB-D cameras over one operation: a navigation for each, moments paired by their stamps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spine_nav_common.core.depth_camera import DepthCamera
from spine_nav_common.core.geometry import invert
from spine_nav_common.core.types import Case, LevelEstimate, NavigationResult, RgbdFrame, Status
from spine_perception.core.segmentation import SegmentsFrames

from .between import Between
from .config import NavigatorConfig
from .fusion import difference
from .model import build_model
from .navigator import Navigator
from .put_together import FIRST, SECOND, PutTogether, Together

SLOP_NS = 35_000_000
"""Frames of the two cameras that lie nearer are of one moment: half a period at 15 Hz."""
STILL = "the camera stands still: the same picture again"


@dataclass(frozen=True)
class Moment:
    """One camera's frame or both. told: whether it gets rows: a frame of the second camera between two of
    the first does not."""

    first: RgbdFrame | None
    second: RgbdFrame | None
    told: bool = True

    @property
    def stamp_ns(self) -> int:
        """Of the first camera's frame, where there is one."""
        frame = self.first or self.second
        assert frame is not None
        return frame.stamp_ns


def moments(
    first: Iterator[RgbdFrame], second: Iterator[RgbdFrame], slop_ns: int = SLOP_NS
) -> Iterator[Moment]:
    """Both streams by their stamps: every frame of the first camera with the nearest of the second, if it
    is nearer than `slop_ns`; frames of the second alone where the first has none."""
    a, b = next(first, None), next(second, None)
    last_a: int | None = None
    while a is not None or b is not None:
        if a is not None and (b is None or b.stamp_ns > a.stamp_ns + slop_ns):
            yield Moment(a, None)
            last_a, a = a.stamp_ns, next(first, None)
        elif b is not None and (a is None or b.stamp_ns < a.stamp_ns - slop_ns):
            near = last_a is not None and b.stamp_ns - last_a <= slop_ns
            yield Moment(None, b, told=not near)
            b = next(second, None)
        else:
            assert a is not None and b is not None
            after_b = next(second, None)
            if after_b is not None and _nearer(after_b, b, a):
                yield Moment(None, b, told=False)
                b = after_b
                continue
            after_a = next(first, None)
            if after_a is not None and _nearer(after_a, a, b):
                yield Moment(a, None)
                last_a, a = a.stamp_ns, after_a
                # What was looked ahead of the second is put back by going on with it.
                second = _before(after_b, second)
                continue
            yield Moment(a, b)
            last_a, a, b = a.stamp_ns, after_a, after_b


def _nearer(one: RgbdFrame, other: RgbdFrame, to: RgbdFrame) -> bool:
    return abs(one.stamp_ns - to.stamp_ns) < abs(other.stamp_ns - to.stamp_ns)


def _before(frame: RgbdFrame | None, rest: Iterator[RgbdFrame]) -> Iterator[RgbdFrame]:
    if frame is not None:
        yield frame
    yield from rest


class TwoCameras:
    """Keeps the pose of every exposed level current by two cameras, in the first one's frame.

    Args:
        first, second: of one case, each with its camera's own depth calibration.
        between: how the cameras stand; None: by the spine that both see.
    """

    def __init__(self, first: Navigator, second: Navigator, between: Between | None) -> None:
        self.navigators = {FIRST: first, SECOND: second}
        self._together = PutTogether(first.model, between, first.config.max_predicted_tre_mm)
        self._last: dict[str, RgbdFrame] = {}
        self._results: dict[str, NavigationResult] = {}
        self.ever_together = False
        self.alone: dict[
            str, NavigationResult
        ] = {}  # of each camera at this moment, in its own frame

    @classmethod
    def of(
        cls,
        case: Case,
        segmenter: SegmentsFrames,
        config: NavigatorConfig,
        between: Between | None,
        depth: Sequence[DepthCamera | None] = (None, None),
    ) -> TwoCameras:
        """Both navigations of a case by one network. depth: what is measured of either camera's depth."""
        model = build_model(case)
        first, second = (
            Navigator(case, segmenter, config, model=model, camera=camera) for camera in depth
        )
        return cls(first, second, between)

    @property
    def between(self) -> Between | None:
        """How the cameras stand, where it is borne out."""
        return self._together.trusted

    @property
    def dropped(self) -> str:
        """Why the second camera is not believed; "" = it was not contradicted."""
        return self._together.dropped

    def request_registration(self) -> None:
        """Register both from scratch with the next frame, and forget what was learned of the cameras."""
        for navigator in self.navigators.values():
            navigator.request_registration()
        self._together.forget()

    def process(self, moment: Moment) -> Together:
        """Bring all levels up to date with one moment's frames.

        Raises ValueError: a frame is older than its camera's last one, or its images do not match.
        """
        frames = {FIRST: moment.first, SECOND: moment.second}
        still = {n: f is not None and _same(f, self._last.get(n)) for n, f in frames.items()}
        self.alone = {}
        # The one that follows the spine goes first, so that the other can hear of it.
        for name in sorted(frames, key=lambda n: self.navigators[n].proven_poses is None):
            frame = frames[name]
            if frame is None or still[name]:
                continue
            self._suggest(name)
            self.alone[name] = self.navigators[name].process(frame)
            self._last[name] = frame
        results = dict(self.alone)
        if not results:  # neither has a new picture: what each of them knew is not of now
            name = FIRST if frames[FIRST] is not None else SECOND
            return self._nothing(moment.stamp_ns, name)
        if SECOND in results and (frame := frames[SECOND]) is not None:
            skew_s = 1e-9 * (moment.stamp_ns - frame.stamp_ns)
            moving = results[SECOND]
            results[SECOND] = self._at(moving, skew_s)
            self._results[SECOND] = moving
        told = self._together(moment.stamp_ns, results.get(FIRST), results.get(SECOND))
        self.ever_together = self.ever_together or self.between is not None
        out = {n: STILL if still[n] else why for n, why in told.out.items()}
        return replace(told, out=out)

    def _suggest(self, name: str) -> None:
        between, other = self._together.trusted, FIRST if name == SECOND else SECOND
        navigator = self.navigators[name]
        if between is None or navigator.proven_poses is not None or other not in self.alone:
            return
        T = self.navigators[other].proven_poses
        if T is not None:
            T_first_second = between.T_first_second
            T_own_other = invert(T_first_second) if name == SECOND else T_first_second
            navigator.suggest(T_own_other @ T)

    def _at(self, result: NavigationResult, skew_s: float) -> NavigationResult:
        """A result with what may have moved between its frame and another camera's."""
        before = self._results.get(SECOND)
        dt_s = 0.0 if before is None else 1e-9 * (result.stamp_ns - before.stamp_ns)
        if skew_s == 0.0 or before is None or dt_s <= 0.0:
            return result
        levels = []
        model = self.navigators[SECOND].model
        for e, past in zip(result.levels, before.levels, strict=True):
            if e.T_camera_ct is None or past.T_camera_ct is None or e.covariance is None:
                levels.append(e)
                continue
            anchor = model.anchor_m[model.levels.index(e.level)]
            step = difference(e.T_camera_ct, past.T_camera_ct, anchor) * (skew_s / dt_s)
            more = np.outer(step, step)
            noise = np.zeros((6, 6)) if e.noise is None else e.noise
            levels.append(replace(e, covariance=e.covariance + more, noise=noise + more))
        return replace(result, levels=tuple(levels))

    def _nothing(self, stamp_ns: int, name: str) -> Together:
        case = self.navigators[name].case
        levels = tuple(_lost(level) for level in case.exposed_levels)
        out = dict.fromkeys((FIRST, SECOND), STILL)
        return Together(NavigationResult(stamp_ns, levels), {}, out)


def _lost(level: str) -> LevelEstimate:
    return LevelEstimate(level, Status.LOST, reason=STILL)


def _same(frame: RgbdFrame, last: RgbdFrame | None) -> bool:
    """Whether a picture is the last one again, to the bit: sensors have noise, a camera that hangs none."""
    return (
        last is not None
        and frame.colour.shape == last.colour.shape
        and np.array_equal(frame.colour[::16], last.colour[::16])
        and np.array_equal(frame.colour, last.colour)
        and np.array_equal(frame.depth_m, last.depth_m, equal_nan=True)
    )
