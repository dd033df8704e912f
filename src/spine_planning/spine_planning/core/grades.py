# SPDX-License-Identifier: Apache-2.0
"""Grades of a screw against the exact surface of its vertebra.

Gertzbein-Robbins, its margins and the probability of a breach are `rod_bending_ar.core.cortex`'s: of
the whole shaft from 8 mm behind the surface on, so that a perforation at the front counts too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rod_bending_ar.core.cortex import CAP_M, GRADES, Cortex, Shaft, planned_shaft
from spine_nav_common.core.types import Mesh, Rejected, ScrewPlan
from spine_nav_sim.core.anatomy_frame import VertebraFrame, first_hits, raycasting_scene

DIRECTIONS = ("medial", "lateral", "cranial", "caudal")
ERROR95_MM = 2.0
"""Predicted error of the registration that a plan is graded with, 95 %: the median bound that tracked
levels report (docs/results.md)."""
_PEDICLE_M = (0.0, 0.012)  # behind the posterior wall of the body
_FAN_DEG = (-30.0, -15.0, 0.0, 15.0, 30.0)
_FARTHEST_M = 0.050
_HEAD_MM, _NEAR_MM = 5.0, 1.0


@dataclass(frozen=True)
class Grade:
    """shaft: margins, Gertzbein-Robbins and drawn poses. toward: where the cortex is nearest, or
    breached. margin_mm: by direction, from the thread; anterior: from the tip along the axis,
    negative where it stands out. zdichavsky, ravi, heary, babu: None where what they need is not in
    view. density_hu: mean along the thread, None without a CT."""

    shaft: Shaft
    toward: str
    margin_mm: dict[str, float | None]
    zdichavsky: str | None
    ravi: int
    heary: int
    babu: int | None
    density_hu: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As in plan_report.json."""
        draws = self.shaft.draws
        return {
            "grade": {
                "gertzbein_robbins": self.shaft.grade,
                "direction": self.toward,
                "zdichavsky": self.zdichavsky,
                "ravi": self.ravi,
                "heary": self.heary,
                "babu": self.babu,
            },
            "p_breach": draws.p_breach,
            "p_grades": {g: float(p) for g, p in zip(GRADES, draws.shares, strict=True)},
            "least_margin_mm": round(self.shaft.least_mm, 2),
            "tip_outside_mm": round(max(self.shaft.tip_mm, 0.0), 2),
            "margin_mm": {k: None if v is None else round(v, 2) for k, v in self.margin_mm.items()},
            "density_hu": None if self.density_hu is None else round(self.density_hu),
        }


def grade_screw(
    mesh: Mesh,
    frame: VertebraFrame | Rejected,
    plan: ScrewPlan,
    diameter_mm: float,
    error95_mm: float = ERROR95_MM,
    above: Callable[[np.ndarray], np.ndarray] | None = None,
) -> Grade | Rejected:
    """One screw, from entry to target, as the cylinder of its diameter.

    Args:
        mesh, frame, plan: LPS, metres. above: distances to the vertebra above, for Babu.
    """
    cortex = Cortex(mesh, (plan,), "LPS")
    found = planned_shaft(cortex, plan, error95_mm, diameter_mm)
    if isinstance(found, Rejected):
        return found
    way = plan.target_m - plan.entry_m
    length = float(np.linalg.norm(way))
    way = way / length
    margins = _margins(mesh, frame, plan, way, length, found.surface_m, diameter_mm)
    return Grade(
        found,
        found.toward,
        margins,
        None if isinstance(frame, Rejected)
        else _zdichavsky(cortex, frame, plan, way, length, found.surface_m, diameter_mm),
        _ravi(-found.least_mm),
        _heary(found, margins),
        None if above is None else _babu(plan, way, diameter_mm, above),
    )  # fmt: skip


def axes_of(plan: ScrewPlan, way: np.ndarray, R: np.ndarray) -> dict[str, np.ndarray]:
    """Unit vectors square to a screw: medial, lateral, cranial, caudal. R: columns left, back, up."""
    up = R[:, 2] - (R[:, 2] @ way) * way
    up /= np.linalg.norm(up)
    lateral = R[:, 0] * (1.0 if plan.side == "left" else -1.0)
    lateral = lateral - (lateral @ way) * way - (lateral @ up) * up
    lateral /= np.linalg.norm(lateral)
    return {"medial": -lateral, "lateral": lateral, "cranial": up, "caudal": -up}


