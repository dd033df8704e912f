# SPDX-License-Identifier: Apache-2.0
"""A screw in its vertebra as pictures: cuts along it and across it, and the spine from outside.

Cuts lie as radiologists look at them: the patient's left on the right, front up; sagittal front left.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import open3d as o3d
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rod_bending_ar.core.cortex import CAP_M
from spine_nav_common.core.types import Mesh, ScrewPlan

from .grades import Grade, axes_of
from .sampling import Sampler

COLOURS = {"A": "#009E73", "B": "#F0E442", "C": "#E69F00", "D": "#D55E00", "E": "#D55E00"}
_OWN, _OTHER = "#FFC20A", "#8FB7D9"
_HALF_M, _CELLS = 0.040, 140
_WINDOW_HU = (-450.0, 1150.0)


@dataclass(frozen=True)
class Look:
    """What is drawn of one screw. R (3, 3): the vertebra's left, posterior, superior; exact:
    distances to its cortex, others: to the neighbours'; sampler: the scan, None without HU."""

    plan: ScrewPlan
    diameter_mm: float
    grade: Grade
    R: np.ndarray
    exact: Callable[[np.ndarray], np.ndarray]
    others: tuple[Callable[[np.ndarray], np.ndarray], ...]
    sampler: Sampler | None
    window: tuple[float, float] = _WINDOW_HU


def screw_png(look: Look) -> bytes:
    """PNG with three cuts: axial and sagittal along the screw, and across it at its narrowest."""
    plan = look.plan
    way = plan.target_m - plan.entry_m
    length = float(np.linalg.norm(way))
    way = way / length
    sides = axes_of(plan, way, look.R)
    left = sides["lateral"] if plan.side == "left" else sides["medial"]
    back = -way
    figure = Figure(figsize=(10.2, 3.75), dpi=110, facecolor="#111111")
    FigureCanvasAgg(figure)
    middle = plan.entry_m + 0.5 * length * way
    narrow = plan.entry_m + look.grade.shaft.at_m * way
    panels = (
        ("axial, along the screw", middle, left, back, ("medial", "lateral")),
        ("sagittal, along the screw", middle, back, sides["caudal"], ("cranial", "caudal")),
        (f"across, {1e3 * look.grade.shaft.at_m:.0f} mm behind the entry", narrow, left,
         sides["caudal"], ()),
    )  # fmt: skip
    for i, (title, centre, u, v, margins) in enumerate(panels):
        axes = figure.add_axes((0.005 + 0.332 * i, 0.005, 0.325, 0.90))
        half = _HALF_M if margins else 0.5 * _HALF_M
        _cut(axes, look, centre, u, v, half)
        axes.set_title(title, color="#DDDDDD", fontsize=9, pad=4)
        colour = COLOURS[look.grade.shaft.grade]
        radius = 0.5 * look.diameter_mm
        if margins:
            _draw_shaft(axes, (plan.entry_m - centre, way), length, (u, v), radius, colour)
            _draw_margins(axes, look, centre, (u, v), margins, sides)
        else:
            turn = np.linspace(0.0, 2.0 * np.pi, 60)
            axes.fill(radius * np.cos(turn), radius * np.sin(turn), facecolor=colour, alpha=0.35)
            axes.plot(radius * np.cos(turn), radius * np.sin(turn), color=colour, lw=1.6)
            axes.plot([0.0], [0.0], "+", color="white", ms=7)
            _draw_room(axes, look, centre, (u, v), radius)
    data = io.BytesIO()
    figure.savefig(data, format="png", facecolor=figure.get_facecolor())
    return data.getvalue()


def _cut(
    axes: Axes, look: Look, centre: np.ndarray, u: np.ndarray, v: np.ndarray, half: float
) -> None:
    a = np.linspace(-half, half, _CELLS)
    points = centre + a[None, :, None] * u + a[:, None, None] * v
    extent = (-1e3 * half, 1e3 * half, 1e3 * half, -1e3 * half)
    own = 1e3 * look.exact(points.reshape(-1, 3)).reshape(_CELLS, _CELLS)
    others = [1e3 * other(points.reshape(-1, 3)).reshape(_CELLS, _CELLS) for other in look.others]
    if look.sampler is not None:
        values = np.nan_to_num(look.sampler(points), nan=look.window[0])
        axes.imshow(values, cmap="gray", vmin=look.window[0], vmax=look.window[1], extent=extent,
                    interpolation="bilinear")  # fmt: skip
    else:  # no scan: bone as it would look
        bone = np.where(own < 0.0, 0.42 + 0.5 * np.exp(own / 1.2), 0.08)
        for other in others:
            bone = np.where(other < 0.0, 0.22 + 0.3 * np.exp(other / 1.2), bone)
        axes.imshow(bone, cmap="gray", vmin=0.0, vmax=1.0, extent=extent, interpolation="bilinear")
    grid = 1e3 * a
    for other in others:
        if other.min() < 0.0:
            axes.contour(grid, grid, other, levels=[0.0], colors=_OTHER, linewidths=0.8)
    if own.min() < 0.0 < own.max():
        axes.contour(grid, grid, own, levels=[0.0], colors=_OWN, linewidths=1.2)
    axes.set_xlim(extent[0], extent[1])
    axes.set_ylim(extent[2], extent[3])
    axes.set_axis_off()
    bar = 10.0
    axes.plot([extent[0] + 3, extent[0] + 3 + bar], [extent[2] - 3] * 2, color="white", lw=2)
    axes.text(extent[0] + 3, extent[2] - 4.2, "10 mm", color="white", fontsize=7, va="bottom")


