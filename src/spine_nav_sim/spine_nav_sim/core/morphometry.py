# SPDX-License-Identifier: Apache-2.0
"""Published lumbar morphometry as sampling tables: one `Subject`, then one `Shape` per level.

Sources (docs: published-systems, sections 11.1, 11.2, 11.4, 11.5): CTSpinoPelvic1K level gradients
(n about 730, per sex), the 87-patient shape model, pedicle width means over 13 series, the New
Zealand L5 series. The Visible Human columns are not used. Lengths in mm, angles in degrees.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

MODEL_LEVELS: tuple[str, ...] = ("T12", "L1", "L2", "L3", "L4", "L5", "S1")


def _levels(*values: Any) -> dict[str, Any]:
    """A table column by column: T12, L1 to L5."""
    return dict(zip(MODEL_LEVELS[:-1], values, strict=True))


# (mean, SD) per level, male then female: CTSpinoPelvic1K.
ANTERIOR_HEIGHT = {
    "male": _levels((28.0, 2.0), (30.0, 3.1), (31.2, 4.2), (31.8, 4.2), (31.6, 2.4), (32.9, 2.6)),
    "female": _levels((26.4, 2.2), (28.6, 3.1), (29.5, 2.4), (30.4, 3.3), (30.5, 2.6), (31.3, 2.5)),
}
WEDGE_RATIO = {
    "male": _levels(0.94, 0.96, 0.99, 1.02, 1.05, 1.06),
    "female": _levels(0.96, 0.98, 1.00, 1.03, 1.06, 1.07),
}
CANAL_WIDTH = {
    "male": _levels((24.1, 2.5), (24.8, 2.9), (25.0, 2.7), (26.1, 2.8), (27.3, 3.6), (31.2, 4.3)),
    "female": _levels((22.4, 2.7), (23.4, 2.6), (23.5, 2.8), (24.2, 2.8), (25.5, 2.7), (29.1, 3.8)),
}
ENDPLATE_WIDTH = {
    "male": _levels((43.6, 4.3), (43.9, 4.3), (45.3, 4.0), (47.7, 5.2), (49.3, 5.2), (54.5, 5.2)),
    "female": _levels((37.1, 3.2), (38.0, 2.9), (39.5, 3.0), (41.4, 3.7), (44.5, 4.1), (47.7, 4.3)),
}  # L4 and L5 SDs capped: the source calls its L5 width noisy
PROCESS_SPAN = {
    "male": _levels((54.3, 4.9), (78.4, 7.8), (87.1, 6.9), (96.9, 7.5), (92.7, 8.1), (97.0, 7.7)),
    "female": _levels((47.6, 3.8), (68.2, 7.3), (76.3, 5.6), (84.6, 6.5), (82.2, 6.7), (89.3, 7.2)),
}
# Pedicle isthmus width: means over 13 series; sagittal height: about 15 mm, 12.9 at L5.
PEDICLE_WIDTH = _levels(
    (8.70, 1.3), (8.35, 1.4), (8.72, 1.4), (10.24, 1.5), (12.56, 1.8), (16.20, 2.2)
)
PEDICLE_HEIGHT = _levels(15.5, 15.2, 15.0, 14.8, 14.4, 13.6)
# Transverse pedicle angle, dry bone and O-arm series (converging towards the body).
PEDICLE_ANGLE_DEG = _levels(9.0, 13.0, 14.5, 16.0, 18.5, 23.5)
CANAL_DEPTH = _levels(16.2, 16.8, 16.5, 16.5, 16.8, 17.0)
# 87 patients: mean over L2 to L5 of length 51.6 and height 23.5; slope between levels from anatomy.
SPINOUS_LENGTH = _levels(47.0, 49.0, 52.5, 53.5, 52.0, 48.0)
SPINOUS_HEIGHT = _levels(20.0, 23.5, 25.5, 26.0, 23.0, 18.5)
# Facet joint below the level: half distance of the joint centres, angle to the coronal plane.
JOINT_HALF_WIDTH = _levels(12.0, 12.5, 13.8, 16.0, 19.5, 23.0)
JOINT_ANGLE_DEG = _levels(70.0, 72.0, 68.0, 62.0, 54.0, 46.0)
JOINT_WIDTH = _levels(11.5, 12.4, 12.7, 13.8, 14.7, 15.6)
JOINT_HEIGHT = _levels(14.5, 15.3, 16.0, 15.7, 16.2, 17.0)
# Centre of the superior facet above the upper rim of the posterior wall.
FACET_RISE = _levels(0.0, -1.0, -1.5, -0.5, 0.5, -6.0)
# Rim-to-rim gap of the disc below at mid-depth. The 87 patients have 7.1 (3.1 to 11.4) between the
# endplates; the rims stand about 1.1 mm proud on both sides.
DISC_GAP = _levels(4.2, 5.6, 6.1, 6.4, 6.2, 5.8)
# Lordosis between the mid-planes of a level and the one below (prone on the table, degrees).
SEGMENT_LORDOSIS_DEG = _levels(0.5, 2.5, 4.5, 6.5, 9.0, 21.0)


@dataclass(frozen=True)
class Subject:
    """What all levels of one spine share."""

    sex: str
    age: float
    size: float  # z-score of stature that all lengths follow
    asymmetry: float  # SD of relative left/right differences
    osteophyte_mm: float


@dataclass(frozen=True)
class Joint:
    """One facet joint pair below a level. Index 0 is left (+x), 1 right."""

    half_width: np.ndarray
    angle_deg: np.ndarray
    width: np.ndarray
    height: np.ndarray
    gap: float


@dataclass(frozen=True)
class Shape:
    """One vertebra in its own frame: origin at the middle of the posterior wall of the body."""

    level: str
    anterior_height: float
    posterior_height: float
    body_width: float
    body_depth: float
    canal_width: float
    canal_depth: float
    pedicle_width: np.ndarray
    pedicle_height: float
    pedicle_angle_deg: np.ndarray
    process_reach: np.ndarray  # tip of the transverse process from the midline, left and right
    process_rise: np.ndarray
    process_sweep: np.ndarray
    process_girth: float
    spinous_length: float
    spinous_height: float
    spinous_thickness: float
    spinous_drop: float
    spinous_deviation: float
    spinous_waist: float  # height in the middle relative to the tip
    mammillary: float  # relative size of the mammillary processes
    lamina_height: float  # relative to the level's mean
    lamina_thickness: float
    lamina_slope: float
    rim_mm: float
    noise_mm: float


def sample_subject(rng: np.random.Generator) -> Subject:
    """Age 30 to 88 years, both sexes alike."""
    age = float(rng.triangular(30.0, 66.0, 88.0))
    wear = max(0.0, (age - 45.0) / 40.0)
    return Subject(
        sex=str(rng.choice(["male", "female"])),
        age=age,
        size=float(np.clip(rng.normal(), -2.2, 2.2)),
        asymmetry=float(rng.uniform(0.02, 0.06)),
        osteophyte_mm=float(rng.exponential(1.0) * wear + 0.2),
    )


def _draw(
    rng: np.random.Generator, subject: Subject, mean: float, sd: float, *, shared: float = 0.6
) -> float:
    """A correlated normal draw: the share `shared` of the variance follows the subject's size."""
    z = np.sqrt(shared) * subject.size + np.sqrt(1 - shared) * np.clip(rng.normal(), -2.2, 2.2)
    return float(mean + sd * z)


