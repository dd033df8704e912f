# SPDX-License-Identifier: Apache-2.0
"""One rod from its rough curve to a smooth one from end to end, with its standard error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from spine_nav_common.core.types import Head3D, Rejected, RodFit, ScrewTrack

from .config import RodConfig
from .rod_group import SeedCurve
from .rod_saddles import (
    SAMPLE_MM,
    Saddle,
    past_saddles,
    pulled,
    saddle_of,
    seated,
    to_saddles,
)
from .rod_spline import Anchor, SplineFit, fit_spline
from .rod_walk import Measure, Sampled, arc_mm, even, walked
from .types import StereoCamera

_SIDE_MM = 15.0  # a rod belongs to the side of the screws this close to it


@dataclass(frozen=True)
class FittedRod:
    """A rod, and by track id the heads that hold it, their saddles made more certain by it, and
    where the rod crosses them."""

    rod: RodFit
    held: dict[int, Head3D]
    saddles: dict[int, Saddle] = field(default_factory=dict)


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
        found = walked(arc_mm(points), points, measure, config)
        if isinstance(found, Rejected):
            return found
        sampled = found
        free = fit_spline(camera, sampled.s_mm, sampled.measured, (), config)
        points = free.points(even(sampled.s_mm[0], sampled.s_mm[-1], config.spacing_mm))
    reaching = to_saddles(free, sampled, screws, config)
    if reaching is not None:
        sampled = reaching
        free = fit_spline(camera, sampled.s_mm, sampled.measured, (), config)
    holding = seated(free, sampled.s_mm, screws, config)
    fit = free
    if holding:
        anchors = tuple(Anchor(s, h.head.point_m, h.head.covariance_m2) for h, s in holding)
        fit = fit_spline(camera, sampled.s_mm, sampled.measured, anchors, config)
    if not holding and not _surely_seen(sampled, config):
        return Rejected("no head holds it and it may be an instrument's shaft; uncover the rod")
    rod = _reported(fit, free, sampled, screws, config, cranial)
    if not isinstance(rod, Rejected):
        rod = past_saddles(rod, [h.head.point_m for h, _ in holding])
    if isinstance(rod, Rejected):
        return rod
    # from the curve that knows nothing of the heads: no head may confirm itself
    saddles = {h.track_id: saddle_of(free, s) for h, s in holding}
    held = {h.track_id: pulled(h.head, saddles[h.track_id], config) for h, _ in holding}
    return FittedRod(rod, held, saddles)


def _surely_seen(sampled: Sampled, config: RodConfig) -> bool:
    """Whether the eye that is surer of the seen places is sure of them (mean log odds), and the other
    one agrees: what one eye alone takes for a rod all along may be a tube or a shaft."""
    seen = sampled.seen(config)
    eyes = (sampled.measured.confidence_left, sampled.measured.confidence_right)
    p = np.clip(np.nan_to_num(np.stack(eyes)[:, seen], nan=0.0), 1e-3, 1.0 - 1e-3)
    weaker, surer = sorted(np.log(p / (1.0 - p)).mean(axis=1))
    return bool(surer >= config.lone_log_odds and weaker >= config.lone_weaker_log_odds)


def _reported(
    fit: SplineFit,
    free: SplineFit,
    sampled: Sampled,
    screws: Sequence[ScrewTrack],
    config: RodConfig,
    cranial: np.ndarray | None,
) -> RodFit | Rejected:
    fine = even(sampled.s_mm[0], sampled.s_mm[-1], SAMPLE_MM)
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
        points[::way], sigma_mm[::way], seen[::way], side_of(points, screws), free_m[::way],
        free_sigma_mm[::way],
    )  # fmt: skip


def _sigma_mm(covariance_m2: np.ndarray) -> np.ndarray:
    return np.asarray(1e3 * np.sqrt(np.trace(covariance_m2, axis1=1, axis2=2)))


def side_of(points: np.ndarray, screws: Sequence[ScrewTrack]) -> str:
    """The side that most screws near the rod have; empty without one or with a tie."""
    votes = {"left": 0, "right": 0}
    for screw in screws:
        near = np.linalg.norm(points - screw.head.point_m, axis=1).min()
        if screw.side and 1e3 * near <= _SIDE_MM:
            votes[screw.side] += 1
    if votes["left"] == votes["right"]:
        return ""
    return max(votes, key=lambda side: votes[side])
