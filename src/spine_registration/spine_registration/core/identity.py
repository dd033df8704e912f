# SPDX-License-Identifier: Apache-2.0
"""Is this the spine of the case? The pattern of what the poses leave unexplained.

Vertebrae of two people differ by 2 to 3 mm in the shape of the arch. A pose hides most of that in
one frame's noise, but not its pattern: the surface is divided into patches, and the signed
distances of the bone in each are averaged over frames. Two explanations compete for these means,
each a Gaussian process over the patches of a level: the case's shape seen by a camera with noise
of unknown size that stays where it is, a smooth bias and a free pose; or, on top of that, another
person's shape. The camera's noise is as free in one as in the other, so a bad camera speaks for
neither; only the case that beats the other shapes is shown.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from . import frame_kernels
from .estimator import anchors, assign
from .model import SpineModel
from .observation import BonePixels

PATCHES = 110
"""Per level, about 6 mm apart; a quarter to a third of them are in view."""
PATCH_REACH_M = 9e-3
LIMIT_M = 8e-3
"""Pixels farther from the surface are something else."""
VOTE_REACH_M = 17e-3
"""Bone whose vertebra the network sees farther away belongs to a neighbour, which the case may lack."""
MIN_PATCHES = 15
MIN_WEIGHT_M2 = 6e-6
"""Clean bone per frame that a patch needs to count."""

SHAPE_MM = 1.0
"""One sigma by which the dorsal surface of another person differs after the pose is fitted. With a
larger one all who are much alike would speak for the case."""
SHAPE_REACH_MM = ((9.0, 0.7), (25.0, 0.3))  # wavelengths of that difference, and their shares
NOISE_REACH_MM = 5.5
"""How far noise that is fixed to the image hangs together on the bone."""
FLOOR_MM = 0.3  # mesh, tissue and grid
PATCH_FLOOR_MM = 0.15
BIAS_SHARE = 1.2e-3
BIAS_REACH_MM = 40.0
STATIC = np.array([0.3, 0.8, 2.0, 5.0])
"""Variance of the noise that stays, in units of the noise that changes from frame to frame."""
_STATIC_LOG_PRIOR = -0.5 * (np.log(STATIC / 0.8) / 0.6) ** 2
PRIOR_VARIANCE_MM2, PRIOR_FRAMES = 0.45, 3.0  # of the noise that changes, before it is measured

PROVEN_NAT, HELD = 6.0, 3
"""Lead of the case's shape over other shapes from which on it is shown, in so many verdicts in a row
(a fifth of a second). Of 421 mixes of training and calibration anatomies the highest held 4.3."""
SURE_NAT = 12.0
"""A lead that is enough at once; the highest that a mix had in any one verdict was 6.7."""
AGAIN_NAT = 2.5
"""A lead that is enough at once where the patient was proven before and only the reading is new. Of
readings one level off (60 on 16 `calibrate` scenes, 8 frames each) the highest had 2.0; of the right
ones two thirds have more in the first frame, four fifths after six."""
CONTRADICTED_NAT = -6.0
"""A level, or afterwards the patient, whose shape has lost by this much is another."""
VERDICT_FRAMES = 15
KEPT_FRAMES = 60.0
SPARSE = 3
"""After the verdict every third frame is compared."""
CHANGED_MM = 1.5
MOST_CHANGED = 0.4
"""A vertebra of which more than this share differs was not operated on: it is another one."""
REST_NAT = 2.0
"""What is left of an operated vertebra speaks for the case by this much. What is left of another
level's, once the places that differ are taken out, spoke against it (-1.5 to -26 nat, training)."""
_SCHEDULE = (1, 2, 3, 4, 6, 9, 12, VERDICT_FRAMES)
_OFFSET = 6
"""Later verdicts fall between the comparisons with neighbouring readings, which come once a second:
one frame should not pay for both."""


