# SPDX-License-Identifier: Apache-2.0
"""One rod from its rough curve to a smooth one from end to end, with its standard error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from spine_nav_common.core.types import Head3D, Rejected, RodFit, ScrewTrack

from .config import RodConfig
from .rod_group import SeedCurve
from .rod_spline import Anchor, SplineFit, fit_spline
from .types import RodMeasurements, StereoCamera

Measure = Callable[[np.ndarray, np.ndarray], RodMeasurements]
"""(points (K, 3) metres, tangents (K, 3) unit) -> what is seen there."""

_SAMPLE_MM = 0.8
_MOST_WALKS = 5
_WALK_GAP_MM = 18.0  # beyond the rough curve's ends, a longer gap is the end
_BENT_PLACES = 9  # of an end, from which its bend is taken
_SURE = 3.0  # log odds beyond which an eye is not surer
_SEATED_SIGMAS = 3.5
_HOVER_SIGMAS = 2.5  # of the mean over all heads
_SIDE_MM = 15.0  # a rod belongs to the side of the screws this close to it
_HIDES_MM = 18.0  # a tulip with its arms hides the rod so far from the saddle, seen aslant
_DRIFT = (
    0.2  # the straight continuation of a rod's end may miss the saddle by this share of its way
)
_UPRIGHT = 0.6  # cosine between a tulip's axis and the rod through it
_LEAST_ACROSS = 0.3  # a rod that runs towards the camera points nowhere in the image
_OVERHANG_MM = 3.0  # a seated rod stands out of its last tulip by at least so much


@dataclass(frozen=True)
class FittedRod:
    """A rod, and by track id the heads that hold it, their saddles made more certain by it."""

    rod: RodFit
    held: dict[int, Head3D]


@dataclass(frozen=True)
class _Sampled:
    """A hypothesis s_mm (K,) rising, points (K, 3), tangents (K, 3), and what was measured there."""

    s_mm: np.ndarray
    measured: RodMeasurements

    def seen(self, config: RodConfig) -> np.ndarray:
        """(K,) bool, lone answers smoothed away."""
        p = seen_by_both(self.measured)
        if len(p) >= 3:
            padded = np.concatenate([p[:1], p, p[-1:]])
            p = np.median(np.stack([padded[:-2], padded[1:-1], padded[2:]]), axis=0)
        return p >= config.presence


def seen_by_both(measured: RodMeasurements) -> np.ndarray:
    """(K,) confidence of a rod from that of either eye: the sum of both log odds.

    A sure eye outweighs one that sees nothing, for it may be hidden there; an unsure one does not:
    what only one eye takes for a rod, beyond its end, is mostly none. An eye that cannot look (0 or
    NaN) has no say.
    """
    both = np.stack([measured.confidence_left, measured.confidence_right])
    both = np.nan_to_num(both, nan=0.0)
    p = np.clip(both, 1e-6, 1.0 - 1e-6)
    odds = np.clip(np.log(p / (1.0 - p)), -_SURE + 0.1, _SURE).sum(axis=0)
    looks = (both > 0.0).all(axis=0)
    return np.asarray(np.where(looks, 1.0 / (1.0 + np.exp(-odds)), both.max(axis=0)))


def fit_rod(
    camera: StereoCamera,
    rough: SeedCurve,
    measure: Measure,
    screws: Sequence[ScrewTrack],
    config: RodConfig,
    cranial: np.ndarray | None = None,
) -> FittedRod | Rejected:
    """The rod along a rough curve.

    Args:
        measure: asked for the whole curve in each pass, and beyond its ends until the rod stops.
        screws: heads that may hold the rod, and tell its side.
        cranial: unit vector (3,) towards the patient's head; the curve then starts there.

    Rejected: too little of it is seen, or what is seen does not determine it.
    """
    points = rough.points_m
    for _ in range(config.passes):
        walked = _walked(_arc_mm(points), points, measure, config)
        if isinstance(walked, Rejected):
            return walked
        sampled = walked
        free = fit_spline(camera, sampled.s_mm, sampled.measured, (), config)
        points = free.points(_even(sampled.s_mm[0], sampled.s_mm[-1], config.spacing_mm))
    reaching = _to_saddles(camera, free, sampled, screws, config)
    if reaching is not None:
        sampled = reaching
        free = fit_spline(camera, sampled.s_mm, sampled.measured, (), config)
    holding = seated(free, sampled.s_mm, screws, config)
    fit = free
    if holding:
        anchors = tuple(Anchor(s, h.head.point_m, h.head.covariance_m2) for h, s in holding)
        fit = fit_spline(camera, sampled.s_mm, sampled.measured, anchors, config)
    if not holding and _surest(sampled, config) < config.lone_log_odds:
        return Rejected("no head holds it and it may be an instrument's shaft; uncover the rod")
    rod = _reported(fit, free, sampled, screws, config, cranial)
    if not isinstance(rod, Rejected):
        rod = _past_saddles(rod, [h.head.point_m for h, _ in holding])
    if isinstance(rod, Rejected):
        return rod
    # from the curve that knows nothing of the heads: no head may confirm itself
    held = {h.track_id: _pulled(h.head, free, s, config) for h, s in holding}
    return FittedRod(rod, held)


def _surest(sampled: _Sampled, config: RodConfig) -> float:
    """Mean log odds of the seen places for the eye that is surer of them: the other may be hidden."""
    seen = sampled.seen(config)
    eyes = (sampled.measured.confidence_left, sampled.measured.confidence_right)
    p = np.clip(np.nan_to_num(np.stack(eyes)[:, seen], nan=0.0), 1e-3, 1.0 - 1e-3)
    return float(np.log(p / (1.0 - p)).mean(axis=1).max())


def _arc_mm(points: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], 1e3 * np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])


def _even(first: float, last: float, step: float) -> np.ndarray:
    return np.linspace(first, last, max(4, int(np.ceil((last - first) / step)) + 1))


def _walked(
    s: np.ndarray, points: np.ndarray, measure: Measure, config: RodConfig
) -> _Sampled | Rejected:
    """Measure along the curve and outwards until the rod is seen no more; cut to what is seen."""
    grid = _even(s[0], s[-1], config.spacing_mm)
    inner = np.stack([np.interp(grid, s, points[:, k]) for k in range(3)], axis=1)
    steps = np.arange(1, int(config.walk_mm / config.spacing_mm) + 1) * config.spacing_mm
    before, after = _beyond(inner[::-1], steps)[::-1], _beyond(inner, steps)
    sampled = _measured(
        np.concatenate([grid[0] - steps[::-1], grid, grid[-1] + steps]),
        np.concatenate([before, inner, after]),
        measure,
    )
    for _ in range(_MOST_WALKS):
        seen = np.flatnonzero(sampled.seen(config))
        if not len(seen):
            break
        last = len(sampled.s_mm) - 1
        margin = int(_WALK_GAP_MM / config.spacing_mm)
        if seen[-1] + margin > last:
            sampled = _extended(sampled, steps, measure, at_end=True)
        elif seen[0] < margin:
            sampled = _extended(sampled, steps, measure, at_end=False)
        else:
            break
    seen = sampled.seen(config)
    seen_mm = float(seen.sum()) * config.spacing_mm
    if seen_mm < config.least_seen_mm:
        return Rejected(f"only {seen_mm:.0f} mm of it are seen; uncover the rod")
    return _cut(sampled, grid[0], grid[-1], config)


def _beyond(points: np.ndarray, steps_mm: np.ndarray) -> np.ndarray:
    """On from the end of a curve: bent as its last stretch is across the view, straight in depth,
    whose curvature two eyes hardly tell."""
    last = points[-max(4, _BENT_PLACES) :]
    s = -_arc_mm(last[::-1])[::-1]
    view = last[-1] / np.linalg.norm(last[-1])
    way = last - last[-1]
    depth = way @ view
    flat = way - depth[:, None] * view
    bent = np.linalg.lstsq(np.stack([s, s**2], axis=1), flat, rcond=None)[0]
    slope = s[-5:] @ depth[-5:] / max(float(s[-5:] @ s[-5:]), 1e-9)
    on = np.stack([steps_mm, steps_mm**2], axis=1) @ bent
    return np.asarray(points[-1] + on + (steps_mm * slope)[:, None] * view)


def _measured(s: np.ndarray, points: np.ndarray, measure: Measure) -> _Sampled:
    tangents = np.gradient(points, s, axis=0)
    tangents /= np.maximum(np.linalg.norm(tangents, axis=1, keepdims=True), 1e-12)
    measured = measure(points, tangents)
    if len(measured.point_m) != len(points):
        raise ValueError(
            f"rod refiner: asked for {len(points)} places, answered {len(measured.point_m)}"
        )
    return _Sampled(s, measured)


def _extended(sampled: _Sampled, steps: np.ndarray, measure: Measure, at_end: bool) -> _Sampled:
    old = sampled.measured
    if at_end:
        s = sampled.s_mm[-1] + steps
        new = _measured(s, _beyond(old.point_m, steps), measure)
        return _Sampled(np.concatenate([sampled.s_mm, s]), _joined(old, new.measured))
    s = (sampled.s_mm[0] - steps)[::-1]
    new = _measured(s, _beyond(old.point_m[::-1], steps)[::-1], measure)
    return _Sampled(np.concatenate([s, sampled.s_mm]), _joined(new.measured, old))


def _joined(a: RodMeasurements, b: RodMeasurements) -> RodMeasurements:
    return RodMeasurements(
        *(np.concatenate([getattr(a, f), getattr(b, f)]) for f in RodMeasurements.__annotations__)
    )


def _cut(sampled: _Sampled, first: float, last: float, config: RodConfig) -> _Sampled:
    """The stretch from end to end: seen places, hidden ones between them bridged.

    Within the rough curve (first to last, mm) gaps up to bridge_mm are hidden rod; beyond it a
    gap of _WALK_GAP_MM ends it, because what follows may be another piece of metal.
    """
    seen = np.flatnonzero(sampled.seen(config))
    s = sampled.s_mm
    middle = seen[np.abs(s[seen] - 0.5 * (first + last)).argmin()]
    start = end = int(np.flatnonzero(seen == middle)[0])

    def continues(a: int, b: int) -> bool:
        inside = first <= s[a] <= last and first <= s[b] <= last
        return bool(s[b] - s[a] <= (config.bridge_mm if inside else _WALK_GAP_MM))

    while start > 0 and continues(seen[start - 1], seen[start]):
        start -= 1
    while end < len(seen) - 1 and continues(seen[end], seen[end + 1]):
        end += 1
    keep = slice(int(seen[start]), int(seen[end]) + 1)
    measured = RodMeasurements(
        *(getattr(sampled.measured, f)[keep] for f in RodMeasurements.__annotations__)
    )
    return _Sampled(s[keep], measured)


def _to_saddles(
    camera: StereoCamera,
    fit: SplineFit,
    sampled: _Sampled,
    screws: Sequence[ScrewTrack],
    config: RodConfig,
) -> _Sampled | None:
    """The stretch prolonged to a head that stands where an end points to; None without one.

    A rod is hidden by the arms that hold it, so what is seen of it ends before the saddle.
    """
    added = [_reached(fit, sampled, screws, config, at_end) for at_end in (False, True)]
    if added[0] is None and added[1] is None:
        return None
    before, after = added
    out = sampled
    if before is not None:
        s, points = before
        out = _Sampled(
            np.concatenate([s, out.s_mm]),
            _joined(_unseen(points, out.measured, 0), out.measured),
        )
    if after is not None:
        s, points = after
        out = _Sampled(
            np.concatenate([out.s_mm, s]),
            _joined(out.measured, _unseen(points, out.measured, -1)),
        )
    return out


def _reached(
    fit: SplineFit,
    sampled: _Sampled,
    screws: Sequence[ScrewTrack],
    config: RodConfig,
    at_end: bool,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Arc positions (K,) rising and places (K, 3) from an end past the nearest saddle it points to."""
    last = sampled.s_mm[-1 if at_end else 0]
    ends = np.array([last, last - 10.0 if at_end else last + 10.0])
    end, inner = fit.points(np.clip(ends, sampled.s_mm[0], sampled.s_mm[-1]))
    way = (end - inner) / max(float(np.linalg.norm(end - inner)), 1e-9)
    view = end / np.linalg.norm(end)
    sigma_rod = float(np.sqrt(view @ fit.covariance_across(np.array([last]))[0] @ view))
    seen_way = way - (way @ view) * view
    length = float(np.linalg.norm(seen_way))
    if length < _LEAST_ACROSS:
        return None
    seen_way /= length
    best: tuple[float, np.ndarray] | None = None
    for screw in screws:
        head = screw.head
        to = head.point_m - end
        flat = to - (to @ view) * view
        ahead_mm = 1e3 * float(flat @ seen_way)
        beside_mm = 1e3 * float(np.linalg.norm(flat - 1e-3 * ahead_mm * seen_way))
        depth = float(to @ view) - 1e-3 * ahead_mm / length * float(way @ view)
        own = float(view @ head.covariance_m2 @ view)
        sigma = float(np.sqrt(own + sigma_rod**2 + (1e-3 * config.seat_mm) ** 2))
        if (
            0.0 < ahead_mm / length <= _HIDES_MM
            and abs(float(head.axis @ way)) <= _UPRIGHT
            and beside_mm <= config.anchor_mm + _DRIFT * ahead_mm
            and abs(depth) <= max(1e-3 * config.anchor_mm, _SEATED_SIGMAS * sigma)
            and (best is None or ahead_mm < best[0])
        ):
            best = (ahead_mm, head.point_m - depth * view)
    if best is None:
        return None
    saddle = best[1]
    reach = 1e3 * float(np.linalg.norm(saddle - end))
    towards = (saddle - end) / max(1e-3 * reach, 1e-9)
    steps = np.arange(config.spacing_mm, reach + _OVERHANG_MM, config.spacing_mm)
    steps = np.append(steps[steps < reach + _OVERHANG_MM - 0.5], reach + _OVERHANG_MM)
    points = end + 1e-3 * steps[:, None] * towards
    return (last + steps, points) if at_end else ((last - steps)[::-1], points[::-1])