def _sides(rng: np.random.Generator, value: float, relative: float) -> np.ndarray:
    """The value on the left and right, apart by a random relative difference."""
    d = float(np.clip(rng.normal(), -2.0, 2.0)) * relative
    return np.array([value * (1 + d), value * (1 - d)])


def sample_joint(rng: np.random.Generator, subject: Subject, level: str) -> Joint:
    """The facet joints between `level` and the one below."""
    half = _draw(rng, subject, JOINT_HALF_WIDTH[level], 1.0)
    tropism = float(np.clip(rng.normal(0, 4.0), -10, 10))
    angle = JOINT_ANGLE_DEG[level] + float(np.clip(rng.normal(0, 6.0), -14, 14))
    scale = 1.0 if subject.sex == "male" else 0.93
    return Joint(
        half_width=_sides(rng, half * (0.5 + 0.5 * scale), subject.asymmetry),
        angle_deg=np.clip([angle + tropism, angle - tropism], 28.0, 86.0),
        width=_sides(rng, scale * _draw(rng, subject, JOINT_WIDTH[level], 1.0), subject.asymmetry),
        height=_sides(
            rng, scale * _draw(rng, subject, JOINT_HEIGHT[level], 1.3), subject.asymmetry
        ),
        gap=float(rng.uniform(0.8, 1.8)),
    )


