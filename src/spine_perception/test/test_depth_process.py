# SPDX-License-Identifier: Apache-2.0
"""The bias of made views of a board: what is smooth, what stays in its place, and what is left."""

from __future__ import annotations

import numpy as np
import pytest

from spine_perception.core import depth_process
from spine_perception.core.depth_process import (
    Process,
    cells_of,
    gathered,
    likeliest,
    said,
    solved,
)
from spine_perception.core.depth_views import DepthView

CELLS = 20
AT = np.stack(np.meshgrid(np.linspace(0.1, 0.9, 9), np.linspace(0.1, 0.9, 7)), -1).reshape(-1, 2)


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(depth_process, "CELLS", CELLS)


def bias(rng):
    """A smooth share with four bumps over the image, 1e-3 deep."""
    phase = rng.uniform(0, 2 * np.pi, 2)
    return lambda at: 1e-3 * np.sin(9 * at[:, 0] + phase[0]) * np.cos(8 * at[:, 1] + phase[1])


def made(seed, views=24, stays=0.0, noise=5e-4, tilted=0.0):
    """Views whose depth is short by a smooth share, with noise that stays and noise of their own."""
    rng = np.random.default_rng(seed)
    smooth = bias(rng)
    fixed = stays * rng.normal(size=CELLS * CELLS)
    out = []
    for n in range(views):
        low = rng.integers(0, (CELLS // 2 + 1, CELLS * 3 // 8 + 2))
        j, i = np.meshgrid(np.arange(CELLS // 2) + low[0], np.arange(CELLS * 3 // 8) + low[1])
        cell = (i * CELLS + j).ravel()
        uv = np.column_stack([(j.ravel() + 0.5) / CELLS, (i.ravel() + 0.5) / (0.75 * CELLS)])
        z = np.full(len(uv), 0.3 + 0.3 * n / views)
        lever = 1e-4 * np.column_stack([np.ones(len(uv)), uv - 0.5, np.zeros((len(uv), 3))])
        share = smooth(uv) + fixed[cell] + noise * rng.normal(size=len(uv))
        share += tilted * (-lever @ rng.normal(size=6)) / z
        plane = z * (1.0 + share)
        out.append(
            DepthView(n, uv, z, plane, lever, np.zeros_like(uv), z, np.ones_like(z), 1.0, 0.1)
        )
    return out, smooth


def fitted(views, process=None):
    cells = cells_of(views)
    evidence = gathered(views, cells, range(len(views)))
    process = process or likeliest(cells, evidence)
    return process, solved(cells, evidence, process, AT)


@pytest.mark.parametrize("stays", [0.0, 1.5e-3])
def test_the_smooth_bias_is_found_and_what_is_left_of_it_is_told(stays):
    ratio = []
    for seed in range(4):
        views, smooth = made(seed, stays=stays, tilted=1.0)
        process, found = fitted(views)
        left = found.mean - smooth(AT)
        assert np.sqrt((left**2).mean()) < 2e-4 + 0.2 * stays
        deviation = np.sqrt(np.diag(found.covariance)[: len(AT)])
        ratio.append((left / deviation).std())
        assert process.stays == pytest.approx(stays, rel=0.35) or process.stays < 3e-4 > stays
    assert 0.5 < np.sqrt(np.mean(np.square(ratio))) < 1.5


def test_noise_that_stays_is_not_taken_for_bias():
    """With a process that knows of none, the surface follows it, and says that it knows it well."""
    views, smooth = made(5, stays=2e-3)
    process, found = fitted(views)
    _, blind = fitted(views, Process(process.amplitude, 0.05, 1e-6))
    left, worse = (np.sqrt(((x.mean - smooth(AT)) ** 2).mean()) for x in (found, blind))
    assert worse > 2.0 * left
    said_of = np.sqrt(np.diag(blind.covariance)[: len(AT)].mean())
    assert worse > 2.0 * said_of


def test_the_posterior_is_that_of_the_plain_formula():
    views, _ = made(7, views=10)
    few = [
        DepthView(
            v.stamp_ns, *(getattr(v, k)[::10] for k in (
                "uv", "depth_m", "plane_m", "lever_m", "board", "spread_m", "cosine")), 1.0, 0.1)
        for v in views
    ]  # fmt: skip
    cells = cells_of(few)
    process = Process(1e-3, 0.2, 5e-4)
    found = solved(cells, gathered(few, cells, range(len(few))), process, cells.uv)
    # All rows at once, their covariance written out: bias, what stays, extras, poses, noise.
    dp = depth_process
    rows = np.concatenate(cells.of)
    y = np.concatenate([said(v) for v in few])
    E = np.concatenate([dp._extras(v, cells) for v in few])
    K = dp._kernel(cells.uv, cells.uv, process)
    whole = (K + process.stays**2 * np.eye(len(K)))[np.ix_(rows, rows)]
    whole += E @ np.diag(dp._EXTRA**2) @ E.T
    start = 0
    for v, w in zip(few, cells.weight, strict=True):
        of = slice(start, start := start + len(w))
        whole[of, of] += dp.lever(v) @ dp.lever(v).T + np.diag(1.0 / w)
    across = K[:, rows]
    np.testing.assert_allclose(found.mean, across @ np.linalg.solve(whole, y), atol=2e-7)
    plain = K - across @ np.linalg.solve(whole, across.T)
    np.testing.assert_allclose(found.covariance[:-2, :-2], plain, atol=1e-9)


def test_one_cell_far_off_does_not_pull():
    views, smooth = made(9)
    views[3].plane_m[30] *= 1.05
    _, found = fitted(views)
    assert np.sqrt(((found.mean - smooth(AT)) ** 2).mean()) < 2e-4
