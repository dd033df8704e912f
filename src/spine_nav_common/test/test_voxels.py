# SPDX-License-Identifier: Apache-2.0
"""Inside or outside on a grid: against rays, and where faces, edges and corners lie on its lines."""

import numpy as np
import pytest
import trimesh

from spine_nav_common.core.surface import signed_distance_m
from spine_nav_common.core.types import Mesh
from spine_nav_common.core.voxels import inside_grid


def test_the_same_as_by_rays_on_a_surface_with_a_hole_through_it():
    torus = trimesh.creation.torus(0.03, 0.012)
    turn = trimesh.transformations.rotation_matrix(0.7, [1.0, 2.0, 0.5])[:3, :3]
    mesh = Mesh(torus.vertices @ turn.T, torus.faces.astype(np.int32))
    low, step, shape = np.array([-0.03, -0.05, -0.045]), 0.0017, (50, 40, 55)
    grid = low + step * np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    expected = signed_distance_m(mesh, grid.reshape(-1, 3)).reshape(shape) < 0.0
    found = inside_grid(mesh.vertices_m, mesh.faces, low, step, shape)  # the grid cuts it
    assert expected.any() and expected[0].any()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("low", [0, -3])
def test_every_place_is_counted_once_where_the_grid_runs_through_edges_and_corners(low):
    box = trimesh.creation.box(bounds=[[1.0, 1.0, 1.0], [5.0, 5.0, 5.0]]).subdivide()
    found = inside_grid(box.vertices, box.faces, np.full(3, float(low)), 1.0, (12, 12, 12))
    assert found[(slice(2 - low, 5 - low),) * 3].all()
    assert found[(slice(1 - low, 6 - low),) * 3].sum() == found.sum()
    assert found.sum() == 4**3  # of five planes on the box the first or the last is outside


def test_nothing_is_inside_a_surface_that_lies_beside_the_grid():
    box = trimesh.creation.box(bounds=[[1.0, 1.0, 1.0], [5.0, 5.0, 5.0]])
    for low in ([6.0, 1.0, 1.0], [1.0, 6.0, 1.0], [1.0, 1.0, 6.0], [-20.0] * 3):
        assert not inside_grid(box.vertices, box.faces, np.array(low), 1.0, (9, 9, 9)).any()
