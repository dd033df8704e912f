# SPDX-License-Identifier: Apache-2.0
"""A spine with screws and rods as numbers, and fakes that measure it as the networks would."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from spine_nav_common.core.geometry import exp_so3, invert, transform, transform_points
from spine_nav_common.core.types import Intrinsics, StereoFrame
from stereo_screw_tracker.core.triangulate import project_pair
from stereo_screw_tracker.core.types import (
    HeadObservation,
    RodMeasurements,
    RodSeeds,
    StereoCamera,
)

CAMERA = StereoCamera(Intrinsics(640, 480, 600.0, 600.0, 320.0, 240.0), 0.06)
SECOND = 1_000_000_000
# x_camera = -left, y = -cranial, z = -posterior: the patient's head lies up in the image
R_CAMERA_PATIENT = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, -1.0, 0.0]])
LEVELS = ("S1", "L5", "L4", "L3", "L2")


def patient_heads_mm(side: str) -> np.ndarray:
    """(5, 3) saddles, caudal first: left, posterior, cranial."""
    sign = 1.0 if side == "left" else -1.0
    return np.array(
        [
            [sign * 22.0, 8.0, -62.0],
            [sign * 21.0, 1.0, -31.0],
            [sign * 19.0, -2.0, 0.0],
            [sign * 20.0, 0.0, 32.0],
            [sign * 18.0, 7.0, 63.0],
        ]
    )


def in_camera(points_mm: np.ndarray, distance_m: float = 0.5) -> np.ndarray:
    """Points of the patient (left, posterior, cranial, mm) in the camera, head up, metres."""
    return 1e-3 * points_mm @ R_CAMERA_PATIENT.T + (0.0, 0.0, distance_m)


def heads_m(sides: tuple[str, ...] = ("left", "right")) -> np.ndarray:
    """(N, 3) saddles in the camera, metres."""
    return np.concatenate([in_camera(patient_heads_mm(side)) for side in sides])


def posterior() -> np.ndarray:
    """(3,) the way out of the bone in the camera."""
    return R_CAMERA_PATIENT @ (0.0, 1.0, 0.0)


def rod_m(side: str = "left", reach_mm: float = 12.0) -> np.ndarray:
    """(N, 3) centreline through the saddles of a side and beyond, half a millimetre apart."""
    heads = patient_heads_mm(side)
    fit = np.polynomial.Polynomial
    along = heads[:, 2]
    s = np.arange(along[0] - reach_mm, along[-1] + reach_mm, 0.5)
    points = np.stack(
        [fit.fit(along, heads[:, 0], 2)(s), fit.fit(along, heads[:, 1], 3)(s), s], axis=1
    )
    return in_camera(points)


def image(seed: int = 0) -> np.ndarray:
    """(480, 640) uint8 with texture, so that the check of the pair lets it pass."""
    return np.random.default_rng(seed).integers(30, 220, (480, 640)).astype(np.uint8)


LEFT, RIGHT = image(0), image(1)


def frame(stamp_ns: int = 0, **changes: object) -> StereoFrame:
    """A pair of noise images; the fakes do not look at them."""
    return replace(
        StereoFrame(stamp_ns, LEFT, RIGHT, CAMERA.intrinsics, CAMERA.baseline_m), **changes
    )


def observe(
    point: np.ndarray,
    rng: np.random.Generator | None = None,
    sigma_px: float = 0.25,
    axis: np.ndarray | None = None,
    confidence: float = 0.95,
    camera: StereoCamera = CAMERA,
) -> HeadObservation:
    """The head at point (3,) as the refiner would measure it."""
    left, right = project_pair(camera, point)
    noise = np.zeros(4) if rng is None else rng.normal(0.0, sigma_px, 4)
    return HeadObservation(
        left + noise[:2],
        right + noise[2:],
        np.eye(4) * sigma_px**2,
        posterior() if axis is None else axis,
        np.radians(3.0),
        confidence,
    )


@dataclass(frozen=True)
class Candidate:
    """A candidate as the finder gives it."""

    left_px: np.ndarray
    right_px: np.ndarray
    score: float = 0.7


@dataclass(frozen=True)
class Found:
    """The finder's answer."""

    heads: tuple[Candidate, ...]
    rod_seeds: RodSeeds


NO_SEEDS = RodSeeds(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros(0))