def sample_shape(rng: np.random.Generator, subject: Subject, level: str) -> Shape:
    """A vertebra T12 to L5 of the subject (the sacrum has its own model)."""
    male = subject.sex == "male"
    sex_scale = 1.03 if male else 0.95
    anterior = _draw(rng, subject, *ANTERIOR_HEIGHT[subject.sex][level])
    ratio = WEDGE_RATIO[subject.sex][level] * (1 + float(np.clip(rng.normal(0, 0.04), -0.09, 0.09)))
    width = _draw(rng, subject, *ENDPLATE_WIDTH[subject.sex][level])
    pedicle = _draw(rng, subject, *PEDICLE_WIDTH[level], shared=0.4) * sex_scale
    span = _draw(rng, subject, *PROCESS_SPAN[subject.sex][level], shared=0.4)
    a = subject.asymmetry
    rise = {"T12": 0.0, "L1": 1.0, "L2": 2.0, "L3": 2.0, "L4": 5.0, "L5": 5.0}[level]
    return Shape(
        level=level,
        anterior_height=anterior,
        posterior_height=anterior / ratio,
        body_width=width,
        body_depth=width * float(np.clip(rng.normal(0.755, 0.03), 0.69, 0.83)),
        canal_width=_draw(rng, subject, *CANAL_WIDTH[subject.sex][level], shared=0.3),
        canal_depth=_draw(rng, subject, CANAL_DEPTH[level], 1.4, shared=0.2),
        pedicle_width=np.clip(_sides(rng, pedicle, a), 5.2, 24.0),
        pedicle_height=_draw(rng, subject, PEDICLE_HEIGHT[level] * sex_scale, 1.1),
        pedicle_angle_deg=PEDICLE_ANGLE_DEG[level] + np.clip(rng.normal(0, 2.0, 2), -4, 4),
        process_reach=_sides(rng, span / 2, a),
        process_rise=rise + rng.normal(0, 2.0, 2).clip(-4, 4),
        process_sweep=rng.normal(0, 1.5, 2).clip(-3, 3),
        process_girth=float(np.clip(rng.normal(1.0, 0.12), 0.75, 1.3)),
        spinous_length=_draw(rng, subject, SPINOUS_LENGTH[level] * sex_scale, 3.2),
        spinous_height=_draw(rng, subject, SPINOUS_HEIGHT[level] * sex_scale, 2.4),
        spinous_thickness=float(np.clip(rng.normal(6.4, 0.9), 4.6, 9.0)),
        spinous_drop=float(np.clip(rng.normal(0, 2.0), -4.0, 4.0)),
        spinous_deviation=float(np.clip(rng.normal(0, 1.8), -4.5, 4.5)),
        spinous_waist=float(np.clip(rng.normal(0.84, 0.09), 0.62, 1.02)),
        mammillary=float(np.clip(rng.normal(1.0, 0.14), 0.7, 1.35)),
        lamina_height=float(np.clip(rng.normal(1.0, 0.07), 0.84, 1.16)),
        lamina_thickness=float(np.clip(rng.normal(6.2, 0.7), 4.6, 8.0)),
        lamina_slope=float(np.clip(rng.normal(22.0, 4.0), 12.0, 32.0)),
        rim_mm=subject.osteophyte_mm * float(rng.uniform(0.4, 1.6)),
        noise_mm=float(rng.uniform(0.25, 0.6)),
    )