def _unseen(points: np.ndarray, near: RodMeasurements, at: int) -> RodMeasurements:
    """Places (K, 3) of which no eye sees anything; normals as at place `at` of `near`."""
    nothing, count = np.zeros(len(points)), len(points)
    wide = np.full(count, np.inf)
    return RodMeasurements(
        points,
        np.tile(near.normal_left[at], (count, 1)),
        np.tile(near.normal_right[at], (count, 1)),
        nothing, nothing, wide, wide, nothing, nothing,
    )  # fmt: skip


def seated(
    fit: SplineFit, s_mm: np.ndarray, screws: Sequence[ScrewTrack], config: RodConfig
) -> list[tuple[ScrewTrack, float]]:
    """The heads that hold the rod, with their arc positions in mm.

    Across the view a head must lie within anchor_mm of the curve, in depth within what both know of
    it. All together must not lie before or behind it: then the rod hovers over the heads, or runs
    past them, and none of them holds it.
    """
    fine = _even(s_mm[0], s_mm[-1], _SAMPLE_MM)
    curve = fit.points(fine)
    near: list[tuple[ScrewTrack, float]] = []
    gap, head_var, curve_var = [], [], []
    for screw in screws:
        head = screw.head
        view = head.point_m / np.linalg.norm(head.point_m)
        way = curve - head.point_m
        depth = way @ view
        across = np.linalg.norm(way - depth[:, None] * view, axis=1)
        k = int(across.argmin())
        if across[k] > 1e-3 * config.anchor_mm:
            continue
        own = float(view @ head.covariance_m2 @ view)
        rod = float(view @ fit.covariance_across(fine[k : k + 1])[0] @ view)
        sigma = float(np.sqrt(own + rod + (1e-3 * config.seat_mm) ** 2))
        reach = max(1e-3 * config.anchor_mm, _SEATED_SIGMAS * sigma)
        if abs(depth[k]) <= reach:
            near.append((screw, float(fine[k])))
            gap.append(float(depth[k]))
            head_var.append(own + (1e-3 * config.seat_mm) ** 2)
            curve_var.append(rod)
    if not near:
        return []
    weight = 1.0 / np.array(head_var)
    mean = float(weight @ gap / weight.sum())
    sigma = float(np.sqrt(1.0 / weight.sum() + np.mean(curve_var)))  # the curve errs as one
    return near if abs(mean) <= _HOVER_SIGMAS * sigma else []


