# SPDX-License-Identifier: Apache-2.0
"""The rods of one operation from pair to pair: where they are looked for, and what is remembered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from spine_nav_common.core.types import Head3D, Rejected, RodFit, ScrewTrack, StereoFrame

from .config import RodConfig
from .follow import rough_curve, unknown
from .rod_fit import FittedRod, fit_rod
from .rod_ghosts import one_place, without_ghosts
from .rod_glance import glance, moved_rod
from .rod_group import SeedCurve, group_rods
from .rod_heads import rods_between_heads
from .rod_walk import seen_by_both
from .rod_width import beyond_share, outline_share
from .stages import MeasuresRods
from .triangulate import camera_of
from .types import RodMeasurements, RodSeeds

_NS = 1e-9
_MOST_OF_IT = 0.6  # of a known rod's length; where less is measured, the rest may be covered
_NEAR_MM = 3.0
_MOST_LONE = 2  # rods without a head that are believed at a time
_PROVEN_PAIRS = 2
_WANDER_MM_PER_SQRT_S = 1.6  # of a covered rod against the heads, as for heads


@dataclass(frozen=True)
class RodsSeen:
    """Rods of one pair; held: heads by track id, their saddles made more certain; events in words."""

    rods: tuple[RodFit, ...]
    held: Mapping[int, Head3D]
    events: tuple[str, ...]


@dataclass(frozen=True)
class _Known:
    """A rod as it was last measured, in the camera of the last pair, the heads that held it, and in
    how many pairs in turn it was measured."""

    fitted: FittedRod
    seen_ns: int
    pairs: int = 1

    @property
    def rod(self) -> RodFit:
        return self.fitted.rod

    @property
    def holders(self) -> frozenset[int]:
        return frozenset(self.fitted.held)


class Rods:
    """Keeps the rods current; one instance per operation, not thread-safe."""

    def __init__(self, config: RodConfig, refiner: MeasuresRods) -> None:
        self.config = config
        self._refiner = refiner
        self._known: list[_Known] = []

    def proven(self) -> tuple[np.ndarray, ...]:
        """Centrelines (N, 3) in the camera of the last pair of rods that heads hold in two pairs and
        more: where other heads may be."""
        return tuple(
            k.rod.centreline_m for k in self._known if k.holders and k.pairs >= _PROVEN_PAIRS
        )

    def step(
        self,
        frame: StereoFrame,
        seeds: RodSeeds | None,
        T_now_before: np.ndarray,
        screws: Sequence[ScrewTrack],
        cranial: np.ndarray | None,
    ) -> RodsSeen:
        """The rods of one pair.

        Args:
            seeds: the finder's cells, None where the picture was not searched: then known rods
                alone are looked at, where they should be: at a glance, or measured anew where that
                does not find all of them.
            T_now_before: (4, 4) motion of the camera since the last pair.
            screws: heads shown in this pair.
            cranial: unit vector (3,) towards the patient's head.
        """
        known = [replace(k, fitted=moved_rod(k.fitted, T_now_before)) for k in self._known]
        events: list[str] = []
        fitted: list[FittedRod] = []
        of: list[FittedRod | None] = []  # what was measured of each known rod
        for k in known:
            own = self._glanced(frame, k, screws) if seeds is None else None
            own = own or self._fitted(frame, rough_curve(k.rod), 1, screws, cranial, events)
            of.append(own)
            fitted += [rod for rod in of[-1:] if rod is not None]
        for curve in self._new(frame, seeds, [rough_curve(k.rod) for k in known], screws):
            passes = self.config.passes
            rod = self._fitted(frame, curve.points_m, passes, screws, cranial, events)
            fitted += [] if rod is None else [rod]
        rods, ghosts = without_ghosts(fitted, screws, camera_of(frame))
        if ghosts:
            events.append(f"{ghosts} rod not reported: it lies over a better one in an image")
        covered = self._covered(frame, known, of, rods, screws)
        gone = [own for _, own in covered]
        rods = [r for r in rods if not any(r is g for g in gone)]
        pairs = {id(own): k.pairs + 1 for k, own in zip(known, of, strict=True)}
        self._known = [_Known(r, frame.stamp_ns, pairs.get(id(r), 1)) for r in rods]
        self._known += [k for k, _ in covered]
        lone = [r for r in rods if not r.held]
        if len(lone) > _MOST_LONE:
            # a hand or two hold a rod each; shanks in a tray look like rods, and are many
            rods = [r for r in rods if r.held]
            events.append(
                f"{len(lone)} things look like rods that no head holds: none of them is reported;"
                " take a tray with screws out of the picture, or cover it"
            )
        shown = [r.rod for r in rods] + [_hidden(k, own, frame.stamp_ns) for k, own in covered]
        held = {i: head for r in [*rods, *(o for o in gone if o)] for i, head in r.held.items()}
        return RodsSeen(tuple(shown), held, tuple(events))

    def _new(
        self,
        frame: StereoFrame,
        seeds: RodSeeds | None,
        known: Sequence[np.ndarray],
        screws: Sequence[ScrewTrack],
    ) -> list[SeedCurve]:
        """Curves that no known rod explains: of the finder, and between heads."""
        if seeds is None:
            return []
        camera = camera_of(frame)
        seen = unknown(known, group_rods(seeds, self.config), camera, self.config.across_mm)
        between = rods_between_heads(
            camera, screws, [*known, *(s.points_m for s in seen)],
            lambda points, tangents: self._measure(frame, points, tangents),
            seen_by_both, self.config,
        )  # fmt: skip
        return [*seen, *between]

    def _measure(
        self, frame: StereoFrame, points: np.ndarray, tangents: np.ndarray
    ) -> RodMeasurements:
        return self._refiner.measure(frame, points, tangents)

    def _fitted(
        self,
        frame: StereoFrame,
        curve: np.ndarray,
        passes: int,
        screws: Sequence[ScrewTrack],
        cranial: np.ndarray | None,
        events: list[str],
    ) -> FittedRod | None:
        rod = fit_rod(
            camera_of(frame), SeedCurve(curve, np.inf),
            lambda points, tangents: self._measure(frame, points, tangents),
            screws, replace(self.config, passes=passes), cranial,
        )  # fmt: skip
        if isinstance(rod, Rejected):
            events.append(f"rod not reported: {rod.reason}")
            return None
        wrong = None if rod.held else self._unlike_a_rod(frame, rod.rod)
        if wrong is not None:
            events.append(f"rod not reported: no head holds it and it is {wrong} than a rod")
            return None
        return rod

    def _glanced(
        self, frame: StereoFrame, known: _Known, screws: Sequence[ScrewTrack]
    ) -> FittedRod | None:
        """A rod that was measured in full, and just now, where a glance finds all of it."""
        if known.pairs < _PROVEN_PAIRS:
            return None
        return glance(
            camera_of(frame), known.fitted,
            lambda points, tangents: self._measure(frame, points, tangents), screws, self.config,
        )  # fmt: skip

    def _unlike_a_rod(self, frame: StereoFrame, rod: RodFit) -> str | None:
        if outline_share(frame, rod) < self.config.lone_outline:
            return "thinner"
        if beyond_share(frame, rod) > self.config.lone_beyond:
            return "thicker"
        return None

    def _covered(
        self,
        frame: StereoFrame,
        known: Sequence[_Known],
        of: Sequence[FittedRod | None],
        rods: Sequence[FittedRod],
        screws: Sequence[ScrewTrack],
    ) -> list[tuple[_Known, FittedRod | None]]:
        """Known rods of which little is measured because a hand covers them, and that little.

        Covered: most heads that held the rod are hidden too. Where they are seen and the rod is
        not, it was taken away.
        """
        seen = {s.track_id for s in screws if not s.hidden}
        out = []
        for k, own in zip(known, of, strict=True):
            mine = own if any(r is own for r in rods) else None
            others = [r for r in rods if r is not mine]
            if (
                len(k.holders & seen) < 0.5 * len(k.holders)
                and (frame.stamp_ns - k.seen_ns) * _NS <= self.config.hold_s
                and (mine is None or _length(mine.rod) < _MOST_OF_IT * _length(k.rod))
                and not any(one_place(k.rod, r.rod, camera_of(frame)) for r in others)
            ):
                out.append((k, mine))
        return out


def _length(rod: RodFit) -> float:
    return float(np.linalg.norm(np.diff(rod.centreline_m, axis=0), axis=1).sum())


def _hidden(known: _Known, own: FittedRod | None, stamp_ns: int) -> RodFit:
    """A covered rod where it should be, seen where a part of it was measured."""
    rod = known.rod
    wander_mm = _WANDER_MM_PER_SQRT_S * np.sqrt(max(0.0, (stamp_ns - known.seen_ns) * _NS))
    seen = np.zeros(len(rod.seen), bool)
    if own is not None and own.rod.seen.any():
        away, _ = cKDTree(own.rod.centreline_m[own.rod.seen]).query(rod.centreline_m)
        seen = 1e3 * away < _NEAR_MM
    return replace(rod, sigma_mm=np.hypot(rod.sigma_mm, wander_mm), seen=seen)