@dataclass(frozen=True)
class Patches:
    """Where the surface is compared; K exposed levels, P patches of each, mesh frame.

    levels (K,) their indices in the model; slot (L,) the other way round, -1 for none; centre_m,
    normal (K, P, 3); anchor_m (K, 3); axes (3, 3) left, posterior, superior.
    """

    names: tuple[str, ...]
    levels: np.ndarray
    slot: np.ndarray
    centre_m: np.ndarray
    normal: np.ndarray
    anchor_m: np.ndarray
    axes: np.ndarray

    @cached_property
    def kernels(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(K, P, P) each: noise and bias of unit variance, shape in mm^2; and (K, P, 6) how a
        small pose error moves the patches' distances."""
        x = 1e3 * self.centre_m
        square = ((x[:, :, None] - x[:, None]) ** 2).sum(axis=3)
        along = self.normal @ self.normal.transpose(0, 2, 1)
        shape = sum(s * np.exp(-square / (2 * r * r)) for r, s in SHAPE_REACH_MM)
        arm = (x - x.mean(axis=1, keepdims=True)) / 20.0
        return (
            np.exp(-square / (2 * NOISE_REACH_MM**2)),
            along * np.exp(-square / (2 * BIAS_REACH_MM**2)),
            SHAPE_MM**2 * along * shape,
            np.concatenate([self.normal, np.cross(arm, self.normal)], axis=2),
        )


@dataclass(frozen=True)
class Evidence:
    """Sums over frames, (K, P): weight (m^2) and weighted distance (m); and of the frames in which
    a patch was seen well their number, sum of means and of squared means (m, m^2). depth_m (K,)
    sum over frames."""

    frames: float
    weight: np.ndarray
    moment: np.ndarray
    seen: np.ndarray
    mean: np.ndarray
    square: np.ndarray
    depth_m: np.ndarray


@dataclass(frozen=True)
class Change:
    """A level that does not have the case's shape. places: where, '' if all over."""

    level: str
    places: str
    mm: float


@dataclass(frozen=True)
class Verdict:
    """margin_nat: by how much the case's shape explains the bone better than other shapes do.
    level_nat (K,): the same per level. shape_mm: RMS by which the surface differs if it is
    another's; noise_mm: what the camera leaves in a patch. changed: levels that were changed since
    the CT; foreign: levels that are another vertebra."""

    margin_nat: float
    level_nat: np.ndarray
    shape_mm: float
    noise_mm: float
    patches: int
    changed: tuple[Change, ...] = ()
    foreign: tuple[Change, ...] = ()


@dataclass(frozen=True)
class Identity:
    """What is known so far. proven: the case has won; refusal: why it is not this patient's.
    again: it had won before, with another reading of the picture. frame: frames since the
    registration; held: verdicts in a row that would prove it; news: what the last frame was the
    first to show."""

    evidence: Evidence
    frame: int = 0
    proven: bool = False
    refusal: str = ""
    verdict: Verdict | None = None
    held: int = 0
    news: tuple[str, ...] = ()
    again: bool = False

    @property
    def needed_nat(self) -> float:
        """Lead from which on the case is shown."""
        return AGAIN_NAT if self.again else PROVEN_NAT

    @property
    def state(self) -> str:
        """ "unknown", "proven" or "refused"."""
        if self.refusal:
            return "refused"
        return "proven" if self.proven else "unknown"

    def why_waiting(self) -> str:
        """Why nothing is shown before the shape is proven."""
        nat = 0.0 if self.verdict is None else self.verdict.margin_nat
        return f"comparing the shape with the case: {nat:.1f} of {self.needed_nat:.3g} nat"

    def foreign(self, level: str) -> str:
        """Why a level is not the vertebra of that name, or ''."""
        for f in self.verdict.foreign if self.verdict else ():
            if f.level == level:
                return (
                    f"this is not {level} of the case, or it was operated on since the CT: the "
                    f"shape differs by {f.mm:.1f} mm"
                )
        return ""


def make_patches(model: SpineModel) -> Patches:
    """Evenly spread places on the dorsal surfaces of the exposed levels."""
    levels = np.flatnonzero(model.exposed)
    slot = np.full(len(model.levels), -1)
    slot[levels] = np.arange(len(levels))
    centre, normal = [], []
    for k in levels:
        chosen = _spread(model.dorsal_m[k])
        centre.append(model.dorsal_m[k][chosen])
        normal.append(model.dorsal_normal[k][chosen])
    return Patches(
        tuple(model.levels[k] for k in levels), levels, slot,
        np.array(centre).reshape(-1, PATCHES, 3), np.array(normal).reshape(-1, PATCHES, 3),
        model.anchor_m[levels], model.axes,
    )  # fmt: skip


def _spread(points: np.ndarray) -> np.ndarray:
    """Indices of PATCHES points, each as far from those before as can be."""
    chosen = [int(np.argmin(((points - points.mean(axis=0)) ** 2).sum(axis=1)))]
    far = np.full(len(points), np.inf)
    while len(chosen) < PATCHES:
        far = np.minimum(far, ((points - points[chosen[-1]]) ** 2).sum(axis=1))
        chosen.append(int(np.argmax(far)))
    return np.array(chosen)


def begin(patches: Patches, proven: bool = False, again: bool = False) -> Identity:
    """Nothing seen yet. proven: this reading is the one that was proven before; again: the patient
    was, and this is a new reading."""
    zero = np.zeros(patches.centre_m.shape[:2])
    evidence = Evidence(0.0, zero, zero, zero, zero, zero, np.zeros(len(zero)))
    return Identity(evidence, proven=proven, again=again)


def advance(
    identity: Identity, patches: Patches, model: SpineModel, T: np.ndarray, pixels: BonePixels
) -> Identity:
    """Take one frame into account and judge anew where it is due."""
    frame = identity.frame + 1
    identity = replace(identity, news=())
    if frame > VERDICT_FRAMES and identity.proven and frame % SPARSE:
        return replace(identity, frame=frame)
    evidence = add(identity.evidence, patches, model, T, pixels)
    identity = replace(identity, evidence=evidence, frame=frame)
    late = frame > VERDICT_FRAMES and frame % VERDICT_FRAMES == _OFFSET
    if frame not in _SCHEDULE and not late:
        return identity
    verdict = judge(evidence, patches)
    if verdict is None:
        return identity
    verdict = _still_foreign(identity.verdict, verdict)
    news = _news(identity.verdict, verdict)
    if frame == VERDICT_FRAMES and identity.proven:
        lead, noise = verdict.margin_nat, verdict.noise_mm
        news = (*news, f"shape leads by {lead:.0f} nat, camera good to {noise:.1f} mm")
    identity = replace(identity, verdict=verdict, news=news)
    margin = verdict.margin_nat
    if identity.proven:
        lost = margin < CONTRADICTED_NAT and frame >= VERDICT_FRAMES
    else:
        held = identity.held + 1 if margin >= identity.needed_nat else 0
        identity = replace(identity, held=held)
        if held >= (1 if identity.again else HELD) or margin >= SURE_NAT:
            return replace(identity, proven=True)
        lost = margin < CONTRADICTED_NAT or (frame >= VERDICT_FRAMES and margin < 0.0)
    if not lost:
        return identity
    return replace(identity, proven=False, refusal=_refusal(verdict))


def _refusal(verdict: Verdict) -> str:
    """What is known when nothing will be shown: only a clear loss says that it is another spine."""
    nat, shape, noise = verdict.margin_nat, verdict.shape_mm, verdict.noise_mm
    if nat >= CONTRADICTED_NAT:
        return (
            f"whose spine this is cannot be told: other shapes fit as well ({nat:+.1f} nat) to what "
            f"the camera measures within {noise:.1f} mm; clean the bone, bring the camera nearer and "
            "ask for a new registration"
        )
    return (
        f"this is not the spine of this case: the shape differs by {shape:.1f} mm where the camera "
        f"is good to {noise:.1f} mm ({nat:+.1f} nat); load the patient's own case, or ask for a new "
        "registration"
    )


def _still_foreign(before: Verdict | None, now: Verdict) -> Verdict:
    """A level that was another vertebra does not become an operated one by more frames."""
    known = {c.level for c in before.foreign} if before else set()
    turned = tuple(c for c in now.changed if c.level in known)
    if not turned:
        return now
    rest = tuple(c for c in now.changed if c.level not in known)
    return replace(now, changed=rest, foreign=(*now.foreign, *turned))


def _news(before: Verdict | None, now: Verdict) -> tuple[str, ...]:
    known = {c.level for c in before.changed} if before else set()
    return tuple(
        f"{c.level} differs from the CT by {c.mm:.1f} mm at {c.places}: operated on since?"
        for c in now.changed if c.level not in known
    )  # fmt: skip


def add(
    evidence: Evidence, patches: Patches, model: SpineModel, T: np.ndarray, pixels: BonePixels
) -> Evidence:
    """The sums with one more frame: levels at T (L, 4, 4), bone of the same frame."""
    level = assign(model, T, pixels, LIMIT_M)
    weight, moment = frame_kernels.sort_into_patches(
        *(np.require(a, np.float32, ("C", "W"))
          for a in (pixels.points_m, pixels.ray, pixels.centre_vote_m, pixels.bone, pixels.clean,
                    pixels.area_m2)),
        level, np.ascontiguousarray(T), anchors(model, T), patches.slot, patches.centre_m,
        PATCH_REACH_M, LIMIT_M, VOTE_REACH_M,
        *model.grids,
    )  # fmt: skip
    seen = weight > MIN_WEIGHT_M2
    mean = np.where(seen, moment / np.maximum(weight, 1e-12), 0.0)
    depth = (T[patches.levels, 2, :3] * patches.anchor_m).sum(axis=1) + T[patches.levels, 2, 3]
    e = evidence
    keep = 0.5 if e.frames >= KEPT_FRAMES else 1.0
    return Evidence(
        keep * e.frames + 1.0,
        keep * e.weight + weight,
        keep * e.moment + moment,
        keep * e.seen + seen,
        keep * e.mean + mean,
        keep * e.square + mean**2,
        keep * e.depth_m + depth,
    )


def judge(evidence: Evidence, patches: Patches) -> Verdict | None:
    """Let the two explanations compete; None while too little bone was seen."""
    changing = _changing_mm2(evidence)
    parts = [_level(evidence, patches, k, changing) for k in range(len(patches.names))]
    told = [k for k, p in enumerate(parts) if p is not None]
    seen = [p for p in parts if p is not None]
    if not seen:
        return None
    log = np.array([p.log_evidence() for p in seen])
    own, other = _best(log)
    level_nat = np.zeros(len(parts))
    level_nat[told] = log[:, 0, own] - log[:, 1, other]
    margin = _margin(log)
    # One vertebra may have been changed since the CT, or its mesh be another's: the others tell
    # whether it is the patient.
    worst = int(np.argmin(level_nat[told]))
    odd: list[Change] = []
    if len(seen) >= 3 and level_nat[told][worst] < CONTRADICTED_NAT:
        rest = _margin(np.delete(log, worst, axis=0))
        if rest >= PROVEN_NAT:
            margin = max(margin, rest)
            odd = [_change(seen[worst], patches, told[worst], own)]
    shape = np.concatenate([p.shape_mm(other) for p in seen])
    noise = STATIC[own] * changing + FLOOR_MM**2 + changing / evidence.frames
    return Verdict(
        float(margin), level_nat, float(np.sqrt((shape**2).mean())), float(np.sqrt(noise)),
        len(shape), tuple(c for c in odd if c.places), tuple(c for c in odd if not c.places),
    )  # fmt: skip


def _best(log: np.ndarray) -> tuple[int, int]:
    """Static noise that suits the case's shape best, and the other shapes."""
    total = log.sum(axis=0) + _STATIC_LOG_PRIOR
    return int(np.argmax(total[0])), int(np.argmax(total[1]))


def _margin(log: np.ndarray) -> float:
    total = log.sum(axis=0) + _STATIC_LOG_PRIOR
    return float(total[0].max() - total[1].max())


def _changing_mm2(e: Evidence) -> float:
    """Variance of a patch's mean from frame to frame; before there are frames, what is usual."""
    often = (e.seen >= 2.0) & (e.weight > MIN_WEIGHT_M2 * e.frames)
    if not often.any():
        return PRIOR_VARIANCE_MM2
    n = e.seen[often]
    variance = 1e6 * np.maximum(e.square[often] - e.mean[often] ** 2 / n, 0.0) / (n - 1.0)
    frames = e.frames - 1.0
    return float(
        (PRIOR_FRAMES * PRIOR_VARIANCE_MM2 + frames * np.median(variance)) / (PRIOR_FRAMES + frames)
    )


@dataclass(frozen=True)
class _Level:
    """One level's patches in view: their means (M,) in mm, covariances without shape for each
    static noise (S, M, M), and that of other shapes (M, M)."""

    index: np.ndarray
    mean_mm: np.ndarray
    own: np.ndarray
    shape: np.ndarray
    loose: np.ndarray

    def log_evidence(self) -> np.ndarray:
        """(2, S): log density of the means under the case's shape and under other shapes."""
        root = np.linalg.cholesky(np.stack([self.own, self.own + self.shape]))
        white = np.linalg.solve(root, np.broadcast_to(self.mean_mm[:, None], (*root.shape[:3], 1)))
        turn = np.log(np.diagonal(root, axis1=2, axis2=3)).sum(axis=2)
        return np.asarray(-0.5 * (white[..., 0] ** 2).sum(axis=2) - turn)

    def shape_mm(self, static: int) -> np.ndarray:
        """(M,) where and by how much the surface differs, if it is another shape."""
        return np.asarray(self.shape @ np.linalg.solve(self.own[static] + self.shape, self.mean_mm))

    def part(self, keep: np.ndarray) -> _Level:
        at = np.ix_(keep, keep)
        return _Level(
            self.index[keep], self.mean_mm[keep], self.own[:, at[0], at[1]], self.shape[at],
            self.loose[keep],
        )  # fmt: skip


def _level(e: Evidence, patches: Patches, k: int, changing_mm2: float) -> _Level | None:
    index = np.flatnonzero(e.weight[k] > MIN_WEIGHT_M2 * e.frames)
    if len(index) < MIN_PATCHES:
        return None
    at = np.ix_(index, index)
    noise, bias, shape, loose = (a[k] for a in patches.kernels)
    J = loose[index]
    fixed = (
        np.eye(len(index)) * (changing_mm2 / max(0.5 * e.frames, 1.0) + PATCH_FLOOR_MM**2)
        + (1e3 * BIAS_SHARE * e.depth_m[k] / e.frames) ** 2 * bias[at]
        + 25.0 * J @ J.T
    )
    static = STATIC * changing_mm2 + FLOOR_MM**2
    mean = 1e3 * e.moment[k][index] / e.weight[k][index]
    return _Level(index, mean, fixed + static[:, None, None] * noise[at], shape[at], J)


def _change(level: _Level, patches: Patches, k: int, static: int) -> Change:
    """Whether a vertebra lost or gained bone somewhere, or is another one."""
    differs = np.abs(level.shape_mm(static)) > CHANGED_MM
    mm = float(np.abs(level.shape_mm(static)).max())
    rest = ~differs
    if differs.any() and rest.sum() >= MIN_PATCHES and differs.mean() <= MOST_CHANGED:
        log = level.part(rest).log_evidence()
        if log[0, static] - log[1, static] > REST_NAT:
            where = patches.centre_m[k][level.index[differs]] - patches.anchor_m[k]
            return Change(patches.names[k], _places(where @ patches.axes), mm)
    return Change(patches.names[k], "", mm)


def _places(offset_m: np.ndarray) -> str:
    """Names of the places (N, 3) left, posterior, superior of the dorsal centre."""
    names = []
    for x in offset_m[:, 0]:
        side = "left" if x > 0 else "right"
        if abs(x) < 6e-3:
            names.append("spinous process")
        else:
            names.append(f"{side} lamina" if abs(x) < 15e-3 else f"{side} joint")
    return ", ".join(sorted(set(names)))