def _pulled(head: Head3D, fit: SplineFit, s_mm: float, config: RodConfig) -> Head3D:
    """The head with the rod's place across itself as one more measurement."""
    s = np.array([s_mm])
    U = np.linalg.svd(fit.tangents(s))[2][1:]  # two directions across the rod
    noise = U @ fit.covariance_across(s)[0] @ U.T + (1e-3 * config.seat_mm) ** 2 * np.eye(2)
    gain = np.linalg.solve(U @ head.covariance_m2 @ U.T + noise, U @ head.covariance_m2).T
    keep = np.eye(3) - gain @ U
    covariance = keep @ head.covariance_m2 @ keep.T + gain @ noise @ gain.T
    return replace(
        head,
        point_m=head.point_m + gain @ (U @ (fit.points(s)[0] - head.point_m)),
        covariance_m2=0.5 * (covariance + covariance.T),
    )


def _reported(
    fit: SplineFit,
    free: SplineFit,
    sampled: _Sampled,
    screws: Sequence[ScrewTrack],
    config: RodConfig,
    cranial: np.ndarray | None,
) -> RodFit | Rejected:
    fine = _even(sampled.s_mm[0], sampled.s_mm[-1], _SAMPLE_MM)
    points, free_m = fit.points(fine), free.points(fine)
    sigma_mm = _sigma_mm(fit.covariance_across(fine))
    free_sigma_mm = _sigma_mm(free.shape_covariance_across(fine))
    seen_at = sampled.seen(config)
    seen = seen_at[np.abs(fine[:, None] - sampled.s_mm).argmin(axis=1)]
    if not all(np.isfinite(v).all() for v in (points, sigma_mm, free_m, free_sigma_mm)):
        return Rejected("its fit did not come out finite")
    typical = float(np.median(sigma_mm[seen]))
    if typical > config.most_sigma_mm:
        return Rejected(
            f"it is known to {typical:.1f} mm only: it is no rod, or it runs along the line between"
            " both cameras; turn the camera by 45 degrees or more"
        )
    other_end = cranial is not None and (points[0] - points[-1]) @ cranial < 0.0
    way = -1 if other_end else 1
    return RodFit(
        points[::way], sigma_mm[::way], seen[::way], _side(points, screws), free_m[::way],
        free_sigma_mm[::way],
    )  # fmt: skip


