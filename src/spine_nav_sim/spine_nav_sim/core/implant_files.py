# SPDX-License-Identifier: Apache-2.0
"""Screws from mesh files, for judging on shapes that no generator of ours made.

A file is in millimetres with +y along the screw out of the bone: a whole screw with its tulip, a
tulip alone, or a modular screw that ends in a ball. The saddle point is found from the geometry.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open3d as o3d
import trimesh
from scipy.ndimage import map_coordinates

from spine_nav_common.core.errors import InputError
from spine_nav_common.core.types import Mesh
from spine_nav_sim.core.implant_screws import ScrewParts, set_screw_mesh, shank_mesh
from spine_nav_sim.core.implant_shapes import moved, oriented, split_creases, weld
from spine_nav_sim.core.implants import MM, ROD_DIAMETERS_M, ScrewDesign

_LENGTH_M = (0.008, 0.12)
_CELL_M = 0.1 * MM
_WALL_ERROR_M = 0.1 * MM  # of a channel's width in a coarsely triangulated file
_PLAY_M = 0.25 * MM  # usual play of a rod in its channel
_ARM_M = 3.0 * MM  # both arms rise at least so far over the channel's floor


@dataclass(frozen=True)
class _Seat:
    """The channel of a tulip in the file's axes turned to z up: saddle_m (3,), along (3,) unit."""

    saddle_m: np.ndarray
    along: np.ndarray
    floor_z_m: float
    rod_diameter_m: float
    channel_m: float


def load_implant(path: str | Path) -> tuple[ScrewDesign, ScrewParts]:
    """A screw from a PLY, STL or OBJ file in our frames (see `implants`), in metres.

    A whole screw is one piece, so it counts as monoaxial. A tulip alone gets a shank of ours and
    may tilt. A screw that ends in a ball is ball-only. The rod is the one of ROD_DIAMETERS_M
    that suits the channel best; the set screw is ours. What neither the file nor our own
    parts tell is nan in the design.

    Raises:
        InputError: missing, unreadable, not a screw's size, head down, or no ball and no channel.
    """
    file = Path(path)
    mesh = _read(file)
    points = _surface_points(mesh)
    z, radius = points[:, 2], np.hypot(points[:, 0], points[:, 1])
    top, height = float(z.max()), float(np.ptp(z))
    alone = height < 0.022 and height < 2.2 * float(np.ptp(points[:, :2], axis=0).max())
    if (
        not alone
        and radius[z > top - 0.2 * height].max() < 1.1 * radius[z < top - 0.8 * height].max()
    ):
        raise InputError(file, "mesh", "the end at +y is no head", "turn the screw's head to +y")
    sphere = _ball_fit(z, radius)
    if sphere is not None:
        return _ball_only(mesh, *sphere, radius, z)
    if alone:
        bottom = float(z.min())
    else:
        shank_radius = float(np.percentile(radius[z < top - 0.5 * height], 98))
        bottom = float(z[radius > 1.25 * shank_radius].min())
    seat = _find_seat(mesh, points[z > bottom], file)
    return _with_tulip(mesh, seat, bottom, alone)


def _read(file: Path) -> Mesh:
    remedy = "give a closed screw mesh in mm with its axis along y as PLY, STL or OBJ"
    if not file.is_file():
        raise InputError(file, "mesh", "the file is missing", "correct the path")
    try:
        raw: Any = trimesh.load(file, force="mesh", process=False, skip_materials=True)
        vertices = np.array(raw.vertices, np.float64)
        faces = np.array(raw.faces, np.int64).reshape(-1, 3)
    except Exception as error:  # trimesh raises whatever its parsers meet
        problem = f"not readable ({type(error).__name__}: {error})"
        raise InputError(file, "mesh", problem, remedy) from error
    if len(faces) < 50 or not np.isfinite(vertices).all():
        raise InputError(file, "mesh", "fewer than 50 triangles, or NaN in it", remedy)
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(file, "mesh", "a triangle names a vertex that is not there", remedy)
    vertices = vertices[:, [0, 2, 1]] * [MM, -MM, MM]  # y up becomes z up
    size = np.ptp(vertices[np.unique(faces)], axis=0)
    if not _LENGTH_M[0] <= size[2] <= _LENGTH_M[1] or max(size[:2]) > 0.025 or min(size) < 0.004:
        problem = "measures {:.3g} x {:.3g} x {:.3g} mm, no screw".format(*(1e3 * size))
        raise InputError(file, "mesh", problem, remedy)
    return oriented(weld(vertices, faces))


def _surface_points(mesh: Mesh) -> np.ndarray:
    """Corners, centres and edge middles of the triangles: even sparse meshes fill their outline."""
    a, b, c = (mesh.vertices_m[mesh.faces[:, i]] for i in range(3))
    return np.vstack([a, b, c, (a + b + c) / 3, (a + b) / 2, (b + c) / 2, (c + a) / 2])