def _flat(vector: np.ndarray, frame: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """(2,) mm of a vector (3,) in a panel."""
    return 1e3 * np.array([vector @ frame[0], vector @ frame[1]])


def _draw_shaft(
    axes: Axes,
    line: tuple[np.ndarray, np.ndarray],
    length: float,
    frame: tuple[np.ndarray, np.ndarray],
    radius: float,
    colour: str,
) -> None:
    start, way = _flat(line[0], frame), _flat(line[1], frame)
    way = way / np.linalg.norm(way)
    across = np.array([-way[1], way[0]])
    long = 1e3 * length
    turn = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 24)
    nose = (
        start
        + (long - radius) * way
        + radius * (np.cos(turn)[:, None] * way - np.sin(turn)[:, None] * across)
    )
    outline = np.concatenate([[start + radius * across], nose, [start - radius * across]])
    axes.fill(*outline.T, facecolor=colour, alpha=0.30, lw=0)
    axes.plot(*np.concatenate([outline, outline[:1]]).T, color=colour, lw=1.6)
    axes.plot(*np.array([start - 8.0 * way, start + long * way]).T, color="white", lw=0.8, ls="--")
    axes.plot(*start[:, None], "o", mfc="none", color="white", ms=6)


def _draw_margins(
    axes: Axes,
    look: Look,
    centre: np.ndarray,
    frame: tuple[np.ndarray, np.ndarray],
    names: tuple[str, ...],
    sides: Mapping[str, np.ndarray],
) -> None:
    """Arrows from the thread to the cortex, where it is nearest in the panel's plane."""
    plan = look.plan
    way = plan.target_m - plan.entry_m
    length = float(np.linalg.norm(way))
    way = way / length
    radius = 0.5e-3 * look.diameter_mm
    surface = look.grade.shaft.surface_m
    s = np.arange(surface + CAP_M, length - radius, 1e-3)
    off = np.arange(0.0, 0.022, 2.5e-4)
    for name in names:
        rays = plan.entry_m + s[:, None, None] * way + off[None, :, None] * sides[name]
        out = look.exact(rays.reshape(-1, 3)).reshape(len(s), -1) >= 0.0
        hit = np.where(out.any(axis=1), off[out.argmax(axis=1)], np.inf)
        if not np.isfinite(hit).any():
            continue
        k = int(hit.argmin())
        start = _flat(plan.entry_m + s[k] * way + radius * sides[name] - centre, frame)
        end = _flat(plan.entry_m + s[k] * way + hit[k] * sides[name] - centre, frame)
        margin = 1e3 * (float(hit[k]) - radius)
        axes.annotate("", tuple(end.tolist()), tuple(start.tolist()), arrowprops={"arrowstyle": "<|-|>", "color": "white", "lw": 1,
                                                  "shrinkA": 0, "shrinkB": 0, "mutation_scale": 6})  # fmt: skip
        way_out = _flat(sides[name], frame)
        place = end + 6.0 * way_out / np.linalg.norm(way_out)
        axes.text(float(place[0]), float(place[1]), f"{name}\n{margin:.1f} mm", color="white", fontsize=7.5, ha="center",
                  va="center", bbox={"facecolor": "#111111", "alpha": 0.55, "lw": 0, "pad": 1.2})  # fmt: skip


def _draw_room(
    axes: Axes, look: Look, centre: np.ndarray, frame: tuple[np.ndarray, np.ndarray], radius: float
) -> None:
    """The circle that just touches the cortex."""
    room = -1e3 * float(look.exact(centre[None])[0])
    if room > 0.0:
        turn = np.linspace(0.0, 2.0 * np.pi, 90)
        axes.plot(room * np.cos(turn), room * np.sin(turn), color="white", lw=0.9, ls=":")
        axes.text(0.0, room + 1.0, f"{room - radius:.1f} mm of bone about the thread", color="white",
                  fontsize=7.5, ha="center", va="top",
                  bbox={"facecolor": "#111111", "alpha": 0.55, "lw": 0, "pad": 1.2})  # fmt: skip


