# SPDX-License-Identifier: Apache-2.0
"""The density of a bone pixel: a density, its derivative, its tails, and what tissue does to it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from spine_registration.core.likelihood import OUTLIER_WIDTH_M, point_likelihood

PROBABILITY = st.floats(0.0, 1.0)
SIGMA_MM = st.floats(0.2, 4.0)


def likelihood(s, sigma=0.5e-3, tissue=1e-3, clean=0.5, bone=0.9):
    s = np.atleast_1d(np.asarray(s, float))
    full = np.full_like
    return point_likelihood(s, full(s, sigma), tissue, full(s, clean), full(s, bone))


@pytest.mark.parametrize("clean", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("bone", [0.1, 0.5, 0.95])
@pytest.mark.parametrize("sigma", [0.3e-3, 1e-3, 3e-3])
def test_the_density_of_bone_integrates_to_its_share(clean, bone, sigma):
    s = np.linspace(-30e-3, 40e-3, 40001)
    density = np.exp(likelihood(s, sigma, 1e-3, clean, bone).log_density)
    of_bone = np.trapezoid(density - (1.0 - bone) / OUTLIER_WIDTH_M, s)
    assert of_bone == pytest.approx(bone, abs=2e-3)


@settings(max_examples=100, deadline=None)
@given(st.floats(-8.0, 12.0), SIGMA_MM, PROBABILITY, PROBABILITY, st.floats(0.3, 4.0))
def test_the_score_is_the_derivative(s_mm, sigma_mm, clean, bone, tissue_mm):
    h = 1e-7
    args = (1e-3 * sigma_mm, 1e-3 * tissue_mm, clean, bone)
    s = 1e-3 * s_mm
    below, above = (float(likelihood(s + d, *args).log_density[0]) for d in (-h, h))
    score = float(likelihood(s, *args).score[0])
    assert score == pytest.approx(-(above - below) / (2 * h), rel=2e-3, abs=0.5)


@settings(max_examples=100, deadline=None)
@given(st.floats(-200.0, 200.0), SIGMA_MM, PROBABILITY, PROBABILITY)
def test_far_points_stay_finite(s_mm, sigma_mm, clean, bone):
    out = likelihood(1e-3 * s_mm, 1e-3 * sigma_mm, 1e-3, clean, bone)
    for values in (out.log_density, out.score, out.curvature, out.bone):
        assert np.isfinite(values).all()
    assert (out.curvature >= 0).all()
    assert ((out.bone >= 0) & (out.bone <= 1)).all()


def test_a_point_deep_in_bone_is_an_outlier_and_one_outside_may_be_tissue():
    inside, outside = (likelihood(s) for s in (-4e-3, 4e-3))
    assert inside.bone[0] < 0.01
    assert outside.bone[0] > 5 * inside.bone[0]
    assert abs(inside.score[0]) < 1.0
    # It pulls the bone outward with one nat per mean thickness at most, whatever its distance.
    assert 0 < outside.score[0] < 1.0 / 1e-3
    assert outside.score[0] < likelihood(1e-3).score[0]


def test_the_tail_joins_the_exponential_without_a_step():
    """Two formulas share the right tail; at their seam the density must not jump."""
    for sigma in (0.3e-3, 1e-3):
        seam = sigma * (sigma / 1e-3 + 4 * np.sqrt(2))
        below, above = (likelihood(seam + d, sigma).log_density[0] for d in (-1e-9, 1e-9))
        assert above == pytest.approx(below, abs=1e-4)


def located(points, log_density):
    """The place of the surface, metres, that makes 1D points most likely."""
    found = minimize_scalar(
        lambda a: -log_density(points - a).sum(), bounds=(-3e-3, 3e-3), method="bounded"
    )
    return found.x


def test_tissue_does_not_pull_the_surface_outward():
    rng = np.random.default_rng(3)
    sigma, n = 0.5e-3, 4000
    covered = rng.uniform(size=n) < 0.6
    points = rng.normal(0, sigma, n) + np.where(covered, rng.exponential(1e-3, n), 0.0)
    one_sided = located(points, lambda s: likelihood(s, sigma, 1e-3, 0.35, 0.95).log_density)
    symmetric = located(points, lambda s: -np.sqrt(1.0 + (s / sigma) ** 2))
    assert abs(one_sided) < 0.12e-3
    assert symmetric > 0.3e-3