def _margins(
    mesh: Mesh,
    frame: VertebraFrame | Rejected,
    plan: ScrewPlan,
    way: np.ndarray,
    length: float,
    surface: float,
    diameter_mm: float,
) -> dict[str, float | None]:
    """From the thread to the first wall, seen from the shaft in each direction; negative: the wall
    lies within the thread. Anterior: from the tip to where its axis leaves the bone."""
    scene = raycasting_scene(mesh)
    R = np.eye(3) if isinstance(frame, Rejected) else frame.T_mesh_vertebra[:3, :3]
    radius = 0.5e-3 * diameter_mm
    s = np.arange(surface + CAP_M, length - radius + 1e-9, 1e-3)
    points = plan.entry_m + s[:, None] * way
    out: dict[str, float | None] = {}
    for name, direction in axes_of(plan, way, R).items():
        across = np.cross(way, direction)
        fan = np.array([
            np.cos(a) * direction + np.sin(a) * across for a in np.radians(_FAN_DEG)
        ])  # fmt: skip
        origins = np.repeat(points, len(fan), axis=0)
        hits = first_hits(scene, origins, np.tile(fan, (len(points), 1)))
        hit = float(hits.min()) if len(hits) else np.inf
        out[name] = 1e3 * (hit - radius) if hit < _FARTHEST_M else None
    middle = plan.entry_m + 0.7 * length * way
    ahead = float(first_hits(scene, middle[None], way[None])[0])
    out["anterior"] = 1e3 * (ahead - 0.3 * length) if ahead < _FARTHEST_M else None
    return out


def _ravi(breach_mm: float) -> int:
    return 1 + int(np.searchsorted([0.0, 2.0, 4.0], breach_mm, "left")) if breach_mm > 0.0 else 1


def _heary(found: Shaft, margins: dict[str, float | None]) -> int:
    """1 none; 2 lateral with the tip in the body; 3 anterior or lateral tip; 4 medial or caudal.
    5 (revision at once) is a decision about the patient and never given here."""
    if found.least_mm >= 0.0 and found.tip_mm <= 0.0:
        return 1
    if found.least_mm < 0.0 and found.toward in ("medial", "caudal"):
        return 4
    return 3 if found.tip_mm > 0.0 or found.toward == "anterior" else 2


def _babu(
    plan: ScrewPlan,
    way: np.ndarray,
    diameter_mm: float,
    above: Callable[[np.ndarray], np.ndarray],
) -> int:
    """Facet violation: 3 the shaft runs through the vertebra above, 2 the head, 1 the head touches
    it (within a millimetre), 0 none. The head: 10 mm behind the entry, 10 mm thick."""
    into = plan.entry_m + np.linspace(0.0, 0.020, 21)[:, None] * way
    if 1e3 * float(above(into).min()) < 0.5 * diameter_mm:
        return 3
    head = 1e3 * float(above(plan.entry_m - np.linspace(0.0, 0.010, 11)[:, None] * way).min())
    return 2 if head < _HEAD_MM else 1 if head < _HEAD_MM + _NEAR_MM else 0


def _zdichavsky(
    cortex: Cortex,
    frame: VertebraFrame,
    plan: ScrewPlan,
    way: np.ndarray,
    length: float,
    surface: float,
    diameter_mm: float,
) -> str | None:
    """Shares of the diameter, medial to lateral, in the pedicle (its worst section) and in the body
    (its mean); None where the screw passes no pedicle, or a class is not defined."""
    T = np.linalg.inv(frame.T_mesh_vertebra)
    s = np.arange(surface + CAP_M, length + 1e-9, 1e-3)
    points = plan.entry_m + s[:, None] * way
    local = points @ T[:3, :3].T + T[:3, 3]
    lateral = axes_of(plan, way, frame.T_mesh_vertebra[:3, :3])["lateral"]
    across = 0.5e-3 * diameter_mm * np.linspace(-1.0, 1.0, 21)
    disc = points[:, None] + across[None, :, None] * lateral
    inside = (cortex.exact_m(disc.reshape(-1, 3)) < 0.0).reshape(len(s), -1)
    in_pedicle = (local[:, 1] > _PEDICLE_M[0]) & (local[:, 1] < _PEDICLE_M[1])
    in_body = local[:, 1] <= 0.0
    if not in_pedicle.any() or not in_body.any():
        return None
    shares = inside[in_pedicle].mean(axis=1)
    worst = int(shares.argmin())
    pedicle, body = float(shares[worst]), float(inside[in_body].mean())
    section = ~inside[in_pedicle][worst]
    outside_lateral = bool(section[11:].sum() >= section[:10].sum())
    tip = local[-1, 0] * (1.0 if plan.side == "left" else -1.0)
    if pedicle >= 0.5:
        return "IIb" if tip < 0.0 else "Ia" if body >= 0.5 else "IIa"
    if outside_lateral:
        return "Ib" if body > 0.5 else "IIIa"
    return "IIIb"
