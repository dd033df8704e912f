# SPDX-License-Identifier: Apache-2.0
"""A closed, smooth surface of each vertebra of a mask, that does not shrink.

The mask's signed distance is smoothed by less than a voxel, sampled to at most a millimetre, and cut
where it encloses the mask's own volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from scipy import ndimage
from skimage.measure import marching_cubes

from spine_nav_common.core.types import Mesh, Rejected
from spine_nav_sim.core.anatomy import close_decimated, is_closed

STEP_MM = 1.0
SMOOTH = 0.8  # voxels
_PAD = 3


@dataclass(frozen=True)
class Surface:
    """mesh: LPS, metres. deviation_mm: mean and 95th percentile of the distance of its vertices from
    the border of the mask, which is itself known to half a voxel; volume_ml: of the mesh and mask."""

    mesh: Mesh
    deviation_mm: tuple[float, float]
    volume_ml: tuple[float, float]


def surface_of(image: sitk.Image, mask: np.ndarray) -> Surface | Rejected:
    """The surface of one vertebra.

    Args:
        image: its grid (spacing, origin, direction), LPS mm.
        mask (Z, Y, X) bool in that grid.
    """
    box = ndimage.find_objects(mask.astype(np.uint8))
    if not box:
        return Rejected("the mask is empty")
    low = np.array([s.start for s in box[0]])
    inside = np.pad(ndimage.binary_fill_holes(mask[box[0]]), _PAD)
    spacing = np.array(image.GetSpacing())[::-1]  # z, y, x
    distance = _signed(inside, spacing)
    factor = np.maximum(np.ceil(spacing / STEP_MM - 0.05), 1.0)
    smooth = ndimage.gaussian_filter(distance, SMOOTH)
    shape = ((np.array(smooth.shape) - 1) * factor).astype(int) + 1
    if (factor > 1.0).any():
        at = np.meshgrid(*(np.arange(n) / f for n, f in zip(shape, factor, strict=True)),
                         indexing="ij")  # fmt: skip
        smooth = ndimage.map_coordinates(smooth, at, order=3, mode="nearest")
    cell = spacing / factor
    share = inside.sum() * np.prod(spacing) / np.prod(cell) / smooth.size
    level = float(np.quantile(smooth, share))
    parts, count = ndimage.label(smooth < level)
    if count > 1:  # thin bridges of the mask that smoothing parts: the bone is its largest piece
        largest = int(np.bincount(parts.ravel())[1:].argmax()) + 1
        smooth = np.where((parts > 0) & (parts != largest), level + 0.1, smooth)
    smooth = np.where(
        ndimage.binary_fill_holes(smooth < level) & (smooth >= level), level - 0.1, smooth
    )
    vertices, faces, _, _ = marching_cubes(smooth, level, allow_degenerate=False)
    if not is_closed(faces):
        return Rejected("its surface does not close: the mask touches its own border")
    index = vertices / factor  # voxels of the padded box
    near = ndimage.map_coordinates(distance, index.T, order=1)
    whole = (index - _PAD + low) * spacing
    R = np.array(image.GetDirection()).reshape(3, 3)
    points = np.array(image.GetOrigin()) + whole[:, ::-1] @ R.T
    a, b, c = (points[faces[:, i]] - points.mean(axis=0) for i in range(3))
    volume = float(np.einsum("ij,ij->", a, np.cross(b, c))) / 6.0
    if volume < 0.0:
        faces = faces[:, ::-1]
    vertices, faces = close_decimated(points, np.ascontiguousarray(faces))
    return Surface(
        Mesh(1e-3 * vertices, faces.astype(np.int32)),
        (float(np.abs(near).mean()), float(np.quantile(np.abs(near), 0.95))),
        (1e-3 * abs(volume), 1e-3 * float(inside.sum() * np.prod(spacing))),
    )


def _signed(inside: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Millimetres from the border between the voxels, positive outside."""
    half = 0.5 * float(spacing.min())
    out = ndimage.distance_transform_edt(~inside, sampling=spacing)
    into = ndimage.distance_transform_edt(inside, sampling=spacing)
    return np.where(inside, half - into, out - half)
