# SPDX-License-Identifier: Apache-2.0
"""Rods and benders: how far a rod must be bent so that a wanted angle remains (springback).

Elastic-plastic beam of circular section with linear hardening in a three-point bender. The rod
wraps round the middle roller; between it and the outer rollers the moment falls linearly to zero.
On release every section loses its elastic curvature M / (E I). Sources: docs/rod_bending.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class Material:
    """Young's modulus, yield stress and hardening modulus in MPa; max_strain: of the outer fibre
    under load."""

    name: str
    modulus_mpa: float
    yield_mpa: float
    hardening_mpa: float
    max_strain: float


# Hardening (1 % of the modulus) and the strain limit are design choices, docs/rod_bending.md.
MATERIALS: dict[str, Material] = {
    m.name: m
    for m in (
        Material("Ti6Al4V", 114e3, 795.0, 1.14e3, 0.12),  # ASTM F136, annealed bar
        Material("CoCr", 220e3, 780.0, 2.20e3, 0.12),  # Co-28Cr-6Mo (ASTM F1537), hot worked
        Material("316L", 193e3, 690.0, 1.93e3, 0.12),  # ASTM F138, cold worked
    )
}


@dataclass(frozen=True)
class Bender:
    """A three-point (French) bender; all values are design choices, see docs/rod_bending.md.

    die_radius_mm: radius of the rod's axis after a bend. half_span_mm: middle to outer roller.
    straight_mm: least straight rod between two bends. max_bend_deg: largest angle of one bend.
    """

    die_radius_mm: float = 30.0
    half_span_mm: float = 20.0
    straight_mm: float = 6.0
    max_bend_deg: float = 55.0


def min_radius_mm(material: Material, diameter_mm: float) -> float:
    """Least radius that a rod's axis may keep: under load the outer fibre just reaches its limit,
    and on release the rod opens by its elastic curvature."""
    loaded = material.max_strain / (diameter_mm / 2.0)
    return 1.0 / (loaded - float(_elastic_per_mm(material, diameter_mm, loaded)))


def bend_set_deg(
    bend_deg: float, material: Material, diameter_mm: float, bender: Bender | None = None
) -> float:
    """Angle between the rod's legs under load, in degrees, after which `bend_deg` remains.

    Raises ValueError for a negative bend or a die below the rod's least radius.
    """
    bender = bender or Bender()
    if not bend_deg >= 0.0:
        raise ValueError(f"bend_deg is {bend_deg}: turn the rod by 180 degrees instead")
    if bend_deg == 0.0:
        return 0.0
    model = _model(material, diameter_mm, bender)
    if bend_deg <= model.leg_left_deg[-1]:  # the rod does not yet follow the roller
        return float(np.interp(bend_deg, model.leg_left_deg, model.leg_set_deg))
    wrapped = bend_deg - model.leg_left_deg[-1]
    return float(model.leg_set_deg[-1] + wrapped * model.loaded_per_left)


@dataclass(frozen=True)
class _Springback:
    leg_left_deg: np.ndarray  # (N,) angle that remains, both legs, while the moment grows
    leg_set_deg: np.ndarray  # (N,) angle under load
    loaded_per_left: float  # of the stretch round the roller


def _moment_share(curvature: np.ndarray) -> np.ndarray:
    """Moment over yield moment of a round, perfectly plastic section; curvature over yield's."""
    k = np.maximum(np.abs(curvature), 1.0)
    q = np.sqrt(1.0 - 1.0 / k**2)
    # the plastic caps beyond the elastic core of half-height r / k, integrated over the disc
    plastic = (16.0 / (3.0 * np.pi)) * q**3
    core = (2.0 * k / np.pi) * (np.arcsin(1.0 / k) - (1.0 / k) * q * (1.0 - 2.0 / k**2))
    return np.where(np.abs(curvature) <= 1.0, np.abs(curvature), plastic + core)


def _elastic_per_mm(
    material: Material, diameter_mm: float, curvature_per_mm: np.ndarray | float
) -> np.ndarray:
    """Curvature that a section loses on release, M / (E I), 1/mm; shape as the curvature's."""
    at_yield = material.yield_mpa / material.modulus_mpa / (diameter_mm / 2.0)
    share = material.hardening_mpa / material.modulus_mpa
    k = np.asarray(curvature_per_mm, dtype=np.float64)
    return (1.0 - share) * at_yield * _moment_share(k / at_yield) + share * k


@lru_cache(maxsize=32)
def _model(material: Material, diameter_mm: float, bender: Bender) -> _Springback:
    least = min_radius_mm(material, diameter_mm)
    if bender.die_radius_mm < least:
        raise ValueError(
            f"a die of {bender.die_radius_mm:.1f} mm is below the least radius of {least:.1f} mm"
            f" of a {diameter_mm} mm {material.name} rod"
        )
    # loaded curvature on the roller: what remains is the die's
    low, high = 1.0 / bender.die_radius_mm, material.max_strain / (diameter_mm / 2.0)
    for _ in range(60):
        loaded = 0.5 * (low + high)
        left = loaded - float(_elastic_per_mm(material, diameter_mm, loaded))
        low, high = (loaded, high) if left < 1.0 / bender.die_radius_mm else (low, loaded)
    curvature = np.linspace(0.0, loaded, 600)[1:]
    elastic = _elastic_per_mm(material, diameter_mm, curvature)
    # moment linear along the leg: dx = half_span dM / M0, so the angle is an integral over M
    plastic = curvature - elastic
    area = np.concatenate([[0.0], np.cumsum(np.diff(elastic) * (plastic[1:] + plastic[:-1]) / 2)])
    left_rad = 2.0 * bender.half_span_mm * area / elastic
    set_rad = left_rad + bender.half_span_mm * elastic
    yielded = int(np.searchsorted(left_rad, 1e-9))
    start = max(yielded - 1, 0)
    return _Springback(
        np.degrees(left_rad[start:]), np.degrees(set_rad[start:]), loaded * bender.die_radius_mm
    )


def stiffness_n_mm2(material: Material, diameter_mm: float) -> float:
    """Bending stiffness E I of a round rod, N mm2."""
    return material.modulus_mpa * math.pi * diameter_mm**4 / 64.0
