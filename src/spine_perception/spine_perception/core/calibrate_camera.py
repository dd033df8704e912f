# SPDX-License-Identifier: Apache-2.0
"""The lens of one camera by views of a flat board: the model that errs least on views that took no
part; views that fit no lens are dropped by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np

from spine_nav_common.core.camera_calibration import CameraCalibration
from spine_nav_common.core.images import CameraModel
from spine_nav_common.core.types import Rejected

from .coverage import Trouble, covered, missing
from .lens import KINDS, MODELS, Kind, Left, Lens, NamedView, fit, folds, jackknife

LEAST_VIEWS = 8
_LEAST_SPREAD = 1.2  # farthest over nearest view
_LEAST_COVERED = 0.6
_MOST_DROPPED = 1 / 3
_OUTLIER = 2.5  # of the median view's rms
_OUTLIER_PX = 0.5  # and not less than this
_BETTER = 1.01  # by which a richer model must err less on views that were left out
_MOST_FOCAL = 5e-3  # 1 sigma
_ROUNDS = 4


@dataclass(frozen=True)
class Choice:
    """A kind of lens, and how it errs.

    Attributes:
        kind: of the lens. left: per view, from the fit in which it took no part; None: it fits no pose.
        lenses: of the folds.
    """

    kind: Kind
    left: list[Left | None]
    lenses: list[Lens]

    @property
    def score_px(self) -> float:
        """RMS of views that took no part; single views far off count as no more than four usual ones."""
        rms = np.array(self.rms_px())
        return float(np.sqrt((np.minimum(rms, 4.0 * np.median(rms)) ** 2).mean()))

    def rms_px(self) -> list[float]:
        """Of every view; infinite where it fits no pose."""
        return [float("inf") if x is None else x.rms_px for x in self.left]


def cross_validated(kind: Kind, views: Sequence[NamedView], size: tuple[int, int]) -> Choice | None:
    """How a kind of lens errs on views that took no part in the fit; None: it fits not at all."""
    left: list[Left | None] = [None] * len(views)
    lenses = []
    for used, out in folds(len(views), [v.size_px_per_m for v in views]):
        lens = fit(kind, [views[i] for i in used], size)
        if lens is None:
            return None
        lenses.append(lens)
        for i in out:
            left[i] = lens.settle(views[i].board)
    found = Choice(kind, left, lenses)
    return found if np.isfinite(found.score_px) else None


def choose(views: Sequence[NamedView], size: tuple[int, int], model: str = "") -> Choice | Rejected:
    """The kind of lens with the least error on views that took no part; model: of this one alone."""
    best: Choice | None = None
    for kind in KINDS:
        if model not in ("", kind.model):
            continue
        found = cross_validated(kind, views, size)
        if found is not None and (best is None or _BETTER * found.score_px < best.score_px):
            best = found
    return best or Rejected("no lens fits these views: are they all of one camera and one board?")


def outliers(rms_px: Sequence[float], names: Sequence[str]) -> list[tuple[int, Trouble]]:
    """The views that fit the lens of the others much worse than usual."""
    rms = np.array(rms_px)
    usual = float(np.median(rms))
    return [
        (i, Trouble(names[i], f"its corners lie {rms[i]:.1f} px off where the others have them"
                         f" (usual: {usual:.2f}): blurred, moving, or bent"))
        for i in map(int, np.flatnonzero(rms > max(_OUTLIER * usual, _OUTLIER_PX)))
    ]  # fmt: skip


@dataclass(frozen=True)
class CameraFound:
    """A camera's calibration, and what is left of every view, for pictures: (name, Left)."""

    calibration: CameraCalibration
    lens: Lens
    left: list[tuple[str, Left]]
    dropped: list[Trouble]
    seen: np.ndarray