@dataclass
class World:
    """Heads and rods in space, a camera that moves, and the fakes that look at both.

    heads (N, 3), rods: list of (M, 3), in the camera of the first frame. T_now_first moves them.
    hidden: heads that nobody sees; missed: heads that only the finder overlooks.
    """

    heads: np.ndarray = field(default_factory=heads_m)
    rods: list[np.ndarray] = field(default_factory=list)
    sigma_px: float = 0.25
    seed: int = 0
    T_now_first: np.ndarray = field(default_factory=lambda: np.eye(4))
    hidden: set[int] = field(default_factory=set)
    missed: set[int] = field(default_factory=set)
    ghosts: list[HeadObservation] = field(default_factory=list)
    confidence: float = 0.95
    score: float = 0.7
    measured: int = 0
    glanced: int = 0
    rod_places: int = 0
    searched: int = 0

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.finder_rng = np.random.default_rng(self.seed + 1)  # the finder has a thread of its own

    def move(self, shift_mm: tuple[float, float, float], turn_deg: tuple[float, float, float]):
        """Move all heads about their middle, as seen by the camera."""
        middle = self.now().mean(axis=0)
        R = exp_so3(np.radians(turn_deg))
        step = transform(R, middle - R @ middle + 1e-3 * np.array(shift_mm))
        self.T_now_first = step @ self.T_now_first

    def now(self) -> np.ndarray:
        """(N, 3) true heads in the camera of this frame."""
        return transform_points(self.T_now_first, self.heads)

    def rods_now(self) -> list[np.ndarray]:
        """True centrelines in the camera of this frame."""
        return [transform_points(self.T_now_first, r) for r in self.rods]

    # -- the three networks -----------------------------------------------------------------

    def find(self, frame: StereoFrame, look=None) -> Found:
        """The heads in view, a few pixels off, and cells along the rods."""
        self.searched += 1
        heads = []
        for i, point in enumerate(self.now()):
            if i not in self.hidden | self.missed:
                left, right = project_pair(CAMERA, point)
                off = self.finder_rng.normal(0, 2, (2, 2))
                heads.append(Candidate(left + off[0], right + off[1], self.score))
        heads += [Candidate(g.left_px, g.right_px) for g in self.ghosts]
        seeds = [seeds_along(r, self.finder_rng) for r in self.rods_now()]
        return Found(tuple(heads), join_seeds(seeds) if seeds else NO_SEEDS)

    def refine(self, frame: StereoFrame, candidates) -> tuple[HeadObservation, ...]:
        """The nearest true head of every candidate; a ghost where that is the candidate."""
        self.measured += len(candidates)
        out = []
        R = self.T_now_first[:3, :3]
        for left, right in candidates:
            ghost = [g for g in self.ghosts if np.allclose(g.left_px, left)]
            truth = self.now()
            pixels = np.concatenate(project_pair(CAMERA, truth), axis=1)
            far = np.linalg.norm(pixels - np.concatenate([left, right]), axis=1)
            i = int(far.argmin())
            seen = far[i] < 15.0 and i not in self.hidden
            if ghost:
                out.append(ghost[0])
            else:
                out.append(
                    observe(
                        truth[i], self.rng, self.sigma_px, R @ posterior(),
                        self.confidence if seen else 0.02,
                    )
                )  # fmt: skip
        return tuple(out)

    def glance(self, frame: StereoFrame, candidates) -> tuple[HeadObservation, ...]:
        """As `refine`, which counts as one more look."""
        self.glanced += len(candidates)
        return self.refine(frame, candidates)

    def measure(
        self, frame: StereoFrame, points_m: np.ndarray, tangents: np.ndarray
    ) -> RodMeasurements:
        """Where the nearest true rod lies across each place."""
        self.rod_places += len(points_m)
        return measure_rods(self.rods_now(), points_m, tangents, self.rng)


def seeds_along(
    rod: np.ndarray,
    rng: np.random.Generator,
    spacing_mm: float = 4.0,
    lateral_mm: float = 0.8,
    depth_mm: float = 4.0,
) -> RodSeeds:
    """Cells on a rod as the finder sees them: in any order, rough in depth, tangents of any sign."""
    step = max(1, round(spacing_mm / 0.5))
    points = rod[::step]
    tangent = np.gradient(rod, axis=0)[::step]
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    view = points / np.linalg.norm(points, axis=1, keepdims=True)
    noisy = points + 1e-3 * (
        rng.normal(0, lateral_mm, points.shape) + view * rng.normal(0, depth_mm, (len(points), 1))
    )
    tangent = tangent + rng.normal(0, 0.1, tangent.shape)
    tangent *= rng.choice([-1.0, 1.0], (len(points), 1))
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    order = rng.permutation(len(points))
    return RodSeeds(noisy[order], tangent[order], rng.uniform(0.5, 1.0, len(points)))


def join_seeds(parts: list[RodSeeds]) -> RodSeeds:
    """All cells of several rods."""
    return RodSeeds(
        np.concatenate([p.point_m for p in parts]),
        np.concatenate([p.tangent for p in parts]),
        np.concatenate([p.confidence for p in parts]),
    )


def measure_rods(
    rods: list[np.ndarray],
    points_m: np.ndarray,
    tangents: np.ndarray,
    rng: np.random.Generator,
    sigma_px: float = 0.15,
    reach_px: float = 25.0,
    sure: float = 0.997,
    covered: tuple[tuple[np.ndarray, float], ...] = (),
    camera: StereoCamera = CAMERA,
) -> RodMeasurements:
    """Per view: the signed distance to the nearest true rod along the image normal, with noise.

    sure: confidence where a rod is seen. covered: (place (3,), radius in m) that a hand hides in both
    views.
    """
    views = []
    for eye in (0, 1):
        place = project_pair(camera, points_m)[eye]
        ahead = project_pair(camera, points_m + 1e-3 * tangents)[eye]
        along = ahead - place
        along /= np.linalg.norm(along, axis=1, keepdims=True)
        normal = np.stack([-along[:, 1], along[:, 0]], axis=1)
        offset, confidence = np.zeros(len(place)), np.full(len(place), 0.03)
        for k in range(len(place)):
            best = np.inf
            for rod in rods:
                pixels = project_pair(camera, rod)[eye]
                way = pixels - place[k]
                beside = np.abs(way @ along[k])
                if beside.min() > 1.5:
                    continue
                j = int(np.where(beside < 1.5, np.abs(way @ normal[k]), np.inf).argmin())
                hand = any(np.linalg.norm(rod[j] - c) < radius for c, radius in covered)
                if abs(way[j] @ normal[k]) < min(best, reach_px) and not hand:
                    best = abs(way[j] @ normal[k])
                    offset[k] = way[j] @ normal[k] + rng.normal(0.0, sigma_px)
                    confidence[k] = sure
        views.append((normal, offset, np.full(len(place), sigma_px), confidence))
    (nl, ol, sl, cl), (nr, orr, sr, cr) = views
    return RodMeasurements(points_m, nl, nr, ol, orr, sl, sr, cl, cr)


def first_camera(T_now_first: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points of the present camera in that of the first frame."""
    return transform_points(invert(T_now_first), points)
