# SPDX-License-Identifier: Apache-2.0
"""Implicit model of the sacrum (level S1), in mm.

Own frame: x left, y posterior, z along the normal of the S1 endplate; origin at the middle of the
endplate's posterior rim.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from spine_nav_sim.core.anatomy_field import Field, Tube
from spine_nav_sim.core.morphometry import Joint, Subject
from spine_nav_sim.core.vertebra import SIDES, FacetPair, X, Z, superior_process


@dataclass(frozen=True)
class SacrumShape:
    """Sizes in mm; `scale` follows the subject, `bend` moves the caudal end anteriorly."""

    scale: float
    body_width: float
    body_depth: float
    half_span: np.ndarray
    bend: float
    crest: np.ndarray  # height of the S1 to S4 spinous tubercles above the plate
    facet_height: float
    noise_mm: float


def sample_sacrum(rng: np.random.Generator, subject: Subject) -> SacrumShape:
    scale = (1.0 if subject.sex == "male" else 0.93) * (1 + 0.04 * subject.size)
    return SacrumShape(
        scale=scale,
        body_width=scale * float(np.clip(rng.normal(51.0, 3.0), 44, 58)),
        body_depth=scale * float(np.clip(rng.normal(33.5, 2.0), 29, 38)),
        half_span=scale * np.clip(rng.normal(53.0, 3.0) + rng.normal(0, 1.0, 2), 44, 62),
        bend=float(np.clip(rng.normal(0, 5.0), -10, 10)),
        crest=np.clip(rng.normal([9.0, 8.5, 6.5, 4.5], 1.8), 2.0, 13.0),
        facet_height=float(np.clip(rng.normal(-3.5, 1.5), -6.5, 0.0)),
        noise_mm=float(rng.uniform(0.3, 0.6)),
    )


def sacrum_pedicle_axes(s: SacrumShape) -> tuple[np.ndarray, np.ndarray]:
    """Middle of the S1 pedicles (2, 3) and unit directions (2, 3) into the promontory."""
    k = s.scale
    centre = np.array([[sign * 21.0 * k, 2.0, -11.0 * k] for sign in SIDES])
    direction = np.array([[-sign * 0.32, -0.93, 0.05] for sign in SIDES])
    return centre, direction / np.linalg.norm(direction, axis=1, keepdims=True)


def build_sacrum(s: SacrumShape, upper: tuple[Joint, FacetPair], spacing: float) -> Field:
    """The sacrum with posterior plate, crests, foramina and S1 articular processes."""
    k, w = s.scale, float(s.half_span.max())
    field = Field(
        np.array([-w - 8, -s.body_depth - 14, -122 * k]),
        np.array([w + 8, 46.0, float(upper[1].centre[:, 2].max()) + 16.0]),
        spacing,
    )
    d = s.body_depth / 2
    spine = np.array(
        [[0, -d, -6], [0, -d * 0.75, -30], [0, -2, -60], [0, -5, -88], [0, -13, -108]], float
    )
    spine[:, 2] *= k
    spine[:, 1] -= s.bend * (spine[:, 2] / (-108 * k)) ** 2
    half = np.array([1.0, 0.86, 0.66, 0.46, 0.3]) * s.body_width / 2
    field.add(Tube.of(spine, half, [d, d * 0.75, 9 * k, 6.5 * k, 4.5 * k], X, 2.6, 4.0, cap=5.0))

    def bent(p: list[float]) -> np.ndarray:
        q = np.array(p, float) * np.array([1, 1, k])
        q[1] -= s.bend * (q[2] / (-108 * k)) ** 2
        return q

    centre, _ = sacrum_pedicle_axes(s)
    for i, sign in enumerate(SIDES):
        span = s.half_span[i]
        ala = [bent([sign * 18, -12, -15]), bent([sign * (span - 12), -2, -24])]
        field.add(Tube.of(ala, [13 * k, 19 * k], [13 * k, 12 * k], Z, 2.4, 6.0, cap=12.0))
        side = [
            bent([sign * (span - 14), 0, -30]),
            bent([sign * (span * 0.55), 2, -66]),
            bent([sign * (span * 0.26), -8, -98]),
        ]
        field.add(Tube.of(side, [13 * k, 10 * k, 6 * k], [10 * k, 7 * k, 4.5 * k], X, 2.2, 6.0))
        plate = [
            bent([sign * 10, 15, -12]),
            bent([sign * 10, 18, -36]),
            bent([sign * 8, 13, -62]),
            bent([sign * 8, 7, -80]),
        ]
        field.add(
            Tube.of(plate, [12 * k, 12 * k, 10 * k, 5 * k], [3.4, 3.6, 3.4, 3.0], X, 2.4, 3.0,
                    cap=6.0)
        )  # fmt: skip
        web = [bent([sign * 17, 14, -15]), bent([sign * 17, 14, -48]), bent([sign * 13, 9, -76])]
        field.add(Tube.of(web, [11 * k, 9 * k, 6 * k], [8.0, 7.0, 5.0], X, 2.2, 5.0))
        pillar = np.array([sign * 22 * k, 12.0, -8.0 * k])
        field.add(Tube.of([centre[i], pillar], [9 * k, 8 * k], [8 * k, 6.5 * k], Z, 2.2, 5.0))
    field.cut(
        Tube.of(
            [bent([0, 7, 14]), bent([0, 8, -30]), bent([0, 6, -66]), bent([0, 0, -100])],
            [15 * k, 11 * k, 8 * k, 4 * k], [7.5, 6.0, 4.0, 2.5], X, 2.0, 2.0,
        )
    )  # fmt: skip
    z_crest = (-14, -34, -54, -70)
    tops = [bent([0, y, z]) for y, z in zip((17, 20, 15.5, 10), z_crest, strict=True)]
    field.add(Tube.of(tops, [3.2, 3.0, 2.8, 2.5], [5.0, 4.5, 4.0, 3.5], X, 2.0, 4.0))
    for top, crest in zip(tops, s.crest, strict=True):
        peak = top + np.array([0, crest, -2.0])
        field.add(Tube.of([top, peak], [5.5, 4.5], [3.2, 2.8], Z, 2.0, 4.0))
        for sign in SIDES:
            lateral = top + np.array([sign * (15 * k - 0.05 * (14 + top[2])), 0.0, -8.0])
            field.add(Tube.of([lateral], 3.5, 3.5, X, 2.0, 5.0))
    for z, x in ((-24, 24), (-44, 22), (-61, 19), (-76, 15)):
        for sign in SIDES:
            hole = [bent([sign * x * k, 40, z]), bent([sign * x * k, 2, z]),
                    bent([sign * x * k * 0.9, -40, z])]  # fmt: skip
            field.cut(Tube.of(hole, [3.6, 3.6, 5.0], [4.2, 4.2, 5.0], X, 2.0, 3.0))
    root = np.array([[sign * 22 * k, 12.0, -6.0] for sign in SIDES])
    for tube in superior_process(*upper, root=root, mammillary=1.0):
        field.add(tube)
    return field