def spine_png(meshes: Mapping[str, Mesh], screws: list[tuple[ScrewPlan, float, str]]) -> bytes:
    """PNG of the spine from behind and from the left, bone glassy, screws (plan, diameter in mm,
    grade) inside it. meshes: LPS, metres."""
    bones, _ = _scene([(m.vertices_m, m.faces) for m in meshes.values()])
    shapes = [_capsule(p, d) for p, d, _ in screws]
    metal, _ = _scene(shapes) if shapes else (None, None)
    all_points = np.concatenate([m.vertices_m for m in meshes.values()])
    low, high = all_points.min(axis=0), all_points.max(axis=0)
    centre = 0.5 * (low + high)
    half_v = 0.5 * float(high[2] - low[2]) + 0.008
    figure = Figure(figsize=(9.0, 7.2), dpi=100, facecolor="#111111")
    FigureCanvasAgg(figure)
    views = (("from behind", np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0]), 0),
             ("from the left", np.array([1.0, 0.0, 0.0]), np.array([0.0, -1.0, 0.0]), 1))  # fmt: skip
    colours = [tuple(int(COLOURS[g][i : i + 2], 16) / 255 for i in (1, 3, 5)) for _, _, g in screws]
    for i, (title, toward, right, side) in enumerate(views):
        half_u = 0.5 * float((high - low)[side]) + 0.008
        size_v = 620
        size_u = max(int(size_v * half_u / half_v), 40)
        u = np.linspace(-half_u, half_u, size_u)
        v = np.linspace(half_v, -half_v, size_v)
        start = (
            centre
            + 0.5 * toward
            + u[None, :, None] * right
            + v[:, None, None] * np.array([0, 0, 1])
        )
        picture, behind = _shaded(bones, start, -toward, np.array([0.93, 0.89, 0.80]))
        if metal is not None:
            rod, depth = _shaded(metal, start, -toward, None, colours)
            alpha = np.where(np.isfinite(depth), np.where(depth < behind, 1.0, 0.62), 0.0)[
                ..., None
            ]
            picture = picture * (1.0 - alpha) + np.nan_to_num(rod) * alpha
        axes = figure.add_axes((0.01 + 0.5 * i, 0.01, 0.48, 0.94))
        axes.imshow(np.clip(picture, 0.0, 1.0), interpolation="bilinear")
        axes.set_title(title, color="#DDDDDD", fontsize=10, pad=4)
        axes.set_axis_off()
        for level, mesh in meshes.items():
            at = mesh.vertices_m.mean(axis=0) - centre
            axes.text(2, (half_v - at[2]) / (2 * half_v) * size_v, level, color="white", fontsize=9)
    data = io.BytesIO()
    figure.savefig(data, format="png", facecolor=figure.get_facecolor())
    return data.getvalue()


def _scene(
    shapes: list[tuple[np.ndarray, np.ndarray]],
) -> tuple[o3d.t.geometry.RaycastingScene, int]:
    scene = o3d.t.geometry.RaycastingScene(nthreads=1)
    for vertices, faces in shapes:
        scene.add_triangles(
            o3d.core.Tensor.from_numpy(np.ascontiguousarray(vertices, np.float32)),
            o3d.core.Tensor.from_numpy(np.ascontiguousarray(faces, np.uint32)),
        )
    return scene, len(shapes)


def _capsule(plan: ScrewPlan, diameter_mm: float) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of a screw with a ball as its head."""
    way = plan.target_m - plan.entry_m
    length = float(np.linalg.norm(way))
    shaft = o3d.geometry.TriangleMesh.create_cylinder(0.5e-3 * diameter_mm, length, 18, 1)
    shaft.translate((0.0, 0.0, 0.5 * length))
    head = o3d.geometry.TriangleMesh.create_sphere(0.0055, 12)
    head.translate((0.0, 0.0, -0.004))
    both = shaft + head
    way = way / length
    first = np.cross(np.eye(3)[int(np.abs(way).argmin())], way)
    first /= np.linalg.norm(first)
    R = np.column_stack([first, np.cross(way, first), way])
    return np.asarray(both.vertices) @ R.T + plan.entry_m, np.asarray(both.triangles)


def _shaded(
    scene: o3d.t.geometry.RaycastingScene,
    start: np.ndarray,
    way: np.ndarray,
    colour: np.ndarray | None,
    colours: list[tuple[float, ...]] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W, 3) picture and (H, W) depth, inf where nothing is."""
    rays = np.concatenate(np.broadcast_arrays(start, way), axis=-1).astype(np.float32)
    hit = scene.cast_rays(o3d.core.Tensor.from_numpy(rays), nthreads=1)
    depth = hit["t_hit"].numpy()
    facing = np.abs(hit["primitive_normals"].numpy() @ way)
    light = 0.22 + 0.78 * facing[..., None]
    if colours is not None:
        ids = np.minimum(hit["geometry_ids"].numpy(), len(colours))
        base = np.array([*colours, (0.0, 0.0, 0.0)])[ids]
    else:
        base = np.broadcast_to(colour if colour is not None else np.ones(3), (*depth.shape, 3))
    background = np.array([0.067, 0.067, 0.067])
    return np.where(np.isfinite(depth)[..., None], base * light, background), depth