def _past_saddles(rod: RodFit, saddles_m: Sequence[np.ndarray]) -> RodFit:
    """The rod with both ends at least _OVERHANG_MM past the saddles that hold it: a saddle that
    moved the curve in depth may have moved it on along itself too."""
    for at in (0, -1):
        line = rod.centreline_m
        way = line[at] - line[4 if at == 0 else -5]
        way /= max(float(np.linalg.norm(way)), 1e-12)
        ahead = [1e3 * float((saddle - line[at]) @ way) for saddle in saddles_m]
        near = [a for a in ahead if -_OVERHANG_MM < a < _HIDES_MM]
        if not near:
            continue
        steps = 1e-3 * np.arange(_SAMPLE_MM, max(near) + _OVERHANG_MM, _SAMPLE_MM)
        rod = _longer(rod, at, steps, way)
    return rod


def _longer(rod: RodFit, at: int, steps_m: np.ndarray, way: np.ndarray) -> RodFit:
    """The rod with unseen places straight on from its end `at` (0 or -1)."""

    def on(values: np.ndarray, more: np.ndarray) -> np.ndarray:
        return np.concatenate([more[::-1], values] if at == 0 else [values, more])

    count = len(steps_m)
    free, free_sigma = rod.free_m, rod.free_sigma_mm
    return replace(
        rod,
        centreline_m=on(rod.centreline_m, rod.centreline_m[at] + steps_m[:, None] * way),
        sigma_mm=on(rod.sigma_mm, np.full(count, rod.sigma_mm[at])),
        seen=on(rod.seen, np.zeros(count, bool)),
        free_m=None if free is None else on(free, free[at] + steps_m[:, None] * way),
        free_sigma_mm=(
            None if free_sigma is None else on(free_sigma, np.full(count, free_sigma[at]))
        ),
    )


def _sigma_mm(covariance_m2: np.ndarray) -> np.ndarray:
    return np.asarray(1e3 * np.sqrt(np.trace(covariance_m2, axis1=1, axis2=2)))


def _side(points: np.ndarray, screws: Sequence[ScrewTrack]) -> str:
    """The side that most screws near the rod have; empty without one or with a tie."""
    votes = {"left": 0, "right": 0}
    for screw in screws:
        near = np.linalg.norm(points - screw.head.point_m, axis=1).min()
        if screw.side and 1e3 * near <= _SIDE_MM:
            votes[screw.side] += 1
    if votes["left"] == votes["right"]:
        return ""
    return max(votes, key=lambda side: votes[side])
