# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import trapezoid

from rod_bending_ar.core.material import (
    MATERIALS,
    Bender,
    Material,
    _moment_share,
    bend_set_deg,
    min_radius_mm,
)

TITANIUM = MATERIALS["Ti6Al4V"]


@pytest.mark.parametrize("curvature", [0.3, 1.0, 1.5, 4.0, 30.0])
def test_moment_of_a_plastic_disc_equals_its_integral(curvature: float) -> None:
    """Cross-check of the closed form: fibres of a unit disc, stress cut off at the yield stress."""
    y = np.linspace(-1.0, 1.0, 200_001)
    stress = np.clip(curvature * y, -1.0, 1.0)
    moment = trapezoid(stress * y * 2.0 * np.sqrt(1.0 - y**2), y)
    assert _moment_share(np.array(curvature)) == pytest.approx(moment / (np.pi / 4.0), rel=1e-5)


@pytest.mark.parametrize("name", sorted(MATERIALS))
def test_set_angle_is_larger_and_grows(name: str) -> None:
    kept = np.linspace(0.2, 45.0, 60)
    to_set = np.array([bend_set_deg(b, MATERIALS[name], 5.5) for b in kept])
    assert (to_set > kept).all()
    assert (np.diff(to_set) > np.diff(kept)).all()  # every degree kept costs more than a degree
    assert bend_set_deg(0.0, MATERIALS[name], 5.5) == 0.0


def test_titanium_springs_back_most() -> None:
    back = {name: bend_set_deg(15.0, m, 5.5) - 15.0 for name, m in MATERIALS.items()}
    assert max(back, key=lambda name: back[name]) == "Ti6Al4V"


def test_springback_of_a_bend_equals_integration_along_the_beam() -> None:
    """Independent: the beam in slices, moment by fibres, unloading by M / (E I)."""
    bender = Bender()
    radius = 5.5 / 2.0
    fibre = np.linspace(-radius, radius, 4001)
    width = 2.0 * np.sqrt(np.maximum(radius**2 - fibre**2, 0.0))
    inertia = np.pi * radius**4 / 4.0
    at_yield = TITANIUM.yield_mpa / TITANIUM.modulus_mpa

    def moment(curvature: float) -> float:
        strain = curvature * fibre
        elastic = np.clip(strain, -at_yield, at_yield)
        stress = TITANIUM.modulus_mpa * elastic + TITANIUM.hardening_mpa * (strain - elastic)
        return float(trapezoid(stress * fibre * width, fibre))

    grid = np.linspace(0.0, 0.05, 2001)
    table = np.array([moment(k) for k in grid])
    flexibility = 1.0 / (TITANIUM.modulus_mpa * inertia)
    kept = grid - table * flexibility
    loaded = np.interp(1.0 / bender.die_radius_mm, kept, grid)
    top = np.interp(loaded, grid, table)
    wrap_mm = 8.0
    along = np.linspace(0.0, 1.0, 4001)
    leg = np.interp(top * (1.0 - along), table, grid)
    under_load = wrap_mm * loaded + 2.0 * trapezoid(leg, along) * bender.half_span_mm
    lost = flexibility * top * (wrap_mm + bender.half_span_mm)
    remains = np.degrees(under_load - lost)
    assert bend_set_deg(remains, TITANIUM, 5.5, bender) == pytest.approx(
        np.degrees(under_load), abs=0.05
    )


def test_least_radius_keeps_the_outer_fibre_at_its_limit() -> None:
    stiff = Material("no springback", 1e9, 1.0, 0.0, 0.1)
    assert min_radius_mm(stiff, 6.0) == pytest.approx(30.0, rel=1e-4)
    assert min_radius_mm(TITANIUM, 6.0) > min_radius_mm(TITANIUM, 4.75)


def test_negative_bend_and_sharp_die_are_refused() -> None:
    with pytest.raises(ValueError, match="turn the rod by 180"):
        bend_set_deg(-1.0, TITANIUM, 5.5)
    with pytest.raises(ValueError, match="turn the rod by 180"):
        bend_set_deg(float("nan"), TITANIUM, 5.5)
    with pytest.raises(ValueError, match="below the least radius"):
        bend_set_deg(10.0, TITANIUM, 5.5, Bender(die_radius_mm=20.0))
