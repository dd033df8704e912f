# SPDX-License-Identifier: Apache-2.0
"""The loops over the grid's cells, compiled. Each has a NumPy twin in test/numpy_grid.py."""

from __future__ import annotations

import math

import numpy as np

from spine_nav_common.core.compiled import compiled


@compiled
def exposure(colour: np.ndarray, black: int, white: int) -> tuple[int, int]:
    """Pixels with a channel of at least `black`, and those with all of at least `white`."""
    height, width, _ = colour.shape
    lit = saturated = 0
    for i in range(height):
        for j in range(width):
            r, g, b = colour[i, j, 0], colour[i, j, 1], colour[i, j, 2]
            lit += max(r, g, b) >= black
            saturated += min(r, g, b) >= white
    return lit, saturated


@compiled
def sample_depth(
    depth: np.ndarray,
    affine: np.ndarray,
    size: int,
    box: int,
    near: float,
    far: float,
    blend: float,
) -> np.ndarray:
    """(size, size) nearest usable depth, NaN where none; the mean of the usable pixels in a box of
    `box` pixels around it where that is nearer than `blend`."""
    height, width = depth.shape
    out = np.empty((size, size), np.float32)
    for i in range(size):
        for j in range(size):
            u = math.floor(affine[0, 0] * j + affine[0, 1] * i + affine[0, 2] + 0.5)
            v = math.floor(affine[1, 0] * j + affine[1, 1] * i + affine[1, 2] + 0.5)
            value = np.float32(np.nan)
            if 0 <= u < width and 0 <= v < height:
                middle = depth[v, u]
                if near < middle < far:
                    value = middle
                    if box >= 2:
                        total, count = 0.0, 0
                        for y in range(v - box // 2, v - box // 2 + box):
                            for x in range(u - box // 2, u - box // 2 + box):
                                # mirrored at the image's border
                                row = -y if y < 0 else min(y, 2 * height - 2 - y)
                                column = -x if x < 0 else min(x, 2 * width - 2 - x)
                                one = depth[row, column]
                                if near < one < far:
                                    total += one
                                    count += 1
                        mean = total / count
                        if abs(mean - middle) < blend:
                            value = np.float32(mean)
            out[i, j] = value
    return out


@compiled
def camera_points(
    depth: np.ndarray, affine: np.ndarray, fx: float, fy: float, cx: float, cy: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points (h, w, 3) and slopes x/z, y/z (h, w) of the cells."""
    height, width = depth.shape
    points = np.empty((height, width, 3), np.float32)
    x, y = np.empty_like(depth), np.empty_like(depth)
    for i in range(height):
        for j in range(width):
            slope_x = (affine[0, 0] * j + affine[0, 1] * i + affine[0, 2] - cx) / fx
            slope_y = (affine[1, 0] * j + affine[1, 1] * i + affine[1, 2] - cy) / fy
            z = depth[i, j]
            x[i, j], y[i, j] = slope_x, slope_y
            points[i, j, 0], points[i, j, 1], points[i, j, 2] = slope_x * z, slope_y * z, z
    return points, x, y


@compiled
def ranges(
    depth: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Range along the ray (0 where none), its factor over the depth, and the mask, (h, w) each."""
    height, width = depth.shape
    out, stretch, mask = np.empty_like(depth), np.empty_like(depth), np.empty_like(depth)
    for i in range(height):
        for j in range(width):
            factor = math.sqrt(1.0 + x[i, j] * x[i, j] + y[i, j] * y[i, j])
            z = depth[i, j]
            valid = math.isfinite(z)
            stretch[i, j] = factor
            mask[i, j] = 1.0 if valid else 0.0
            out[i, j] = z * factor if valid else 0.0
    return out, stretch, mask


@compiled
def _mean(total: float, weight: float, window: int, otherwise: float) -> float:
    return total / weight if weight > 0.5 / (window * window) else otherwise


@compiled
def heights(
    out: np.ndarray,
    range_m: np.ndarray,
    mask: np.ndarray,
    blurred: tuple[np.ndarray, ...],
    windows: tuple[int, int, int],
    reference: float,
    scales: tuple[float, float, float],
) -> np.ndarray:
    """Fill depth, validity and heights (channels 0, 1, 5, 6) of out; returns the range smoothed by
    the first window. blurred: range and mask, blurred by each window (fine, middle, coarse)."""
    depth_scale, height_scale, clip = scales
    range_0, mask_0, range_1, mask_1, range_2, mask_2 = blurred
    height, width = range_m.shape
    smooth = np.empty_like(range_m)
    for i in range(height):
        for j in range(width):
            coarse = _mean(range_2[i, j], mask_2[i, j], windows[2], reference)
            smooth[i, j] = _mean(range_0[i, j], mask_0[i, j], windows[0], coarse)
            if mask[i, j] > 0.0:
                middle = _mean(range_1[i, j], mask_1[i, j], windows[1], coarse)
                here = range_m[i, j]
                out[0, i, j] = min(max((here - reference) / depth_scale, -clip), clip)
                out[1, i, j] = 1.0
                out[5, i, j] = min(max((middle - here) / height_scale, -clip), clip)
                out[6, i, j] = min(max((coarse - here) / height_scale, -clip), clip)
            else:
                out[0, i, j] = out[1, i, j] = out[5, i, j] = out[6, i, j] = 0.0
    return smooth


@compiled
def normals(
    out: np.ndarray,
    depth: np.ndarray,
    dj: np.ndarray,
    di: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    mask: np.ndarray,
    inverse: np.ndarray,
    turn: np.ndarray,
) -> None:
    """Fill out (3, h, w) with `features.ray_normals` of this depth, 0 where the mask is 0.

    dj, di: its slopes along the grid; inverse (2, 2): slopes to cells; turn (2,): cosine and sine of
    the grid's roll; all float32, so that several cells are computed at once.
    """
    one, tiny = np.float32(1.0), np.float32(1e-9)
    a, b, c, d = inverse[0, 0], inverse[1, 0], inverse[0, 1], inverse[1, 1]
    cosine, sine = turn[0], turn[1]
    height, width = depth.shape
    for i in range(height):
        for j in range(width):
            slope_x, slope_y = -x[i, j], -y[i, j]
            nx = dj[i, j] * a + di[i, j] * b
            ny = dj[i, j] * c + di[i, j] * d
            nz = slope_x * nx + slope_y * ny - depth[i, j]
            length = np.sqrt(nx * nx + ny * ny + nz * nz)
            scale = mask[i, j] / max(length, tiny)
            nx, ny, nz = scale * nx, scale * ny, scale * nz
            # `features.to_ray_frame`
            rz = one / np.sqrt(one + slope_x * slope_x + slope_y * slope_y)
            rx, ry = slope_x * rz, slope_y * rz
            k = nz - (rx * nx + ry * ny) / (one + rz)
            tx, ty = nx + rx * k, ny + ry * k
            out[0, i, j] = cosine * tx + sine * ty
            out[1, i, j] = cosine * ty - sine * tx
            out[2, i, j] = rz * nz - rx * nx - ry * ny


@compiled
def colours(out: np.ndarray, colour: np.ndarray) -> None:
    """Fill out (3, h, w) with colour (h, w, 3) of 0..1 as -1..1; what is not finite counts as 0."""
    height, width, _ = colour.shape
    for i in range(height):
        for j in range(width):
            for k in range(3):
                value = colour[i, j, k]
                value = 0.0 if math.isnan(value) else min(max(value, 0.0), 1.0)
                out[k, i, j] = 2.0 * value - 1.0


@compiled
def _tilt(vx: float, vy: float, vz: float, x: float, y: float) -> tuple[float, float, float]:
    """See `features._tilt`."""
    rz = 1.0 / math.sqrt(1.0 + x * x + y * y)
    rx, ry = x * rz, y * rz
    k = (rx * vx + ry * vy) / (1.0 + rz)
    return vx + rx * (vz - k), vy + ry * (vz - k), rz * vz - rx * vx - ry * vy


@compiled
def decode(
    vectors: np.ndarray,
    points: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    cosine: float,
    sine: float,
    scale: float,
) -> np.ndarray:
    """(h, w, 9) centre (m), cranial and dorsal (unit) in the camera frame.

    vectors (9, h, w) in ray frames; points (2h, 2w, 3) and slopes (2h, 2w), of which every second
    row and column counts; cosine, sine: of the grid's roll; scale: of the centre's offset, metres.
    """
    height, width = vectors.shape[1:]
    out = np.empty((height, width, 9), np.float32)
    for i in range(height):
        for j in range(width):
            slope_x, slope_y = x[2 * i, 2 * j], y[2 * i, 2 * j]
            for part in range(3):
                a, b = vectors[3 * part, i, j], vectors[3 * part + 1, i, j]
                vx, vy, vz = _tilt(
                    cosine * a - sine * b,
                    sine * a + cosine * b,
                    vectors[3 * part + 2, i, j],
                    slope_x,
                    slope_y,
                )
                if part == 0:
                    out[i, j, 0] = points[2 * i, 2 * j, 0] + vx * scale
                    out[i, j, 1] = points[2 * i, 2 * j, 1] + vy * scale
                    out[i, j, 2] = points[2 * i, 2 * j, 2] + vz * scale
                else:
                    length = max(math.sqrt(vx * vx + vy * vy + vz * vz), 1e-6)
                    out[i, j, 3 * part] = vx / length
                    out[i, j, 3 * part + 1] = vy / length
                    out[i, j, 3 * part + 2] = vz / length
    return out


@compiled
def _logit(logits: np.ndarray, i: float, j: float, border: float) -> float:
    """Bilinear, with `border` outside."""
    size = logits.shape[0]
    i0, j0 = math.floor(i), math.floor(j)
    value = 0.0
    for row, share_row in ((i0, i0 + 1.0 - i), (i0 + 1, i - i0)):
        for column, share in ((j0, j0 + 1.0 - j), (j0 + 1, j - j0)):
            inside = 0 <= row < size and 0 <= column < size
            value += share_row * share * (logits[row, column] if inside else border)
    return value


@compiled
def lay_out(
    masks: np.ndarray,
    votes: np.ndarray,
    points: np.ndarray,
    turned_from_grid: np.ndarray,
    border: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Logits (2, n, n), centre, cranial, dorsal (n, n, 3) on a grid whose cells have these points.

    masks (2, n, n): logits; votes (n/2, n/2, 9): both of the turned grid; turned_from_grid (2, 3):
    cell (j, i) of the grid to cell of the turned one; border: logit outside and without depth.
    """
    size = points.shape[0]
    half = votes.shape[0]
    logits = np.empty((2, size, size), np.float32)
    centre = np.empty((size, size, 3), np.float32)
    cranial, dorsal = np.empty_like(centre), np.empty_like(centre)
    a = turned_from_grid
    for i in range(size):
        for j in range(size):
            column = a[0, 0] * j + a[0, 1] * i + a[0, 2]
            row = a[1, 0] * j + a[1, 1] * i + a[1, 2]
            i0, j0 = math.floor(row), math.floor(column)
            if not math.isfinite(points[i, j, 2]):  # no point to be bone
                logits[0, i, j] = logits[1, i, j] = border
            elif 0 <= i0 < size - 1 and 0 <= j0 < size - 1:
                down, right = row - i0, column - j0
                w00, w01 = (1.0 - down) * (1.0 - right), (1.0 - down) * right
                w10, w11 = down * (1.0 - right), down * right
                for k in range(2):
                    logits[k, i, j] = (
                        w00 * masks[k, i0, j0]
                        + w01 * masks[k, i0, j0 + 1]
                        + w10 * masks[k, i0 + 1, j0]
                        + w11 * masks[k, i0 + 1, j0 + 1]
                    )
            else:
                for k in range(2):
                    logits[k, i, j] = _logit(masks[k], row, column, border)
            # Full cells 0 and 1 belong to vote cell 0.
            p, q = math.floor(0.5 * row + 0.25), math.floor(0.5 * column + 0.25)
            if 0 <= p < half and 0 <= q < half:
                for k in range(3):
                    centre[i, j, k] = votes[p, q, k]
                    cranial[i, j, k] = votes[p, q, 3 + k]
                    dorsal[i, j, k] = votes[p, q, 6 + k]
            else:
                for k in range(3):
                    centre[i, j, k] = cranial[i, j, k] = dorsal[i, j, k] = np.nan
    return logits, centre, cranial, dorsal
