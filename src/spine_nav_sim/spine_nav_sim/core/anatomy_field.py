# SPDX-License-Identifier: Apache-2.0
"""Implicit modelling of bone: primitives blended on a grid, then a closed triangle surface.

All lengths here are millimetres (the modelling unit of the anatomy generator). A field is negative
inside the bone. Each primitive is evaluated only inside its own bounding box.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import ndimage

FAR_MM = 12.0  # field value far from every primitive; blends must be narrower


@dataclass(frozen=True)
class Tube:
    """An elliptic section swept along a polyline with rounded ends; one point makes an ellipsoid.

    points (K, 3); half extents of the section `a` along `u` and `b` across it, (K,) each; `u` is
    made orthogonal to each segment. `exponent` above 2 makes the section a rounded plate.
    `blend` is the width of the smooth union, `cap` the half length of the rounded ends.
    All in mm.
    """

    points: np.ndarray
    a: np.ndarray
    b: np.ndarray
    u: np.ndarray
    exponent: float = 2.0
    blend: float = 3.0
    cap: float | None = None

    @staticmethod
    def of(
        points: ArrayLike,
        a: ArrayLike,
        b: ArrayLike,
        u: ArrayLike,
        exponent: float = 2.0,
        blend: float = 3.0,
        cap: float | None = None,
    ) -> Tube:
        p = np.atleast_2d(np.asarray(points, float))
        return Tube(
            p,
            np.broadcast_to(np.asarray(a, float), len(p)).copy(),
            np.broadcast_to(np.asarray(b, float), len(p)).copy(),
            np.asarray(u, float),
            exponent,
            blend,
            cap,
        )

    def bounds(self, margin: float) -> tuple[np.ndarray, np.ndarray]:
        reach = np.maximum(self.a, self.b)[:, None] + (self.cap or 0.0) + margin
        return (self.points - reach).min(0), (self.points + reach).max(0)

    def moved(self, T: np.ndarray) -> Tube:
        """The tube in another frame; T is 4x4 rigid, mm."""
        return Tube(
            self.points @ T[:3, :3].T + T[:3, 3],
            self.a,
            self.b,
            T[:3, :3] @ self.u,
            self.exponent,
            self.blend,
            self.cap,
        )

    def distance(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Approximate signed distance (first order at the surface) on broadcastable grids."""
        if len(self.points) == 1:
            return self._segment(x, y, z, 0, 0)
        best = self._segment(x, y, z, 0, 1)
        for i in range(1, len(self.points) - 1):
            best = np.minimum(best, self._segment(x, y, z, i, i + 1))
        return best

    def _segment(self, x: np.ndarray, y: np.ndarray, z: np.ndarray, i: int, j: int) -> np.ndarray:
        p, q = self.points[i], self.points[j]
        span = float(np.linalg.norm(q - p))
        if span > 0:
            t = (q - p) / span
            u = self.u - t * (self.u @ t)
            u = u / np.linalg.norm(u)
        else:
            u = self.u / np.linalg.norm(self.u)
            helper = np.array([0.0, 0.0, 1.0]) if abs(u[2]) < 0.9 else np.array([0.0, 1.0, 0.0])
            t = np.cross(u, helper)
            t = t / np.linalg.norm(t)
        v = np.cross(t, u)

        def along(w: np.ndarray) -> np.ndarray:
            return (
                np.float32(w[0]) * x
                + np.float32(w[1]) * y
                + np.float32(w[2]) * z
                - np.float32(w @ p)
            )

        s, du, dv = along(t), np.abs(along(u)), np.abs(along(v))
        f = np.clip(s / np.float32(max(span, 1e-6)), 0, 1)
        a = np.float32(self.a[i]) + np.float32(self.a[j] - self.a[i]) * f
        b = np.float32(self.b[i]) + np.float32(self.b[j] - self.b[i]) * f
        c = np.minimum(a, b) if self.cap is None else np.float32(self.cap)
        ds = np.abs(s - np.clip(s, 0, np.float32(span))) / c
        du, dv = du / a, dv / b
        n = self.exponent
        if n == 2.0:
            r2 = du * du + dv * dv + ds * ds
            r = np.sqrt(r2)
            g2 = (du / a) ** 2 + (dv / b) ** 2 + (ds / c) ** 2
            grad = np.sqrt(g2) / np.maximum(r, 1e-3)
        else:
            r = (du**n + dv**n + ds**n + 1e-9) ** np.float32(1 / n)
            scale = np.maximum(r, 1e-3) ** (1 - n)
            grad = scale * np.sqrt(
                (du ** (n - 1) / a) ** 2 + (dv ** (n - 1) / b) ** 2 + (ds ** (n - 1) / c) ** 2
            )
        return (r - 1) / np.maximum(grad, 1 / np.maximum(np.maximum(a, b), c))