def calibrate_camera(
    views: Sequence[NamedView],
    dropped: Sequence[Trouble],
    size: tuple[int, int],
    board: str,
    *,
    today: date,
    model: str = "",
    serial: str = "",
    days: int = 180,
    temperature_c: float | None = None,
) -> CameraFound | Rejected:
    """The calibration of a camera by views of one board, or why they do not suffice.

    size: (width, height). model: a key of `lens.MODELS`, "" = the one that errs least.
    """
    views, dropped = list(views), list(dropped)
    seen_uv = [(v.board.corners_px + 0.5) / size for v in views]
    if (why := enough(len(views), dropped)) is not None:
        return why
    choice = choose(views, size, model)
    for _ in range(_ROUNDS):
        if isinstance(choice, Rejected):
            return choice
        off = outliers(choice.rms_px(), [v.name for v in views])
        if not off:
            break
        dropped += [trouble for _, trouble in off]
        gone = {i for i, _ in off}
        views = [v for i, v in enumerate(views) if i not in gone]
        if len(gone) > _MOST_DROPPED * len(seen_uv):
            return Rejected(f"{len(gone)} of {len(seen_uv)} views fit no common lens: {off[0][1]}")
        if (why := enough(len(views), dropped)) is not None:
            return why
        choice = choose(views, size, model)
    if isinstance(choice, Rejected):
        return choice
    lens = fit(choice.kind, views, size)
    left = [(v.name, x) for v, x in zip(views, choice.left, strict=True) if x is not None]
    if lens is None or len(left) < len(views):
        return Rejected("no lens fits these views: take them again")
    seen = covered((v.board.corners_px + 0.5) / size for v in views)
    if (why := _determined(choice, left, seen)) is not None:
        return why
    told = {"board": board, **told_of(views, dropped, seen), **told_of_lens(choice, lens, left)}
    K, P = lens.K, np.column_stack([lens.K, np.zeros(3)])
    camera = CameraModel(*size, K, lens.D, np.eye(3), P, lens.kind.fisheye)
    calibration = CameraCalibration(
        (camera,), MODELS[lens.kind.model], serial, today, today + timedelta(days=days),
        temperature_c, told,
    )  # fmt: skip
    return CameraFound(calibration, lens, left, dropped, seen)


def enough(count: int, dropped: Sequence[Trouble], least: int = LEAST_VIEWS) -> Rejected | None:
    """Whether there are enough views, else why the others were left out."""
    if count >= least:
        return None
    why = "; ".join(sorted({t.why for t in dropped})[:3])
    return Rejected(
        f"{count} usable views of the board, {least} are needed"
        + (f" ({len(dropped)} left out: {why})" if why else "")
    )


def _determined(
    choice: Choice, left: Sequence[tuple[str, Left]], seen: np.ndarray
) -> Rejected | None:
    """Whether the views tell the lens: distances, tilts, parts of the image."""
    z = [x.distance_m for _, x in left]
    if max(z) < _LEAST_SPREAD * min(z):
        return Rejected(
            f"the board was shown from {min(z):.3g} to {max(z):.3g} m only: show it nearer and farther"
            " too, at least by a fifth"
        )
    focal = jackknife([np.array([x.K[0, 0], x.K[1, 1]]) for x in choice.lenses])
    share = float((focal / choice.lenses[0].K[0, 0]).max())
    if share > _MOST_FOCAL:
        tilt = max(x.tilt_deg for _, x in left)
        remedy = "tilt it by 20 to 40 deg to all sides"
        if tilt > 25.0:
            remedy = (
                "take more views, and look whether all are of one camera, one zoom and one focus, and of"
                " the board that --board says"
            )
        return Rejected(
            f"the focal length is known to {100 * share:.1f} % only, {100 * _MOST_FOCAL:.1f} % are needed"
            f" (the board was tilted by at most {tilt:.0f} deg): {remedy}"
        )
    covers = float((seen > 0).mean())
    if covers < _LEAST_COVERED:
        return Rejected(
            f"the board was shown in {100 * covers:.0f} % of the image, {100 * _LEAST_COVERED:.0f} %"
            f" are needed: show it at the {missing(seen)} too"
        )
    return None


def told_of(
    views: Sequence[NamedView], dropped: Sequence[Trouble], seen: np.ndarray
) -> dict[str, Any]:
    """What was seen, for people."""
    return {
        "views": len(views),
        "left out": [str(t) for t in dropped],
        "covered": round(float((seen > 0).mean()), 2),
        "shown least at": missing(seen),
    }


def told_of_lens(choice: Choice, lens: Lens, left: Sequence[tuple[str, Left]]) -> dict[str, Any]:
    """How a lens was chosen, and what is left on views that took no part."""
    px = np.concatenate([np.linalg.norm(x.px, axis=1) for _, x in left])
    mm = np.concatenate([x.mm for _, x in left])
    sigma = jackknife(
        [np.array([x.K[0, 0], x.K[1, 1], x.K[0, 2], x.K[1, 2]]) for x in choice.lenses]
    )
    z = [x.distance_m for _, x in left]
    return {
        "model": lens.kind.model,
        "distance_m": [round(float(min(z)), 4), round(float(max(z)), 4)],
        "tilt_deg": [round(f([x.tilt_deg for _, x in left]), 1) for f in (min, max)],
        "held_out_px": summary(px),
        "held_out_mm": summary(mm),
        "sigma_px": dict(zip(("fx", "fy", "cx", "cy"), (round(float(s), 3) for s in sigma))),
    }


def summary(x: np.ndarray) -> dict[str, float]:
    """RMS, median and 95th percentile of sizes."""
    return {
        "rms": round(float(np.sqrt((x**2).mean())), 4),
        "median": round(float(np.median(x)), 4),
        "p95": round(float(np.percentile(x, 95)), 4),
    }