def _ball_fit(z: np.ndarray, radius: np.ndarray) -> tuple[float, float] | None:
    """(centre's z, radius) of a ball at the upper end, None where the head is none."""
    top = float(z.max())
    widest = float(radius[z > top - 0.012].max())
    levels = np.arange(top - 1.5 * widest, top - 0.4 * widest, 0.25 * MM)
    envelope = []
    for low in levels:
        inside = (z >= low) & (z < low + 0.25 * MM)
        if inside.any():
            k = np.argmax(np.where(inside, radius, -1.0))
            envelope.append((z[k], radius[k]))
    if len(envelope) < 6:
        return None
    h, r = np.array(envelope).T
    system = np.column_stack([2 * h, np.ones(len(h))])
    (centre, offset), *_ = np.linalg.lstsq(system, h**2 + r**2, rcond=None)
    size = float(np.sqrt(max(offset + centre**2, 0.0)))
    rms = float(np.sqrt(np.mean((np.hypot(h - centre, r) - size) ** 2)))
    is_ball = rms < 0.12 * MM and abs(centre + size - top) < 0.3 * size and size < 6 * MM
    return (float(centre), size) if is_ball else None


def _find_seat(mesh: Mesh, head: np.ndarray, file: Path) -> _Seat:
    """Let a rod down into the tulip from above and see where it comes to rest."""
    middle = 0.5 * (head[:, :2].min(axis=0) + head[:, :2].max(axis=0))
    heights, reach = _height_map(mesh, middle)
    lateral = np.arange(-reach, reach, 0.05 * MM)
    # along the channel nothing stands in the way of the thinnest rod: the lowest such strip wins
    strip = lateral[np.abs(lateral) < 0.5 * min(ROD_DIAMETERS_M)]
    angles = np.deg2rad(np.arange(0.0, 180.0, 1.0))
    blocked = [float(_surface(heights, reach, a, strip).max(axis=0).mean()) for a in angles]
    good = angles[np.array(blocked) < min(blocked) + 0.1 * MM]
    angle = float(0.5 * np.angle(np.exp(2j * good).mean()))  # the middle of equally good turns
    # not the extremes along the channel: coarse files have walls that stand in here and there, and
    # the drive's hole is no floor
    surface = _surface(heights, reach, angle, lateral)
    ground = np.percentile(surface, 90, axis=0)
    floor = float(ground[np.abs(lateral) < 1.0 * MM].min())
    wall = np.median(surface, axis=0) > floor + _ARM_M
    left, right = lateral[wall & (lateral < 0)], lateral[wall & (lateral > 0)]
    if len(left) == 0 or len(right) == 0:
        problem = "neither a ball nor a rod channel open to +y at the upper end"
        raise InputError(file, "mesh", problem, "give a screw with a tulip or with a ball head")
    width = float(right.min() - left.max())
    fitting = [rod for rod in ROD_DIAMETERS_M if rod < width + _WALL_ERROR_M]
    if not fitting or width > 8.0 * MM:
        problem = f"its channel is {1e3 * width:.2g} mm wide"
        raise InputError(file, "mesh", problem, "give a screw for rods of 4.75 to 6 mm")
    rod = min(fitting, key=lambda d: abs(width - d - _PLAY_M))
    offset = 0.5 * float(right.min() + left.max())
    # where the rod's underside rests; its flanks are left out, they only graze the walls
    d = lateral - offset
    under = np.abs(d) < 0.3 * rod
    z = float((ground[under] + np.sqrt(0.25 * rod**2 - d[under] ** 2)).max())
    along = np.array([np.cos(angle), np.sin(angle), 0.0])
    across = np.array([-np.sin(angle), np.cos(angle), 0.0])
    s = head @ along
    saddle = along * 0.5 * (s.min() + s.max()) + across * (middle @ across[:2] + offset)
    return _Seat(saddle + [0.0, 0.0, z], along, floor, rod, width)


def _height_map(mesh: Mesh, middle: np.ndarray) -> tuple[np.ndarray, float]:
    """Upper surface (K, K) over a square around `middle`, half width `reach`; -1 where nothing."""
    reach = 9.0 * MM
    grid = np.arange(-reach, reach + 0.5 * _CELL_M, _CELL_M)
    x, y = np.meshgrid(grid + middle[0], grid + middle[1], indexing="ij")
    rays = np.stack([x, y, np.ones_like(x), 0 * x, 0 * x, -np.ones_like(x)], -1).astype(np.float32)
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    scene.add_triangles(
        o3d.core.Tensor.from_numpy(mesh.vertices_m.astype(np.float32)),
        o3d.core.Tensor.from_numpy(mesh.faces.astype(np.uint32)),
    )
    hit = scene.cast_rays(o3d.core.Tensor.from_numpy(rays), nthreads=1)["t_hit"].numpy()
    return np.where(np.isfinite(hit), 1.0 - hit, -1.0).astype(float), reach


def _surface(heights: np.ndarray, reach: float, angle: float, lateral: np.ndarray) -> np.ndarray:
    """Upper surface (S, L) along the channel, at every lateral place."""
    along = np.arange(-4.0 * MM, 4.01 * MM, 0.25 * MM)
    s, d = np.meshgrid(along, lateral, indexing="ij")
    x = (s * np.cos(angle) - d * np.sin(angle) + reach) / _CELL_M
    y = (s * np.sin(angle) + d * np.cos(angle) + reach) / _CELL_M
    return np.asarray(map_coordinates(heights, [x, y], order=0, cval=-1.0))