class Field:
    """A scalar field on a regular grid (mm), float32, negative inside."""

    def __init__(self, low: np.ndarray, high: np.ndarray, spacing: float) -> None:
        self.low = np.asarray(low, float)
        self.spacing = float(spacing)
        shape = np.ceil((np.asarray(high, float) - self.low) / spacing).astype(int) + 1
        self.values = np.full(tuple(shape), FAR_MM, np.float32)
        self.axes = [
            (self.low[k] + spacing * np.arange(shape[k])).astype(np.float32) for k in range(3)
        ]

    def window(
        self, low: np.ndarray, high: np.ndarray
    ) -> tuple[tuple[slice, ...], tuple[np.ndarray, ...]] | None:
        """Grid slices that cover a box, and their open coordinate grids; None if outside."""
        shape = self.values.shape
        i0 = np.clip(np.floor((low - self.low) / self.spacing).astype(int), 0, shape)
        i1 = np.clip(np.ceil((high - self.low) / self.spacing).astype(int) + 1, 0, shape)
        if np.any(i1 <= i0):
            return None
        s = tuple(slice(a, b) for a, b in zip(i0, i1, strict=True))
        x = self.axes[0][s[0]][:, None, None]
        y = self.axes[1][s[1]][None, :, None]
        z = self.axes[2][s[2]][None, None, :]
        return s, (x, y, z)

    def add(self, tube: Tube) -> None:
        """Smooth union with a primitive."""
        where = self.window(*tube.bounds(tube.blend))
        if where is not None:
            s, grid = where
            self.values[s] = smooth_min(self.values[s], tube.distance(*grid), tube.blend)

    def cut(self, tube: Tube, offset: float = 0.0) -> None:
        """Smooth subtraction of a primitive grown by offset mm."""
        where = self.window(*tube.bounds(tube.blend + offset))
        if where is not None:
            s, grid = where
            d = tube.distance(*grid) - np.float32(offset)
            self.values[s] = -smooth_min(-self.values[s], d, tube.blend)

    def roughen(self, rng: np.random.Generator, cell: float, amplitude: float) -> None:
        """Add smooth random noise with features of about `cell` mm and SD `amplitude` mm."""
        shape = np.array(self.values.shape)
        coarse = np.ceil(shape * self.spacing / cell).astype(int) + 3
        noise = rng.normal(size=tuple(coarse)).astype(np.float32)
        for axis in range(3):
            noise = _resample_cubic(noise, axis, int(shape[axis]), self.spacing / cell)
        self.values += np.float32(amplitude / max(float(noise.std()), 1e-6)) * noise

    def surface(self) -> tuple[np.ndarray, np.ndarray]:
        """Closed surface of the largest connected body: vertices (N, 3) mm, faces (M, 3)."""
        v = self.values.copy()
        for axis in range(3):  # an object that touches the grid's border would be open
            for end in (0, -1):
                border = np.moveaxis(v, axis, 0)[end]
                np.maximum(border, np.float32(0.05), out=border)
        inside, count = ndimage.label(v < 0)
        if count == 0:
            raise ValueError("the field is nowhere negative: nothing to mesh")
        if count > 1:
            biggest = 1 + int(np.argmax(np.bincount(inside.ravel())[1:]))
            v[(inside != biggest) & (inside > 0)] = np.float32(0.3 * self.spacing)
        outside, count = ndimage.label(v >= 0)
        if count > 1:  # cavities inside the bone
            v[(outside != outside[0, 0, 0]) & (outside > 0)] = np.float32(-0.3 * self.spacing)
        vertices, faces = surface_nets(_without_ambiguity(v, 0.3 * self.spacing))
        return vertices * self.spacing + self.low, faces


class Warp:
    """Smooth random displacements: a cubic B-spline over random vectors on a lattice.

    `low`, `high`, `cell` and `sd` (per axis) are in the unit of the points.
    """

    def __init__(
        self, rng: np.random.Generator, low: np.ndarray, high: np.ndarray, cell: float, sd: float
    ) -> None:
        self.low, self.cell = low, cell
        shape = np.ceil((high - low) / cell).astype(int) + 4
        self.nodes = rng.normal(size=(3, *shape))
        probe = np.stack(np.meshgrid(*[np.linspace(1, n - 2, 9) for n in shape], indexing="ij"))
        self.nodes *= sd / float(self._sample(probe.reshape(3, -1)).std())

    def _sample(self, index: np.ndarray) -> np.ndarray:
        return np.stack(
            [
                ndimage.map_coordinates(n, index, order=3, prefilter=False, mode="nearest")
                for n in self.nodes
            ],
            -1,
        )

    def __call__(self, points: np.ndarray) -> np.ndarray:
        return self._sample(((points - self.low) / self.cell + 1.0).T)


