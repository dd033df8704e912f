# SPDX-License-Identifier: Apache-2.0
"""Has the reading slipped, or the camera jumped? What a frame says against the poses that are
followed.

A pose that slipped by a level fits its wrong vertebrae well. It is found out by comparison with
the neighbouring readings, and by bone that loses its explanation at one stroke.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .config import NavigatorConfig
from .estimator import Estimate, Noise
from .frame_kernels import vote_gaps
from .levels import MAX_VOTE_GAP_M, MIN_AREA_MM2
from .model import SpineModel
from .observation import BonePixels
from .registration import challenge
from .tracker import TrackStep

CHALLENGE_S = 1.0
"""Time between two comparisons with a neighbouring reading."""
STRAY_RISE = 0.12
"""A spine of five or six levels that slips by one leaves a fifth of the bone without explanation."""
FIT_FALL_NAT, JUMP_FALL_NAT = 0.6, 1.2
"""Fall of the mean log density of a bone pixel: from one frame to the next, beyond the first, the
camera may have jumped, beyond the second it has. On its neighbours' bone a vertebra loses 1.3 or
more, noise and tools a few tenths."""
BENT_MM = 3.0
"""A level that moves farther on its own between two frames was pushed, or is another."""
GAP_S = 0.15
"""After a longer time without a tracked level both neighbouring readings are compared before
anything is shown: a hand-held camera needs it to move by half a vertebra."""


@dataclass(frozen=True)
class Explained:
    """How well poses explain the bone in view. stray: share that no level explains; fit: mean log
    density, nat, of a pixel that some level explains, -inf without any."""

    stray: float
    fit: float

    def best(self, now: Explained) -> Explained:
        """The better of both, this one slowly forgotten."""
        return Explained(min(self.stray + 0.005, now.stray), max(self.fit - 0.02, now.fit))

    def worse(self, than: Explained, share: float = 1.0) -> bool:
        """Whether bone lost its explanation, or fits worse, by `share` of what a slip does."""
        return (
            self.stray > than.stray + share * STRAY_RISE
            or self.fit < than.fit - share * FIT_FALL_NAT
        )


def explained(estimate: Estimate, pixels: BonePixels, noise: Noise) -> Explained:
    """What `estimate` makes of its pixels."""
    mine = estimate.level_of_pixel >= 0
    area = pixels.area_m2
    if not mine.any():
        return Explained(1.0, -np.inf)
    weight = area[mine].sum() / noise.correlation_area_m2
    return Explained(
        float(area[~mine].sum() / area.sum()),
        float(estimate.pixel_log_likelihood[mine].sum() / weight),
    )


def votes_apart_m(estimate: Estimate, pixels: BonePixels) -> np.ndarray:
    """(L,) how far from its pose the network sees the vertebra of a level's pixels."""
    return vote_gaps(pixels.centre_vote_m, estimate.level_of_pixel, estimate.anchor_camera_m)


def has_jumped(
    best: Explained, now: Explained, result: TrackStep, pixels: BonePixels, tracked: np.ndarray
) -> bool:
    """Whether the camera may have jumped: a tracker is left on the neighbour then, from where the
    right reading need not win.

    Half of a fall is enough where a level moved on its own at the same time: bone that bends to fit
    is not the bone that it was. So are votes for another vertebra where one was tracked ((L,) bool).
    """
    share = 0.5 if max(result.moved_mm, default=0.0) > BENT_MM else 1.0
    if now.worse(best, share):
        return True
    return bool((votes_apart_m(result.estimate, pixels)[tracked] > MAX_VOTE_GAP_M).any())


def read_elsewhere(estimate: Estimate, apart_m: np.ndarray, exposed: np.ndarray) -> str:
    """Why no pose of this reading is to be believed, or '': the network sees as many of the exposed
    vertebrae elsewhere as where the poses put them. One level of a wrong reading may well lie on a
    vertebra, its neighbours rarely do.

    Args:
        apart_m: (L,) see `votes_apart_m`. exposed: (L,) bool.
    """
    bone = exposed & np.array([fit.area_mm2 >= MIN_AREA_MM2 for fit in estimate.fits])
    elsewhere = int((apart_m[bone] > MAX_VOTE_GAP_M).sum())
    if 2 * elsewhere < max(int(bone.sum()), 1):
        return ""
    return f"network sees {elsewhere} of {bone.sum()} vertebrae elsewhere"


@dataclass(frozen=True)
class Doubt:
    """What the comparison with neighbouring readings says. reason: '' if nothing speaks against the
    poses; slipped: another reading surely is the right one; compared: whether one was tried."""

    reason: str = ""
    slipped: bool = False
    compared: bool = False


def doubt(
    model: SpineModel,
    result: TrackStep,
    pixels: BonePixels,
    noise: Noise,
    config: NavigatorConfig,
    best: Explained,
    now: Explained,
    gap_s: float,
    due: int,
) -> Doubt:
    """Whether the spine may have slipped by a level.

    One way per turn is compared once a second; both ways at once after a gap, and where the picture
    changes at one stroke. Then the present reading must win clearly.

    Args:
        gap_s: since something was tracked. due: the way (-1 higher, 1 lower) whose turn it is, or 0.
    """
    gap = gap_s > GAP_S
    sudden = gap or now.worse(best)
    if not sudden and not due:
        return Doubt()
    noise = replace(noise, sigma_m=result.state.sigma_m)
    margin = 0.5 * config.level_margin
    reason = ""
    for way in (-1, 1) if sudden else (due,):
        lead = challenge(model, pixels, result.state.T_camera_ct, way, noise, config)
        where = "higher" if way < 0 else "lower"
        if lead > margin:
            return Doubt(f"one level {where} fits better", True, True)
        if sudden and lead > -margin:
            reason = f"level not certain after a jump or a gap: one {where} fits as well"
    if sudden and now.fit < best.fit - (FIT_FALL_NAT if gap else JUMP_FALL_NAT):
        reason = reason or "bone fits worse than before the jump or the gap"
    return Doubt(reason, False, True)