def _cut(mesh: Mesh, z_m: float) -> tuple[Mesh, Mesh]:
    """The triangles above and below a height, creases split."""
    above = mesh.vertices_m[mesh.faces].mean(axis=1)[:, 2] > z_m
    halves = []
    for chosen in (above, ~above):
        used, faces = np.unique(mesh.faces[chosen], return_inverse=True)
        piece = Mesh(mesh.vertices_m[used], faces.reshape(-1, 3).astype(np.int32))
        halves.append(split_creases(piece))
    return halves[0], halves[1]


def _shifted(origin_m: np.ndarray, along: np.ndarray) -> np.ndarray:
    """T_ours_file for an origin and a channel direction in the file's axes (z up)."""
    up = np.array([0.0, 0.0, 1.0])
    T = np.eye(4)
    T[:3, :3] = np.vstack([along, np.cross(up, along), up])
    T[:3, 3] = -T[:3, :3] @ origin_m
    return T


def _design(**known: Any) -> ScrewDesign:
    fields = {name: np.nan for name in ScrewDesign.__dataclass_fields__ if name.endswith("_m")}
    rest: dict[str, Any] = {
        "thread_starts": 1,
        "squareness": 2.0,
        "taper": 1.0,
        "crown": "chamfer",
        "drive": "hex",
    }
    return ScrewDesign(**{**fields, **rest, **known})


def _ball_only(
    mesh: Mesh, centre_z: float, size: float, radius: np.ndarray, z: np.ndarray
) -> tuple[ScrewDesign, ScrewParts]:
    ball, shank = _cut(mesh, centre_z - 0.75 * size)
    T = _shifted(np.array([0.0, 0.0, centre_z]), np.array([1.0, 0.0, 0.0]))
    design = _design(
        family="file",
        shank_diameter_m=2 * float(radius[z < centre_z - 1.5 * size].max()),
        shank_length_m=centre_z - size - float(z.min()),
        ball_radius_m=size,
        rod_diameter_m=ROD_DIAMETERS_M[1],
        tulip_diameter_m=2 * size,
        saddle_to_ball_m=0.0,
        max_tilt_rad=0.0,
        top_m=size,
        bottom_m=0.75 * size,
        tabs_m=0.0,
        ball_only=True,
    )
    return design, ScrewParts(moved(ball, T), moved(shank, T), None)


def _with_tulip(
    mesh: Mesh, seat: _Seat, bottom: float, alone: bool
) -> tuple[ScrewDesign, ScrewParts]:
    top = float(mesh.vertices_m[:, 2].max())
    under = seat.floor_z_m - bottom  # the socket in which the ball sits
    ball_z = bottom + 0.45 * under
    head = mesh.vertices_m[mesh.vertices_m[:, 2] > bottom, :2] - seat.saddle_m[:2]
    diameter = 2 * float(np.linalg.norm(head, axis=1).max())
    T = _shifted(seat.saddle_m, seat.along)
    to_ball = float(seat.saddle_m[2] - ball_z)
    known: dict[str, Any] = {
        "family": "file",
        "rod_diameter_m": seat.rod_diameter_m,
        "tulip_diameter_m": diameter,
        "top_m": top - float(seat.saddle_m[2]),
        "bottom_m": float(seat.saddle_m[2]) - bottom,
        "channel_m": seat.channel_m,
        "wall_m": 0.5 * (diameter - seat.channel_m) - 0.3 * MM,
        "saddle_to_ball_m": to_ball,
        "drive_m": 3.5 * MM,
        "tabs_m": 0.0,
        "notch_m": 0.0,
        "max_tilt_rad": float(np.deg2rad(25.0)) if alone else 0.0,
        "monoaxial": not alone,
        "ball_radius_m": max(0.5 * under, 2.2 * MM),
    }
    if alone:
        known |= {"shank_diameter_m": 5.5 * MM, "shank_length_m": 45 * MM, "neck_m": 2 * MM}
        known |= {"thread_pitch_m": 2.6 * MM, "thread_depth_m": 0.8 * MM}
        design = _design(**known)
        tulip, shank = split_creases(mesh), shank_mesh(design)
    else:
        tulip, lower = _cut(mesh, bottom)
        radius = np.hypot(*(lower.vertices_m[:, :2] - seat.saddle_m[:2]).T)
        thread = radius[lower.vertices_m[:, 2] < bottom - 4 * MM]
        known |= {"shank_diameter_m": 2 * float(np.percentile(thread, 95))}
        known |= {"shank_length_m": bottom - float(lower.vertices_m[:, 2].min())}
        design = _design(**known)
        shank = moved(lower, _shifted(seat.saddle_m - [0.0, 0.0, to_ball], seat.along))
    plug = set_screw_mesh(design, np.random.default_rng(0))
    return design, ScrewParts(moved(tulip, T), shank, plug)