def smooth_min(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """Polynomial smooth minimum; equals min(a, b) where they differ by more than k."""
    h = np.maximum(np.float32(k) - np.abs(a - b), 0)
    return np.minimum(a, b) - h * h * np.float32(0.25 / k)


def _resample_cubic(a: np.ndarray, axis: int, n: int, step: float) -> np.ndarray:
    """Uniform cubic B-spline along one axis: n samples, `step` coarse cells apart."""
    t = np.arange(n) * step
    i = np.floor(t).astype(int)
    f = (t - i).astype(np.float32)
    weights = (
        (1 - f) ** 3 / 6,
        (3 * f**3 - 6 * f**2 + 4) / 6,
        (-3 * f**3 + 3 * f**2 + 3 * f + 1) / 6,
        f**3 / 6,
    )
    shape = [1, 1, 1]
    shape[axis] = n
    last = a.shape[axis] - 1
    return sum(
        np.take(a, np.minimum(i + k, last), axis) * w.reshape(shape) for k, w in enumerate(weights)
    )


def _without_ambiguity(v: np.ndarray, depth: float) -> np.ndarray:
    """Fill grid corners until no cell face has inside corners on one diagonal only.

    Such faces would give edges shared by four triangles in a dual method.
    """
    v = v.copy()
    for _ in range(20):
        inside = v < 0
        changed = False
        for i, j in ((0, 1), (0, 2), (1, 2)):

            def corner(a: int, b: int, array: np.ndarray, i: int = i, j: int = j) -> np.ndarray:
                s = [slice(None)] * 3
                s[i] = slice(1, None) if a else slice(None, -1)
                s[j] = slice(1, None) if b else slice(None, -1)
                return array[tuple(s)]

            c00, c01, c10, c11 = (corner(a, b, inside) for a in (0, 1) for b in (0, 1))
            for fill, bad in (
                ((0, 1), c00 & c11 & ~c01 & ~c10),
                ((0, 0), c01 & c10 & ~c00 & ~c11),
            ):
                if bad.any():
                    corner(*fill, v)[bad] = -np.float32(depth)
                    changed = True
        if not changed:
            break
    return v


_CORNERS = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
_EDGES = [
    (a, b)
    for a in range(8)
    for b in range(a + 1, 8)
    if np.abs(_CORNERS[a] - _CORNERS[b]).sum() == 1
]


def surface_nets(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Naive surface nets of a 3D array at level 0 (negative inside), outward winding.

    Returns vertices (N, 3) in index coordinates and faces (M, 3) int32. The surface must not reach
    the border of the array.
    """
    inside = v < 0
    views = [
        inside[
            i : inside.shape[0] - 1 + i, j : inside.shape[1] - 1 + j, k : inside.shape[2] - 1 + k
        ]
        for i, j, k in _CORNERS
    ]
    total = np.zeros(views[0].shape, np.int8)
    for view in views:
        total += view
    cells = np.argwhere((total > 0) & (total < 8))
    index = np.full(views[0].shape, -1, np.int32)
    index[tuple(cells.T)] = np.arange(len(cells))
    corner_values = np.stack([v[tuple((cells + c).T)] for c in _CORNERS], 1).astype(np.float64)
    position = np.zeros((len(cells), 3))
    crossings = np.zeros(len(cells))
    for a, b in _EDGES:
        va, vb = corner_values[:, a], corner_values[:, b]
        hit = (va < 0) != (vb < 0)
        t = np.where(hit, va / np.where(hit, va - vb, 1.0), 0.0)
        position += hit[:, None] * (_CORNERS[a] + t[:, None] * (_CORNERS[b] - _CORNERS[a]))
        crossings += hit
    vertices = cells + position / crossings[:, None]

    quads = []
    for axis in range(3):
        j, k = (axis + 1) % 3, (axis + 2) % 3
        low = [slice(1, -1)] * 3
        high = [slice(1, -1)] * 3
        low[axis], high[axis] = slice(0, -1), slice(1, None)
        start, end = inside[tuple(low)], inside[tuple(high)]
        at = np.argwhere(start != end)
        leaving = start[tuple(at.T)]
        base = at.copy()
        base[:, j] += 1
        base[:, k] += 1
        ring = []
        for dj, dk in ((-1, -1), (0, -1), (0, 0), (-1, 0)):
            cell = base.copy()
            cell[:, j] += dj
            cell[:, k] += dk
            ring.append(index[tuple(cell.T)])
        quad = np.stack(ring, 1)
        quad[~leaving] = quad[~leaving][:, ::-1]
        quads.append(quad)
    q = np.concatenate(quads)
    d02 = np.linalg.norm(vertices[q[:, 0]] - vertices[q[:, 2]], axis=1)
    d13 = np.linalg.norm(vertices[q[:, 1]] - vertices[q[:, 3]], axis=1)
    short = (d02 <= d13)[:, None]
    first = np.where(short, q[:, [0, 1, 2]], q[:, [0, 1, 3]])
    second = np.where(short, q[:, [0, 2, 3]], q[:, [1, 2, 3]])
    return vertices, np.concatenate([first, second]).astype(np.int32)
